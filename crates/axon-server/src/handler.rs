//! The protocol over HTTP: which verb a request asks for, and how its answer is told.

mod aliases;
mod infer;

use std::sync::Arc;

use axon::alias::Routed;
use axon::metrics::{Code, Observed, Protocol};
use axon::{Error, ErrorKind, Result};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
    HeaderValue, RETRY_AFTER, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use serde::Serialize;
use serde_json::json;

use crate::access::Visit;
use crate::app::{App, log_failure, off_the_wire};
use crate::body::{self, Frames};
use crate::compat::{Compat, Context};
use crate::connection::{Answer, Port};
use crate::explain;
use crate::host::check_host;
use crate::origin::check_origin;
use crate::present::{Known, Present};
use crate::route::{MAX_URI, MemoryKind, MemoryVerb, ModelVerb, RepositoryVerb, Route, route};
use crate::status::{Refusal, retry_after_seconds};
use crate::trace::{Sending, Span};
use crate::{admin, dashboard, health, metrics, openapi, overview, page, residency, verbs};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Text of more bytes than this is read and written on another thread: it takes a millisecond or more.
const INLINE_TEXT: usize = 64 << 10;

/// Answers the requests of the HTTP port.
#[derive(Clone)]
pub(crate) struct Http(pub Arc<App>);

impl Answer for Http {
    const PORT: Port = Port::Http;

    type Body = Frames;

    const HTTP2_ONLY: Option<&'static str> = None;

    const MAX_HEADER_LIST: u32 = 16 << 10;

    async fn answer(self, request: Request<Incoming>) -> Response<Frames> {
        // Over HTTP/1.1 the body is left away by itself.
        let is_head = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
        let response = handle(self.0, request).await;
        if is_head { without_body(response) } else { response }
    }
}

