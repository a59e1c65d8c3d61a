//! The program's flags. Every value has its final type when clap is done.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser};
use telemetry::LogFormat;

use crate::{client_address::Network, cors::AllowedOrigin};

/// The shared entrance to stellar-memory: authenticates every request and routes it to the tenant's engine.
#[derive(Parser, Clone)]
#[command(name = "gateway", version)]
pub struct Config {
    /// Where the public API listens.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Where /healthz, /readyz and /metrics listen.
    #[arg(long, env = "HEALTH_LISTEN", default_value = "0.0.0.0:9090")]
    pub health_listen: SocketAddr,

    /// File that holds the database URL of the login `stellar_gateway`. Waited for when it is missing.
    #[arg(long, env = "DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,

    /// File that holds the master key (64 hex digits). Waited for when it is missing.
    #[arg(long, env = "MASTER_KEY_FILE")]
    pub master_key_file: PathBuf,

    /// Engine of the pooled tenants: host:port, or several separated by commas. Names are resolved every second.
    #[arg(long, env = "POOLED_ENGINE")]
    pub pooled_engine: String,

    /// Origin of web pages that may use the API from a browser, as https://app.example.org, or `*` for every page. May be
    /// given several times.
    #[arg(long = "cors-origin", env = "CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<AllowedOrigin>,

    /// Form of the log.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,

    /// How connections of clients are bounded.
    #[command(flatten)]
    pub clients: ClientLimits,

    /// How long things may take.
    #[command(flatten)]
    pub times: Times,
}

/// How connections of clients are bounded.
#[derive(Args, Clone)]
pub struct ClientLimits {
    /// Open client connections at one time; further ones wait in the kernel's queue.
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 10_000)]
    pub max_connections: usize,

    /// Open connections of one client address; further ones are closed at once.
    #[arg(long, env = "MAX_CONNECTIONS_PER_CLIENT", default_value_t = 2_000)]
    pub max_connections_per_client: usize,

    /// Failed authentications a minute of one client address; further ones are answered 429 without a closer look.
    #[arg(long, env = "MAX_AUTH_FAILURES_PER_MINUTE", default_value_t = 600)]
    pub max_auth_failures_per_minute: u32,

    /// Operations of batches and imports that a tenant may have carried out for each request of its tier's requests a minute.
    #[arg(long, env = "OPERATIONS_PER_REQUEST", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub operations_per_request: u32,

    /// Address or CIDR block of a proxy in front, whose X-Forwarded-For is believed. May be given several times.
    #[arg(long = "trusted-proxy", env = "TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
}

/// How long things may take: `10s`, `500ms`, `2m`, or a number of seconds.
#[derive(Args, Clone)]
pub struct Times {
    /// A client must send the head of a request within this time.
    #[arg(long, env = "HEADER_TIMEOUT", value_parser = duration, default_value = "10s")]
    pub header_timeout: Duration,

    /// A client connection without a request is closed after this time.
    #[arg(long, env = "KEEP_ALIVE", value_parser = duration, default_value = "75s")]
    pub keep_alive: Duration,

    /// A client must take something of each of its answers within this time, else its connection ends.
    #[arg(long, env = "WRITE_TIMEOUT", value_parser = some_duration, default_value = "60s")]
    pub write_timeout: Duration,

    /// Connecting to an engine.
    #[arg(long, env = "CONNECT_TIMEOUT", value_parser = duration, default_value = "1s")]
    pub connect_timeout: Duration,

    /// Looking for an engine that accepts a request that was not sent yet.
    #[arg(long, env = "RETRY_BUDGET", value_parser = duration, default_value = "3s")]
    pub retry_budget: Duration,

    /// Answer to a store, from the request's head on.
    #[arg(long, env = "STORE_TIMEOUT", value_parser = duration, default_value = "10s")]
    pub store_timeout: Duration,

    /// Answer to a recall.
    #[arg(long, env = "RECALL_TIMEOUT", value_parser = duration, default_value = "10s")]
    pub recall_timeout: Duration,

    /// Answer to a narrate.
    #[arg(long, env = "NARRATE_TIMEOUT", value_parser = duration, default_value = "15s")]
    pub narrate_timeout: Duration,

    /// Answer to an import, from the request's head on: all of the file arrives within it.
    #[arg(long, env = "IMPORT_TIMEOUT", value_parser = duration, default_value = "5m")]
    pub import_timeout: Duration,

    /// Answer to every other request.
    #[arg(long, env = "REQUEST_TIMEOUT", value_parser = duration, default_value = "10s")]
    pub request_timeout: Duration,

    /// Time between SIGTERM and the end of accepting, in which load balancers learn that this gateway leaves.
    #[arg(long, env = "PRE_STOP_LAG", value_parser = duration, default_value = "5s")]
    pub pre_stop_lag: Duration,

    /// Time that requests in flight then have to finish.
    #[arg(long, env = "DRAIN_TIMEOUT", value_parser = duration, default_value = "20s")]
    pub drain_timeout: Duration,

    /// Whole reload of the directory, as a guard against a lost notice.
    #[arg(long, env = "FULL_RELOAD_INTERVAL", value_parser = duration, default_value = "10m")]
    pub full_reload_interval: Duration,

    /// Requests are refused and the gateway is not ready when it has heard nothing of Postgres for so long, for it does not know
    /// of revoked keys then. `0`: it goes on from what it knows last.
    #[arg(long, env = "DIRECTORY_MAX_AGE", value_parser = duration, default_value = "10m")]
    pub directory_max_age: Duration,

    /// Between two reloads of tenants that notices of Postgres ask for. Anybody with a login can send such notices.
    #[arg(long, env = "NOTICE_PAUSE", value_parser = duration, default_value = "100ms")]
    pub notice_pause: Duration,
}

/// Reads `10s`, `500ms`, `2m` or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("`{unit}` is no unit of time: use ms, s or m")),
    };
    let number: f64 = number.parse().map_err(|_| "a duration looks like 10s, 500ms or 2m".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "a duration is not negative and not endless".to_owned())
}

/// Reads a duration that is not zero.
fn some_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_millis(1) {
        Err("at least 1ms is needed, such as 60s".to_owned())
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("0.5", 500), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(some_duration("1ms"), Ok(Duration::from_millis(1)));
        assert!(some_duration("0s").is_err());
        for text in ["", "s", "10h", "-1s", "1e999", "nan"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Config::command().debug_assert();
    }
}
