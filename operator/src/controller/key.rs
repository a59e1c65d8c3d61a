//! The tenant's own API key: its text in a Secret of the installation's namespace, its hash in Postgres. The Secret
//! leads: what it holds is made to work, and a Secret that is missing or holds no key gets a new one.

use std::collections::BTreeMap;

use crds::{ConditionType, Reason, TENANT_LABEL};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, Preconditions},
};
use tenancy::ApiKey;

use super::{
    Context, build,
    error::{Error, kubernetes},
    report::Report,
    validate::ValidTenant,
};

const KEY: &str = "api-key";
/// The agent that the tenant's own key belongs to.
const AGENT: &str = "default";

/// The Secret's name.
pub fn secret_name(tenant: &str) -> String {
    format!("{tenant}-api-key")
}

/// Sees that the Secret holds a key and that the key works.
///
/// # Errors
/// [`Error`]; [`Error::SecretTaken`] when the Secret is somebody else's.
pub async fn ensure(tenant: &ValidTenant, context: &Context, report: &mut Report) -> Result<(), Error> {
    let name = secret_name(&tenant.name);
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let present = api.get_opt(&name).await.map_err(kubernetes("read Secret", &name))?;
    if present.as_ref().is_some_and(|secret| !is_ours(secret, tenant)) {
        return Err(Error::SecretTaken(name));
    }
    let kept = present.as_ref().and_then(text).and_then(|text| ApiKey::parse(text.trim()).ok());
    let mut key = kept.clone().unwrap_or_else(ApiKey::generate);
    // The Secret first: a key that works but that nobody can read would be lost by a crash in between.
    if kept.is_none() || present.as_ref().is_none_or(|secret| differs(secret, tenant)) {
        context.apply(&api, &secret(tenant, context, &key)).await?;
    }
    let overlap = context.settings.key_overlap;
    if !context.database.key_ensure(tenant.id, AGENT, &key, overlap).await? {
        // The text was another tenant's key once (a Secret that outlived its Tenant): it must not work for this one.
        key = ApiKey::generate();
        context.apply(&api, &secret(tenant, context, &key)).await?;
        context.database.key_ensure(tenant.id, AGENT, &key, overlap).await?;
    }
    report.api_key_secret = Some(name.clone());
    report.found(ConditionType::KeyReady, true, Reason::KeyInSecret, format!("the API key is in Secret {name}"));
    Ok(())
}

/// Deletes the Secret, unless it is somebody else's.
///
/// # Errors
/// [`Error::Kubernetes`].
pub async fn remove(tenant: &str, context: &Context) -> Result<(), Error> {
    let name = secret_name(tenant);
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let Some(secret) = api.get_metadata_opt(&name).await.map_err(kubernetes("read Secret", &name))? else {
        return Ok(());
    };
    if secret.labels().get(TENANT_LABEL).is_none_or(|label| label != tenant) {
        return Ok(());
    }
    let only_this = Preconditions { uid: secret.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
    match api.delete(&name, &parameters).await.map_err(kubernetes("delete Secret", &name)) {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn text(secret: &Secret) -> Option<&str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(KEY)?.0).ok()
}

fn is_ours(secret: &Secret, tenant: &ValidTenant) -> bool {
    let labelled = secret.labels().get(TENANT_LABEL).is_some_and(|label| *label == tenant.name);
    labelled || secret.owner_references().iter().any(|owner| owner.uid == tenant.owner.uid)
}

fn differs(secret: &Secret, tenant: &ValidTenant) -> bool {
    let owned = secret.owner_references().iter().any(|owner| owner.uid == tenant.owner.uid);
    !owned || build::labels(&tenant.name).iter().any(|(key, value)| secret.labels().get(key) != Some(value))
}

fn secret(tenant: &ValidTenant, context: &Context, key: &ApiKey) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name(&tenant.name)),
            namespace: Some(context.settings.namespace.clone()),
            labels: Some(build::labels(&tenant.name)),
            owner_references: Some(vec![tenant.owner.clone()]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(key.expose().as_bytes().to_vec()))])),
        ..Secret::default()
    }
}