/// What `HEAD` gets: the headers that `GET` would.
fn without_body(mut response: Response<Frames>) -> Response<Frames> {
    let body = std::mem::take(response.body_mut());
    let length = hyper::body::Body::size_hint(&body).exact().unwrap_or_default();
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Answers one request.
async fn handle(app: Arc<App>, request: Request<Incoming>) -> Response<Frames> {
    let visit = Visit::begin(app.access, &request);
    let response = match answer(&app, request).await {
        Ok(response) => response,
        Err(error) => {
            log_failure(&error, None, None, &Span::none());
            refusal(&app, &error, Context::default())
        }
    };
    // What asks a model is told of by its span.
    if let Some(visit) = visit.filter(|_| response.extensions().get::<Sending>().is_none()) {
        visit.answered(response.status().as_u16());
    }
    // A client that is told so does not send its next request into a connection that is about to close.
    if app.server.is_stopping() { closing(response) } else { response }
}

async fn answer(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<Frames>> {
    let (head, incoming) = request.into_parts();
    let present = Present::of(&head.headers);
    if let Err(error) = check_head(&head, present) {
        return Ok(closing(refusal(app, &error, Context::default())));
    }
    if head.method == Method::OPTIONS {
        return options(head.uri.path());
    }
    let route = match route(&head.method, head.uri.path()) {
        Ok(route) => route,
        Err(error) => return Ok(lost(app, &error, head.uri.path())),
    };
    match route {
        Route::Model { name, version, verb } if verb.infers() => {
            let routed = match aliases::route(app, name, version, &head.headers) {
                Ok(routed) => routed,
                Err(error) => return Ok(lost(app, &error, head.uri.path())),
            };
            let (name, version) = match &routed {
                Some(routed) => (routed.to().model.as_str(), routed.to().version),
                None => (name, version),
            };
            let mut observed = app.server.observe(Protocol::Http, Some(name), version);
            let asked = Asked { head: &head, present, name, version, routed: routed.as_ref() };
            let span = infer::span(app, asked, verb);
            observed.set_trace(span.kept_trace());
            let answered = infer::answer(app, asked, verb, incoming, (&mut observed, &span)).await;
            let response = answered.unwrap_or_else(|error| {
                observed.refuse(&error);
                span.failed(&error);
                log_failure(&error, Some(name), None, &span);
                refusal(app, &error, Context { model: name, id: None })
            });
            end(observed, &response);
            Ok(span.answered(response))
        }
        // Apart, so that the future of what is asked most is no larger than it needs to be.
        route => Box::pin(other(app, &head, present, route, incoming)).await,
    }
}

/// Answers what asks no model for an answer.
async fn other(
    app: &Arc<App>,
    head: &Parts,
    present: Present<'_>,
    route: Route<'_>,
    incoming: Incoming,
) -> Result<Response<Frames>> {
    match route {
        Route::Live => is_well(app, &json!({ "live": true })),
        Route::Ready => ready(app, head.uri.query()),
        Route::Server => document(&verbs::server_metadata(app)),
        Route::AllStatistics => document(&json!({ "model_stats": verbs::statistics(app, "", None)? })),
        Route::Model { name, version, verb } => {
            let asked = Asked { head, present, name, version, routed: None };
            let answered = model(app, asked, verb, incoming).await;
            Ok(answered.unwrap_or_else(|error| {
                log_failure(&error, Some(name), None, &Span::none());
                refusal(app, &error, Context { model: name, id: None })
            }))
        }
        Route::TraceSetting => {
            document(&admin::trace(app, None, change(app, head, present, incoming).await?)?)
        }
        Route::Logging => document(&admin::log(app, change(app, head, present, incoming).await?)?),
        Route::Repository { repository, verb } => {
            let body = plain_body(app, present, incoming).await?;
            repository_verb(app, repository, verb, body).await
        }
        Route::Metrics => metrics::answer(app, &head.headers).await,
        Route::Residency => document(&residency::report(app)),
        Route::Aliases | Route::Alias(_) => aliases::answer(app, &route, (head, present), incoming).await,
        Route::OpenApi => document(&openapi::document(&verbs::ready_models(app))),
        Route::SharedMemory { kind, region, verb } => {
            let body = plain_body(app, present, incoming).await?;
            shared_memory(app, kind, region, verb, &body)
        }
        Route::Overview => document(&overview::overview(app)),
        Route::Page(path) => page(path),
    }
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
        RepositoryVerb::Keep(name, keep) => {
            verbs::check_repository(repository)?;
            residency::keep(app, name, keep).await?;
        }
    }
    Ok(respond(StatusCode::OK, JSON, Frames::default()))
}

/// The page that shows what may be asked, and what it is made of.
fn page(path: &str) -> Result<Response<Frames>> {
    let asset = page::asset(path).or_else(|| dashboard::asset(path));
    let (content_type, body) = asset.ok_or_else(|| crate::route::not_found(path))?;
    let mut response = respond(StatusCode::OK, HeaderValue::from_static(content_type), body.into());
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::CONTENT_SECURITY_POLICY));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A page and its parts belong to one version of the server.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
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
    present: Present<'a>,
    name: &'a str,
    version: Option<u64>,
    /// Where the alias leads that was asked for, if one was: to that name and version.
    routed: Option<&'a Routed>,
}

async fn model(app: &App, asked: Asked<'_>, verb: ModelVerb, incoming: Incoming) -> Result<Response<Frames>> {
    let Asked { head, present, name, version, .. } = asked;
    match verb {
        ModelVerb::Metadata => {
            app.server.loaded_model(name, version, None).await?;
            document(&verbs::model_metadata(app, name, version)?)
        }
        ModelVerb::Ready => {
            health::model_ready(app, name, version)?;
            is_well(app, &json!({ "name": name, "ready": true }))
        }
        ModelVerb::Explain => document(&explain::explain(app, name, version)?),
        ModelVerb::Recent => document(&overview::recent(app, name, version)?),
        ModelVerb::Statistics => document(&json!({ "model_stats": verbs::statistics(app, name, version)? })),
        ModelVerb::TraceSetting => {
            let traced = verbs::main_destination(app, name)?.model;
            document(&admin::trace(app, Some(&traced), change(app, head, present, incoming).await?)?)
        }
        ModelVerb::Config => {
            app.server.loaded_model(name, version, None).await?;
            document(&verbs::model_config(app, name, version)?)
        }
        ModelVerb::Infer | ModelVerb::Generate | ModelVerb::GenerateStream => {
            Err(Error::internal("a verb that infers is answered where its answer is counted"))
        }
    }
}

/// The body of a request that may change settings; `None` when it only asks for them.
async fn change(
    app: &App,
    head: &Parts,
    present: Present<'_>,
    incoming: Incoming,
) -> Result<Option<serde_json::Map<String, serde_json::Value>>> {
    if head.method != Method::POST {
        return Ok(None);
    }
    admin::object(&plain_body(app, present, incoming).await?).map(Some)
}

