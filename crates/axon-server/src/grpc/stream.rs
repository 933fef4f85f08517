//! `ModelStreamInfer`: questions and answers as they come, answers in the order of their questions.
//!
//! A bad question is answered with an error of its own, and the stream goes on; with the metadata
//! `triton_grpc_error: true` it ends with the error as its status. At most [`MAX_OPEN`] questions are open at once: more
//! are not read until an answer has been written.
//!
//! The stream has a span, whose context goes back with the first headers. Each question has one below it, or below the
//! span that the question's own parameters `traceparent` and `tracestate` name; its answer has such parameters then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axon::alias::Routed;
use axon::metrics::{Code, Observed};
use axon::{Error, Result};
use bytes::Bytes;
use hyper::Response;
use hyper::body::Frame;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::body::{self, GrpcBody, Stream};
use super::wire::Messages;
use super::{Call, headers, infer, status};
use crate::app::{App, log_failure};
use crate::compat::{self, Compat, Context};
use crate::proto::inference::infer_parameter::ParameterChoice;
use crate::proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use crate::trace::{Caller, Entry, Span};

/// The call's name in spans.
const STREAM: &str = "ModelStreamInfer";

/// The most questions of one stream that are being answered.
const MAX_OPEN: usize = 64;

/// The parameter that says that no more answers to the question will come.
const FINAL: &str = "triton_final_response";

/// The parameters that say to which trace a question belongs, and its answer.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// A question that is being answered; it is taken back when this is dropped.
struct Asked {
    model: String,
    id: String,
    span: Arc<Span>,
    /// The answer says in its parameters to which trace it belongs, since the question does.
    tells_trace: bool,
    answer: JoinHandle<Result<ModelInferResponse>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

pub(super) fn answer(app: &Arc<App>, messages: Messages, mut call: Call) -> Result<Response<GrpcBody>> {
    if app.server.is_stopping() {
        return Err(Error::shutting_down());
    }
    let (sender, frames) = mpsc::channel(1);
    let span = Span::begin(app, call.caller.clone(), call.came, "", Entry::Stream);
    let mut headers = headers(&call);
    span.tell(&mut headers);
    call.caller = span.within();
    let task = tokio::spawn(run(Arc::clone(app), messages, (call, span), sender)).abort_handle();
    let mut response = Response::new(GrpcBody::Stream(Stream { frames, task }));
    *response.headers_mut() = headers;
    Ok(response)
}

async fn run(
    app: Arc<App>,
    messages: Messages,
    (call, span): (Call, Span),
    frames: mpsc::Sender<Frame<Bytes>>,
) {
    let (call, compat) = (Arc::new(call), app.compat);
    let (asked, mut answers) = mpsc::channel(MAX_OPEN);
    let reading = AbortOnDrop(tokio::spawn(read(app, messages, Arc::clone(&call), asked)).abort_handle());
    let mut end = Ok(());
    while let Some(next) = answers.recv().await {
        let written = match next {
            Ok(asked) => write(compat, &call, asked, &frames).await,
            Err(error) => Err(Some(error)),
        };
        match written {
            Ok(()) => {}
            Err(Some(error)) => {
                end = Err(error);
                break;
            }
            // The caller has gone.
            Err(None) => return,
        }
    }
    drop(reading);
    span.told(&end);
    let trailers =
        end.map_or_else(|error| status::failed(compat, &error, Context::default()), |()| status::ok());
    // A caller that has gone does not want it any more.
    let _ = frames.send(Frame::trailers(trailers)).await;
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads questions and has them answered, until the caller has no more or breaks the framing, or the server ends.
async fn read(app: Arc<App>, mut messages: Messages, call: Arc<Call>, asked: mpsc::Sender<Result<Asked>>) {
    let mut finishing = app.finishing.clone();
    loop {
        let next = tokio::select! {
            biased;
            // A caller that has nothing to ask now must not hold up the shutdown.
            _ = finishing.wait_for(|finishing| *finishing) => Err(Error::shutting_down()),
            message = messages.next() => match message {
                Ok(Some(message)) => Ok(ask(&app, message, &call)),
                Ok(None) => return,
                Err(error) => Err(error),
            },
        };
        let is_last = next.is_err();
        if asked.send(next).await.is_err() || is_last {
            return;
        }
    }
}

/// Begins to answer a question.
fn ask(app: &Arc<App>, message: Bytes, call: &Call) -> Asked {
    let (app, timeout, length) = (Arc::clone(app), call.timeout, message.len());
    let (message, routed) = infer::route(&app, super::decode(message), call);
    let about = |message: &ModelInferRequest| (message.model_name.clone(), message.id.clone());
    let (model, id) = message.as_ref().map(about).unwrap_or_default();
    let tells_trace = message.as_ref().is_ok_and(|message| message.parameters.contains_key(TRACEPARENT));
    let mut observed = infer::observe(&app, message.as_ref(), length);
    let span = match &message {
        Ok(message) => infer::span(&app, caller(call, message), Instant::now(), STREAM, message),
        Err(_) => Span::none(),
    };
    observed.set_trace(span.kept_trace());
    let span = Arc::new(span);
    let asked = Arc::clone(&span);
    let answer = tokio::spawn(async move {
        let answered = match message {
            Ok(message) => tell(&app, (message, length, routed), timeout, &mut observed, &asked).await,
            Err(error) => Err(error),
        };
        let (code, bytes) = match &answered {
            Ok(message) => (0, message.encoded_len()),
            Err(error) => {
                observed.refuse(error);
                asked.failed(error);
                (status::code(app.compat, error), 0)
            }
        };
        observed.end(Code::grpc(code), bytes);
        answered
    });
    Asked { model, id, span, tells_trace, answer }
}

/// Who asks a question: whom its own parameters name, or else its stream.
fn caller(call: &Call, message: &ModelInferRequest) -> Caller {
    let text = |name: &str| match message.parameters.get(name)?.parameter_choice.as_ref()? {
        ParameterChoice::StringParam(text) => Some(text.as_str()),
        _ => None,
    };
    let own = text(TRACEPARENT).map(|parent| Caller::of_texts(parent, text(TRACESTATE)));
    own.filter(|own| own.context.is_some()).unwrap_or_else(|| call.caller.clone())
}

fn text_parameter(text: String) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(text)) }
}

