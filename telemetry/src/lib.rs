//! Log and traces of every program, set up by configuration, in one place.
//!
//! What always holds:
//! - the log goes to standard error, as JSON or text, filtered by RUST_LOG or LOG_LEVEL;
//! - spans leave the program only when an OTLP endpoint is configured, and only spans that declare the field
//!   `otel.kind`: what is exported is chosen where the span is made, whatever the log's level;
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
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use propagation::{continue_from, pass_on, trace_id};

/// Libraries that tell more at `info` than an operator of the product wants to read.
const DEFAULT_FILTER: &str = "info,sqlx=warn,kube=warn,kube_lease_manager=warn";
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
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.fields().field("otel.kind").is_some()))
    });
    // Spans first: a line's trace is known when the line is written.
    tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).try_init().map_err(Error::Twice)?;
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

fn filter(name: &'static str, text: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(text).map_err(|error| Error::Filter(name, text.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

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
