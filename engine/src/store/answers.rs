//! Answers already given, by the name of the operation: a retry is answered, not repeated.

use std::collections::HashMap;

use sqlx::{Row as _, postgres::PgRow, types::Json};

use super::{Once, StoreError, TenantTx, Written, sql};

/// An answer as it is kept: the hash of what was asked for, and what became of it.
pub(super) type Given = (Vec<u8>, Written);

impl TenantTx {
    /// Answers given under these names.
    pub(super) async fn answers(&mut self, ids: &[&str]) -> Result<HashMap<String, Given>, StoreError> {
        let rows = sql("SELECT o.op_id, o.request_hash, o.answer FROM stellar.operations o
                        WHERE o.user_id = $1 AND o.op_id = ANY ($2::text[])")
        .bind(self.tenant)
        .bind(ids)
        .try_map(|row: PgRow| {
            let Json(answer) = row.try_get::<Json<Written>, _>(2)?;
            Ok((row.try_get(0)?, (row.try_get(1)?, answer)))
        })
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("look for an answer already given"))?;
        Ok(rows.into_iter().collect())
    }

    /// Keeps answers, for about a day.
    pub(super) async fn keep_answers(&mut self, answers: &[(&Once, Written)]) -> Result<(), StoreError> {
        let ids: Vec<&str> = answers.iter().map(|(once, _)| once.id.as_str()).collect();
        let hashes: Vec<&[u8]> = answers.iter().map(|(once, _)| once.request_hash.as_slice()).collect();
        let answers: Vec<Json<Written>> = answers.iter().map(|(_, answer)| Json(*answer)).collect();
        sql("INSERT INTO stellar.operations (user_id, op_id, request_hash, answer)
             SELECT $1, n.op_id, n.request_hash, n.answer
             FROM unnest($2::text[], $3::bytea[], $4::jsonb[]) AS n (op_id, request_hash, answer)")
        .bind(self.tenant)
        .bind(ids)
        .bind(hashes)
        .bind(answers)
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("keep an answer"))?;
        Ok(())
    }
}
