//! W3C Trace Context: one trace across programs.

use http::{HeaderMap, HeaderName};
use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TraceId},
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const HEADERS: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

/// Makes a new span, not entered yet, part of the trace that a request's `traceparent` names. Without a valid one the
/// span begins a trace.
pub fn continue_from(span: &Span, headers: &HeaderMap) {
    let sender = sender(headers);
    if sender.span().span_context().is_valid() {
        // Fails when nothing is exported: then there is no trace to continue.
        let _ = span.set_parent(sender);
    }
}

/// Makes headers name the span as the parent of what the next program does. When nothing is exported here, a valid
/// `traceparent` stays as it came, for the programs behind; anything else is removed.
pub fn pass_on(span: &Span, headers: &mut HeaderMap) {
    let own = span.context();
    let exported = own.span().span_context().is_valid();
    if exported || !sender(headers).span().span_context().is_valid() {
        for name in &HEADERS {
            headers.remove(name);
        }
    }
    if exported {
        TraceContextPropagator::new().inject_context(&own, &mut HeaderInjector(headers));
        // A trace without a state has none, rather than an empty one.
        if headers.get(&HEADERS[1]).is_some_and(http::HeaderValue::is_empty) {
            headers.remove(&HEADERS[1]);
        }
    }
}

/// The trace that a span is in, to be found from the log; nothing when traces are not exported.
pub fn trace_id(span: &Span) -> Option<TraceId> {
    let id = span.context().span().span_context().trace_id();
    (id != TraceId::INVALID).then_some(id)
}

fn sender(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn headers(traceparent: &str) -> HeaderMap {
        let value = HeaderValue::from_str(traceparent).expect("a header's value");
        HeaderMap::from_iter([(HEADERS[0].clone(), value), (HEADERS[1].clone(), HeaderValue::from_static("a=b"))])
    }

    fn passed(mut headers: HeaderMap) -> HeaderMap {
        let span = tracing::info_span!("request");
        continue_from(&span, &headers);
        pass_on(&span, &mut headers);
        headers
    }

    #[test]
    fn without_an_exporter_a_valid_traceparent_passes_and_no_other() {
        // A span met for the first time just when another test begins to subscribe would stay switched off there.
        let _only = crate::only_subscriber();
        let good = headers(&format!("00-{TRACE}-{PARENT}-01"));
        assert_eq!(passed(good.clone()), good);
        for bad in ["", "00-0-0-01", "garbage", &format!("00-{}-{PARENT}-01", "0".repeat(32))] {
            assert!(passed(headers(bad)).is_empty(), "{bad}");
        }
    }

    #[test]
    fn with_an_exporter_the_next_program_learns_of_this_span_in_the_same_trace() {
        let _only = crate::only_subscriber();
        let tracer = SdkTracerProvider::default().tracer("test");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let continued = passed(headers(&format!("00-{TRACE}-{PARENT}-01")));
            let text = continued["traceparent"].to_str().expect("text");
            assert!(text.starts_with(&format!("00-{TRACE}-")) && !text.contains(PARENT), "{text}");
            assert_eq!(continued["tracestate"], "a=b");

            let begun = passed(headers("garbage"));
            let text = begun["traceparent"].to_str().expect("text");
            assert!(text.len() == 55 && !text.contains(TRACE), "{text}");
            assert!(!begun.contains_key("tracestate"));
        });
    }
}
