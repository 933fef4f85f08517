//! The verbs that ask a model: `infer`, `generate` and `generate_stream`.

use std::time::{Duration, Instant};

use axon::metrics::Observed;
use axon::request::{InferenceRequest, Parameter};
use axon::{Error, Result};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, HeaderName, HeaderValue, VARY};
use hyper::{Response, StatusCode, Version};

use super::{Asked, INLINE_TEXT, JSON, check_content_type, content_encoding, plain_body, refusal, respond};
use crate::app::{App, log_failure, off_the_wire};
use crate::body::{self, Frames};
use crate::codec::{self, Decoded, Encoding, Generated};
use crate::compat::Context;
use crate::present::{Known, Present};
use crate::route::ModelVerb;
use crate::timing;
use crate::trace::{Caller, Entry, Span};

/// The length of the JSON part of a body that goes on with binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The parameter that says whether an answer may come from the response cache.
const BYPASS: &str = "response_cache";

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Bodies of more bytes than this are read on another thread too, whatever is in them.
const INLINE_BINARY: usize = 4 << 20;

/// Binary answers up to this many bytes are copied into one buffer: cheaper than a vectored write.
const COPY_LIMIT: usize = 32 << 10;

/// The span of a request that asks a model.
pub(super) fn span(app: &App, asked: Asked<'_>, verb: ModelVerb) -> Span {
    let Asked { head, present, name, version } = asked;
    let verb = match verb {
        ModelVerb::Generate => "generate",
        ModelVerb::GenerateStream => "generate_stream",
        _ => "infer",
    };
    let (is_http2, is_tls) = (head.version == Version::HTTP_2, app.tls.is_some());
    let entry = Entry::Http { verb, version, is_http2, is_tls };
    let caller = Caller::read(&head.headers, present.has(Known::TraceParent));
    Span::begin(app, caller, Instant::now(), name, entry)
}

/// Answers a verb that asks a model; what becomes of the request is noted in `observed`.
pub(super) async fn answer(
    app: &App,
    asked: Asked<'_>,
    verb: ModelVerb,
    incoming: Incoming,
    (observed, span): (&mut Observed, &Span),
) -> Result<Response<Frames>> {
    let _guard = app.enter()?;
    let is_stream = verb == ModelVerb::GenerateStream;
    if is_stream || verb == ModelVerb::Generate {
        let body = plain_body(app, asked.present, incoming).await?;
        return Box::pin(generate(app, asked, body, is_stream, (observed, span))).await;
    }
    check_content_type(asked.present)?;
    let text_length = text_length(asked.present);
    let body = body::read(incoming, app.body_limit, text_length.unwrap_or_default()).await?;
    infer(app, asked, (body, text_length), (observed, span)).await
}

