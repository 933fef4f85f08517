//! One body for each verb of the protocol.

use std::sync::Arc;
use std::time::Duration;

use axon::request::InferenceRequest;
use axon::{Error, ErrorKind, Result};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use serde::Serialize;
use serde_json::json;

use crate::admin;
use crate::app::{App, log_failure, off_the_wire};
use crate::body::{self, Frames};
use crate::codec::{self, Decoded, Encoding, Generated};
use crate::compat::Context;
use crate::connection::Answer;
use crate::openapi;
use crate::route::{MAX_URI, MemoryKind, MemoryVerb, ModelVerb, RepositoryVerb, Route, route};
use crate::status::{Refusal, retry_after_seconds};
use crate::verbs;

/// The length of the JSON part of a body that goes on with binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How long the caller waits, in seconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Text of more bytes than this is read and written on another thread: it takes a millisecond or more.
const INLINE_TEXT: usize = 64 << 10;

/// So are bodies of more bytes than this, whatever is in them.
const INLINE_BINARY: usize = 4 << 20;

/// Binary answers up to this many bytes are copied into one buffer: cheaper than a vectored write.
const COPY_LIMIT: usize = 32 << 10;

/// Answers the requests of the HTTP port.
#[derive(Clone)]
pub(crate) struct Http(pub Arc<App>);

impl Answer for Http {
    type Body = Frames;

    const HTTP2_ONLY: Option<&'static str> = None;

    async fn answer(self, request: Request<Incoming>) -> Response<Frames> {
        handle(self.0, request).await
    }
}

/// Answers one request.
async fn handle(app: Arc<App>, request: Request<Incoming>) -> Response<Frames> {
    let response = match answer(&app, request).await {
        Ok(response) => response,
        Err(error) => refusal(&app, &error, Context::default()),
    };
    // A client that is told so does not send its next request into a connection that is about to close.
    if app.server.is_stopping() { closing(response) } else { response }
}

async fn answer(app: &App, request: Request<Incoming>) -> Result<Response<Frames>> {
    let (head, incoming) = request.into_parts();
    if let Err(error) = check_head(&head) {
        return Ok(closing(refusal(app, &error, Context::default())));
    }
    if head.method == Method::OPTIONS {
        return options(head.uri.path());
    }
    let route = match route(&head.method, head.uri.path()) {
        Ok(route) => route,
        Err(error) => return Ok(refusal_with_allow(app, &error, head.uri.path())),
    };
    match route {
        Route::Live => Ok(respond(StatusCode::OK, JSON, Frames::default())),
        Route::Ready => verbs::ready(app).map(|()| respond(StatusCode::OK, JSON, Frames::default())),
        Route::Server => document(&verbs::server_metadata(app)),
        Route::AllStatistics => document(&json!({ "model_stats": verbs::statistics(app, "", None)? })),
        Route::Model { name, version, verb } => {
            let answered = model(app, Asked { head: &head, name, version }, verb, incoming).await;
            Ok(answered.unwrap_or_else(|error| refusal(app, &error, Context { model: name, id: None })))
        }
        Route::TraceSetting => document(&admin::trace(app, None, change(app, &head, incoming).await?)?),
        Route::Logging => document(&admin::log(app, change(app, &head, incoming).await?)?),
        Route::Repository { repository, verb } => {
            let body = plain_body(app, &head, incoming).await?;
            repository_verb(app, repository, verb, body).await
        }
        Route::OpenApi => document(&openapi::document(&verbs::ready_models(app))),
        Route::SharedMemory { kind, region, verb } => {
            let body = plain_body(app, &head, incoming).await?;
            shared_memory(app, kind, region, verb, &body)
        }
        Route::Page(path) => page(path),
}

async fn repository_verb(
    app: &App,
    repository: Option<&str>,
    verb: RepositoryVerb<'_>,
    body: Bytes,
) -> Result<Response<Frames>> {
    match verb {
        RepositoryVerb::Index => {
            return document(&verbs::index(app, repository, admin::only_ready(&body)?)?);
        }
        RepositoryVerb::Load(name) => {
            let is_long = body.len() > INLINE_TEXT;
            let overrides = off_the_wire(is_long, move || admin::overrides(&body)).await?;
            verbs::load(app, repository, name, overrides).await?;
        }
        RepositoryVerb::Unload(name) => {
            verbs::unload(app, repository, name, admin::unload_dependents(&body)?).await?;
        }
    }
    Ok(respond(StatusCode::OK, JSON, Frames::default()))
}

/// The page that shows what may be asked, and what it is made of.
fn page(path: &str) -> Result<Response<Frames>> {
    let (content_type, body) = page::asset(path).ok_or_else(|| crate::route::not_found(path))?;
    let mut response = respond(StatusCode::OK, HeaderValue::from_static(content_type), body.into());
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, page::POLICY);
    Ok(response)
}

