//! Local mode: the whole API for whoever is on this machine, without a key, over a given Postgres or one of its own.
//!
//! It is a dedicated engine of one reserved tenant. Isolation is the same as in a cluster: the engine logs in as the
//! tenant's role, each request carries a capability, which a layer adds that only local mode has. Both secrets derive
//! from the administrator's, so that two local engines over one database agree on them.

mod postgres;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tenancy::{LOCAL_TENANT, MasterKey, Password, RoleName};

use crate::{
    config::Config,
    http::LocalCaller,
    store::{Database, LocalTenant, SetupError, create_database, set_up},
};
pub use postgres::{EmbeddedPostgres, PostgresError};

const DATABASE: &str = "stellar";

/// Why local mode cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The embedded Postgres.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The database.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// What local mode serves from.
pub struct Local {
    /// The login of the local tenant.
    pub database: Database,
    /// What each request acts as.
    pub caller: LocalCaller,
    /// The Postgres of its own, if no other was given. To be stopped last.
    pub postgres: Option<EmbeddedPostgres>,
}

impl Local {
    /// Sets everything up. `given`: the administrator's URL of an existing Postgres.
    ///
    /// # Errors
    /// [`LocalError`]
    pub async fn prepare(config: &Config, given: Option<Database>) -> Result<Self, LocalError> {
        let (admin, postgres) = if let Some(admin) = given {
            (admin, None)
        } else {
            let postgres = EmbeddedPostgres::start(config.data_dir.clone(), config.postgres_bin.clone()).await?;
            (postgres.admin().with_database(DATABASE), Some(postgres))
        };
        match Self::set_up(config, &admin, postgres.as_ref()).await {
            Ok((database, caller)) => Ok(Self { database, caller, postgres }),
            Err(error) => {
                if let Some(postgres) = postgres {
                    postgres.stop().await?;
                }
                Err(error.into())
            }
        }
    }

    async fn set_up(
        config: &Config,
        admin: &Database,
        postgres: Option<&EmbeddedPostgres>,
    ) -> Result<(Database, LocalCaller), SetupError> {
        if let Some(postgres) = postgres {
            create_database(postgres.admin(), DATABASE).await?;
        }
        // An embedded server has another port each time: only its password counts.
        let secret = postgres.map_or(admin.expose(), EmbeddedPostgres::password);
        let Some(password) = Password::parse(&derive(secret, "password of the local tenant's role")[..32]) else {
            unreachable!("32 hex digits are a password")
        };
        let Ok(master) = MasterKey::parse(&derive(secret, "master key of local mode")) else {
            unreachable!("64 hex digits are a master key")
        };
        let capability = master.capability(LOCAL_TENANT, 1);
        let tenant = LocalTenant {
            id: LOCAL_TENANT,
            capability: capability.hash(),
            verifier: password.verifier(),
            connections: config.connections(),
        };
        set_up(admin, &tenant).await?;
        let database = admin.with_login(&RoleName::of(LOCAL_TENANT), password.expose());
        Ok((database, LocalCaller::new(LOCAL_TENANT, &capability, config.allow_remote)))
    }
}

/// 64 hex digits that follow from a secret and tell nothing about it.
fn derive(secret: &str, purpose: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        unreachable!("HMAC takes a key of any length")
    };
    mac.update(purpose.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_secrets_differ_by_secret_and_purpose_and_are_keys() {
        let all = [derive("a", "x"), derive("a", "y"), derive("b", "x")];
        assert!(all[0] != all[1] && all[0] != all[2] && all[0] == derive("a", "x"));
        assert!(MasterKey::parse(&all[0]).is_ok());
    }
}
