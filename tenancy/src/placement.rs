//! Where a tenant is served.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a tenant's requests are served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// By the engine that all pooled tenants share.
    Pooled,
    /// By an engine of its own, which logs in to Postgres as the tenant's role.
    Dedicated,
}

/// The text names no placement.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a placement is `pooled` or `dedicated`")]
pub struct PlacementError;

impl Placement {
    /// The word in the database, in a status and on a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Dedicated => "dedicated",
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Placement {
    type Err = PlacementError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pooled" => Ok(Self::Pooled),
            "dedicated" => Ok(Self::Dedicated),
            _ => Err(PlacementError),
        }
    }
}
