//! The command line. Values are of the right type on arrival; the comments are the help texts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use axum::http::Uri;
use clap::{Parser, ValueEnum};
use telemetry::LogFormat;
use tenancy::TenantId;

use crate::{index::IndexBounds, narrator::Endpoint, server::Bounds};

/// Memory for the index of one pooled tenant: a thousand texts of 10,000 characters in any language need less.
const POOLED_TENANT_INDEX_BYTES: usize = 128 << 20;

/// The memory engine of stellar-memory: stores and recalls, one transaction a request, under the tenant's identity.
#[derive(Parser)]
#[command(version, about)]
pub struct Config {
    /// Whom this engine serves.
    #[arg(long, env = "ENGINE_MODE", value_enum)]
    pub mode: Mode,

    /// The tenant of a dedicated engine.
    #[arg(long, env = "ENGINE_TENANT", required_if_eq("mode", "dedicated"))]
    pub tenant: Option<TenantId>,

    /// A file with the URL of Postgres; it may appear late and change. Without it the environment variable DATABASE_URL counts.
    #[arg(long, env = "DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,

    /// Where the API listens. Default: 0.0.0.0:8080; local: 127.0.0.1:8080.
    #[arg(long, env = "ENGINE_LISTEN")]
    pub listen: Option<SocketAddr>,

    /// Where health and metrics listen. Default: 0.0.0.0:9090; local: 127.0.0.1:9090.
    #[arg(long, env = "ENGINE_HEALTH_LISTEN")]
    pub health_listen: Option<SocketAddr>,

    /// Local mode: listen beyond loopback all the same. Whoever reaches the port then reads and writes everything.
    #[arg(long, env = "ENGINE_ALLOW_REMOTE")]
    pub allow_remote: bool,

    /// Local mode without a database URL: where the embedded Postgres lives. Default: stellar-memory in the user's data folder.
    #[arg(long, env = "ENGINE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Local mode without a database URL: the folder with initdb and pg_ctl. Default: Postgres 18 is fetched once.
    #[arg(long, env = "POSTGRES_BIN")]
    pub postgres_bin: Option<PathBuf>,

    /// Connections to Postgres at most. Default: 20 pooled, 4 dedicated, 8 local.
    #[arg(long, env = "ENGINE_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_connections: Option<u32>,

    /// Connections to Postgres that one tenant of a pooled engine holds at most; its further requests wait without one.
    /// Default: half of --max-connections, at least 2.
    #[arg(long, env = "ENGINE_CONNECTIONS_PER_TENANT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections_per_tenant: Option<u32>,

    /// HTTP connections at most; further ones wait to be accepted.
    #[arg(long, env = "ENGINE_MAX_CLIENTS", default_value_t = 4096)]
    pub max_clients: usize,

    /// A client must take something of its answer within this time, in seconds, else its connection ends. Default: local 60, else
    /// 600, for the gateway bounds its clients' time by itself.
    #[arg(long, env = "ENGINE_WRITE_TIMEOUT", value_parser = seconds)]
    pub write_timeout: Option<Duration>,

    /// Memory for the indexes of all tenants together, such as 512Mi.
    #[arg(long, env = "ENGINE_INDEX_MEMORY", default_value = "512Mi", value_parser = bytes)]
    pub index_memory: usize,

    /// Memory for the index of one tenant. A tenant whose memories need more is refused recalls. Default: pooled 128Mi or a
    /// quarter of --index-memory, whichever is less; else all of it.
    #[arg(long, env = "ENGINE_INDEX_MEMORY_PER_TENANT", value_parser = bytes)]
    pub index_memory_per_tenant: Option<usize>,

    /// How long a request may take, in seconds.
    #[arg(long, env = "ENGINE_REQUEST_TIMEOUT", default_value = "15", value_parser = seconds)]
    pub request_timeout: Duration,

    /// How long an import may take, in seconds.
    #[arg(long, env = "ENGINE_IMPORT_TIMEOUT", default_value = "300", value_parser = seconds)]
    pub import_timeout: Duration,

    /// Base URL of an OpenAI-compatible API that tells narratives, such as https://llm.example.com/v1. Without it they are
    /// composed of the memories themselves, as they also are whenever it fails.
    #[arg(long, env = "ENGINE_NARRATE_URL", requires = "narrate_model")]
    pub narrate_url: Option<String>,

