//! Reads a Deployment's status as people do: how many of how many, and what is wrong.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};

/// How far a Deployment is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rollout {
    wanted: i32,
    updated: i32,
    available: i32,
    total: i32,
    seen: bool,
    trouble: Option<String>,
}

impl Rollout {
    /// Reads it.
    pub fn of(deployment: &Deployment) -> Self {
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let seen = status.observed_generation >= deployment.metadata.generation && status.observed_generation.is_some();
        Self {
            wanted,
            updated: status.updated_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            total: status.replicas.unwrap_or(0),
            seen,
            trouble: trouble(&status),
        }
    }

    /// Every pod is of the newest template and ready, and no other is left.
    pub fn is_complete(&self) -> bool {
        self.seen && self.updated >= self.wanted && self.available >= self.wanted && self.total <= self.wanted
    }

    /// Some pod serves.
    pub fn is_available(&self) -> bool {
        self.available > 0
    }

    /// What is wrong, in the Deployment's own words.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().filter(|_| self.seen)
    }

    /// `1 of 1 engine replicas ready`.
    pub fn progress(&self) -> String {
        let ready = if self.seen { self.available.min(self.updated) } else { 0 };
        format!("{} of {} engine replicas ready", ready.min(self.wanted), self.wanted)
    }
}

fn trouble(status: &DeploymentStatus) -> Option<String> {
    status.conditions.iter().flatten().find_map(|condition| {
        let stuck = condition.type_ == "Progressing" && condition.status == "False";
        let refused = condition.type_ == "ReplicaFailure" && condition.status == "True";
        (stuck || refused).then(|| condition.message.clone().unwrap_or_else(|| condition.type_.clone()))
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentSpec};

    use super::*;

    fn deployment(generation: i64, status: DeploymentStatus) -> Deployment {
        let mut deployment = Deployment {
            spec: Some(DeploymentSpec { replicas: Some(1), ..DeploymentSpec::default() }),
            status: Some(status),
            ..Deployment::default()
        };
        deployment.metadata.generation = Some(generation);
        deployment
    }

    fn ready(observed: i64) -> DeploymentStatus {
        DeploymentStatus {
            observed_generation: Some(observed),
            replicas: Some(1),
            updated_replicas: Some(1),
            available_replicas: Some(1),
            ..DeploymentStatus::default()
        }
    }

    #[test]
    fn a_status_of_an_older_template_proves_nothing() {
        assert!(Rollout::of(&deployment(2, ready(2))).is_complete());
        assert!(!Rollout::of(&deployment(3, ready(2))).is_complete());
        assert!(!Rollout::of(&deployment(1, DeploymentStatus::default())).is_complete());
    }

    #[test]
    fn a_rolling_update_is_available_but_not_complete() {
        let rolling = Rollout::of(&deployment(2, DeploymentStatus { replicas: Some(2), ..ready(2) }));
        assert!(rolling.is_available() && !rolling.is_complete());
    }

    #[test]
    fn trouble_is_told_in_the_deployments_words() {
        let condition = DeploymentCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            message: Some("exceeded quota".to_owned()),
            ..DeploymentCondition::default()
        };
        let status = DeploymentStatus { available_replicas: None, conditions: Some(vec![condition]), ..ready(2) };
        assert_eq!(Rollout::of(&deployment(2, status)).trouble(), Some("exceeded quota"));
    }
}
