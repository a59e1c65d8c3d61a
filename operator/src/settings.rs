//! What holds for every Tenant: images, names, addresses and times, from the command line.

use std::{collections::BTreeMap, env, net::IpAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;

use crate::{
    config::RunArgs,
    postgres_url::{Address, PostgresUrl},
};

/// Settings of `operator run`.
pub struct Settings {
    /// Namespace of the installation.
    pub namespace: String,
    /// The operator's own service account.
    pub service_account: String,
    /// Image of dedicated engines.
    pub engine_image: String,
    /// Always, IfNotPresent or Never.
    pub engine_image_pull_policy: String,
    /// The operator's own URL, which engines' URLs are made from.
    pub database: PostgresUrl,
    /// How an engine reaches Postgres instead.
    pub database_address: Address,
    /// Most connections of one replica.
    pub engine_connections: u32,
    /// Environment of dedicated engines. Never a secret.
    pub engine_environment: Vec<(&'static str, String)>,
    /// Host and port that dedicated engines send traces to.
    pub engine_traces: Option<(String, u16)>,
    /// Who tells narratives for dedicated engines.
    pub engine_narrate: Option<Narrate>,
    /// Domain of cluster-internal names.
    pub cluster_domain: String,
    /// Requests go to a new engine only when its name resolves here.
    pub wait_for_dns: bool,
    /// How long both placements serve while a tenant moves.
    pub drain: Duration,
    /// How long a replaced key still works.
    pub key_overlap: Duration,
    /// Labels of the gateway's pods.
    pub gateway_labels: BTreeMap<String, String>,
    /// Namespaces that may read engines' metrics.
    pub metrics_namespaces: Vec<String>,
}

/// A model that tells narratives.
#[derive(Clone)]
pub struct Narrate {
    /// The base of the API, without a secret.
    pub url: String,
    /// The model's name.
    pub model: String,
    /// The file with the key, read whenever a tenant is reconciled.
    pub key_file: Option<PathBuf>,
    /// Host and port of the URL.
    pub address: (String, u16),
}

impl Settings {
    /// Takes the command line, and the operator's own URL.
    pub fn new(args: &RunArgs, database: PostgresUrl) -> Self {
        let own = database.host();
        let host = args.database_host.clone().or(own.clone());
        // A bare name of the installation's namespace means nothing in a tenant's.
        let qualified = host.map(|host| qualify(host, &args.namespace, &args.cluster_domain));
        let moved = qualified != own;
        let port = args.database_port.or_else(|| database.port()).filter(|_| moved || args.database_port.is_some());
        Self {
            namespace: args.namespace.clone(),
            service_account: args.service_account.clone(),
            engine_image: args.engine_image.clone(),
            engine_image_pull_policy: args.engine_image_pull_policy.clone(),
            database_address: Address {
                host: qualified.filter(|_| moved),
                port,
                database: args.database_name.clone(),
                ssl_mode: args.database_sslmode.clone(),
            },
            database,
            engine_connections: args.engine_connections,
            engine_environment: engine_environment(args, |name| env::var(name).ok()),
            engine_traces: traces_endpoint(args).and_then(|endpoint| {
                Some((endpoint.host_str()?.to_owned(), endpoint.port_or_known_default().unwrap_or(4318)))
            }),
            engine_narrate: engine_narrate(args),
            cluster_domain: args.cluster_domain.clone(),
            wait_for_dns: args.wait_for_dns,
            drain: Duration::from_secs(args.drain_seconds.into()),
            key_overlap: Duration::from_secs(args.key_overlap_seconds.into()),
            gateway_labels: args.gateway_selector.0.clone(),
            metrics_namespaces: args.metrics_namespace.clone(),
        }
    }

    /// Host and port by which an engine reaches Postgres.
    pub fn engine_database(&self) -> (String, u16) {
        let host = self.database_address.host.clone().or_else(|| self.database.host()).unwrap_or_default();
        (host, self.database_address.port.or_else(|| self.database.port()).unwrap_or(5432))
    }
}

/// What dedicated engines get of OpenTelemetry's further variables, where the operator has them. Not the headers: a token
/// in them would be shown by every Deployment.
const HANDED_ON: [&str; 8] = [
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];

fn traces_endpoint(args: &RunArgs) -> Option<&url::Url> {
    args.engine_otlp_endpoint.as_ref().and_then(|endpoint| endpoint.0.as_ref())
}

fn engine_environment(args: &RunArgs, own: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let format = args.log_format.to_possible_value().map(|value| ("LOG_FORMAT", value.get_name().to_owned()));
    let filter = args.engine_log_filter.clone().map(|filter| ("RUST_LOG", filter));
    let traces = traces_endpoint(args).map(|endpoint| ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_string()));
    let further = HANDED_ON.into_iter().filter(|_| traces.is_some());
    let further: Vec<_> = further.filter_map(|name| own(name).map(|value| (name, value))).collect();
    // A path (the driver takes one too) leads nowhere in an engine's pod.
    let authority = args.engine_ssl_root_cert.clone().filter(|text| text.trim_start().starts_with("-----BEGIN"));
    let authority = authority.map(|pem| ("PGSSLROOTCERT", pem));
    format.into_iter().chain(filter).chain(traces).chain(further).chain(authority).collect()
}

fn engine_narrate(args: &RunArgs) -> Option<Narrate> {
    let (mut url, model) = (args.engine_narrate_url.clone()?, args.engine_narrate_model.clone()?);
    // It becomes an argument of pods, so no password goes along. These fail only where there can be none.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    let address = (url.host_str()?.to_owned(), url.port_or_known_default().unwrap_or(443));
    Some(Narrate { url: url.to_string(), model, key_file: args.engine_narrate_api_key_file.clone(), address })
}

fn qualify(host: String, namespace: &str, domain: &str) -> String {
    let bare = !host.contains(['.', '/', ':', '%']) && host != "localhost" && host.parse::<IpAddr>().is_err();
    if bare { format!("{host}.{namespace}.svc.{domain}") } else { host }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};

    #[test]
    fn engines_get_what_says_how_to_trace_and_no_headers() {
        let own = |name: &str| name.starts_with("OTEL_").then(|| name.to_lowercase());
        let names = |endpoint: &str| -> Vec<&str> {
            let line = ["operator", "run", "--engine-otlp-endpoint", endpoint, "--engine-image", "engine:test"];
            let files = ["--database-url-file", "url", "--master-key-file", "key", "--namespace", "stellar-system"];
            let Command::Run(args) = Cli::parse_from(line.into_iter().chain(files)).command else { panic!("run") };
            let environment = engine_environment(&args, own);
            environment.into_iter().map(|(name, _)| name).filter(|name| name.starts_with("OTEL_")).collect()
        };
        assert_eq!(names(""), Vec::<&str>::new());
        let given = names("http://otel:4318");
        assert!(given.contains(&"OTEL_EXPORTER_OTLP_ENDPOINT") && given.contains(&"OTEL_TRACES_SAMPLER"), "{given:?}");
        assert!(!given.iter().any(|name| name.contains("HEADERS")), "{given:?}");
    }

    #[test]
    fn bare_names_are_qualified_and_others_are_not() {
        let qualify = |host: &str| qualify(host.to_owned(), "stellar-system", "cluster.local");
        assert_eq!(qualify("postgres"), "postgres.stellar-system.svc.cluster.local");
        for host in ["localhost", "10.0.0.1", "db.example.com", "%2Ftmp%2Fpg"] {
            assert_eq!(qualify(host), host);
        }
    }
}
