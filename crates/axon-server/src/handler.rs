//! One body for each verb of the protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axon::repository::{Model, State};
use axon::request::{InferenceRequest, InferenceResponse};
use axon::server::{InferenceServer, NotReady};
use axon::signature::TensorSpec;
use axon::{Error, ErrorKind, Result};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use crate::answers::Answers;
use crate::body::{self, Frames};
use crate::codec::{self, Decoded};
use crate::route::{MAX_URI, ModelVerb, Route, route};
use crate::status::{error_body, retry_after_seconds, status_of};

/// The length of the JSON part of a body that goes on with binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Text of more bytes than this is read and written on another thread: it takes a millisecond or more.
const INLINE_TEXT: usize = 64 << 10;

/// So are bodies of more bytes than this, whatever is in them.
const INLINE_BINARY: usize = 4 << 20;

/// Binary answers up to this many bytes are copied into one buffer: cheaper than a vectored write.
const COPY_LIMIT: usize = 32 << 10;

/// What every request needs.
pub(crate) struct App {
    pub server: InferenceServer,
    /// The most bytes of a body, as sent and decoded.
    pub body_limit: usize,
    pub in_flight: InFlight,
    pub answers: Arc<Answers>,
}

/// Counts the requests that are being answered, so that a shutdown can wait for them.
#[derive(Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    none: Notify,
}

impl InFlight {
    fn enter(&self) -> InFlightGuard<'_> {
        self.count.fetch_add(1, Ordering::AcqRel);
        InFlightGuard(self)
    }

    /// Waits until nothing is in flight.
    pub async fn wait_for_none(&self) {
        loop {
            let notified = self.none.notified();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

struct InFlightGuard<'a>(&'a InFlight);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// Answers one request.
pub(crate) async fn handle(app: Arc<App>, request: Request<Incoming>) -> Response<Frames> {
    let response = match answer(&app, request).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    };
    // A client that is told so does not send its next request into a connection that is about to close.
    if app.server.is_stopping() { closing(response) } else { response }
}

async fn answer(app: &App, request: Request<Incoming>) -> Result<Response<Frames>> {
    let (head, incoming) = request.into_parts();
    if let Err(error) = check_head(&head) {
        return Ok(closing(refusal(&error)));
    }
    let route = match route(&head.method, head.uri.path()) {
        Ok(route) => route,
        Err(error) => return Ok(refusal_with_allow(&error, head.uri.path())),
    };
    match route {
        Route::Live => Ok(respond(StatusCode::OK, JSON, Frames::default())),
        Route::Ready => ready(app),
        Route::Server => Ok(document(StatusCode::OK, &server_metadata())),
        Route::AllStatistics => Ok(document(StatusCode::OK, &all_statistics(app))),
        Route::Model { name, version, verb } => match verb {
            ModelVerb::Metadata => metadata(app, name, version),
            ModelVerb::Ready => {
                app.server.model(name, version)?;
                Ok(respond(StatusCode::OK, JSON, Frames::default()))
            }
            ModelVerb::Statistics => {
                let model = app.server.model(name, version)?;
                Ok(document(StatusCode::OK, &json!({ "model_stats": [statistics(&model)] })))
            }
            ModelVerb::Infer => infer(app, &head.headers, incoming, name, version).await,
        },
    }
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
    if hosts > 1 || (hosts == 0 && head.version >= Version::HTTP_11) {
        return Err(Error::invalid("Host", format_args!("expected one Host header, got {hosts}")));
    }
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if encodings.next().is_some_and(|value| !chunked(value)) || encodings.next().is_some() {
        return Err(Error::invalid("Transfer-Encoding", "expected `chunked`, once"));
    }
    Ok(())
}

fn ready(app: &App) -> Result<Response<Frames>> {
    let reason = match app.server.ready() {
        Ok(()) => return Ok(respond(StatusCode::OK, JSON, Frames::default())),
        Err(NotReady::Stopping) => "the server is shutting down".to_owned(),
        Err(NotReady::Loading) => "models are being loaded".to_owned(),
        Err(NotReady::Failed(models)) => {
            format!(
                "models that are not ready: {}",
                axon::error::echo_names(models.iter().map(String::as_str))
            )
        }
    };
    Err(Error::new(ErrorKind::ModelNotReady, reason))
}

async fn infer(
    app: &App,
    headers: &HeaderMap,
    incoming: Incoming,
    name: &str,
    version: Option<u64>,
) -> Result<Response<Frames>> {
    if app.server.is_stopping() {
        return Err(Error::shutting_down());
    }
    let _guard = app.in_flight.enter();
    check_content_type(headers)?;
    let body = body::read(incoming, app.body_limit).await?;
    let Decoded { inputs, outputs, timeout, id, format } = decode(app, headers, body, name, version).await?;
    let request = InferenceRequest {
        model: name.to_owned(),
        version,
        outputs,
        timeout,
        ..InferenceRequest::new(inputs)
    };
    let response = ask(app, request).await.inspect_err(|error| log_failure(error, name, id.as_deref()))?;
    let is_long = format.text_bytes(&response) > INLINE_TEXT;
    let encoded = off_the_wire(is_long, move || codec::encode(&response, id.as_deref(), &format)).await?;
    let Some(header_length) = encoded.header_length else {
        return Ok(respond(StatusCode::OK, JSON, encoded.json.into()));
    };
    let mut response = respond(StatusCode::OK, BINARY, binary_frames(encoded.json, encoded.tensors));
    response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(header_length));
    Ok(response)
}