    /// The model to ask for there.
    #[arg(long, env = "ENGINE_NARRATE_MODEL", requires = "narrate_url")]
    pub narrate_model: Option<String>,

    /// A file with the key to send there; read for each request.
    #[arg(long, env = "ENGINE_NARRATE_API_KEY_FILE", requires = "narrate_url")]
    pub narrate_api_key_file: Option<PathBuf>,

    /// How long the model may take, in seconds; at most four fifths of the request's own time.
    #[arg(long, env = "ENGINE_NARRATE_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub narrate_timeout: Duration,

    /// How long requests that run may go on when the engine is asked to end, in seconds.
    #[arg(long, env = "ENGINE_DRAIN", default_value = "20", value_parser = seconds)]
    pub drain: Duration,

    /// How the log is written. What is written: RUST_LOG, such as info or engine=debug.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// Local mode asks for no key, so it listens on loopback only.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "local mode asks for no key and so listens on loopback only, not on {0}: add --allow-remote if everybody who reaches it may read and write"
)]
pub struct NotLoopback(SocketAddr);

/// Why a URL does not do for narratives. It is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NarrateUrl {
    /// It is none, or of another scheme.
    #[error("--narrate-url must be a URL such as https://llm.example.com/v1")]
    NoUrl,
    /// It has a user, a password or a query.
    #[error("--narrate-url must hold no user, password or query: the key goes into the file of --narrate-api-key-file")]
    Secret,
}

/// Whom an engine serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mode {
    /// All tenants placed `pooled`, each by its capability.
    Pooled,
    /// One tenant, as whose role it logs in to Postgres.
    Dedicated,
    /// Whoever is on this machine, as one tenant and without a key. The database URL is then an administrator's; without
    /// one, the engine starts a Postgres of its own.
    Local,
}

impl Config {
    /// Connections to Postgres at most.
    pub fn connections(&self) -> u32 {
        self.max_connections.unwrap_or(match self.mode {
            Mode::Pooled => 20,
            Mode::Dedicated => 4,
            Mode::Local => 8,
        })
    }

    /// Returns how many connections to Postgres one tenant may hold. `None`: all, where there is one tenant.
    pub fn connections_per_tenant(&self) -> Option<u32> {
        let most = self.connections_per_tenant.unwrap_or_else(|| (self.connections() / 2).max(2));
        (self.mode == Mode::Pooled).then_some(most)
    }

    /// Returns the bounds of the server of the API.
    pub fn server_bounds(&self) -> Bounds {
        let write_timeout = self.write_timeout.unwrap_or(match self.mode {
            Mode::Local => Duration::from_mins(1),
            Mode::Pooled | Mode::Dedicated => Duration::from_mins(10),
        });
        Bounds { max_clients: self.max_clients, write_timeout, drain: self.drain }
    }

    /// Returns the bounds of indexes in memory.
    pub fn index_bounds(&self) -> IndexBounds {
        let all = self.index_memory;
        let tenant = self.index_memory_per_tenant.unwrap_or(match self.mode {
            Mode::Pooled => POOLED_TENANT_INDEX_BYTES.min(all / 4),
            Mode::Dedicated | Mode::Local => all,
        });
        IndexBounds { all, tenant: tenant.min(all) }
    }

    /// Where the API listens.
    ///
    /// # Errors
    /// When a local engine would be reachable from elsewhere and nobody asked for that.
    pub fn api_address(&self) -> Result<SocketAddr, NotLoopback> {
        let address = self.listen.unwrap_or_else(|| self.default_address(8080));
        let exposed = self.mode == Mode::Local && !address.ip().is_loopback() && !self.allow_remote;
        if exposed { Err(NotLoopback(address)) } else { Ok(address) }
    }

    /// Where health and metrics listen.
    pub fn health_address(&self) -> SocketAddr {
        self.health_listen.unwrap_or_else(|| self.default_address(9090))
    }

