//! Where the logs of many tenants end, without a transaction for each.

use std::collections::HashMap;

use sqlx::Row as _;
use tenancy::{Capability, TenantId};
use uuid::Uuid;

use super::{Store, StoreError, sql};

impl Store {
    /// The number of the last change of each of these tenants that is served here and whose capability this is.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn log_ends(&self, asked: &[(TenantId, Capability)]) -> Result<HashMap<TenantId, i64>, StoreError> {
        let tenants: Vec<Uuid> = asked.iter().map(|(tenant, _)| tenant.uuid()).collect();
        let capabilities: Vec<&[u8]> = asked.iter().map(|(_, capability)| capability.as_bytes().as_slice()).collect();
        let mut connection = self.pool.acquire().await.map_err(StoreError::while_("look where logs end"))?;
        let rows = sql("SELECT e.user_id, e.change_seq FROM stellar.log_ends($1, $2) e")
            .bind(tenants)
            .bind(capabilities)
            .fetch_all(&mut *connection)
            .await
            .map_err(StoreError::while_("look where logs end"))?;
        let mut ends = HashMap::with_capacity(rows.len());
        for row in rows {
            let read = || Ok::<(Uuid, i64), sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
            let (tenant, seq) = read().map_err(StoreError::while_("look where logs end"))?;
            if let Ok(tenant) = TenantId::new(tenant) {
                ends.insert(tenant, seq);
            }
        }
        Ok(ends)
    }
}
