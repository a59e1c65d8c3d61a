//! The program `gateway`: reads its flags, sets the log up, runs until SIGTERM or SIGINT.

use clap::Parser;
use gateway::config::Config;
use telemetry::Program;
use tokio_util::sync::CancellationToken;

const PROGRAM: Program = Program { service: "stellar-gateway", version: env!("CARGO_PKG_VERSION") };

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let telemetry = telemetry::start(PROGRAM, config.log_format)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before"))?;
    let stop = CancellationToken::new();
    let signal = stop.clone();
    let signals = tokio::spawn(async move {
        let done = gateway::run::signalled().await;
        signal.cancel();
        done
    });
    let outcome = gateway::run::run(config, stop).await;
    signals.abort();
    telemetry.end().await;
    Ok(outcome?)
}
