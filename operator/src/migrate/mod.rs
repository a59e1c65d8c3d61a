//! `operator migrate`: brings the database to this release's schema, looks for what weakens its isolation, sees that
//! every login has a password and a Secret, and applies definitions and default tiers. Every step may be repeated, and a
//! crash between two steps heals on the next run.

mod logins;
mod resources;
mod schema;
mod vault;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crds::{Tier, TierSpec};
use tenancy::MasterKey;
use tokio::time::Instant;

use crate::{
    lint::LintError,
    postgres_url::{Address, PostgresUrl, PostgresUrlError},
};

pub use logins::LoginRotation;
pub(crate) use schema::migrations;
pub use vault::Vault;

/// What a run works on.
pub struct Migration {
    /// The administrator: owner of the database, with CREATEROLE.
    pub admin: PostgresUrl,
    /// The pooler between the pooled engine and Postgres, if there is one.
    pub pool: Address,
    /// Where logins and master key are kept.
    pub vault: Vault,
    /// How long to wait for Postgres.
    pub patience: Duration,
    /// The tiers to start with; `None` for the built-in ones.
    pub tiers: Option<Vec<Tier>>,
    /// Whether to go on with a database whose isolation is weakened.
    pub allow_findings: bool,
    /// Which rotation the logins' passwords are to belong to.
    pub rotation: LoginRotation,
}

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A URL cannot be used.
    #[error("the database URL of {of}")]
    Url {
        /// Whose URL.
        of: &'static str,
        /// Why.
        source: PostgresUrlError,
    },
    /// Postgres did not answer in time.
    #[error("Postgres did not accept the administrator's login within {} s", patience.as_secs())]
    Unreachable {
        /// How long was waited.
        patience: Duration,
        /// The last answer.
        source: sqlx::Error,
    },
    /// A migration failed; Postgres rolled it back.
    #[error("migrate the schema")]
    Schema(#[source] Box<sqlx::migrate::MigrateError>),
    /// The database could not be looked at.
    #[error("look for what weakens the database's isolation")]
    Lint(#[from] LintError),
    /// The database does not isolate its tenants as the schema was made to.
    #[error(
        "the isolation of this database is weakened in {errors} places, which the log names: mend them and run this \
         again, or go on all the same with --allow-findings"
    )]
    Weakened {
        /// How many findings are errors.
        errors: usize,
    },
    /// A statement failed.
    #[error("{operation}")]
    Postgres {
        /// What was being done.
        operation: &'static str,
        /// Postgres' answer.
        source: sqlx::Error,
    },
    /// A Secret or file cannot be used.
    #[error(transparent)]
    Vault(#[from] vault::VaultError),
    /// The API server refused.
    #[error("{operation} {name}")]
    Kubernetes {
        /// What was being done.
        operation: &'static str,
        /// To which object.
        name: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// A tier's limits are out of range.
    #[error("tier {0}: a limit is out of range")]
    Tier(String),
    /// The tiers file cannot be used.
    #[error("read the tiers file {}: {reason}", path.display())]
    TiersFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Migration {
    /// Runs all steps.
    ///
    /// # Errors
    /// [`MigrateError`] of the first step that fails; earlier steps stay done.
    pub async fn run(self) -> Result<(), MigrateError> {
        let tiers = self.tiers.unwrap_or_else(crds::default_tiers);
        // The master key comes first: gateway and operator wait for it.
        if self.vault.keep_or_make_master_key(MasterKey::generate).await? {
            tracing::info!("made the master key");
        }
        // The URLs come before Postgres answers: pods that mount them start meanwhile, and wait for their login.
        let logins = logins::prepare(&self.admin, &self.pool, &self.vault, self.rotation.number).await?;
        let written = Instant::now();
        let mut admin = schema::connect(&self.admin, self.patience).await?;
        schema::migrate(&mut admin).await?;
        // Before the look at them: else whoever has SQL of a login's could keep every upgrade from happening.
        logins::reset_settings(&mut admin).await?;
        // Before any login opens: a weakened database serves no new installation, and an upgrade says so.
        schema::lint(&mut admin, self.allow_findings).await?;
        logins::admit(&mut admin, &logins).await?;
        match &self.vault {
            Vault::Kubernetes { client, .. } => resources::apply(client, &tiers).await?,
            Vault::Files(_) => schema::write_tiers(&mut admin, &tiers).await?,
        }
        logins::rotate(&mut admin, &self.vault, logins, self.rotation, written).await?;
        tracing::info!("database, logins and definitions are up to date");
        Ok(())
    }
}

/// Reads `name: spec` pairs.
///
/// # Errors
/// [`MigrateError::TiersFile`].
pub fn read_tiers(path: &Path) -> Result<Vec<Tier>, MigrateError> {
    let refuse = |reason: String| MigrateError::TiersFile { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let specs: BTreeMap<String, TierSpec> = serde_saphyr::from_str(&text).map_err(|e| refuse(e.to_string()))?;
    Ok(specs.into_iter().map(|(name, spec)| Tier::new(&name, spec)).collect())
}
