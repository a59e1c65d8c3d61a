//! How large the attacks of this crate are, short in `make test` and whole in `make attack`, and how a secret is looked for.

mod search;

pub use search::Search;

/// The number of tries: `short` in `make test`, `whole` where ATTACK is `whole`, as `make attack` has it.
pub fn tries(short: usize, whole: usize) -> usize {
    if std::env::var("ATTACK").is_ok_and(|size| size == "whole") { whole } else { short }
}
