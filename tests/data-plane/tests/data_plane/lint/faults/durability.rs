//! Settings with which a crash takes back what was acknowledged.

use super::{Fault, warning};

pub const FAULTS: &[Fault] = &[
    warning(
        "asynchronous-commit",
        "the database answers commits before they are on disk",
        "ALTER DATABASE stellar SET synchronous_commit = off",
        "ALTER DATABASE stellar RESET synchronous_commit",
    ),
    warning(
        "asynchronous-commit",
        "the database does not wait for its standbys, and says so by another word",
        "ALTER DATABASE stellar SET synchronous_commit = 'Local'",
        "ALTER DATABASE stellar RESET synchronous_commit",
    ),
    warning(
        "asynchronous-commit",
        "the gateway's commits are answered before they are on disk",
        "ALTER ROLE stellar_gateway SET synchronous_commit = false",
        "ALTER ROLE stellar_gateway RESET synchronous_commit",
    ),
    warning(
        "asynchronous-commit",
        "the server answers commits before they are on disk",
        "ALTER SYSTEM SET synchronous_commit = off",
        "ALTER SYSTEM RESET synchronous_commit",
    ),
    warning(
        "fsync-off",
        "nothing is ever known to be on disk",
        "ALTER SYSTEM SET fsync = off",
        "ALTER SYSTEM SET fsync = on",
    ),
    warning(
        "full-page-writes-off",
        "pages may be half written",
        "ALTER SYSTEM SET full_page_writes = off",
        "ALTER SYSTEM RESET full_page_writes",
    ),
];