/// The answer to a question of so many bytes.
async fn tell(
    app: &App,
    (message, length, routed): (ModelInferRequest, usize, Option<Routed>),
    timeout: Option<Duration>,
    observed: &mut Observed,
    span: &Span,
) -> Result<ModelInferResponse> {
    let _guard = app.enter()?;
    let question = infer::read(app, message, length, routed, timeout).await?;
    let infer::Answered { mut message, raw, .. } = infer::ask(app, question, observed, span).await?;
    let choice = Some(ParameterChoice::BoolParam(true));
    message.parameters.insert(FINAL.to_owned(), InferParameter { parameter_choice: choice });
    message.raw_output_contents = raw.into_iter().map(Bytes::from_owner).collect();
    Ok(message)
}

/// Writes the answer to one question; fails with the error that ends the stream, or `None` when the caller has gone.
async fn write(
    compat: Compat,
    call: &Call,
    mut asked: Asked,
    frames: &mpsc::Sender<Frame<Bytes>>,
) -> Result<(), Option<Error>> {
    let answer = (&mut asked.answer).await.unwrap_or_else(|error| Err(Error::internal(error)));
    asked.span.told(&answer);
    if let Err(error) = &answer {
        let [model, id] =
            [&asked.model, &asked.id].map(|text| Some(text.as_str()).filter(|text| !text.is_empty()));
        log_failure(error, model, id, &asked.span);
    }
    let (error_message, mut response) = match answer {
        Ok(response) => (String::new(), response),
        Err(error) if call.error_ends_stream => return Err(Some(error)),
        Err(error) => {
            // An id that is refused is not echoed.
            let id = Some(std::mem::take(&mut asked.id)).filter(|id| crate::codec::check_id(id).is_ok());
            let id = id.unwrap_or_default();
            let text = text(compat, &error, &asked.model, &id);
            (text, ModelInferResponse { id, ..ModelInferResponse::default() })
        }
    };
    if asked.tells_trace {
        let told = asked.span.texts().map(|(name, text)| (name.to_owned(), text_parameter(text)));
        response.parameters.extend(told);
    }
    let message = ModelStreamInferResponse { error_message, infer_response: Some(response) };
    let message = body::encode(&message, 0).map_err(Some)?;
    for frame in super::frames(call, message, Vec::new()).map_err(Some)? {
        frames.send(Frame::data(frame)).await.map_err(|_| None)?;
    }
    Ok(())
}

fn text(compat: Compat, error: &Error, model: &str, id: &str) -> String {
    let id = (!id.is_empty()).then_some(id);
    match compat {
        Compat::Native => error.message().to_owned(),
        Compat::Triton => compat::triton(error, Context { model, id }).text,
    }
}
