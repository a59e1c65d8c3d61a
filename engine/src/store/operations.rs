//! Answers already given, by Idempotency-Key: a retry is answered, not repeated.

use std::collections::HashMap;

use sqlx::{Row as _, postgres::PgRow, types::Json};

use super::{StoreError, Stored, TenantTx, sql};

/// What a client asks to happen once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// The Idempotency-Key, 1 to 255 characters.
    pub id: String,
    /// SHA-256 of the request's body.
    pub request_hash: [u8; 32],
}

impl TenantTx {
    /// Answers given under these keys: request hash and answer.
    pub(super) async fn answers(&mut self, ids: &[&str]) -> Result<HashMap<String, (Vec<u8>, Stored)>, StoreError> {
        let rows = sql("SELECT o.op_id, o.request_hash, o.answer FROM stellar.operations o
                        WHERE o.user_id = $1 AND o.op_id = ANY ($2::text[])")
        .bind(self.tenant)
        .bind(ids)
        .try_map(|row: PgRow| {
            let Json(answer) = row.try_get::<Json<Stored>, _>(2)?;
            Ok((row.try_get(0)?, (row.try_get(1)?, answer)))
        })
        .fetch_all(&mut *self.tx)
        .await
        .map_err(StoreError::while_("look for an answer already given"))?;
        Ok(rows.into_iter().collect())
    }

    /// Keeps answers, for about a day.
    pub(super) async fn keep_answers(&mut self, answers: &[(&Operation, Stored)]) -> Result<(), StoreError> {
        let ids: Vec<&str> = answers.iter().map(|(operation, _)| operation.id.as_str()).collect();
        let hashes: Vec<&[u8]> = answers.iter().map(|(operation, _)| operation.request_hash.as_slice()).collect();
        let stored: Vec<Json<Stored>> = answers.iter().map(|(_, stored)| Json(*stored)).collect();
        sql("INSERT INTO stellar.operations (user_id, op_id, request_hash, answer)
             SELECT $1, n.op_id, n.request_hash, n.answer
             FROM unnest($2::text[], $3::bytea[], $4::jsonb[]) AS n (op_id, request_hash, answer)")
        .bind(self.tenant)
        .bind(ids)
        .bind(hashes)
        .bind(stored)
        .execute(&mut *self.tx)
        .await
        .map_err(StoreError::while_("keep an answer"))?;
        Ok(())
    }
}
