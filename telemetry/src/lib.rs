//! Log and traces of every program, set up by configuration, in one place.
//!
//! What always holds:
//! - the log goes to standard error, as JSON or text, filtered by RUST_LOG or LOG_LEVEL;
//! - no filter, `trace` included, makes a library write a secret: see `CAPS`;
//! - spans leave the program only when an OTLP endpoint is configured, and only spans of level `info` or above that
//!   declare the field `otel.kind`: what is exported is chosen where the span is made, whatever the log's level;
//! - exporting happens beside the work, from a bounded queue: a collector that is slow or gone costs spans, never a
//!   request and never the program's end.

mod collector;
mod export;
mod propagation;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use clap::ValueEnum;
pub use opentelemetry::trace::TraceId;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata, Subscriber, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, dynamic_filter_fn, filter_fn},
    fmt,
    layer::{Filter, SubscriberExt},
    util::SubscriberInitExt,
};

pub use propagation::{continue_from, pass_on, trace_id};

/// Libraries that tell more at `info` than an operator of the product wants to read. What `kube_client` warns of on each
/// refused request, the operator says once and in context.
const DEFAULT_FILTER: &str = "info,sqlx=warn,kube=warn,kube_client=off,kube_lease_manager=warn";
/// Modules of libraries that write what may be a secret, and the last level at which each does not.
const CAPS: [(&str, LevelFilter); 3] = [
    // A parameter of a database URL that it does not know, with its value: `sslpassword`, or `password` mistyped.
    ("sqlx_postgres::options::parse", LevelFilter::OFF),
    // An answer of the API server that it cannot read, whole: perhaps a Secret.
    ("kube_client::client", LevelFilter::ERROR),
    // A refusal of the collector, whole: perhaps with the token that was sent to it.
    ("opentelemetry-otlp", LevelFilter::INFO),
];
/// The first one that is set and not empty counts.
const FILTERS: [&str; 2] = ["RUST_LOG", "LOG_LEVEL"];
/// The last spans have this long to leave, which fits into what a pod's grace period leaves after a drain.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why log or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The variable (first) is wrong.
    #[error("{0} holds no filter such as `info` or `info,engine=debug`: `{1}`")]
    Filter(&'static str, String, #[source] tracing_subscriber::filter::ParseError),
    /// The endpoint or another OTEL_ variable is wrong.
    #[error("the OTEL_ variables make no exporter of traces")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The system has no certificates to check the collector's with.
    #[error("cannot read the system's root certificates, which an https collector needs")]
    Roots(#[source] io::Error),
    /// Called twice.
    #[error("the log is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// A program of the product.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What traces call it unless OTEL_SERVICE_NAME says otherwise.
    pub service: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// Log and traces at work.
#[must_use = "the last spans leave when it is ended"]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts log and, when configured, traces. Called once, within the runtime.
///
/// # Errors
/// [`Error`], which names the wrong variable.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start(program: Program, format: LogFormat) -> Result<Telemetry, Error> {
    let given = FILTERS.into_iter().find_map(|name| Some((name, export::given(name)?)));
    let (name, text) = given.unwrap_or(("the default", DEFAULT_FILTER.to_owned()));
    let filter = filter(name, &text)?;
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let provider = export::provider(program)?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(program.service))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false)
            .with_filter(exported())
    });
    // Spans first: a line's trace is known when the line is written.
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(capped(filter)))
        .try_init()
        .map_err(Error::Twice)?;
    Ok(Telemetry(provider))
}

impl Telemetry {
    /// Sends the last spans, for at most 3 s. A collector that does not take them is no failure of the program.
    pub async fn end(self) {
        let Some(provider) = self.0 else { return };
        let last = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS));
        match tokio::time::timeout(LAST_SPANS + Duration::from_secs(1), last).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!(%error, "the last spans were not taken"),
            Ok(Err(_)) | Err(_) => tracing::debug!("the last spans were not taken in time"),
        }
    }
}

/// Spans that declare the field `otel.kind`; not below `info`, where kube declares it for every call to the API server.
/// Whether a span does never changes, but it is asked for each one: a library that asks whether it should log, and then
/// does not, leaves its answer in the thread for the next span that is not asked about.
fn exported<S: Subscriber>() -> impl Filter<S> {
    let declares = |metadata: &Metadata<'_>| {
        metadata.is_span() && *metadata.level() <= Level::INFO && metadata.fields().field("otel.kind").is_some()
    };
    dynamic_filter_fn(move |metadata, _| declares(metadata))
        .with_callsite_filter(
            move |metadata| if declares(metadata) { Interest::sometimes() } else { Interest::never() },
        )
        .with_max_level_hint(LevelFilter::INFO)
}

