//! Conditions: what a Tenant's status says about each part of it. `lastTransitionTime` moves only when the status
//! of a condition does, so a reader can trust it as "since when".

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::Reason;

/// What a condition is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ConditionType {
    /// The tenant is what its spec says, and is served.
    Ready,
    /// Its identity, role and limits are in Postgres.
    DatabaseReady,
    /// An engine serves it.
    EngineReady,
    /// The API key in its Secret works.
    KeyReady,
    /// The operator is working on it (kstatus).
    Reconciling,
    /// The operator cannot go on until somebody changes something (kstatus).
    Stalled,
}

impl ConditionType {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ready, Self::DatabaseReady, Self::EngineReady, Self::KeyReady, Self::Reconciling, Self::Stalled];

    /// The word in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::DatabaseReady => "DatabaseReady",
            Self::EngineReady => "EngineReady",
            Self::KeyReady => "KeyReady",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// The operator cannot tell.
    Unknown,
}

impl ConditionStatus {
    /// The word in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One aspect of the state of a resource.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about: Ready, DatabaseReady, EngineReady, KeyReady, Reconciling or Stalled.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub type_: String,
    /// Whether it holds: True, False or Unknown.
    pub status: ConditionStatus,
    /// Why, as one word for programs.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,
    /// Why, as a sentence for people. Never a secret.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// The generation of the resource that this was found for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` changed last.
    #[schemars(schema_with = "date_time")]
    pub last_transition_time: Time,
}

fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// The conditions of one resource at one time, built from what was there before.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Conditions(Vec<Condition>);

impl Conditions {
    /// Starts from the conditions in a status.
    pub fn from_status(present: &[Condition]) -> Self {
        Self(present.to_vec())
    }

    /// Sets one condition; its time moves to `now` only if its status changes.
    pub fn set(
        &mut self,
        type_: ConditionType,
        status: ConditionStatus,
        reason: Reason,
        message: impl fmt::Display,
        generation: Option<i64>,
        now: &Time,
    ) {
        let mut message = message.to_string();
        truncate(&mut message, 1024);
        let new = |since: Time| Condition {
            type_: type_.as_str().to_owned(),
            status,
            reason: reason.as_str().to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: since,
        };
        match self.0.iter_mut().find(|c| c.type_ == type_.as_str()) {
            Some(present) if present.status == status => *present = new(present.last_transition_time.clone()),
            Some(present) => *present = new(now.clone()),
            None => self.0.push(new(now.clone())),
        }
    }

    /// The condition of a type.
    pub fn get(&self, type_: ConditionType) -> Option<&Condition> {
        self.0.iter().find(|c| c.type_ == type_.as_str())
    }

    /// Whether a condition is there and True.
    pub fn is_true(&self, type_: ConditionType) -> bool {
        self.get(type_).is_some_and(|c| c.status == ConditionStatus::True)
    }

    /// The conditions, for a status.
    pub fn into_vec(self) -> Vec<Condition> {
        self.0
    }
}

fn truncate(text: &mut String, most: usize) {
    if text.len() > most {
        let end = (0..=most - 3).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a valid time"))
    }

    #[test]
    fn time_moves_only_with_the_status() {
        let mut conditions = Conditions::default();
        conditions.set(ConditionType::Ready, false.into(), Reason::Provisioning, "a", Some(1), &at(1));
        conditions.set(ConditionType::Ready, false.into(), Reason::TierNotFound, "b", Some(2), &at(2));
        let ready = conditions.get(ConditionType::Ready).expect("was set");
        assert_eq!(
            (&*ready.reason, &*ready.message, ready.observed_generation, &ready.last_transition_time),
            ("TierNotFound", "b", Some(2), &at(1))
        );
        conditions.set(ConditionType::Ready, true.into(), Reason::Serving, "c", Some(2), &at(3));
        assert_eq!(conditions.get(ConditionType::Ready).map(|c| c.last_transition_time.clone()), Some(at(3)));
    }

    #[test]
    fn conditions_of_others_stay() {
        let foreign = Condition {
            type_: "Billing".to_owned(),
            status: ConditionStatus::Unknown,
            reason: "X".to_owned(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: at(1),
        };
        let mut conditions = Conditions::from_status(std::slice::from_ref(&foreign));
        conditions.set(ConditionType::Ready, true.into(), Reason::Serving, "", None, &at(2));
        assert!(conditions.into_vec().contains(&foreign));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let mut conditions = Conditions::default();
        conditions.set(ConditionType::Ready, false.into(), Reason::DatabaseError, "é".repeat(2000), None, &at(1));
        let length = conditions.get(ConditionType::Ready).map_or(0, |c| c.message.len());
        assert!((1000..=1024).contains(&length), "{length}");
    }
}
