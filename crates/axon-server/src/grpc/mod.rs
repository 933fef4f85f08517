//! The protocol over gRPC: `inference.GRPCInferenceService`, health, reflection, and what Axon says of itself.
//!
//! Calls come as HTTP/2 requests from `connection`; their framing is `wire`'s, so that limits hold before a message is
//! decoded, an error has its own status, and a tensor is not copied. Each verb's body is shared with HTTP.

mod body;
mod calls;
mod health;
mod infer;
mod reflection;
mod status;
mod stream;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use axon::error::Echo;
use axon::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use prost::Message;

use crate::access::Visit;
use crate::aliases;
use crate::app::{App, log_failure};
use crate::codec::{self, Encoding};
use crate::compat::{Compat, Context};
use crate::connection::{Answer, Port};
use crate::host::check_host;
use crate::proto::health::HealthCheckRequest;
use crate::trace::{Caller, Sending, Span};
use body::GrpcBody;
use calls::Verb;
use wire::Messages;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODINGS: HeaderValue = HeaderValue::from_static("identity,gzip,deflate");

/// The service of the protocol, and those beside it.
const INFERENCE: &str = "inference.GRPCInferenceService";
const HEALTH: &str = "grpc.health.v1.Health";
const INTROSPECTION: &str = "axon.Introspection";

/// Answers the requests of the gRPC port.
#[derive(Clone)]
pub(crate) struct Grpc {
    app: Arc<App>,
    reflection: reflection::Reflection,
}

impl Grpc {
    pub fn new(app: Arc<App>) -> Result<Self> {
        Ok(Self { app, reflection: reflection::Reflection::new()? })
    }
}

impl Answer for Grpc {
    const PORT: Port = Port::Grpc;

    type Body = GrpcBody;

    const HTTP2_ONLY: Option<&'static str> = Some(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 53\r\n\r\n\
         this port speaks gRPC: expected HTTP/2, got HTTP/1.1\n",
    );

    // Far more than is taken: what is refused as HTTP is an unknown error to a client of gRPC.
    const MAX_HEADER_LIST: u32 = (1 << 20) + (16 << 10);

    async fn answer(self, request: Request<Incoming>) -> Response<GrpcBody> {
        if request.method() != Method::POST || !wire::is_grpc(request.headers()) {
            let mut response = Response::new(GrpcBody::Ready([].into(), None));
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        if let Err(error) = check_host(request.version(), request.uri(), request.headers()) {
            let mut response = refusal(self.app.compat, &error, Context::default());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        }
        if reflection::is_asked(request.uri().path()) {
            let checked = wire::check_metadata(request.headers()).and(wire::timeout(request.headers()));
            return match checked {
                Ok(_) => Box::pin(self.reflection.answer(request)).await,
                Err(error) => refusal(self.app.compat, &error, Context::default()),
            };
        }
        let visit = Visit::begin(self.app.access, &request);
        let response = match call(&self.app, request).await {
            Ok(response) => response,
            Err(error) => {
                log_failure(&error, None, None, &Span::none());
                refusal(self.app.compat, &error, Context::default())
            }
        };
        // What asks a model is told of by its span.
        if let Some(visit) = visit.filter(|_| response.extensions().get::<Sending>().is_none()) {
            visit.ended(response.body().trailers().unwrap_or(response.headers()));
        }
        response
    }
}

/// What a call's headers say.
struct Call {
    /// How the answers are compressed.
    encoding: Option<Encoding>,
    timeout: Option<std::time::Duration>,
    /// A stream ends with the first error, instead of going on.
    error_ends_stream: bool,
    caller: Caller,
    /// By which an alias chooses a target.
    key: Option<Vec<u8>>,
    /// When its headers had come.
    came: Instant,
}