async fn infer(
    app: &App,
    asked: Asked<'_>,
    (body, text_length): (Bytes, Option<usize>),
    (observed, span): (&mut Observed, &Span),
) -> Result<Response<Frames>> {
    let Asked { present, name, version, .. } = asked;
    observed.arrive(body.len());
    let decoded = decode(app, asked, body, text_length).await?;
    let Decoded { inputs, outputs, timeout, priority, sequence, mut parameters, id, format } = decoded;
    span.named(id.as_deref());
    obey_cache_control(present, &mut parameters);
    let timeout = shorter(timeout, request_timeout(present)?);
    let model = name.to_owned();
    let request =
        InferenceRequest { model, version, inputs, outputs, timeout, priority, sequence, parameters };
    let response = match app.ask(request, observed, span).await {
        Ok(response) => response,
        Err(error) => {
            observed.refuse(&error);
            span.failed(&error);
            log_failure(&error, Some(name), id.as_deref(), span);
            return Ok(refusal(app, &error, Context { model: name, id: id.as_deref() }));
        }
    };
    let accepted = accepted_encoding(present);
    let is_long = accepted.is_some()
        || format.text_bytes(&response) > INLINE_TEXT
        || format.shared_bytes(&response) > INLINE_BINARY;
    let labelled = app.labelled(&format, &response);
    let timing = response.timing;
    let encode = move || {
        let labels = |output: &str| labelled.as_ref().and_then(|model| model.labels(output));
        codec::encode(&response, id.as_deref(), &format, &labels)
    };
    let encoded = off_the_wire(is_long, encode).await?;
    let (content_type, frames) = match encoded.header_length {
        Some(_) => (BINARY, binary_frames(encoded.json, encoded.tensors)),
        None => (JSON, encoded.json.into()),
    };
    let mut response = match accepted {
        Some(encoding) => compressed(content_type, frames, encoding).await?,
        None => respond(StatusCode::OK, content_type, frames),
    };
    // A cache must not give one caller's encoding to another.
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept-encoding"));
    timing::insert(response.headers_mut(), &timing);
    // The length before compression.
    if let Some(length) = encoded.header_length {
        response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

/// The encoding that the caller likes best; `None` to send the answer as it is.
fn accepted_encoding(present: Present<'_>) -> Option<Encoding> {
    if !present.has(Known::AcceptEncoding) {
        return None;
    }
    codec::negotiate(present.all().get_all(ACCEPT_ENCODING).iter().map(HeaderValue::as_bytes))
}

async fn compressed(
    content_type: HeaderValue,
    frames: Frames,
    encoding: Encoding,
) -> Result<Response<Frames>> {
    let body = off_the_wire(true, move || codec::compress(frames, encoding)).await?;
    let mut response = respond(StatusCode::OK, content_type, body.into());
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    Ok(response)
}

/// Answers a flat JSON object with one, or with a stream of one event.
async fn generate(
    app: &App,
    asked: Asked<'_>,
    body: Bytes,
    is_stream: bool,
    (observed, span): (&mut Observed, &Span),
) -> Result<Response<Frames>> {
    let Asked { present, name, version, .. } = asked;
    observed.arrive(body.len());
    let model = app.server.loaded_model(name, version, request_timeout(present)?).await?;
    let is_long = body.len() > INLINE_TEXT;
    let decode = move || codec::decode_generate(&body, &model.signature().inputs, model.counts_rows());
    let Generated { inputs, id, timeout, priority, sequence, mut parameters } =
        off_the_wire(is_long, decode).await?;
    obey_cache_control(present, &mut parameters);
    span.named(id.as_deref());
    let timeout = shorter(timeout, request_timeout(present)?);
    let request = InferenceRequest {
        model: name.to_owned(),
        version,
        inputs: inputs.into(),
        outputs: Vec::new(),
        timeout,
        priority,
        sequence,
        parameters,
    };
    let response = match app.ask(request, observed, span).await {
        Ok(response) => response,
        Err(error) => {
            observed.refuse(&error);
            span.failed(&error);
            log_failure(&error, Some(name), id.as_deref(), span);
            return Ok(refusal(app, &error, Context { model: name, id: id.as_deref() }));
        }
    };
    let length: usize = response.outputs.iter().map(|output| output.tensor.memory().len()).sum();
    let timing = response.timing;
    let encode = move || codec::encode_generate(&response, id.as_deref());
    let json = off_the_wire(length > INLINE_TEXT, encode).await?;
    let (content_type, body) = if is_stream { (EVENTS, codec::event(&json)) } else { (JSON, json) };
    let mut response = respond(StatusCode::OK, content_type, body.into());
    timing::insert(response.headers_mut(), &timing);
    Ok(response)
}

/// The JSON part and the tensors; small ones as one copy, large ones as they lie in memory.
fn binary_frames(mut json: Vec<u8>, tensors: Vec<synapse::Memory>) -> Frames {
    let length: usize = tensors.iter().map(|tensor| tensor.len()).sum();
    if length > COPY_LIMIT {
        return Frames::new(
            std::iter::once(Bytes::from(json)).chain(tensors.into_iter().map(Bytes::from_owner)),
        );
    }
    json.reserve(length);
    for tensor in &tensors {
        json.extend_from_slice(tensor);
    }
    Frames::from(json)
}

async fn decode(app: &App, asked: Asked<'_>, body: Bytes, text_length: Option<usize>) -> Result<Decoded> {
    let Asked { present, name, version, .. } = asked;
    if present.repeats(Known::HeaderLength) {
        return Err(Error::invalid("Inference-Header-Content-Length", "expected one header, got several"));
    }
    let header = present.get(Known::HeaderLength).cloned();
    let encoding = content_encoding(present);
    let limit = app.body_limit;
    // The body is the only input's bytes, and the model says what they are.
    let raw = match text_length {
        Some(0) => Some(app.server.loaded_model(name, version, request_timeout(present)?).await?),
        _ => None,
    };
    // Of binary tensors only BOOL and BYTES are walked through, at memory speed; a compressed body does not tell the
    // length of its text.
    let is_long = text_length.unwrap_or(body.len()).min(body.len()) > INLINE_TEXT
        || body.len() > INLINE_BINARY
        || (encoding.is_some() && body.len() > INLINE_TEXT / 16);
    app.decode(is_long, move |options| {
        let body = match encoding {
            Some(encoding) => codec::decode_content(body, &encoding, limit)?,
            None => body,
        };
        let length =
            header.map(|header| codec::parse_header_length(header.as_bytes(), body.len())).transpose()?;
        match raw {
            Some(model) if length == Some(0) => {
                codec::decode_raw(body, &model.signature().inputs).map(codec::Parsed::from)
            }
            _ => codec::decode(body, length, options),
        }
    })
    .await
}

/// How long the JSON part is, as far as it is said in a way that can be right.
fn text_length(present: Present<'_>) -> Option<usize> {
    present.get(Known::HeaderLength)?.to_str().ok()?.parse().ok()
}

/// The seconds that the caller waits, as its header says them.
fn request_timeout(present: Present<'_>) -> Result<Option<Duration>> {
    let Some(value) = present.get(Known::RequestTimeout) else { return Ok(None) };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.map(Some).ok_or_else(|| {
        let got = String::from_utf8_lossy(value.as_bytes());
        Error::invalid(
            "X-Request-Timeout",
            format_args!("expected seconds of at least 0, got {}", axon::error::Echo(&got)),
        )
    })
}

/// Has a request run that wants nothing from a cache, as if its parameter `response_cache` said false.
///
/// **Source:** RFC 9111, 5.2.1: `no-cache` and `no-store` of a request.
fn obey_cache_control(present: Present<'_>, parameters: &mut Vec<(String, Parameter)>) {
    if !present.has(Known::CacheControl) {
        return;
    }
    let is_unwanted = |directive: &str| {
        let directive = directive.trim();
        directive.eq_ignore_ascii_case("no-cache") || directive.eq_ignore_ascii_case("no-store")
    };
    let mut values = present.all().get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    if values.any(|value| value.split(',').any(is_unwanted)) {
        parameters.retain(|(key, _)| key != BYPASS);
        parameters.push((BYPASS.to_owned(), Parameter::Bool(false)));
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
