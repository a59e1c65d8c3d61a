//! The program `engine`.

mod run;

use std::process::ExitCode;

use clap::Parser as _;
use engine::config::Config;
use telemetry::Program;

const PROGRAM: Program = Program { service: "stellar-engine", version: env!("CARGO_PKG_VERSION") };

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    let telemetry = match telemetry::start(PROGRAM, config.log_format) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("engine: {:#}", anyhow::Error::from(error));
            return ExitCode::FAILURE;
        }
    };
    // Fails only when there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let outcome = match run::run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The sentence and its causes; a stack of frames would only hide them.
            tracing::error!(error = format!("{error:#}"), "the engine cannot go on");
            ExitCode::FAILURE
        }
    };
    telemetry.end().await;
    outcome
}
