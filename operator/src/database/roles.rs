//! Tenants' own roles: the functions of the migration `tenant_roles`.

use tenancy::TenantId;

use super::{Database, DatabaseError, named};
use crate::scram::Password;

impl Database {
    /// Sees that the role exists with its one membership. Returns whether anything was missing.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_ensure(&self, id: TenantId) -> Result<bool, DatabaseError> {
        sqlx::query_scalar("SELECT stellar.role_ensure($1)")
            .bind(id.uuid())
            .fetch_one(&self.pool)
            .await
            .map_err(named("make the tenant's role"))
    }

    /// Lets the role log in with this password, on at most so many connections.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_login(&self, id: TenantId, password: &Password, connections: i32) -> Result<(), DatabaseError> {
        sqlx::query_scalar("SELECT stellar.role_login($1, $2, $3, true)")
            .bind(id.uuid())
            .bind(password.verifier())
            .bind(connections)
            .fetch_one(&self.pool)
            .await
            .map(|_: bool| ())
            .map_err(named("let the tenant's role log in"))
    }

    /// Ends the role's right to log in, and its sessions. Returns whether anything changed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_nologin(&self, id: TenantId) -> Result<bool, DatabaseError> {
        sqlx::query_scalar("SELECT stellar.role_nologin($1)")
            .bind(id.uuid())
            .fetch_one(&self.pool)
            .await
            .map_err(named("end the login of the tenant's role"))
    }

    /// Drops the role with all that depends on it. Returns whether it was there.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_drop(&self, id: TenantId) -> Result<bool, DatabaseError> {
        sqlx::query_scalar("SELECT stellar.role_drop($1)")
            .bind(id.uuid())
            .fetch_one(&self.pool)
            .await
            .map_err(named("drop the tenant's role"))
    }
}
