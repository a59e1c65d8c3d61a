//! The exporter of spans: OTLP over HTTP with protobuf, in batches, from a bounded queue.
//!
//! The SDK itself reads OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_… and OTEL_EXPORTER_OTLP_HEADERS.

use std::env;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

use crate::{Error, Program, collector::Collector};

const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// `None`: no endpoint is configured, or traces are switched off.
pub(crate) fn provider(program: Program) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(endpoint) = given(TRACES_ENDPOINT).or_else(|| given(ENDPOINT)) else { return Ok(None) };
    let disabled = given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if disabled || given("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none") {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_http_client(Collector::new(endpoint.starts_with("https:"))?)
        .build()
        .map_err(Error::Exporter)?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(program)).build();
    Ok(Some(provider))
}

fn resource(program: Program) -> Resource {
    let Program { service, version } = program;
    let own_name = given("OTEL_SERVICE_NAME").is_some()
        || given("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
    let resource = Resource::builder().with_attribute(KeyValue::new("service.version", version));
    if own_name { resource.build() } else { resource.with_service_name(service).build() }
}

/// An empty variable counts as none, as OpenTelemetry's specification has it.
pub(crate) fn given(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}
