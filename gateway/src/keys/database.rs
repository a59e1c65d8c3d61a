//! Asking Postgres for the routes under /auth, and what its answers mean.

use std::time::Duration;

use serde::Deserialize;

use crate::error::Error;

const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);

/// DETAIL of SQLSTATE SM413.
#[derive(Deserialize)]
struct QuotaDetail {
    what: String,
    used: i64,
    limit: i64,
}

pub(super) async fn in_time<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(DATABASE_TIMEOUT, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(of_postgres(what, error)),
        Err(_) => Err(Error::DatabaseTimeout(what)),
    }
}

/// The SQLSTATEs of our functions are answers; everything else is a failure.
fn of_postgres(what: &'static str, error: sqlx::Error) -> Error {
    let Some(said) = error.as_database_error() else { return Error::Database { what, source: error } };
    match said.code().as_deref() {
        Some("SM413") => {
            let detail = said.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|error| error.detail());
            match detail.and_then(|detail| serde_json::from_str(detail).ok()) {
                Some(QuotaDetail { what, used, limit }) => Error::KeyQuota { what, used, limit },
                None => Error::Database { what, source: error },
            }
        }
        Some("SM409") => Error::KeyManaged,
        Some("SM404") => Error::InvalidKey,
        _ => Error::Database { what, source: error },
    }
}
