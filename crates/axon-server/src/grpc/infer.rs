//! `ModelInfer`: one question, one answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axon::alias::Routed;
use axon::metrics::{Code, Observed, Protocol};
use axon::request::{InferenceRequest, Timing};
use axon::{Error, Result};
use bytes::{Bytes, BytesMut};
use hyper::Response;
use hyper::header::HeaderValue;
use prost::encoding::{WireType, encode_key, encode_varint};
use synapse::Memory;

use super::body::{self, GrpcBody};
use super::wire::Messages;
use super::{COPY_LIMIT, Call, calls, decode, refusal, respond, status};
use crate::aliases;
use crate::app::{App, log_failure, off_the_wire};
use crate::codec::{self, Decoded, OutputFormat};
use crate::compat::Context;
use crate::proto::inference::{ModelInferRequest, ModelInferResponse};
use crate::timing;
use crate::trace::{Caller, Entry, Span};

/// Messages of more bytes than this are read on another thread: they take a millisecond or more.
const INLINE: usize = 4 << 20;

/// The number of the field of raw contents, which is written here: it is the last of the message.
const RAW_OUTPUT_CONTENTS: u32 = 6;

/// The longest key and length of a field.
const MAX_TAG: usize = 11;

/// A request and what its answer needs beside the model's.
pub(super) struct Question {
    pub request: InferenceRequest,
    pub id: Option<String>,
    pub format: OutputFormat,
    /// The alias that has led to the model, if one has.
    pub routed: Option<Routed>,
}

/// A message that came, and the alias that has led to the model that it names now, if one has.
pub(super) type Come = (Result<ModelInferRequest>, Option<Routed>);

/// Has a message that asks an alias ask the target that is chosen for it.
pub(super) fn route(app: &App, message: Result<ModelInferRequest>, call: &Call) -> Come {
    let mut message = match message {
        Ok(message) => message,
        Err(error) => return (Err(error), None),
    };
    // What is no version is refused later on.
    let Ok(version) = calls::parse(&message.model_version) else { return (Ok(message), None) };
    match app.server.route(&message.model_name, version, call.key.as_deref()) {
        Ok(routed) => {
            if let Some(to) = routed.as_ref().map(Routed::to) {
                message.model_name.clone_from(&to.model);
                message.model_version = to.version.map(|version| version.to_string()).unwrap_or_default();
            }
            (Ok(message), routed)
        }
        Err(error) => (Err(error), None),
    }
}

/// Reads a question of `length` bytes; it waits for the shorter of its own timeout and the call's.
pub(super) async fn read(
    app: &App,
    mut message: ModelInferRequest,
    length: usize,
    routed: Option<Routed>,
    timeout: Option<Duration>,
) -> Result<Question> {
    let model = std::mem::take(&mut message.model_name);
    axon::repository::check_name(&model)?;
    let version = calls::parse(&message.model_version)?;
    let decoded = app.decode(length > INLINE, move |options| codec::decode_message(message, options)).await?;
    let Decoded { inputs, outputs, timeout: own, id, format, priority, sequence, parameters } = decoded;
    let timeout = match (own, timeout) {
        (Some(own), Some(call)) => Some(own.min(call)),
        (own, call) => own.or(call),
    };
    let request =
        InferenceRequest { model, version, inputs, outputs, timeout, priority, sequence, parameters };
    Ok(Question { request, id, format, routed })
}

/// A model's answer.
pub(super) struct Answered {
    /// Without its raw contents.
    pub message: ModelInferResponse,
    pub raw: Vec<Memory>,
    pub timing: Timing,
    /// The model and version that answered a request for an alias.
    pub by: Option<HeaderValue>,
}

/// Asks a model.
pub(super) async fn ask(
    app: &App,
    question: Question,
    observed: &mut Observed,
    span: &Span,
) -> Result<Answered> {
    let Question { request, id, format, routed } = question;
    let response = app.ask(request, routed.as_ref(), observed, span).await?;
    let (is_long, timing) = (format.shared_bytes(&response) > INLINE, response.timing);
    let labelled = app.labelled(&format, &response);
    let by = routed.map(|_| aliases::answered_by(&response));
    let encode = move || {
        let labels = |output: &str| labelled.as_ref().and_then(|model| model.labels(output));
        codec::encode_message(response, id, &format, &labels)
    };
    let (message, raw) = off_the_wire(is_long, encode).await?;
    Ok(Answered { message, raw, timing, by })
}

