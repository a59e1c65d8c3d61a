//! Tenants' own roles: the functions of the migration `tenant_roles`.

use tenancy::{Password, TenantId};

use super::{Database, DatabaseError};

impl Database {
    /// Sees that the role exists with its one membership. Returns whether anything was missing.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_ensure(&self, id: TenantId) -> Result<bool, DatabaseError> {
        let query = sqlx::query_scalar("SELECT stellar.role_ensure($1)").bind(id.uuid());
        self.scalar("make the tenant's role", query).await
    }

    /// Lets the role log in with this password, on at most so many connections.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_login(&self, id: TenantId, password: &Password, connections: i32) -> Result<(), DatabaseError> {
        let query = sqlx::query_scalar("SELECT stellar.role_login($1, $2, $3, true)")
            .bind(id.uuid())
            .bind(password.verifier())
            .bind(connections);
        self.scalar("let the tenant's role log in", query).await.map(|_: bool| ())
    }

    /// Ends the role's right to log in, and its sessions. Returns whether anything changed.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_nologin(&self, id: TenantId) -> Result<bool, DatabaseError> {
        let query = sqlx::query_scalar("SELECT stellar.role_nologin($1)").bind(id.uuid());
        self.scalar("end the login of the tenant's role", query).await
    }

    /// Drops the role with all that depends on it. Returns whether it was there.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn role_drop(&self, id: TenantId) -> Result<bool, DatabaseError> {
        let query = sqlx::query_scalar("SELECT stellar.role_drop($1)").bind(id.uuid());
        self.scalar("drop the tenant's role", query).await
    }
}
