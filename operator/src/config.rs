//! The command line. Values are domain types on arrival; the doc comments are the help.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use telemetry::LogFormat;

use crate::postgres_url::Address;

/// The operator of stellar-memory: turns Tenants into database identities, secrets, quotas and engines.
#[derive(Parser)]
#[command(name = "operator", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Subcommand)]
pub enum Command {
    /// Watch Tenants and Tiers and make them true.
    Run(Box<RunArgs>),
    /// Bring the database, its logins, the custom resource definitions and the default tiers to this release.
    Migrate(Box<MigrateArgs>),
    /// Look in the database for whatever weakens the isolation of tenants. Exit code 1: there is such a thing.
    LintDatabase(LintArgs),
    /// Print the custom resource definitions as YAML.
    Crds,
    /// Store, recall and forget one memory through a gateway, to see that an installation works.
    SmokeTest(SmokeTestArgs),
}

/// `operator smoke-test`.
#[derive(Args, Debug)]
pub struct SmokeTestArgs {
    /// The gateway's address, such as http://127.0.0.1:8080.
    #[arg(long)]
    pub gateway_url: String,
    /// The file that holds a tenant's API key.
    #[arg(long)]
    pub api_key_file: PathBuf,
}

/// `operator lint-database`.
#[derive(Args)]
pub struct LintArgs {
    /// File with the database URL of any login: all of them can read the catalog, a superuser also old statistics.
    #[arg(long, env = "DATABASE_URL_FILE", required_unless_present = "database_url")]
    pub database_url_file: Option<PathBuf>,
    /// The database URL, from the environment only.
    #[arg(long, env = "DATABASE_URL", hide = true, hide_env_values = true)]
    pub database_url: Option<String>,
    /// A line for each finding, or one JSON object.
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
}

