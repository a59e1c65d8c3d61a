//! What a reconciliation found, part by part, in the words of a status. A part that was not reached says nothing,
//! and its condition stays as it was.

use std::collections::BTreeMap;

use crds::{ConditionStatus, ConditionType, Reason};
use tenancy::{Placement, TierName};

/// What is known about one part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Whether it is as it should be.
    pub status: ConditionStatus,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
}

/// What a reconciliation found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By part.
    pub findings: BTreeMap<ConditionType, Finding>,
    /// The tier whose limits are in force.
    pub tier: Option<TierName>,
    /// Where requests go now.
    pub placement: Option<Placement>,
    /// Where they should go.
    pub wanted: Option<Placement>,
    /// Whether requests are refused.
    pub suspended: bool,
    /// The Secret with the API key.
    pub api_key_secret: Option<String>,
    /// The namespace of the tenant's own engine, while it has one.
    pub namespace: Option<String>,
    /// Memories stored, and the most that may be.
    pub usage: Option<(i64, i64)>,
    /// What is still under way, if anything.
    pub under_way: Option<UnderWay>,
}

/// What is still under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnderWay {
    /// Provisioning, moving, rolling or deleting.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl Report {
    /// Notes what is known about a part.
    pub fn found(&mut self, part: ConditionType, holds: bool, reason: Reason, message: impl Into<String>) {
        self.findings.insert(part, Finding { status: holds.into(), reason, message: message.into() });
    }

    /// Notes what is still under way.
    pub fn wait_for(&mut self, reason: Reason, message: impl Into<String>) {
        self.under_way = Some(UnderWay { reason, message: message.into() });
    }
}