async fn call(app: &Arc<App>, request: Request<Incoming>) -> Result<Response<GrpcBody>> {
    let (head, incoming) = request.into_parts();
    let verb = verb(head.uri.path())?;
    wire::check_metadata(&head.headers)?;
    let error_ends_stream =
        head.headers.get("triton_grpc_error").is_some_and(|value| value.as_bytes() == b"true");
    let encoding = wire::encoding(&head.headers)?;
    let call = Call {
        encoding: encoding.filter(|&encoding| wire::is_accepted(&head.headers, encoding)),
        timeout: wire::timeout(&head.headers)?,
        error_ends_stream,
        caller: Caller::of(&head.headers),
        key: if app.server.has_aliases() { aliases::key(&head.headers)?.map(<[u8]>::to_vec) } else { None },
        came: Instant::now(),
    };
    let mut messages = Messages::new(incoming, encoding, app.body_limit);
    match verb {
        Verb::ModelStreamInfer => stream::answer(app, messages, call),
        Verb::ModelInfer => infer::answer(app, messages, &call).await,
        Verb::HealthWatch => {
            let _: HealthCheckRequest = decode(messages.only().await?)?;
            Ok(health::watch(app, call))
        }
        verb => {
            let message = messages.only().await?;
            // Apart, so that the future of what is asked most, which is moved to a task of its own, is no larger than it
            // needs to be.
            let answer = Box::pin(calls::answer(app, verb, message)).await?;
            respond(&call, answer, Vec::new())
        }
    }
}

fn verb(path: &str) -> Result<Verb> {
    let unknown = |what: &str, name: &str| {
        Error::at(
            ErrorKind::Unimplemented,
            "method",
            format_args!("{} has no {what} {}", Echo(path), Echo(name)),
        )
    };
    let (service, method) =
        path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or(("", path));
    let verb = match service {
        INFERENCE => Verb::of_inference(method),
        HEALTH => Verb::of_health(method),
        INTROSPECTION => (method == "ModelExplain").then_some(Verb::ModelExplain),
        _ => return Err(unknown("service", service)),
    };
    verb.ok_or_else(|| unknown("method", method))
}

/// Decodes a message.
fn decode<M: Message + Default>(message: Bytes) -> Result<M> {
    M::decode(message).map_err(|error| {
        let name = std::any::type_name::<M>().rsplit(':').next().unwrap_or_default();
        Error::invalid("message", format_args!("decode error: expected a {name}, got {error}"))
    })
}

/// The largest message that is written as one piece; more is written as it lies in memory.
const COPY_LIMIT: usize = 32 << 10;

/// A unary call's answer: a message with room for its prefix, whose end is `tail`.
fn respond(call: &Call, message: BytesMut, tail: Vec<Bytes>) -> Result<Response<GrpcBody>> {
    let frames = frames(call, message, tail)?;
    let mut response = Response::new(GrpcBody::Ready(frames, Some(status::ok())));
    *response.headers_mut() = headers(call);
    Ok(response)
}

fn frames(call: &Call, message: BytesMut, tail: Vec<Bytes>) -> Result<VecDeque<Bytes>> {
    match call.encoding {
        Some(encoding) => compressed(encoding, &message, &tail),
        None => Ok(body::frames(message, tail, COPY_LIMIT)),
    }
}

fn headers(call: &Call) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(wire::ACCEPT_ENCODING, ENCODINGS);
    if let Some(encoding) = call.encoding {
        headers.insert(wire::ENCODING, HeaderValue::from_static(encoding.name()));
    }
    headers
}

/// A message as the wire has it, compressed as the caller's own are.
fn compressed(encoding: Encoding, message: &[u8], tail: &[Bytes]) -> Result<VecDeque<Bytes>> {
    let message = message.get(wire::PREFIX..).unwrap_or_default();
    let pieces = std::iter::once(message).chain(tail.iter().map(|piece| &piece[..]));
    let message = codec::compress(pieces, encoding)?;
    let length = u32::try_from(message.len()).map_err(Error::internal)?;
    let mut prefix = BytesMut::with_capacity(wire::PREFIX);
    prefix.extend_from_slice(&[1]);
    prefix.extend_from_slice(&length.to_be_bytes());
    Ok(VecDeque::from([prefix.freeze(), message.into()]))
}

/// The answer of a call that fails before it has answered anything.
fn refusal(compat: Compat, error: &Error, context: Context<'_>) -> Response<GrpcBody> {
    let mut response = Response::new(GrpcBody::Ready([].into(), None));
    *response.headers_mut() = status::failed(compat, error, context);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response.headers_mut().insert(wire::ACCEPT_ENCODING, ENCODINGS);
    response
}