async fn ask(app: &App, request: InferenceRequest) -> Result<InferenceResponse> {
    let (sender, receiver) = oneshot::channel();
    let answers = Arc::clone(&app.answers);
    let ticket = app.server.submit(request, move |answer| answers.push(sender, answer))?;
    ticket.finish(receiver).await
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
    off_the_wire(is_long, move || {
        let body = match encoding {
            Some(encoding) => codec::decode_content(body, &encoding, limit)?,
            None => body,
        };
        let length =
            header.map(|header| codec::parse_header_length(header.as_bytes(), body.len())).transpose()?;
        if length == Some(0) {
            return codec::decode_raw(body, &server.model(&name, version)?.signature().inputs);
        }
        codec::decode(body, length)
    })
    .await
}

/// Reads or writes long text on another thread, so that other connections do not wait for it.
async fn off_the_wire<T: Send + 'static>(
    is_long: bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if !is_long {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
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

/// The encoding of the body; `None` when there is none.
fn content_encoding(headers: &HeaderMap) -> Option<String> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = encodings.next()?.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    if encodings.next().is_some() {
        return Some("several".to_owned());
    }
    (encoding != "identity").then_some(encoding)
}

fn log_failure(error: &Error, model: &str, id: Option<&str>) {
    let id = id.unwrap_or_default().escape_debug();
    match error.kind() {
        ErrorKind::Internal | ErrorKind::ExecutionFailed => {
            tracing::error!(model, %id, cause = error.cause(), "{}", error.message().escape_debug());
        }
        _ => tracing::debug!(model, %id, cause = error.cause(), "{}", error.message().escape_debug()),
    }
}

fn metadata(app: &App, name: &str, version: Option<u64>) -> Result<Response<Frames>> {
    let metadata = app.server.metadata(name, version)?;
    let tensor = |spec: &TensorSpec| json!({ "name": spec.name, "datatype": spec.datatype.name(), "shape": spec.wire_shape() });
    let versions: Vec<String> = metadata.versions.iter().map(u64::to_string).collect();
    let value = json!({
        "name": metadata.name,
        "versions": versions,
        "platform": "onnxruntime_onnx",
        "inputs": metadata.signature.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": metadata.signature.outputs.iter().map(tensor).collect::<Vec<_>>(),
    });
    Ok(document(StatusCode::OK, &value))
}

fn server_metadata() -> Value {
    json!({
        "name": "axon",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["classification", "binary_tensor_data", "parameters", "statistics"],
    })
}

fn all_statistics(app: &App) -> Value {
    let entries = app.server.models();
    let ready = entries.iter().filter_map(|entry| match &entry.state {
        State::Ready(model) => Some(statistics(model)),
        _ => None,
    });
    json!({ "model_stats": ready.collect::<Vec<_>>() })
}

/// A model's counters in the protocol's form; durations in nanoseconds.
fn statistics(model: &Model) -> Value {
    let counters = model.statistics();
    let read = |counter: &axon::metrics::DurationCounter| {
        let (count, ns) = counter.read();
        json!({ "count": count, "ns": ns })
    };
    let none = || json!({ "count": 0, "ns": 0 });
    let batch = |(rows, (count, ns)): (usize, (u64, u64))| {
        let free = json!({ "count": count, "ns": 0 });
        json!({ "batch_size": rows, "compute_input": free, "compute_infer": { "count": count, "ns": ns }, "compute_output": free })
    };
    json!({
        "name": model.name(),
        "version": model.version().to_string(),
        "last_inference": counters.last_inference_ms.load(Ordering::Relaxed),
        "inference_count": counters.inference_count.load(Ordering::Relaxed),
        "execution_count": counters.execution_count.load(Ordering::Relaxed),
        "inference_stats": {
            "success": read(&counters.success),
            "fail": read(&counters.fail),
            "queue": read(&counters.queue),
            "compute_input": none(),
            "compute_infer": read(&counters.compute),
            "compute_output": none(),
            "cache_hit": none(),
            "cache_miss": none(),
        },
        "batch_stats": counters.batches().into_iter().map(batch).collect::<Vec<_>>(),
    })
}

fn document(status: StatusCode, value: &Value) -> Response<Frames> {
    respond(status, JSON, value.to_string().into_bytes().into())
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Frames) -> Response<Frames> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn refusal(error: &Error) -> Response<Frames> {
    let (status, _) = status_of(error.kind());
    let mut response = respond(status, JSON, error_body(error).into());
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

fn refusal_with_allow(error: &Error, path: &str) -> Response<Frames> {
    let mut response = refusal(error);
    if let (ErrorKind::MethodNotAllowed, Ok(route)) = (error.kind(), crate::route::parse(path)) {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
    }
    response
}