/// Writes the raw contents behind the rest of the message, without copying them.
pub(super) fn encode(message: &ModelInferResponse, raw: Vec<Memory>) -> Result<(BytesMut, Vec<Bytes>)> {
    let length: usize = raw.iter().map(|raw| raw.len()).sum();
    let mut head = body::encode(message, MAX_TAG * raw.len() + length.min(COPY_LIMIT))?;
    let mut tail = Vec::with_capacity(2 * raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let mut tag = BytesMut::new();
        let place = if index == 0 { &mut head } else { &mut tag };
        encode_key(RAW_OUTPUT_CONTENTS, WireType::LengthDelimited, place);
        encode_varint(raw.len() as u64, place);
        if index > 0 {
            tail.push(tag.freeze());
        }
        tail.push(Bytes::from_owner(raw));
    }
    Ok((head, tail))
}

/// Counts a question that has come whole; one that is no question counts for no model.
pub(super) fn observe(app: &App, message: Result<&ModelInferRequest, &Error>, length: usize) -> Observed {
    let (name, version) = match message {
        // A version that is none is refused later on; it is no other version's request.
        Ok(message) => match calls::parse(&message.model_version) {
            Ok(version) => (Some(message.model_name.as_str()), version),
            Err(_) => (None, None),
        },
        Err(_) => (None, None),
    };
    let mut observed = app.server.observe(Protocol::Grpc, name, version);
    observed.arrive(length);
    if let Err(error) = message {
        observed.refuse(error);
    }
    observed
}

pub(super) async fn answer(app: &Arc<App>, messages: Messages, call: &Call) -> Result<Response<GrpcBody>> {
    let entered = app.enter();
    let message = match &entered {
        Ok(_) => only(messages).await,
        Err(error) => Err(error.clone()),
    };
    let (length, message) = match message {
        Ok((length, message)) => (length, Ok(message)),
        Err(error) => (0, Err(error)),
    };
    let (message, routed) = route(app, message, call);
    let mut observed = observe(app, message.as_ref(), length);
    let about = message.as_ref().map(|message| (message.model_name.clone(), message.id.clone()));
    let (model, id) = about.unwrap_or_default();
    let span = match &message {
        Ok(message) => span(app, call.caller.clone(), call.came, "ModelInfer", message),
        Err(_) => Span::none(),
    };
    observed.set_trace(span.kept_trace());
    let answered = match message {
        Ok(message) => tell(app, (message, length, routed), call, &mut observed, &span).await,
        Err(error) => Err(error),
    };
    let mut response = answered.unwrap_or_else(|error| {
        observed.refuse(&error);
        span.failed(&error);
        let id = (!id.is_empty()).then_some(id.as_str());
        log_failure(&error, Some(model.as_str()).filter(|model| !model.is_empty()), id, &span);
        let context = Context { model: &model, id };
        refusal(app.compat, &error, context)
    });
    let (code, bytes) = match response.body() {
        GrpcBody::Ready(frames, Some(_)) => (0, frames.iter().map(Bytes::len).sum()),
        _ => (status::read(response.headers()), 0),
    };
    observed.end(Code::grpc(code), bytes);
    match response.body_mut() {
        GrpcBody::Ready(_, Some(trailers)) => span.ending(trailers),
        _ => span.ending(response.headers_mut()),
    }
    span.ride(&mut response);
    Ok(response)
}

/// The span of a question that came at `came`.
pub(super) fn span(
    app: &App,
    caller: Caller,
    came: Instant,
    method: &'static str,
    message: &ModelInferRequest,
) -> Span {
    let ModelInferRequest { model_name, id, .. } = message;
    let span = Span::begin(app, caller, came, model_name, Entry::Grpc { method });
    span.named((!id.is_empty()).then_some(id));
    span
}

/// The only message of a call, and its length.
async fn only(mut messages: Messages) -> Result<(usize, ModelInferRequest)> {
    let message = messages.only().await?;
    Ok((message.len(), decode(message)?))
}

/// The answer to a message of so many bytes.
async fn tell(
    app: &App,
    (message, length, routed): (ModelInferRequest, usize, Option<Routed>),
    call: &Call,
    observed: &mut Observed,
    span: &Span,
) -> Result<Response<GrpcBody>> {
    let question = read(app, message, length, routed, call.timeout).await?;
    let Answered { message, raw, timing, by } = ask(app, question, observed, span).await?;
    let (message, tail) = encode(&message, raw)?;
    let mut response = respond(call, message, tail)?;
    if let GrpcBody::Ready(_, Some(trailers)) = response.body_mut() {
        timing::insert(trailers, &timing);
        aliases::insert(trailers, by);
    }
    Ok(response)
}
