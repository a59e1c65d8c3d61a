//! The logins of operator, gateway and pooled engine. The vault is written first, Postgres second, and a password
//! that is in the vault is set again on every run: whatever a crash left behind, the next run mends.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{
    MigrateError,
    vault::{Item, Vault},
};
use crate::{
    postgres_url::{Address, PostgresUrl},
    scram::Password,
};

/// A login whose URL is in the vault.
pub(super) struct Login {
    role: &'static str,
    password: Password,
    is_new: bool,
}

/// Sees that each login has a URL in the vault. Needs no Postgres.
pub(super) async fn prepare(
    admin_url: &PostgresUrl,
    pool: &Address,
    vault: &Vault,
) -> Result<Vec<Login>, MigrateError> {
    let wanted = [
        ("stellar_operator", Item::OperatorUrl, Address::default()),
        ("stellar_gateway", Item::GatewayUrl, Address::default()),
        ("stellar_pool", Item::PoolUrl, pool.clone()),
    ];
    let mut logins = Vec::with_capacity(wanted.len());
    for (role, item, address) in wanted {
        let mut present = vault.read(item).await?;
        if present.is_none() {
            // Where nothing is, of two runs at a time one makes the password and the other takes it.
            let url = |password| {
                admin_url.login(role, password, &address).map_err(|source| MigrateError::Url { of: role, source })
            };
            let password = Password::generate();
            if vault.create(item, url(&password)?.expose()).await? {
                logins.push(Login { role, password, is_new: true });
                continue;
            }
            present = vault.read(item).await?;
        }
        let kept = present.as_deref().and_then(|text| text.parse::<PostgresUrl>().ok()).and_then(|url| url.password());
        let is_new = kept.is_none();
        let password = kept.unwrap_or_else(Password::generate);
        let url =
            admin_url.login(role, &password, &address).map_err(|source| MigrateError::Url { of: role, source })?;
        if present.as_deref() != Some(url.expose()) {
            vault.write(item, url.expose()).await?;
        }
        logins.push(Login { role, password, is_new });
    }
    Ok(logins)
}

/// Sets the passwords in Postgres.
pub(super) async fn admit(admin: &mut PgConnection, logins: &[Login]) -> Result<(), MigrateError> {
    for Login { role, password, is_new } in logins {
        set_password(admin, role, password).await?;
        tracing::info!(login = role, new_password = is_new, "the login is ready");
    }
    Ok(())
}

async fn set_password(admin: &mut PgConnection, role: &str, password: &Password) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::Postgres { operation: "set a login's password", source };
    let mut transaction = admin.begin().await.map_err(failed)?;
    // ALTER ROLE takes no bind parameter. The name is one of three constants; a verifier has no quote in it.
    let statement = format!("ALTER ROLE {role} LOGIN PASSWORD '{}'", password.verifier());
    sqlx::query(AssertSqlSafe(statement)).persistent(false).execute(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}