/// The body of a verb other than inference, which is never compressed.
async fn plain_body(app: &App, present: Present<'_>, incoming: Incoming) -> Result<Bytes> {
    if let Some(encoding) = content_encoding(present) {
        return Err(Error::at(
            ErrorKind::UnsupportedMedia,
            "Content-Encoding",
            format_args!("expected identity, got {}", axon::error::Echo(&encoding)),
        ));
    }
    check_content_type(present)?;
    body::read(incoming, app.body_limit, 0).await
}

/// Checks what hyper lets through and two readers could take differently, or one for too much.
fn check_head(head: &Parts, present: Present<'_>) -> Result<()> {
    let uri_length = head.uri.path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri_length > MAX_URI {
        return Err(Error::at(
            ErrorKind::UriTooLong,
            "path",
            format_args!("expected at most {MAX_URI} bytes, got {uri_length}"),
        ));
    }
    // HTTP/2 names the host beside the headers.
    let lacks_host = !present.has(Known::Host) && head.version == Version::HTTP_11;
    if present.repeats(Known::Host) || lacks_host {
        let hosts = head.headers.get_all(HOST).iter().count();
        return Err(Error::invalid("Host", format_args!("expected one Host header, got {hosts}")));
    }
    check_host(head.version, &head.uri, &head.headers)?;
    check_origin(head, present)?;
    if !present.has(Known::TransferEncoding) {
        return Ok(());
    }
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if encodings.next().is_some_and(|value| !chunked(value)) || encodings.next().is_some() {
        return Err(Error::invalid("Transfer-Encoding", "expected `chunked`, once"));
    }
    Ok(())
}

/// JSON, binary, or nothing said; `curl -d` says form, and means JSON.
fn check_content_type(present: Present<'_>) -> Result<()> {
    let Some(value) = present.get(Known::ContentType) else { return Ok(()) };
    if matches!(value.as_bytes(), b"application/json" | b"application/octet-stream") {
        return Ok(());
    }
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
fn content_encoding(present: Present<'_>) -> Option<String> {
    let value = present.get(Known::ContentEncoding)?;
    if present.repeats(Known::ContentEncoding) {
        return Some("several".to_owned());
    }
    let encoding = value.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    (encoding != "identity").then_some(encoding)
}

/// Whether the server is ready; with all that stands in its way where the query asks for it.
fn ready(app: &App, query: Option<&str>) -> Result<Response<Frames>> {
    if !health::is_verbose(query)? {
        return verbs::ready(app).and_then(|()| is_well(app, &json!({ "ready": true })));
    }
    let (is_ready, report) = health::report(app);
    let mut response = document(&report)?;
    if !is_ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// What a check of health is told. The client of `KServe` reads it; Triton says nothing.
fn is_well(app: &App, said: &serde_json::Value) -> Result<Response<Frames>> {
    match app.compat {
        Compat::Native => document(said),
        Compat::Triton => Ok(respond(StatusCode::OK, JSON, Frames::default())),
    }
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

/// Counts how a request for inference was answered.
fn end(observed: Observed, response: &Response<Frames>) {
    let length = hyper::body::Body::size_hint(response.body()).lower();
    observed.end(Code::http(response.status().as_u16()), usize::try_from(length).unwrap_or(usize::MAX));
}

/// The answer of a path that names no verb, or not with this method. One that was meant for a model counts as a request
/// for inference all the same.
fn lost(app: &App, error: &Error, path: &str) -> Response<Frames> {
    let response = refusal_with_allow(app, error, path);
    let verb = path.rsplit('/').next().unwrap_or_default();
    if path.starts_with("/v2/models/") && matches!(verb, "infer" | "generate" | "generate_stream") {
        let (name, version) = match crate::route::parse(path) {
            Ok(Route::Model { name, version, .. }) => (Some(name), version),
            _ => (None, None),
        };
        let mut observed = app.server.observe(Protocol::Http, name, version);
        observed.refuse(error);
        end(observed, &response);
    }
    response
}

fn refusal_with_allow(app: &App, error: &Error, path: &str) -> Response<Frames> {
    let mut response = refusal(app, error, Context::default());
    if let (ErrorKind::MethodNotAllowed, Ok(route)) = (error.kind(), crate::route::parse(path)) {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
    }
    response
}
