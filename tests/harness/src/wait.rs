//! Waiting for a condition, never for a time.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(25);

/// Asks `probe` until it returns `Some`, for at most 30 s.
///
/// # Panics
/// With `what` and the time, when it never did.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: impl Display, probe: impl FnMut() -> F) -> T {
    eventually_within(Duration::from_secs(30), what, probe).await
}

/// Asks `probe` until it returns `Some`, for at most `bound`.
///
/// # Panics
/// With `what` and the time, when it never did. `what` is shown then and not before, so it may tell of the state at the end.
pub async fn eventually_within<T, F: Future<Output = Option<T>>>(
    bound: Duration,
    what: impl Display,
    mut probe: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < bound, "within {bound:?} this did not become true: {what}");
        tokio::time::sleep(POLL).await;
    }
}
