//! The program `gateway`: reads its flags, sets the log up, runs until SIGTERM or SIGINT.

use clap::Parser;
use gateway::config::{Config, LogFormat};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    match config.log_format {
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_current_span(false)).init(),
        LogFormat::Text => registry.with(fmt::layer()).init(),
    }
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
    gateway::run::run(config, stop).await?;
    signals.abort();
    Ok(())
}
