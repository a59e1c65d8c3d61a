//! The definitions that are applied to a cluster, and their committed form.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::{Tenant, Tier};

/// A custom resource's definition and the file in `crds/generated` that holds it.
pub struct Definition {
    /// The name of the committed file.
    pub file: &'static str,
    /// The definition.
    pub crd: CustomResourceDefinition,
}

impl Definition {
    /// The definition as YAML.
    ///
    /// # Errors
    /// None that can happen with these types: they serialise to plain maps, lists and scalars.
    pub fn yaml(&self) -> Result<String, serde_saphyr::ser_error::Error> {
        serde_saphyr::to_string(&self.crd)
    }
}

/// All definitions, in the order in which they are applied.
pub fn definitions() -> Vec<Definition> {
    let mut all = vec![
        Definition { file: "tiers.yaml", crd: Tier::crd() },
        Definition { file: "tenants.yaml", crd: Tenant::crd() },
    ];
    for definition in &mut all {
        definition
            .crd
            .metadata
            .labels
            .get_or_insert_default()
            .insert("app.kubernetes.io/part-of".to_owned(), "stellar-memory".to_owned());
        for version in &mut definition.crd.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
                forbid_null(schema);
            }
        }
    }
    all
}

/// An optional field is absent or has a value. The API server drops a null where it is not allowed, so that the
/// rules need not tell null from absent.
fn forbid_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(BTreeMap::values_mut).for_each(forbid_null);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        forbid_null(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_yaml_is_what_the_types_say() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
        for definition in definitions() {
            let path = folder.join(definition.file);
            let generated = definition.yaml().expect("serialises");
            if std::env::var_os("UPDATE_GENERATED").is_some() {
                std::fs::write(&path, &generated).expect("crds/generated can be written");
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == generated,
                "{} is not what the types say; run `UPDATE_GENERATED=1 cargo test -p crds` and commit it",
                definition.file
            );
        }
    }

    #[test]
    fn every_field_explains_itself() {
        fn walk(path: &str, schema: &serde_json::Value, missing: &mut Vec<String>) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                let described = property["description"].as_str().is_some_and(|d| !d.is_empty());
                if !described && !path.ends_with(".metadata") {
                    missing.push(path.clone());
                }
                walk(&path, property, missing);
                walk(&path, &property["items"], missing);
            }
        }
        let mut missing = Vec::new();
        for definition in definitions() {
            let crd = serde_json::to_value(&definition.crd).expect("serialises");
            for version in crd["spec"]["versions"].as_array().expect("has versions") {
                let kind = crd["spec"]["names"]["kind"].as_str().expect("has a kind");
                walk(kind, &version["schema"]["openAPIV3Schema"], &mut missing);
            }
        }
        assert!(missing.is_empty(), "without a description: {missing:?}");
    }
}