    /// Where narratives are asked for.
    ///
    /// # Errors
    /// When the URL is no base URL, or holds a secret.
    pub fn narrate_endpoint(&self) -> Result<Option<Endpoint>, NarrateUrl> {
        let (Some(url), Some(model)) = (&self.narrate_url, &self.narrate_model) else { return Ok(None) };
        // What composes the narrative instead needs time, too.
        let timeout = self.narrate_timeout.min(self.request_timeout.mul_f64(0.8));
        let key_file = self.narrate_api_key_file.clone();
        Ok(Some(Endpoint { url: base_url(url)?, model: model.clone(), key_file, timeout }))
    }

    fn default_address(&self, port: u16) -> SocketAddr {
        let ip = if self.mode == Mode::Local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        SocketAddr::from((ip, port))
    }
}

fn base_url(text: &str) -> Result<Uri, NarrateUrl> {
    let url: Uri = text.parse().map_err(|_| NarrateUrl::NoUrl)?;
    let host = url.authority().filter(|_| matches!(url.scheme_str(), Some("http" | "https")));
    match host {
        None => Err(NarrateUrl::NoUrl),
        Some(host) if host.as_str().contains('@') || url.query().is_some() => Err(NarrateUrl::Secret),
        Some(_) => Ok(url),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds: &f64| (0.1..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds from 0.1 to 3600 is needed".to_owned())
}

fn bytes(text: &str) -> Result<usize, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" => Some(1),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        _ => None,
    };
    let bytes = digits.parse::<usize>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| "a number of bytes such as 1048576, 512Mi or 2Gi is needed".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn a_local_engine_is_not_reachable_from_elsewhere_unless_asked_for() {
        let address = |args: &[&str]| match Config::try_parse_from([&["engine", "--mode", "local"], args].concat()) {
            Ok(config) => config.api_address().ok().map(|address| address.to_string()),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(address(&[]).as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(address(&["--listen", "[::1]:80"]).as_deref(), Some("[::1]:80"));
        assert_eq!(address(&["--listen", "0.0.0.0:80"]), None);
        assert_eq!(address(&["--listen", "0.0.0.0:80", "--allow-remote"]).as_deref(), Some("0.0.0.0:80"));
    }

    #[test]
    fn a_narrating_model_needs_a_name_and_a_url_without_a_secret() {
        let config = |args: &[&str]| Config::try_parse_from([&["engine", "--mode", "pooled"], args].concat()).ok();
        let model = ["--narrate-model", "small"];
        assert!(config(&["--narrate-url", "https://llm.example.com/v1"]).is_none() && config(&model).is_none());
        let endpoint = |url: &str| {
            let config = config(&[&["--request-timeout", "5", "--narrate-url", url][..], &model].concat());
            config.map(|config| config.narrate_endpoint().map(|endpoint| endpoint.map(|endpoint| endpoint.timeout)))
        };
        assert_eq!(endpoint("http://llm.ai:8000/v1"), Some(Ok(Some(Duration::from_secs(4)))));
        for url in ["llm.example.com", "ftp://llm.example.com", "http://", ""] {
            assert_eq!(endpoint(url), Some(Err(NarrateUrl::NoUrl)), "{url}");
        }
        for url in ["https://u:p@llm.example.com/v1", "https://llm.example.com/?k=1"] {
            assert_eq!(endpoint(url), Some(Err(NarrateUrl::Secret)), "{url}");
        }
    }

    #[test]
    fn pooled_tenant_holds_part_of_the_connections() {
        let most = |args: &[&str]| match Config::try_parse_from([&["engine"], args].concat()) {
            Ok(config) => config.connections_per_tenant(),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(most(&["--mode", "pooled"]), Some(10));
        assert_eq!(most(&["--mode", "pooled", "--max-connections", "4"]), Some(2));
        assert_eq!(most(&["--mode", "pooled", "--connections-per-tenant", "9"]), Some(9));
        assert_eq!(most(&["--mode", "local"]), None);
    }

    #[test]
    fn a_dedicated_engine_needs_its_tenant() {
        assert!(Config::try_parse_from(["engine", "--mode", "dedicated"]).is_err());
        let Ok(config) = Config::try_parse_from(["engine", "--mode", "pooled", "--index-memory", "1Gi"]) else {
            panic!("valid")
        };
        assert_eq!((config.connections(), config.index_memory), (20, 1 << 30));
        assert!(Config::try_parse_from(["engine", "--mode", "pooled", "--index-memory", "1GB"]).is_err());
    }
}
