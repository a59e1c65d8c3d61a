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

struct Login {
    role: &'static str,
    item: Item,
    address: Address,
}

/// Sees that each login has a URL in the vault, and in Postgres the password that is in it.
pub(super) async fn ensure(
    admin: &mut PgConnection,
    admin_url: &PostgresUrl,
    pool: &Address,
    vault: &Vault,
) -> Result<(), MigrateError> {
    let logins = [
        Login { role: "stellar_operator", item: Item::OperatorUrl, address: Address::default() },
        Login { role: "stellar_gateway", item: Item::GatewayUrl, address: Address::default() },
        Login { role: "stellar_pool", item: Item::PoolUrl, address: pool.clone() },
    ];
    for Login { role, item, address } in logins {
        let present = vault.read(item).await?;
        let kept = present.as_deref().and_then(|text| text.parse::<PostgresUrl>().ok()).and_then(|url| url.password());
        let is_new = kept.is_none();
        let password = kept.unwrap_or_else(Password::generate);
        let url =
            admin_url.login(role, &password, &address).map_err(|source| MigrateError::Url { of: role, source })?;
        if present.as_deref() != Some(url.expose()) {
            vault.write(item, url.expose()).await?;
        }
        set_password(admin, role, &password).await?;
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
