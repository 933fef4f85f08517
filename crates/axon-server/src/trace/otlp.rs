//! Requests that have ended, as the spans of OpenTelemetry.
//!
//! **Source:** OpenTelemetry's semantic conventions for the names of attributes; those of models begin with `axon.`.

use std::time::{Duration, Instant, SystemTime};

use axon::request::BatchRun;
use bytes::Bytes;

use super::context::SpanContext;
use super::span::{Answer, Entry, Failure, Finished, STREAM};
use super::{IDS, destination};
use crate::proto::otlp::any_value::Value;
use crate::proto::otlp::span::Kind;
use crate::proto::otlp::status::Code;
use crate::proto::otlp::{
    AnyValue, ArrayValue, ExportRequest, KeyValue, Link, Resource, ResourceSpans, Scope, ScopeSpans, Span,
    Status,
};

/// The flags that say whether a span's parent is of another process: they are meant, and it is.
const KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;

/// What the wall clock said at one instant, so that all spans that leave together agree.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    at: Instant,
    since_1970: Duration,
}

impl Clock {
    pub fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), since_1970 }
    }

    fn nanoseconds(self, at: Instant) -> u64 {
        let since_1970 = match at.checked_duration_since(self.at) {
            Some(after) => self.since_1970 + after,
            None => self.since_1970.saturating_sub(self.at - at),
        };
        u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Spans in the making.
pub(super) struct Writer {
    pub clock: Clock,
}

impl Writer {
    /// The spans of a request, its own first.
    pub fn request(&self, finished: &Finished) -> Vec<Span> {
        let Finished { context, started, ended, notes, .. } = finished;
        let mut spans = vec![self.server(finished)];
        if let Some(received) = notes.received {
            spans.push(self.child(*context, "receive", *started, received));
        }
        if let Some((since, failure)) = notes.waited() {
            let mut queue = self.child(*context, "queue", since, failure.at);
            fail(&mut queue, failure);
            spans.push(queue);
        }
        if let Some((Answer { version, timing, .. }, run)) = notes.answer.and_then(with_run) {
            let (start, batch) = (run.started + run.input, IDS.run(run.id));
            let came = run.started.checked_sub(timing.queue).unwrap_or(run.started);
            spans.push(self.child(*context, "queue", came, run.started));
            let mut compute = self.child(*context, "compute", start, start + timing.compute);
            compute.links.push(link(batch));
            compute.attributes.push(number("axon.batch.rows", timing.batch_rows as u64));
            if let (None, Some(failure)) = (version, &notes.failure) {
                fail(&mut compute, failure);
            }
            spans.push(compute);
        }
        spans.extend(notes.ready().map(|at| self.child(*context, "send", at, *ended)));
        spans
    }

    /// The span of a run, linked to the requests that it answered; `one` of them tells of it.
    pub fn batch(&self, one: &Finished, answer: &Answer, links: &[SpanContext]) -> Option<Span> {
        let run = answer.timing.run?;
        let end = run.started + run.input + answer.timing.compute + run.output;
        let mut span = self.span(IDS.run(run.id), "batch".to_owned(), run.started, end);
        span.links = links.iter().copied().map(link).collect();
        span.attributes = vec![
            text("axon.model.name", &one.model),
            number("axon.batch.rows", answer.timing.batch_rows as u64),
            number("axon.batch.requests", run.requests as u64),
        ];
        span.attributes.extend(answer.version.map(|version| number("axon.model.version", version)));
        if let (None, Some(failure)) = (answer.version, &one.notes.failure) {
            fail(&mut span, failure);
        }
        Some(span)
    }

    fn server(&self, finished: &Finished) -> Span {
        let Finished { context, caller, started, ended, model, entry, is_failure, notes } = finished;
        let (name, mut attributes) = describe(*entry, notes.status);
        if *entry != Entry::Stream {
            attributes.push(text("axon.model.name", model));
        }
        let version = notes.answer.and_then(|answer| answer.version);
        attributes.extend(version.map(|version| number("axon.model.version", version)));
        if let Some(id) = &notes.id {
            attributes.push(text("axon.request.id", id));
        }
        for (key, tensors) in ["axon.inputs", "axon.outputs"].into_iter().zip(&notes.tensors) {
            if !tensors.is_empty() {
                let values = tensors.iter().map(|tensor| any(Value::StringValue(tensor.clone()))).collect();
                let value = Some(any(Value::ArrayValue(ArrayValue { values })));
                attributes.push(KeyValue { key: key.to_owned(), value });
            }
        }
        let mut span = self.span(*context, name, *started, *ended);
        span.set_kind(Kind::Server);
        if let Some(parent) = caller.context {
            span.parent_span_id = bytes(&parent.span.to_be_bytes());
            span.flags |= if caller.is_local { KNOWN } else { KNOWN | REMOTE };
            let state = caller.state.as_ref().and_then(|state| state.to_str().ok());
            state.unwrap_or_default().clone_into(&mut span.trace_state);
        }
        match (&notes.failure, notes.status) {
            (Some(failure), _) => {
                attributes.push(text("error.type", failure.code));
                if *is_failure {
                    span.status = Some(Status { message: failure.message.clone(), code: Code::Error.into() });
                }
            }
            (None, None) => attributes.push(text("error.type", "CANCELLED")),
            (None, Some(_)) => {}
        }
        span.attributes = attributes;
        span
    }

    /// A part of a request.
    fn child(&self, of: SpanContext, name: &str, start: Instant, end: Instant) -> Span {
        let own = SpanContext { span: IDS.span(), ..of };
        let mut span = self.span(own, name.to_owned(), start, end);
        span.parent_span_id = bytes(&of.span.to_be_bytes());
        span.flags |= KNOWN;
        span
    }

    fn span(&self, context: SpanContext, name: String, start: Instant, end: Instant) -> Span {
        let mut span = Span {
            trace_id: bytes(&context.trace.to_be_bytes()),
            span_id: bytes(&context.span.to_be_bytes()),
            name,
            start_time_unix_nano: self.clock.nanoseconds(start),
            end_time_unix_nano: self.clock.nanoseconds(end),
            flags: u32::from(context.flags),
            ..Span::default()
        };
        span.set_kind(Kind::Internal);
        span
    }
}

/// An answer that took a run, and that run.
fn with_run(answer: Answer) -> Option<(Answer, BatchRun)> {
    answer.timing.run.map(|run| (answer, run))
}

/// Says of a part of a request that the request ended there, and why.
fn fail(span: &mut Span, failure: &Failure) {
    span.attributes.push(text("error.type", failure.outcome.name()));
    span.status = Some(Status { message: failure.message.clone(), code: Code::Error.into() });
}

/// A span's name, and what its protocol says of it.
fn describe(entry: Entry, status: Option<u16>) -> (String, Vec<KeyValue>) {
    match entry {
        Entry::Http { verb, version, is_http2, is_tls } => {
            let versions = if version.is_some() { "/versions/{version}" } else { "" };
            let route = format!("/v2/models/{{model}}{versions}/{verb}");
            let mut attributes = vec![
                text("http.request.method", "POST"),
                text("http.route", &route),
                text("url.scheme", if is_tls { "https" } else { "http" }),
                text("network.protocol.version", if is_http2 { "2" } else { "1.1" }),
            ];
            attributes.extend(status.map(|status| number("http.response.status_code", status.into())));
            (format!("POST {route}"), attributes)
        }
        Entry::Grpc { .. } | Entry::Stream => {
            const SERVICE: &str = "inference.GRPCInferenceService";
            let method = if let Entry::Grpc { method } = entry { method } else { STREAM };
            let mut attributes =
                vec![text("rpc.system", "grpc"), text("rpc.service", SERVICE), text("rpc.method", method)];
            attributes.extend(status.map(|status| number("rpc.grpc.status_code", status.into())));
            (format!("{SERVICE}/{method}"), attributes)
        }
    }
}

/// A request to a collector.
pub(super) fn request(destination: &destination::Destination, spans: Vec<Span>) -> ExportRequest {
    let attributes = destination.resource.iter().map(|(key, value)| text(key, value)).collect();
    let scope = Scope { name: "axon".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let of_us = ResourceSpans {
        resource: Some(Resource { attributes }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
    };
    ExportRequest { resource_spans: vec![of_us] }
}

fn link(to: SpanContext) -> Link {
    Link {
        trace_id: bytes(&to.trace.to_be_bytes()),
        span_id: bytes(&to.span.to_be_bytes()),
        flags: u32::from(to.flags) | KNOWN,
    }
}

fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(Value::StringValue(value.to_owned()))) }
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX));
    KeyValue { key: key.to_owned(), value: Some(any(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_over_http_says_how_it_came() {
        let check = |is_http2, is_tls, expected: [&str; 2]| {
            let entry = Entry::Http { verb: "infer", version: Some(2), is_http2, is_tls };
            let (name, attributes) = describe(entry, Some(200));
            assert_eq!(name, "POST /v2/models/{model}/versions/{version}/infer");
            for told in [text("url.scheme", expected[0]), text("network.protocol.version", expected[1])] {
                assert!(attributes.contains(&told), "{attributes:?}");
            }
            assert!(attributes.contains(&number("http.response.status_code", 200)));
        };
        check(false, false, ["http", "1.1"]);
        check(true, false, ["http", "2"]);
        check(false, true, ["https", "1.1"]);
    }
}
