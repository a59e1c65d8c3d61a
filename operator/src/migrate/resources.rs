//! What goes into the cluster: the definitions, and the tiers that an installation starts with.

use std::time::Duration;

use crds::Tier;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{conditions, wait::Condition},
};

use super::MigrateError;

/// Who owns what the migrate program applies.
pub(super) const FIELD_MANAGER: &str = "stellar-migrate";
const ESTABLISH_TRIES: u32 = 60;

/// Applies definitions, then tiers. A tier's field that somebody else has set stays as they set it.
pub(super) async fn apply(client: &Client, tiers: &[Tier]) -> Result<(), MigrateError> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in crds::definitions() {
        let name = definition.crd.name_any();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        definitions
            .patch(&name, &params, &Patch::Apply(&definition.crd))
            .await
            .map_err(failed("apply the definition", &name))?;
        wait_until_established(&definitions, &name).await?;
    }
    let api: Api<Tier> = Api::all(client.clone());
    for tier in tiers {
        let name = tier.name_any();
        match api.patch(&name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(tier)).await {
            Ok(_) => tracing::info!(tier = name, "applied the tier"),
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                tracing::warn!(tier = name, reason = answer.message, "somebody changed the tier; it stays as it is");
            }
            Err(e) => return Err(failed("apply the tier", &name)(e)),
        }
    }
    Ok(())
}

async fn wait_until_established(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), MigrateError> {
    for _ in 0..ESTABLISH_TRIES {
        let found = api.get_opt(name).await.map_err(failed("read the definition", name))?;
        if conditions::is_crd_established().matches_object(found.as_ref()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let answer = kube::core::Status::failure("not established in 30 s", "Timeout");
    Err(failed("wait for the definition", name)(kube::Error::Api(Box::new(answer))))
}

fn failed(operation: &'static str, name: &str) -> impl FnOnce(kube::Error) -> MigrateError {
    let name = name.to_owned();
    move |e| MigrateError::Kubernetes { operation, name, source: Box::new(e) }
}
