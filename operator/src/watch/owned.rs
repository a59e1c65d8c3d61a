//! Objects made for tenants: whatever happens to one is the Tenant's business, including what happened while the
//! watch was interrupted.

use std::{collections::HashMap, fmt::Debug, pin::pin};

use crds::TENANT_LABEL;
use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{Queue, Trouble};

/// Follows all objects of a kind that carry the tenant's label.
pub async fn watch_owned<K>(api: Api<PartialObjectMeta<K>>, queue: Queue, stop: CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut trouble = Trouble::new(K::plural(&()));
    let mut known = Known::default();
    let mut events = pin!(watcher(api, watcher::Config::default().labels(TENANT_LABEL)).backoff(super::patience()));
    while let Some(event) = tokio::select! { () = stop.cancelled() => None, event = events.next() => event } {
        match event {
            Ok(event) => {
                trouble.works();
                known.observe(event).iter().for_each(|tenant| queue.push(tenant));
            }
            Err(error) => trouble.failed(&error),
        }
    }
}

/// What was there when it was looked at last: by namespace and name, the version and whose it is.
#[derive(Default)]
struct Known {
    objects: Objects,
    /// Filled by the first list, which tells nothing new: the controller starts with every Tenant.
    complete: bool,
    listed: Objects,
}

type Objects = HashMap<(Option<String>, String), (Option<String>, String)>;

impl Known {
    /// Takes an event in. Returns the tenants that it concerns.
    fn observe<K: Resource>(&mut self, event: watcher::Event<K>) -> Vec<String> {
        match event {
            watcher::Event::Apply(object) => {
                let (key, entry) = describe(&object);
                let Some(entry) = entry else { return self.objects.remove(&key).map(|(_, t)| t).into_iter().collect() };
                let now = entry.1.clone();
                let before = self.objects.insert(key, entry).map(|(_, tenant)| tenant);
                // Given to another tenant by a changed label: it is the business of both.
                before.filter(|before| *before != now).into_iter().chain([now]).collect()
            }
            watcher::Event::Delete(object) => {
                let (key, entry) = describe(&object);
                self.objects.remove(&key).or(entry).map(|(_, tenant)| tenant).into_iter().collect()
            }
            watcher::Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                if let (key, Some(entry)) = describe(&object) {
                    self.listed.insert(key, entry);
                }
                Vec::new()
            }
            watcher::Event::InitDone => {
                let before = std::mem::replace(&mut self.objects, std::mem::take(&mut self.listed));
                if !std::mem::replace(&mut self.complete, true) {
                    return Vec::new();
                }
                let lost = before
                    .iter()
                    .filter(|(key, (_, tenant))| self.objects.get(*key).is_none_or(|(_, now)| now != tenant));
                let changed = self.objects.iter().filter(|(key, entry)| before.get(*key) != Some(*entry));
                lost.chain(changed).map(|(_, (_, tenant))| tenant.clone()).collect()
            }
        }
    }
}

type Described = ((Option<String>, String), Option<(Option<String>, String)>);

fn describe<K: Resource>(object: &K) -> Described {
    let tenant = object.labels().get(TENANT_LABEL).cloned();
    let key = (object.namespace(), object.name_any());
    (key, tenant.map(|tenant| (object.resource_version(), tenant)))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::runtime::watcher::Event;

    use super::*;

    fn secret(name: &str, version: &str) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.resource_version = Some(version.to_owned());
        secret.metadata.labels = Some([(TENANT_LABEL.to_owned(), format!("tenant-of-{name}"))].into());
        secret
    }

    fn list(known: &mut Known, secrets: &[(&str, &str)]) -> Vec<String> {
        assert!(known.observe::<Secret>(Event::Init).is_empty());
        for (name, version) in secrets {
            assert!(known.observe(Event::InitApply(secret(name, version))).is_empty());
        }
        let mut tenants = known.observe::<Secret>(Event::InitDone);
        tenants.sort();
        tenants
    }

    #[test]
    fn the_first_list_tells_nothing_new() {
        assert!(list(&mut Known::default(), &[("a", "1")]).is_empty());
    }

    #[test]
    fn what_was_missed_while_interrupted_is_found() {
        let mut known = Known::default();
        list(&mut known, &[("a", "1"), ("b", "1"), ("c", "1")]);
        assert_eq!(
            list(&mut known, &[("a", "1"), ("b", "2"), ("d", "1")]),
            ["tenant-of-b", "tenant-of-c", "tenant-of-d"]
        );
    }

    #[test]
    fn a_changed_label_is_told_to_both_tenants() {
        let mut known = Known::default();
        list(&mut known, &[("a", "1"), ("b", "1")]);
        let stolen = |version: &str| {
            let mut stolen = secret("a", version);
            stolen.metadata.labels = Some([(TENANT_LABEL.to_owned(), "thief".to_owned())].into());
            stolen
        };
        assert_eq!(known.observe(Event::Apply(stolen("2"))), ["tenant-of-a", "thief"]);
        assert_eq!(known.observe(Event::Apply(stolen("3"))), ["thief"]);
        known.observe(Event::Apply(secret("a", "4")));
        known.observe::<Secret>(Event::Init);
        known.observe(Event::InitApply(stolen("5")));
        known.observe(Event::InitApply(secret("b", "1")));
        let mut told = known.observe::<Secret>(Event::InitDone);
        told.sort();
        assert_eq!(told, ["tenant-of-a", "thief"]);
    }

    #[test]
    fn a_deletion_is_told_even_if_the_label_went_first() {
        let mut known = Known::default();
        known.observe(Event::Apply(secret("a", "1")));
        let mut bare = secret("a", "2");
        bare.metadata.labels = None;
        assert_eq!(known.observe(Event::Delete(bare)), ["tenant-of-a"]);
    }
}