/// How findings are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Arguments of `operator migrate`.
#[derive(Args)]
pub struct MigrateArgs {
    /// File with the administrator's database URL. It owns the database and has CREATEROLE; it need not be superuser.
    #[arg(long, env = "ADMIN_URL_FILE", required_unless_present = "admin_url")]
    pub admin_url_file: Option<PathBuf>,
    /// The administrator's database URL, from the environment only.
    #[arg(long, env = "ADMIN_URL", hide = true, hide_env_values = true)]
    pub admin_url: Option<String>,
    /// Namespace of the installation, where the Secrets go.
    #[arg(long, env = "NAMESPACE", default_value = "stellar-system")]
    pub namespace: String,
    /// host[:port] of a pooler that stands between the pooled engine and Postgres.
    #[arg(long, value_parser = parse_address)]
    pub pool_host: Option<Address>,
    /// YAML file with the tiers to start with (name: spec), instead of free, pro and promax.
    #[arg(long)]
    pub tiers_file: Option<PathBuf>,
    /// Go on although the database's isolation was found weakened. The findings are logged all the same.
    #[arg(long)]
    pub allow_findings: bool,
    /// How long to wait for Postgres, in seconds.
    #[arg(long, default_value_t = 300)]
    pub wait_seconds: u64,
    /// Counted up, it rotates the passwords of operator, gateway and pooled engine without a failed request. Each number is
    /// carried out once; the master key is not rotated.
    #[arg(long, default_value_t = 0)]
    pub login_rotation: u32,
    /// How long programs have to read the next passwords before Postgres takes them, in seconds. A kubelet shows a changed
    /// Secret after a minute and a half at most, unless it was configured otherwise.
    #[arg(long, default_value_t = 120)]
    pub login_rotation_wait_seconds: u64,
    /// Do without a cluster: only the database, and files in --secrets-dir instead of Secrets.
    #[arg(long, requires = "secrets_dir")]
    pub no_kubernetes: bool,
    /// Folder for the files operator-url, gateway-url, pool-url and master-key. While a password is rotated the next URL is
    /// beside the present one, as in pool-url-next.
    #[arg(long, requires = "no_kubernetes")]
    pub secrets_dir: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// Arguments of `operator run`.
#[derive(Args)]
pub struct RunArgs {
    /// File with the operator's database URL. The program waits until it is there.
    #[arg(long, env = "DATABASE_URL_FILE", required_unless_present = "database_url")]
    pub database_url_file: Option<PathBuf>,
    /// The operator's database URL, from the environment only.
    #[arg(long, env = "DATABASE_URL", hide = true, hide_env_values = true)]
    pub database_url: Option<String>,
    /// File with the master key (64 hex digits). The program waits until it is there.
    #[arg(long, env = "MASTER_KEY_FILE")]
    pub master_key_file: PathBuf,
    /// Namespace of the installation: API keys go there, the gateway runs there.
    #[arg(long, env = "NAMESPACE", default_value = "stellar-system")]
    pub namespace: String,
    /// The operator's own service account: who may read the Secrets of tenants' namespaces.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "stellar-operator")]
    pub service_account: String,
    /// Image of dedicated engines.
    #[arg(long, env = "ENGINE_IMAGE")]
    pub engine_image: String,
    /// Pull policy of dedicated engines: Always, IfNotPresent or Never.
    #[arg(long, default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub engine_image_pull_policy: String,
    /// Host by which a dedicated engine reaches Postgres; the operator's own if absent.
    #[arg(long)]
    pub database_host: Option<String>,
    /// Port by which a dedicated engine reaches Postgres; the operator's own if absent.
    #[arg(long)]
    pub database_port: Option<u16>,
    /// Database that a dedicated engine opens; the operator's own if absent.
    #[arg(long)]
    pub database_name: Option<String>,
    /// TLS mode of a dedicated engine: disable, prefer, require, verify-ca or verify-full; the operator's own if absent.
    #[arg(long)]
    pub database_sslmode: Option<String>,
    /// Most connections of a dedicated engine's login, per replica.
    #[arg(long, default_value_t = 8)]
    pub engine_connections: u32,
    /// Log filter of dedicated engines; the operator's own if absent.
    #[arg(long, env = "RUST_LOG")]
    pub engine_log_filter: Option<String>,
    /// Where dedicated engines send traces (OTLP over HTTP); nowhere if absent or empty.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = parse_endpoint)]
    pub engine_otlp_endpoint: Option<Endpoint>,
    /// Certificates, as PEM and not as a path, of who signed that of Postgres and a pooler, for dedicated engines; this
    /// program's own connections read the variable. Public authorities are known without.
    #[arg(long, env = "PGSSLROOTCERT", hide_env_values = true)]
    pub engine_ssl_root_cert: Option<String>,
    /// Base URL of the OpenAI-compatible API that dedicated engines ask for narratives; none if absent.
    #[arg(long, requires = "engine_narrate_model")]
    pub engine_narrate_url: Option<url::Url>,
    /// The model that dedicated engines ask for there.
    #[arg(long, requires = "engine_narrate_url")]
    pub engine_narrate_model: Option<String>,
    /// File with the key that they send there. It is copied into a Secret of each dedicated tenant's namespace.
    #[arg(long, requires = "engine_narrate_url")]
    pub engine_narrate_api_key_file: Option<PathBuf>,
    /// Domain of cluster-internal names.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Send requests to a new engine only when its name resolves here: for an operator in the cluster.
    #[arg(long)]
    pub wait_for_dns: bool,
    /// How long both placements serve while a tenant moves, in seconds.
    #[arg(long, default_value_t = 30)]
    pub drain_seconds: u32,
    /// How long a key still works after its Secret was deleted and a new one was made, in seconds.
    #[arg(long, default_value_t = 600)]
    pub key_overlap_seconds: u32,
    /// Labels of the gateway's pods in --namespace: the only ones that may call a dedicated engine.
    #[arg(long, default_value = "app.kubernetes.io/name=stellar-memory,app.kubernetes.io/component=gateway", value_parser = parse_labels)]
    pub gateway_selector: Labels,
    /// Namespaces whose pods may read the metrics of dedicated engines.
    #[arg(long)]
    pub metrics_namespace: Vec<String>,
    /// Address of health and metrics.
    #[arg(long, default_value = "0.0.0.0:9090")]
    pub health_listen: SocketAddr,
    /// This pod's name: who holds the lease and reports events.
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    pub pod_name: String,
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// Labels that select pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(pub std::collections::BTreeMap<String, String>);

/// A URL, or none: an empty variable of OpenTelemetry counts as absent, as its specification has it.
#[derive(Debug, Clone)]
pub struct Endpoint(pub Option<url::Url>);

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Endpoint(None));
    }
    text.parse().map(|url| Endpoint(Some(url))).map_err(|error| format!("no URL: {error}"))
}

fn parse_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|_| "expected host or host:port".to_owned())
}

fn parse_labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').map(|pair| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("expected key=value[,key=value…], found `{pair}`")),
    });
    pairs.collect::<Result<_, _>>().map(Labels)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_empty_endpoint_is_none() {
        for (text, read) in [("", Ok(None)), (" ", Ok(None)), ("http://otel:4318", Ok(Some(4318))), ("otel", Err(()))] {
            let port = parse_endpoint(text).map(|endpoint| endpoint.0.and_then(|url| url.port()));
            assert_eq!(port.map_err(drop), read, "{text:?}");
        }
    }

    #[test]
    fn labels_read() {
        assert_eq!(parse_labels("a=b,c=d").map(|l| l.0.len()), Ok(2));
        assert!(parse_labels("a").is_err());
    }
}
