//! The logins of operator, gateway and pooled engine. The vault is written first, Postgres second, and a password
//! that is in the vault is set again on every run: whatever a crash left behind, the next run mends. So it does what a
//! login did to itself, which Postgres lets every role: another password, and settings for all its sessions to come.
//!
//! Postgres knows one password of a role at a time. So a rotation has three steps: the next URL stands beside the present one
//! until every program can read both (`login-pool`: it takes the other one where one is refused), Postgres gets the new
//! password, the next URL takes the place of the present. A crash in between begins anew with the same two.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use tenancy::Password;
use tokio::time::{Instant, sleep_until};

use super::{
    MigrateError,
    vault::{Item, Kept, Vault},
};
use crate::postgres_url::{Address, PostgresUrl};

/// A login whose URL is in the vault.
pub(super) struct Login {
    role: &'static str,
    item: Item,
    password: Password,
    is_new: bool,
    /// The URL and the password that come next, while the password is rotated.
    next: Option<(PostgresUrl, Password)>,
}

/// Which rotation the passwords are to belong to, and how long programs have to read the next ones.
#[derive(Clone, Copy, Debug)]
pub struct LoginRotation {
    /// Counted up by whoever wants other passwords.
    pub number: u32,
    /// From the next URLs' being written to Postgres' taking them: longer than a kubelet needs to show a changed Secret.
    pub wait: Duration,
}

/// Sees that each login has a URL in the vault, and a next one if it is to be rotated. Needs no Postgres.
pub(super) async fn prepare(
    admin_url: &PostgresUrl,
    pool: &Address,
    vault: &Vault,
    rotation: u32,
) -> Result<Vec<Login>, MigrateError> {
    // A pooler of which only the host is told has the server's port, as for dedicated engines.
    let port = pool.port.or_else(|| pool.host.as_ref().and(admin_url.port()));
    let wanted = [
        ("stellar_operator", Item::OperatorUrl, Address::default()),
        ("stellar_gateway", Item::GatewayUrl, Address::default()),
        ("stellar_pool", Item::PoolUrl, Address { port, ..pool.clone() }),
    ];
    let mut logins = Vec::with_capacity(wanted.len());
    for (role, item, address) in wanted {
        let url = |password: &Password| {
            admin_url.login(role, password, &address).map_err(|source| MigrateError::Url { of: role, source })
        };
        let mut present = vault.read(item).await?;
        if present.is_none() {
            // Where nothing is, of two runs at a time one makes the password and the other takes it.
            let password = Password::generate();
            let first = Kept { text: url(&password)?.expose().to_owned(), next: None, rotation };
            if vault.create(item, &first).await? {
                logins.push(Login { role, item, password, is_new: true, next: None });
                continue;
            }
            present = vault.read(item).await?;
        }
        let kept = present.as_ref().and_then(|kept| password_in(&kept.text));
        let is_new = kept.is_none();
        // A password that is lost is made anew at once: there is nothing to hand over.
        let rotated = present.as_ref().filter(|_| !is_new).map_or(rotation, |kept| kept.rotation);
        let next = (rotated < rotation).then(|| {
            let begun = present.as_ref().and_then(|kept| kept.next.as_deref()).and_then(password_in);
            begun.unwrap_or_else(Password::generate)
        });
        let password = kept.unwrap_or_else(Password::generate);
        let next = next.map(|next| url(&next).map(|url| (url, next))).transpose()?;
        let wanted = Kept {
            text: url(&password)?.expose().to_owned(),
            next: next.as_ref().map(|(url, _)| url.expose().to_owned()),
            rotation: rotated,
        };
        if present.as_ref() != Some(&wanted) {
            vault.write(item, &wanted).await?;
        }
        logins.push(Login { role, item, password, is_new, next });
    }
    Ok(logins)
}

fn password_in(text: &str) -> Option<Password> {
    text.parse::<PostgresUrl>().ok()?.password()
}

/// Takes from the roles what any session of theirs may have set for all to come: of the group any tenant, before Postgres 16.
pub(super) async fn reset_settings(admin: &mut PgConnection) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::Postgres { operation: "reset the settings of the logins", source };
    for role in ["stellar_operator", "stellar_gateway", "stellar_pool", "stellar_tenants"] {
        let statement = format!(
            "ALTER ROLE {role} RESET ALL;
             DO $$ BEGIN EXECUTE format('ALTER ROLE {role} IN DATABASE %I RESET ALL', current_database()); END $$"
        );
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *admin).await.map_err(failed)?;
    }
    Ok(())
}

/// Sets the passwords in Postgres.
pub(super) async fn admit(admin: &mut PgConnection, logins: &[Login]) -> Result<(), MigrateError> {
    for Login { role, password, is_new, .. } in logins {
        set_password(admin, role, password).await?;
        tracing::info!(login = role, new_password = is_new, "the login is ready");
    }
    Ok(())
}

/// Makes the next passwords the only ones, not before programs had their time to read them.
pub(super) async fn rotate(
    admin: &mut PgConnection,
    vault: &Vault,
    logins: Vec<Login>,
    rotation: LoginRotation,
    written: Instant,
) -> Result<(), MigrateError> {
    if logins.iter().all(|login| login.next.is_none()) {
        return Ok(());
    }
    let LoginRotation { number: rotation, wait } = rotation;
    tracing::info!(rotation, seconds = wait.as_secs(), "programs have this long to read the next passwords");
    sleep_until(written + wait).await;
    for Login { role, item, next, .. } in logins {
        let Some((url, password)) = next else { continue };
        set_password(admin, role, &password).await?;
        vault.write(item, &Kept { text: url.expose().to_owned(), next: None, rotation }).await?;
        tracing::info!(login = role, rotation, "the login has a new password");
    }
    Ok(())
}

async fn set_password(admin: &mut PgConnection, role: &str, password: &Password) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::Postgres { operation: "set a login's password", source };
    // ALTER ROLE takes no bind parameter. The name is one of three constants; a verifier has no quote in it.
    let statement = format!("ALTER ROLE {role} LOGIN PASSWORD '{}'", password.verifier());
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(admin).await.map_err(failed)?;
    Ok(())
}