fn shared_memory(
    app: &App,
    kind: MemoryKind,
    region: Option<&str>,
    verb: MemoryVerb,
    body: &Bytes,
) -> Result<Response<Frames>> {
    match verb {
        MemoryVerb::Status => {
            return document(&admin::regions(&verbs::shared_memory_status(app, kind, region)?));
        }
        MemoryVerb::Register => admin::register(app, kind, region.unwrap_or_default(), body)?,
        MemoryVerb::Unregister => verbs::shared_memory_unregister(app, kind, region)?,
    }
    Ok(respond(StatusCode::OK, JSON, Frames::default()))
}

/// A request to a model.
#[derive(Clone, Copy)]
struct Asked<'a> {
    head: &'a Parts,
    name: &'a str,
    version: Option<u64>,
}

async fn model(app: &App, asked: Asked<'_>, verb: ModelVerb, incoming: Incoming) -> Result<Response<Frames>> {
    let Asked { head, name, version } = asked;
    match verb {
        ModelVerb::Metadata => document(&verbs::model_metadata(app, name, version)?),
        ModelVerb::Ready => {
            app.server.model(name, version)?;
            Ok(respond(StatusCode::OK, JSON, Frames::default()))
        }
        ModelVerb::Statistics => document(&json!({ "model_stats": verbs::statistics(app, name, version)? })),
        ModelVerb::Infer => infer(app, asked, incoming).await,
        ModelVerb::TraceSetting => {
            document(&admin::trace(app, Some(name), change(app, head, incoming).await?)?)
        }
        ModelVerb::Generate => generate(app, asked, incoming, false).await,
        ModelVerb::GenerateStream => generate(app, asked, incoming, true).await,
        ModelVerb::Config => Err(Error::new(ErrorKind::Unimplemented, "not yet")),
    }
}

/// The body of a request that may change settings; `None` when it only asks for them.
async fn change(
    app: &App,
    head: &Parts,
    incoming: Incoming,
) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
    if head.method != Method::POST {
        return Ok(None);
    }
    admin::object(&plain_body(app, head, incoming).await?).map(Some)
}

/// The body of a verb other than inference, which is never compressed.
async fn plain_body(app: &App, head: &Parts, incoming: Incoming) -> Result<Bytes> {
    if let Some(encoding) = content_encoding(&head.headers) {
        return Err(Error::at(
            ErrorKind::UnsupportedMedia,
            "Content-Encoding",
            format_args!("expected identity, got {}", axon::error::Echo(&encoding)),
        ));
    }
    check_content_type(&head.headers)?;
    body::read(incoming, app.body_limit).await
}

