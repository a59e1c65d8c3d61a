//! Where logins and master key are kept: Secrets in the installation's namespace, or files in a folder for an
//! installation without Kubernetes. What is there is never replaced by something new, save a login's URL that
//! points elsewhere or whose password is rotated.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client, ResourceExt,
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

/// What is kept of an item. Secrets: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The URL or the key.
    pub text: String,
    /// While a password is rotated: the URL that comes next.
    pub next: Option<String>,
    /// The rotation that the text belongs to.
    pub rotation: u32,
}

impl Kept {
    fn never_rotated(text: &str) -> Self {
        Self { text: text.to_owned(), next: None, rotation: 0 }
    }
}

/// Added to the name of the key or the file: the URL with the password to come. Programs know it (`login-pool`).
const NEXT: &str = "-next";
/// Added to the name of the file: the rotation.
const ROTATION: &str = "-rotation";
const ROTATION_ANNOTATION: &str = "stellar-memory.dev/rotation";

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
            return MasterKey::parse(&present.text).map(|_| false).map_err(|_| VaultError::NoMasterKey);
        }
        self.create(Item::MasterKey, &Kept::never_rotated(&make().expose())).await
    }

    /// What is kept, if anything is.
    pub(super) async fn read(&self, item: Item) -> Result<Option<Kept>, VaultError> {
        match self {
            Self::Files(folder) => {
                let read = |ending: &str| read_file(folder, &format!("{}{ending}", item.file()));
                let Some(text) = read("")? else { return Ok(None) };
                let rotation = read(ROTATION)?.and_then(|number| number.parse().ok()).unwrap_or(0);
                Ok(Some(Kept { text, next: read(NEXT)?, rotation }))
            }
            Self::Kubernetes { client, namespace } => {
                let (name, key) = item.secret();
                let secret = Api::<Secret>::namespaced(client.clone(), namespace)
                    .get_opt(name)
                    .await
                    .map_err(|e| VaultError::Secret { name, source: Box::new(e) })?;
                let Some(secret) = secret else { return Ok(None) };
                let text = |key: &str| {
                    let bytes = &secret.data.as_ref()?.get(key)?.0;
                    std::str::from_utf8(bytes).ok().map(|text| text.trim().to_owned())
                };
                let rotation = secret.annotations().get(ROTATION_ANNOTATION).and_then(|number| number.parse().ok());
                let next = text(&format!("{key}{NEXT}"));
                Ok(text(key).map(|text| Kept { text, next, rotation: rotation.unwrap_or(0) }))
            }
        }
    }

    /// Puts a secret, in place of what is there.
    pub(super) async fn write(&self, item: Item, kept: &Kept) -> Result<(), VaultError> {
        match self {
            Self::Files(folder) => write_files(folder, item, kept),
            Self::Kubernetes { client, namespace } => {
                let (name, _) = item.secret();
                let params = PatchParams::apply(FIELD_MANAGER).force();
                Api::<Secret>::namespaced(client.clone(), namespace)
                    .patch(name, &params, &Patch::Apply(secret(item, kept)))
                    .await
                    .map_err(|e| VaultError::Secret { name, source: Box::new(e) })?;
                Ok(())
            }
        }
    }

    /// Puts a secret where there is none. Returns whether it did: another run may have been quicker.
    pub(super) async fn create(&self, item: Item, kept: &Kept) -> Result<bool, VaultError> {
        match self {
            Self::Files(folder) => write_files(folder, item, kept).map(|()| true),
            Self::Kubernetes { client, namespace } => {
                let (name, _) = item.secret();
                let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                match Api::<Secret>::namespaced(client.clone(), namespace).create(&params, &secret(item, kept)).await {
                    Ok(_) => Ok(true),
                    Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
                    Err(e) => Err(VaultError::Secret { name, source: Box::new(e) }),
                }
            }
        }
    }
}

fn secret(item: Item, kept: &Kept) -> Secret {
    let Kept { text, next, rotation } = kept;
    let (name, key) = item.secret();
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut data = BTreeMap::from([(key.to_owned(), bytes(text))]);
    data.extend(next.as_deref().map(|next| (format!("{key}{NEXT}"), bytes(next))));
    let is_rotated = item != Item::MasterKey;
    let annotations = is_rotated.then(|| BTreeMap::from([(ROTATION_ANNOTATION.to_owned(), rotation.to_string())]));
    let labels = [("app.kubernetes.io/part-of", "stellar-memory"), ("app.kubernetes.io/managed-by", FIELD_MANAGER)];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
            annotations,
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn read_file(folder: &Path, name: &str) -> Result<Option<String>, VaultError> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(VaultError::File { path, source }),
    }
}

/// In an order in which the password that Postgres takes, or will take, is always in one of them: what comes next is written
/// before it counts, and goes after it stands in the present one's place.
fn write_files(folder: &Path, item: Item, kept: &Kept) -> Result<(), VaultError> {
    let Kept { text, next, rotation } = kept;
    let name = |ending: &str| format!("{}{ending}", item.file());
    if let Some(next) = next {
        write_file(folder, &name(NEXT), next)?;
    }
    write_file(folder, &name(""), text)?;
    if *rotation > 0 {
        write_file(folder, &name(ROTATION), &rotation.to_string())?;
    }
    if next.is_none() {
        let path = folder.join(name(NEXT));
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(VaultError::File { path, source }),
            _ => {}
        }
    }
    Ok(())
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
        let first = vault.read(Item::MasterKey).await.expect("reads").expect("is kept").text;
        assert!(!vault.keep_or_make_master_key(MasterKey::generate).await.expect("keeps it"));
        assert_eq!(vault.read(Item::MasterKey).await.expect("reads").expect("is kept").text, first);
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

    #[tokio::test]
    async fn what_comes_next_is_kept_beside_until_it_takes_the_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let vault = Vault::Files(folder.path().to_owned());
        let kept = |text: &str, next: Option<&str>, rotation| Kept {
            text: text.to_owned(),
            next: next.map(str::to_owned),
            rotation,
        };
        assert!(vault.read(Item::PoolUrl).await.expect("reads").is_none());
        for step in [kept("old", None, 0), kept("old", Some("new"), 0), kept("new", None, 1)] {
            vault.write(Item::PoolUrl, &step).await.expect("writes");
            assert!(vault.read(Item::PoolUrl).await.expect("reads") == Some(step));
        }
        assert!(!folder.path().join("pool-url-next").exists());
    }

    #[test]
    fn a_secret_holds_both_urls_and_the_rotation_and_the_master_key_neither() {
        let kept = Kept { text: "old".to_owned(), next: Some("new".to_owned()), rotation: 4 };
        let made = secret(Item::GatewayUrl, &kept);
        let data = made.data.as_ref().expect("has data");
        assert_eq!(
            data.iter().map(|(key, text)| (key.as_str(), &text.0[..])).collect::<Vec<_>>(),
            [("url", &b"old"[..]), ("url-next", &b"new"[..])]
        );
        assert_eq!(made.annotations().get(ROTATION_ANNOTATION).map(String::as_str), Some("4"));
        let made = secret(Item::MasterKey, &Kept::never_rotated("key"));
        assert_eq!(made.data.map(|data| data.len()), Some(1));
        assert!(made.metadata.annotations.is_none());
    }
}
