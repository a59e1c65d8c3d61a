//! The login of a dedicated engine: a password made once, its URL in the Secret `engine-db`, its verifier in
//! Postgres. The Secret is written first. After Postgres has the verifier, an annotation notes the checksum of the
//! URL that was set; as long as the two agree nothing is written again, and a crash at any point leaves them apart,
//! so that the next run sets the password that is in the Secret.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
};
use sha2::{Digest, Sha256};
use tenancy::RoleName;

use super::{
    Context, FIELD_MANAGER,
    build::{self, ENGINE_DB_KEY, ENGINE_DB_SECRET},
    error::{Error, kubernetes},
    validate::ValidTenant,
};
use crate::{database::TenantRow, postgres_url::PostgresUrl, scram::Password};

const SET_ANNOTATION: &str = "stellar-memory.dev/login-set";
/// A role binding takes effect when the API server's authoriser has seen it.
const BINDING_TRIES: u32 = 25;
const BINDING_WAIT: Duration = Duration::from_millis(200);

/// Sees that the Secret holds a URL with which the role can log in. Returns the checksum of that URL.
///
/// # Errors
/// [`Error`].
pub async fn ensure(
    tenant: &ValidTenant,
    connections: i32,
    row: &TenantRow,
    context: &Context,
) -> Result<String, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &tenant.namespace());
    let present = read(&api).await?;
    let kept = present.as_ref().and_then(url_in).and_then(|url| url.password());
    let password = kept.unwrap_or_else(Password::generate);
    let role = RoleName::of(tenant.id);
    let settings = &context.settings;
    let url = settings
        .database
        .login(role.as_str(), &password, &settings.database_address)
        .map_err(Error::DatabaseAddress)?;
    let checksum = hex::encode(&Sha256::digest(url.expose())[..16]);

    let same_url = present.as_ref().and_then(url_in).is_some_and(|there| there.expose() == url.expose());
    let same_labels = present.as_ref().is_some_and(|secret| {
        build::labels(&tenant.name).iter().all(|(key, value)| secret.labels().get(key) == Some(value))
    });
    if !same_url || !same_labels {
        context.apply(&api, &secret(tenant, &url)).await?;
    }
    let noted = present.as_ref().and_then(|secret| secret.annotations().get(SET_ANNOTATION));
    if noted != Some(&checksum) || row.login_connections != Some(connections) {
        context.database.role_login(tenant.id, &password, connections).await?;
        note(&api, &checksum).await?;
    }
    Ok(checksum)
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

fn url_in(secret: &Secret) -> Option<PostgresUrl> {
    std::str::from_utf8(&secret.data.as_ref()?.get(ENGINE_DB_KEY)?.0).ok()?.parse().ok()
}

fn secret(tenant: &ValidTenant, url: &PostgresUrl) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(ENGINE_DB_SECRET.to_owned()),
            namespace: Some(tenant.namespace()),
            labels: Some(build::labels(&tenant.name)),
            owner_references: Some(vec![tenant.owner.clone()]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(ENGINE_DB_KEY.to_owned(), ByteString(url.expose().as_bytes().to_vec()))])),
        ..Secret::default()
    }
}
