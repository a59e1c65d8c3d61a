#!/usr/bin/env bash
# serde_json 1.0.154, feature raw_value: `RawValue` takes texts that `Value` refuses.
#
# Expected: a text that can be read as a `RawValue` is JSON that the same crate can read as a `Value`: a proxy that checks
# operations by `RawValue` and passes them on passes only what the program behind it, which reads a `Value`, takes.
# Seen: `RawValue` skips over strings, numbers and nesting without reading them. Half of a surrogate pair, a number beyond
# f64 and 200 nested arrays are taken; each of them is an error of `Value`.
#
# Exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "raw-value"
version = "0.0.0"
edition = "2024"
[dependencies]
serde_json = { version = "=1.0.154", features = ["raw_value"] }
TOML
cat >src/main.rs <<'RUST'
use serde_json::{Value, from_str, value::RawValue};

fn main() {
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let mut as_seen = true;
    for (what, text) in [
        ("half of a surrogate pair", r#""cut \ud83d""#),
        ("a number beyond f64", "1e999"),
        ("200 nested arrays", &nested),
        ("a plain object", r#"{"a":1}"#),
    ] {
        let raw = from_str::<&RawValue>(text).is_ok();
        let value = from_str::<Value>(text).map_err(|error| error.to_string());
        println!("{what}: RawValue takes it: {raw}; Value: {value:?}");
        as_seen &= raw && value.is_ok() == (what == "a plain object");
    }
    std::process::exit(i32::from(!as_seen));
}
RUST
cargo run --quiet