fn filter(name: &'static str, text: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(text).map_err(|error| Error::Filter(name, text.to_owned(), error))
}

/// The filter, and the caps whatever it says.
fn capped<S>(filter: EnvFilter) -> impl Filter<S> {
    // The hint keeps the filter's own: what nobody can write then costs nothing.
    filter.and(
        filter_fn(|metadata: &Metadata<'_>| is_harmless(metadata.target(), *metadata.level()))
            .with_max_level_hint(LevelFilter::TRACE),
    )
}

fn is_harmless(target: &str, level: Level) -> bool {
    CAPS.iter().all(|(module, last)| target != *module || level <= *last)
}

/// Held by a test that has a subscriber of its own: what callsites are asked for depends on all subscribers that live.
#[cfg(test)]
fn only_subscriber() -> std::sync::MutexGuard<'static, ()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Event;
    use tracing_subscriber::{layer::Context, registry};

    use super::*;

    /// Notes the target and level of what is written.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<(String, Level)>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let metadata = event.metadata();
            self.0.lock().expect("no panic").push((metadata.target().to_owned(), *metadata.level()));
        }
    }

    #[test]
    fn no_filter_makes_a_library_write_a_secret() {
        let _only = only_subscriber();
        for text in
            ["trace", "sqlx_postgres::options::parse=trace,kube_client=trace,opentelemetry-otlp=trace,own=trace"]
        {
            let seen = Seen::default();
            let filter = filter("RUST_LOG", text).expect("a filter");
            tracing::subscriber::with_default(registry().with(seen.clone().with_filter(capped(filter))), || {
                tracing::warn!(target: "sqlx_postgres::options::parse", value = "secret");
                tracing::error!(target: "sqlx_postgres::options::parse", value = "secret");
                tracing::warn!(target: "kube_client::client", "secret");
                tracing::debug!(target: "opentelemetry-otlp", "secret");
                tracing::error!(target: "kube_client::client", "a failure");
                tracing::trace!(target: "kube_client::client::builder", "a detail");
                tracing::trace!(target: "own", "a detail");
            });
            let expected = [
                ("kube_client::client", Level::ERROR),
                ("kube_client::client::builder", Level::TRACE),
                ("own", Level::TRACE),
            ];
            let expected: Vec<_> = expected.iter().map(|(target, level)| ((*target).to_owned(), *level)).collect();
            assert_eq!(*seen.0.lock().expect("no panic"), expected, "{text}");
        }
    }

    #[test]
    fn caps_leave_the_filters_own_limit() {
        let quiet = filter("RUST_LOG", "warn").expect("a filter");
        assert_eq!(Filter::<tracing_subscriber::Registry>::max_level_hint(&capped(quiet)), Some(LevelFilter::WARN));
    }

    /// What happens while spans are exported beside a log of this filter.
    fn while_exporting(log: &str, happens: impl FnOnce()) {
        let _only = only_subscriber();
        let provider = SdkTracerProvider::default();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_filter(exported());
        let lines = fmt::layer().with_writer(io::sink).with_filter(EnvFilter::new(log));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans).with(lines), happens);
    }

    #[test]
    fn every_declared_span_is_exported_whatever_a_library_asked_before() {
        while_exporting("info", || {
            let exported = |declared: bool| {
                let span = if declared {
                    tracing::info_span!("request", otel.kind = "server")
                } else {
                    tracing::info_span!("another library's")
                };
                trace_id(&span).is_some()
            };
            for _ in 0..3 {
                assert!(exported(true) && !exported(false));
                // A question without a line after it.
                assert!(!tracing::enabled!(target: "library", tracing::Level::DEBUG));
                assert!(tracing::enabled!(target: "library", tracing::Level::INFO));
            }
        });
    }

    #[test]
    fn a_librarys_debug_span_is_not_exported_however_talkative_the_log_is() {
        while_exporting("trace", || {
            assert!(trace_id(&tracing::debug_span!("HTTP", otel.kind = "client")).is_none());
            assert!(trace_id(&tracing::info_span!("request", otel.kind = "server")).is_some());
        });
    }

    #[test]
    fn a_wrong_filter_is_an_error_that_repeats_it() {
        for good in [DEFAULT_FILTER, "warn", "info,engine=debug", "off"] {
            assert!(filter("RUST_LOG", good).is_ok(), "{good}");
        }
        for bad in ["engine=loud", "a=b=c"] {
            let error = filter("RUST_LOG", bad).expect_err(bad).to_string();
            assert!(error.contains("RUST_LOG") && error.contains(bad), "{error}");
        }
    }
}
