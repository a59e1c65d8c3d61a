//! Where logins and master key are kept: Secrets in the installation's namespace, or files in a folder for an
//! installation without Kubernetes. What is there is never replaced by something new, save a login's URL that
//! points elsewhere.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use tenancy::MasterKey;

use super::resources::FIELD_MANAGER;

/// Where secrets are kept.
pub enum Vault {
    /// One file each, readable by its owner only.
    Files(PathBuf),
    /// One Secret each.
    Kubernetes {
        /// Talks to the API server.
        client: Client,
        /// The installation's namespace.
        namespace: String,
    },
}

/// One secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Item {
    OperatorUrl,
    GatewayUrl,
    PoolUrl,
    MasterKey,
}

impl Item {
    fn file(self) -> &'static str {
        match self {
            Self::OperatorUrl => "operator-url",
            Self::GatewayUrl => "gateway-url",
            Self::PoolUrl => "pool-url",
            Self::MasterKey => "master-key",
        }
    }

    fn secret(self) -> (&'static str, &'static str) {
        match self {
            Self::OperatorUrl => ("stellar-operator-db", "url"),
            Self::GatewayUrl => ("stellar-gateway-db", "url"),
            Self::PoolUrl => ("stellar-pool-db", "url"),
            Self::MasterKey => ("stellar-master-key", "master-key"),
        }
    }
}

/// Why a secret cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A file.
    #[error("the file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A Secret.
    #[error("the Secret {name}")]
    Secret {
        /// Which.
        name: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
    /// There is something, but no master key. Replacing it would end every tenant's access, so nobody does.
    #[error(
        "what is kept as master key is none; put back the one that was there (or delete it, if no tenant exists yet)"
    )]
    NoMasterKey,
}

impl Vault {
    /// Keeps the master key that is there, or puts a new one. Returns whether it made one.
    ///
    /// # Errors
    /// [`VaultError`]; in particular when something is there that is no master key.
    pub(super) async fn keep_or_make_master_key(&self, make: impl FnOnce() -> MasterKey) -> Result<bool, VaultError> {
        if let Some(present) = self.read(Item::MasterKey).await? {
            return MasterKey::parse(&present).map(|_| false).map_err(|_| VaultError::NoMasterKey);
        }
        self.create(Item::MasterKey, &make().expose()).await
    }

    /// The text of a secret, if it is there.
    pub(super) async fn read(&self, item: Item) -> Result<Option<String>, VaultError> {
        match self {
            Self::Files(folder) => {
                let path = folder.join(item.file());
                match fs::read_to_string(&path) {
                    Ok(text) => Ok(Some(text.trim().to_owned())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(VaultError::File { path, source }),
                }
            }
            Self::Kubernetes { client, namespace } => {
                let (name, key) = item.secret();
                let secret = Api::<Secret>::namespaced(client.clone(), namespace)
                    .get_opt(name)
                    .await
                    .map_err(|e| VaultError::Secret { name, source: Box::new(e) })?;
                let bytes = secret.and_then(|mut s| s.data.as_mut()?.remove(key));
                Ok(bytes.and_then(|b| String::from_utf8(b.0).ok()).map(|text| text.trim().to_owned()))
            }
        }
    }

    /// Puts a secret, in place of what is there.
    pub(super) async fn write(&self, item: Item, text: &str) -> Result<(), VaultError> {
        match self {
            Self::Files(folder) => write_file(folder, item.file(), text),
            Self::Kubernetes { client, namespace } => {
                let (name, _) = item.secret();
                let params = PatchParams::apply(FIELD_MANAGER).force();
                Api::<Secret>::namespaced(client.clone(), namespace)
                    .patch(name, &params, &Patch::Apply(secret(item, text)))
                    .await
                    .map_err(|e| VaultError::Secret { name, source: Box::new(e) })?;
                Ok(())
            }
        }
    }

    /// Puts a secret where there is none. Returns whether it did: another run may have been quicker.
    pub(super) async fn create(&self, item: Item, text: &str) -> Result<bool, VaultError> {
        match self {
            Self::Files(folder) => write_file(folder, item.file(), text).map(|()| true),
            Self::Kubernetes { client, namespace } => {
                let (name, _) = item.secret();
                let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                match Api::<Secret>::namespaced(client.clone(), namespace).create(&params, &secret(item, text)).await {
                    Ok(_) => Ok(true),
                    Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
                    Err(e) => Err(VaultError::Secret { name, source: Box::new(e) }),
                }
            }
        }
    }
}

fn secret(item: Item, text: &str) -> Secret {
    let (name, key) = item.secret();
    let labels = [("app.kubernetes.io/part-of", "stellar-memory"), ("app.kubernetes.io/managed-by", FIELD_MANAGER)];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(key.to_owned(), ByteString(text.as_bytes().to_vec()))])),
        ..Secret::default()
    }
}

/// Whole or not at all, and never readable by others.
fn write_file(folder: &Path, name: &str, text: &str) -> Result<(), VaultError> {
    let path = folder.join(name);
    let partial = folder.join(format!(".{name}.partial"));
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let _ = fs::remove_file(&partial);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(|source| VaultError::File { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_master_key_is_made_once_and_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let vault = Vault::Files(folder.path().to_owned());
        assert!(vault.keep_or_make_master_key(MasterKey::generate).await.expect("makes one"));
        let first = vault.read(Item::MasterKey).await.expect("reads");
        assert!(!vault.keep_or_make_master_key(MasterKey::generate).await.expect("keeps it"));
        assert_eq!(vault.read(Item::MasterKey).await.expect("reads"), first);
        let mode = fs::metadata(folder.path().join("master-key")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn what_is_no_master_key_is_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("master-key"), "oops").expect("writes");
        let vault = Vault::Files(folder.path().to_owned());
        assert!(matches!(vault.keep_or_make_master_key(MasterKey::generate).await, Err(VaultError::NoMasterKey)));
    }
}
