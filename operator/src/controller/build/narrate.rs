//! What a tenant's engine needs to ask a model for narratives: arguments, and the key as a file of a Secret.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, SecretVolumeSource, Volume, VolumeMount},
};

use super::{NARRATE_KEY, NARRATE_SECRET, metadata};
use crate::{controller::validate::ValidTenant, settings::Narrate};

const VOLUME: &str = "narrate";
const DIRECTORY: &str = "/etc/stellar-memory/narrate";

pub(super) fn arguments(narrate: &Narrate) -> Vec<String> {
    let mut arguments = vec![("--narrate-url", narrate.url.clone()), ("--narrate-model", narrate.model.clone())];
    if narrate.key_file.is_some() {
        arguments.push(("--narrate-api-key-file", format!("{DIRECTORY}/{NARRATE_KEY}")));
    }
    arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// Optional: without the key an engine serves all the same, and composes narratives itself.
pub(super) fn volume() -> Volume {
    Volume {
        name: VOLUME.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(NARRATE_SECRET.to_owned()),
            default_mode: Some(0o440),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn mount() -> VolumeMount {
    VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: DIRECTORY.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// The Secret that holds this key.
pub fn secret(tenant: &ValidTenant, key: &str) -> Secret {
    Secret {
        metadata: metadata(tenant, NARRATE_SECRET),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(NARRATE_KEY.to_owned(), ByteString(key.trim().as_bytes().to_vec()))])),
        ..Secret::default()
    }
}
