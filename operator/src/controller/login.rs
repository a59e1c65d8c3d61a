//! The login of a dedicated engine: a password made once, its URL in the Secret `engine-db`, its verifier in
//! Postgres. The Secret is written first. After Postgres has the verifier, an annotation notes the checksum of the
//! URL that was set; as long as the two agree nothing is written again, and a crash at any point leaves them apart,
//! so that the next run sets the password that is in the Secret.
//!
//! Postgres knows one password of a role at a time. So a rotation has three steps: engines roll with both URLs (one that
//! does not log in is followed by a try with the other), Postgres gets the new password, the old URL goes.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
};
use sha2::{Digest, Sha256};
use tenancy::{Password, RoleName};

use super::{
    Context, FIELD_MANAGER,
    build::{self, ENGINE_DB_KEY, ENGINE_DB_NEXT_KEY, ENGINE_DB_SECRET},
    error::{Error, kubernetes},
    validate::ValidTenant,
};
use crate::{database::TenantRow, postgres_url::PostgresUrl};

const SET_ANNOTATION: &str = "stellar-memory.dev/login-set";
/// The rotation that the Secret's first URL belongs to.
const ROTATION_ANNOTATION: &str = "stellar-memory.dev/rotation";
/// A role binding takes effect when the API server's authoriser has seen it.
const BINDING_TRIES: u32 = 25;
const BINDING_WAIT: Duration = Duration::from_millis(200);

/// The login of an engine, as it is in its Secret.
pub struct Login {
    url: PostgresUrl,
    /// The URL and the password that come next, while the password is rotated.
    next: Option<(PostgresUrl, Password)>,
    checksum: String,
}

impl Login {
    fn new(
        tenant: &ValidTenant,
        password: &Password,
        next: Option<Password>,
        context: &Context,
    ) -> Result<Self, Error> {
        let (role, settings) = (RoleName::of(tenant.id), &context.settings);
        let url = |password: &Password| {
            let url = settings.database.login(role.as_str(), password, &settings.database_address);
            url.map_err(Error::DatabaseAddress)
        };
        let next = next.map(|next| url(&next).map(|url| (url, next))).transpose()?;
        let current = url(password)?;
        let both = [current.expose(), next.as_ref().map_or("", |(next, _)| next.expose())].concat();
        Ok(Self { checksum: checksum(&both), url: current, next })
    }

    /// Changes whenever engines have something new to read.
    pub fn checksum(&self) -> &str {
        &self.checksum
    }

    /// Whether a new password waits for all engines to know it.
    pub fn is_rotating(&self) -> bool {
        self.next.is_some()
    }
}

fn checksum(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..16])
}

/// Sees that the Secret holds a URL with which the role can log in. A rotation that the spec asks for begins with a second
/// URL beside it; [`rotate`] ends it.
///
/// # Errors
/// [`Error`].
pub async fn ensure(
    tenant: &ValidTenant,
    connections: i32,
    row: &TenantRow,
    context: &Context,
) -> Result<Login, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &tenant.namespace());
    let present = read(&api).await?;
    let password_in = |key| present.as_ref().and_then(|secret| url_in(secret, key)).and_then(|url| url.password());
    let kept = password_in(ENGINE_DB_KEY);
    let of =
        present.as_ref().and_then(|secret| secret.annotations().get(ROTATION_ANNOTATION)).and_then(|n| n.parse().ok());
    // A password that is lost is made anew at once: there is nothing to hand over.
    let rotated = of.filter(|_| kept.is_some()).unwrap_or(tenant.rotation);
    let next = (rotated < tenant.rotation).then(|| password_in(ENGINE_DB_NEXT_KEY).unwrap_or_else(Password::generate));
    let password = kept.unwrap_or_else(Password::generate);
    let login = Login::new(tenant, &password, next, context)?;

    if present.as_ref().is_none_or(|present| differs(present, tenant, &login, rotated)) {
        context.apply(&api, &secret(tenant, &login, rotated)).await?;
    }
    let set = checksum(login.url.expose());
    let noted = present.as_ref().and_then(|secret| secret.annotations().get(SET_ANNOTATION));
    if noted != Some(&set) || row.login_connections != Some(connections) {
        context.database.role_login(tenant.id, &password, connections).await?;
        note(&api, &set).await?;
    }
    Ok(login)
}

/// Makes the next password the only one. Every engine has read both: whichever Postgres takes, it logs in. Postgres comes
/// first here; a crash right after it leaves engines with both, and is repeated.
///
/// # Errors
/// [`Error`].
pub async fn rotate(tenant: &ValidTenant, login: Login, connections: i32, context: &Context) -> Result<(), Error> {
    let Some((_, password)) = login.next else { return Ok(()) };
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &tenant.namespace());
    context.database.role_login(tenant.id, &password, connections).await?;
    let login = Login::new(tenant, &password, None, context)?;
    context.apply(&api, &secret(tenant, &login, tenant.rotation)).await?;
    note(&api, &checksum(login.url.expose())).await?;
    tracing::info!(tenant = tenant.name, rotation = tenant.rotation, "its engine has a new password");
    Ok(())
}

async fn read(api: &Api<Secret>) -> Result<Option<Secret>, Error> {
    let mut tries = 0;
    loop {
        match api.get_opt(ENGINE_DB_SECRET).await.map_err(kubernetes("read Secret", ENGINE_DB_SECRET)) {
            Err(error) if error.api_code() == Some(403) && tries < BINDING_TRIES => tries += 1,
            other => return other,
        }
        tokio::time::sleep(BINDING_WAIT).await;
    }
}

/// By a field manager of its own, so that applying the Secret again does not take the note away.
async fn note(api: &Api<Secret>, checksum: &str) -> Result<(), Error> {
    let noted = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "annotations": { SET_ANNOTATION: checksum } },
    });
    let parameters = PatchParams::apply(&format!("{FIELD_MANAGER}-login")).force();
    api.patch_metadata(ENGINE_DB_SECRET, &parameters, &Patch::Apply(noted))
        .await
        .map(drop)
        .map_err(kubernetes("annotate Secret", ENGINE_DB_SECRET))
}

fn url_in(secret: &Secret, key: &str) -> Option<PostgresUrl> {
    std::str::from_utf8(&secret.data.as_ref()?.get(key)?.0).ok()?.parse().ok()
}

fn differs(present: &Secret, tenant: &ValidTenant, login: &Login, rotated: i32) -> bool {
    let wanted = secret(tenant, login, rotated);
    let has = |there: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| there.get(key) == Some(value))
    };
    present.data != wanted.data
        || !has(present.labels(), wanted.labels())
        || !has(present.annotations(), wanted.annotations())
}

fn secret(tenant: &ValidTenant, login: &Login, rotated: i32) -> Secret {
    let bytes = |url: &PostgresUrl| ByteString(url.expose().as_bytes().to_vec());
    let mut data = BTreeMap::from([(ENGINE_DB_KEY.to_owned(), bytes(&login.url))]);
    if let Some((next, _)) = &login.next {
        data.insert(ENGINE_DB_NEXT_KEY.to_owned(), bytes(next));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(ENGINE_DB_SECRET.to_owned()),
            namespace: Some(tenant.namespace()),
            labels: Some(build::labels(&tenant.name)),
            annotations: Some(BTreeMap::from([(ROTATION_ANNOTATION.to_owned(), rotated.to_string())])),
            owner_references: Some(vec![tenant.owner.clone()]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}
