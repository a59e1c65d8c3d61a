//! The program `engine`.

mod run;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use engine::config::{Config, LogFormat};
use tracing_subscriber::EnvFilter;

/// Postgres' notices and sqlx' statements are of no use to whoever operates this.
const DEFAULT_LOG: &str = "info,sqlx=warn";

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    // Fails only when there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run::run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The sentence and its causes; a stack of frames would only hide them.
            tracing::error!(error = format!("{error:#}"), "the engine cannot go on");
            ExitCode::FAILURE
        }
    }
}
