//! A new file in `migrations/` must reach the program that embeds them.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