/// Checks what hyper lets through and two readers could take differently, or one for too much.
fn check_head(head: &Parts) -> Result<()> {
    let uri_length = head.uri.path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri_length > MAX_URI {
        return Err(Error::at(
            ErrorKind::UriTooLong,
            "path",
            format_args!("expected at most {MAX_URI} bytes, got {uri_length}"),
        ));
    }
    let hosts = head.headers.get_all(HOST).iter().count();
    // HTTP/2 names the host beside the headers.
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        return Err(Error::invalid("Host", format_args!("expected one Host header, got {hosts}")));
    }
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if encodings.next().is_some_and(|value| !chunked(value)) || encodings.next().is_some() {
        return Err(Error::invalid("Transfer-Encoding", "expected `chunked`, once"));
    }
    Ok(())
}

async fn infer(app: &App, asked: Asked<'_>, incoming: Incoming) -> Result<Response<Frames>> {
    let Asked { head, name, version } = asked;
    let headers = &head.headers;
    let _guard = app.enter()?;
    check_content_type(headers)?;
    let body = body::read(incoming, app.body_limit).await?;
    let decoded = decode(app, headers, body, name, version).await?;
    let Decoded { inputs, outputs, timeout, priority, sequence, parameters, id, format } = decoded;
    let timeout = shorter(timeout, request_timeout(headers)?);
    let model = name.to_owned();
    let request =
        InferenceRequest { model, version, inputs, outputs, timeout, priority, sequence, parameters };
    let response = match app.ask(request).await {
        Ok(response) => response,
        Err(error) => {
            log_failure(&error, name, id.as_deref());
            return Ok(refusal(app, &error, Context { model: name, id: id.as_deref() }));
        }
    };
    let accepted = accepted_encoding(headers);
    let is_long = accepted.is_some()
        || format.text_bytes(&response) > INLINE_TEXT
        || format.shared_bytes(&response) > INLINE_BINARY;
    let encoded = off_the_wire(is_long, move || codec::encode(&response, id.as_deref(), &format)).await?;
    let (content_type, frames) = match encoded.header_length {
        Some(_) => (BINARY, binary_frames(encoded.json, encoded.tensors)),
        None => (JSON, encoded.json.into()),
    };
    let mut response = match accepted {
        Some(encoding) => compressed(content_type, frames, encoding).await?,
        None => respond(StatusCode::OK, content_type, frames),
    };
    // The length before compression.
    if let Some(length) = encoded.header_length {
        response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

/// The encoding that the caller likes best; `None` to send the answer as it is.
fn accepted_encoding(headers: &HeaderMap) -> Option<Encoding> {
    codec::negotiate(headers.get_all(ACCEPT_ENCODING).iter().map(HeaderValue::as_bytes))
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
    incoming: Incoming,
    is_stream: bool,
) -> Result<Response<Frames>> {
    let Asked { head, name, version } = asked;
    let _guard = app.enter()?;
    let body = plain_body(app, head, incoming).await?;
    let model = app.server.model(name, version)?;
    let is_long = body.len() > INLINE_TEXT;
    let decode = move || codec::decode_generate(&body, &model.signature().inputs, model.counts_rows());
    let Generated { inputs, id, timeout, priority, sequence, parameters } =
        off_the_wire(is_long, decode).await?;
    let timeout = shorter(timeout, request_timeout(&head.headers)?);
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
    let response = match app.ask(request).await {
        Ok(response) => response,
        Err(error) => {
            log_failure(&error, name, id.as_deref());
            return Ok(refusal(app, &error, Context { model: name, id: id.as_deref() }));
        }
    };
    let length: usize = response.outputs.iter().map(|output| output.tensor.memory().len()).sum();
    let encode = move || codec::encode_generate(&response, id.as_deref());
    let json = off_the_wire(length > INLINE_TEXT, encode).await?;
    let (content_type, body) = if is_stream { (EVENTS, codec::event(&json)) } else { (JSON, json) };
    Ok(respond(StatusCode::OK, content_type, body.into()))
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

async fn decode(
    app: &App,
    headers: &HeaderMap,
    body: Bytes,
    name: &str,
    version: Option<u64>,
) -> Result<Decoded> {
    let mut lengths = headers.get_all(HEADER_LENGTH).iter();
    let header = match (lengths.next(), lengths.next()) {
        (header, None) => header.cloned(),
        (_, Some(_)) => {
            return Err(Error::invalid(
                "Inference-Header-Content-Length",
                "expected one header, got several",
            ));
        }
    };
    let encoding = content_encoding(headers);
    let limit = app.body_limit;
    let server = app.server.clone();
    let name = name.to_owned();
    // Of binary tensors only BOOL and BYTES are walked through, at memory speed; a compressed body does not tell the
    // length of its text.
    let text = header.as_ref().and_then(|header| header.to_str().ok()?.parse().ok()).unwrap_or(body.len());
    let is_long = text.min(body.len()) > INLINE_TEXT
        || body.len() > INLINE_BINARY
        || (encoding.is_some() && body.len() > INLINE_TEXT / 16);
    app.decode(is_long, move |options| {
        let body = match encoding {
            Some(encoding) => codec::decode_content(body, &encoding, limit)?,
            None => body,
        };
        let length =
            header.map(|header| codec::parse_header_length(header.as_bytes(), body.len())).transpose()?;
        if length == Some(0) {
            let decoded = codec::decode_raw(body, &server.model(&name, version)?.signature().inputs)?;
            return Ok(codec::Parsed::from(decoded));
        }
        codec::decode(body, length, options)
    })
    .await
}

/// JSON, binary, or nothing said; `curl -d` says form, and means JSON.
fn check_content_type(headers: &HeaderMap) -> Result<()> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    let (media, parameters) = text.split_once(';').unwrap_or((&text, ""));
    let media_known = matches!(
        media.trim(),
        "" | "application/json" | "application/octet-stream" | "application/x-www-form-urlencoded"
    );
    let charset = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
    let charset_known =
        charset.is_none_or(|charset| matches!(charset.trim_matches('"'), "utf-8" | "us-ascii"));
    if media_known && charset_known {
        return Ok(());
    }
    Err(Error::at(
        ErrorKind::UnsupportedMedia,
        "Content-Type",
        format_args!(
            "expected application/json in UTF-8 or application/octet-stream, got {}",
            axon::error::Echo(&text)
        ),
    ))
}

/// The seconds that the caller waits, as its header says them.
fn request_timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(REQUEST_TIMEOUT) else { return Ok(None) };
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

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The encoding of the body; `None` when there is none.
fn content_encoding(headers: &HeaderMap) -> Option<String> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = encodings.next()?.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    if encodings.next().is_some() {
        return Some("several".to_owned());
    }
    (encoding != "identity").then_some(encoding)
}

fn document(value: &impl Serialize) -> Result<Response<Frames>> {
    let json = serde_json::to_vec(value).map_err(Error::internal)?;
    Ok(respond(StatusCode::OK, JSON, json.into()))
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Frames) -> Response<Frames> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn refusal(app: &App, error: &Error, context: Context<'_>) -> Response<Frames> {
    let Refusal { status, body } = Refusal::new(app.compat, error, context);
    let mut response = respond(status, JSON, body.into());
    if let Some(retry_after) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(retry_after)));
    }
    if error.kind() == ErrorKind::Cancelled { closing(response) } else { response }
}

/// The last response of its connection.
fn closing(mut response: Response<Frames>) -> Response<Frames> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What may be asked at a path.
fn options(path: &str) -> Result<Response<Frames>> {
    let allow = crate::route::parse(path)?.allow();
    let mut response = Response::new(Frames::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    Ok(response)
}

fn refusal_with_allow(app: &App, error: &Error, path: &str) -> Response<Frames> {
    let mut response = refusal(app, error, Context::default());
    if let (ErrorKind::MethodNotAllowed, Ok(route)) = (error.kind(), crate::route::parse(path)) {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
    }
    response
}
