//! The span of one request, from its first byte to the last of its answer.
//!
//! What is noted while it goes on costs a lock that nobody else holds and a few copies; the spans are made of it later,
//! by the exporter. Where nothing is traced there is nothing to note, and nothing is allocated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axon::error::Error;
use axon::request::{InferenceRequest, InferenceResponse, Inputs, Timing};
use hyper::Response;
use hyper::header::{HeaderMap, HeaderValue};
use synapse::Tensor;

use super::Tracer;
use super::context::{Caller, RANDOM, SAMPLED, SpanContext, TRACEPARENT, TRACESTATE};
use super::sampling::{Level, Policy};
use crate::status::{grpc_code, status_of};

/// What was asked, by which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A verb over HTTP, as its path ends.
    Http { verb: &'static str, version: Option<u64>, is_http2: bool },
    /// A call of the inference service.
    Grpc { method: &'static str },
}

impl Entry {
    /// Whether an answer's status says that the server is to blame, and not the caller.
    /// **Source:** OpenTelemetry's semantic conventions for spans of HTTP and gRPC servers.
    fn is_failure(self, status: u16) -> bool {
        match self {
            Self::Http { .. } => status >= 500,
            Self::Grpc { .. } => matches!(status, 2 | 4 | 12..=15),
        }
    }
}

/// A request that may be traced. Its span ends when this is dropped.
pub(crate) struct Span {
    caller: Caller,
    live: Option<Box<Live>>,
}

/// A request that is traced.
struct Live {
    tracer: Arc<Tracer>,
    policy: Arc<Policy>,
    context: SpanContext,
    started: Instant,
    model: String,
    entry: Entry,
    notes: Mutex<Notes>,
}

/// What is noted of a request while it goes on.
#[derive(Default)]
pub(super) struct Notes {
    pub id: Option<String>,
    /// When it had been read.
    pub received: Option<Instant>,
    pub answer: Option<Answer>,
    pub failure: Option<Failure>,
    /// The status of HTTP or gRPC that was sent; none when nobody waited for it any more.
    pub status: Option<u16>,
    /// The caller's tensors and the model's, each described; where the level asks for it.
    pub tensors: [Vec<String>; 2],
}

/// What a model answered.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub at: Instant,
    pub version: u64,
    pub timing: Timing,
}

pub(super) struct Failure {
    /// The protocol's code of its kind.
    pub code: &'static str,
    pub message: String,
}

/// A request that has ended and is kept.
pub(super) struct Finished {
    pub context: SpanContext,
    pub caller: Caller,
    pub started: Instant,
    pub ended: Instant,
    pub model: String,
    pub entry: Entry,
    pub is_failure: bool,
    pub notes: Notes,
}

impl Finished {
    /// How many spans it becomes, its share of a batch's left out.
    pub fn spans(&self) -> u64 {
        let run = self.notes.answer.map_or(0, |answer| 1 + 2 * u64::from(answer.timing.run.is_some()));
        1 + u64::from(self.notes.received.is_some()) + run
    }
}

impl Span {
    /// Begins the span of a request to `model` that came at `started`.
    pub fn begin(
        tracer: Option<&Arc<Tracer>>,
        caller: Caller,
        started: Instant,
        model: &str,
        entry: Entry,
    ) -> Self {
        let live = tracer.and_then(|tracer| {
            let policy = tracer.policies.of(model);
            if policy.level == Level::Off {
                return None;
            }
            let (trace, inherited) = match caller.context {
                Some(caller) => (caller.trace, caller.flags & RANDOM),
                None => (tracer.ids.trace(), RANDOM),
            };
            let sampled = if policy.samples(caller.context, trace) { SAMPLED } else { 0 };
            let context = SpanContext { trace, span: tracer.ids.span(), flags: inherited | sampled };
            let (tracer, model, notes) = (Arc::clone(tracer), model.to_owned(), Mutex::default());
            Some(Box::new(Live { tracer, policy, context, started, model, entry, notes }))
        });
        Self { caller, live }
    }

    /// Of a request that nobody traces.
    pub fn none() -> Self {
        Self { caller: Caller::default(), live: None }
    }

    /// What logs and exemplars name: the request's own span, or else its caller's.
    pub fn context(&self) -> Option<SpanContext> {
        self.live.as_ref().map_or(self.caller.context, |live| Some(live.context))
    }

    /// The caller's own id of the request.
    pub fn named(&self, id: Option<&str>) {
        if let Some(live) = &self.live {
            live.notes().id = id.map(str::to_owned);
        }
    }

    /// The request has been read.
    pub fn received(&self, request: &InferenceRequest) {
        let Some(live) = &self.live else { return };
        let described = match &request.inputs {
            _ if live.policy.level != Level::Tensors => Vec::new(),
            Inputs::One(tensor) => vec![describe("", tensor)],
            Inputs::Named(named) => named.iter().map(|one| describe(&one.name, &one.tensor)).collect(),
        };
        let mut notes = live.notes();
        notes.received = Some(Instant::now());
        notes.tensors[0] = described;
    }

    /// The model has answered.
    pub fn ran(&self, response: &InferenceResponse) {
        let Some(live) = &self.live else { return };
        let outputs = response.outputs.iter().filter(|_| live.policy.level == Level::Tensors);
        let described = outputs.map(|output| describe(&output.name, &output.tensor)).collect();
        let mut notes = live.notes();
        notes.tensors[1] = described;
        let InferenceResponse { version, timing, .. } = *response;
        notes.answer = Some(Answer { at: Instant::now(), version, timing });
    }

    /// The request is refused or has failed.
    pub fn failed(&self, error: &Error) {
        let Some(live) = &self.live else { return };
        let failure = Failure { code: status_of(error.kind()).1, message: error.message().to_owned() };
        live.notes().failure = Some(failure);
    }

    /// Tells the caller of the span in a response, which carries it until it has been written.
    pub fn answered<B>(self, mut response: Response<B>) -> Response<B> {
        self.tell(response.headers_mut());
        self.ends_with(response.status().as_u16());
        self.ride(&mut response);
        response
    }

    /// The same for a unary call of gRPC; `ending` is the headers or trailers that its status is in.
    pub fn ending(&self, ending: &mut HeaderMap) {
        self.tell(ending);
        let status = ending.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        self.ends_with(status.unwrap_or_default());
    }

    /// Goes with a response until it has been written.
    pub fn ride<B>(self, response: &mut Response<B>) {
        if self.live.is_some() {
            response.extensions_mut().insert(Sending(Arc::new(self)));
        }
    }

    /// The answer, or why there is none, of one question of a stream.
    pub fn told<T>(&self, answer: &Result<T, Error>) {
        match answer {
            Ok(_) => self.ends_with(0),
            Err(error) => {
                self.failed(error);
                self.ends_with(u16::try_from(grpc_code(error.kind())).unwrap_or_default());
            }
        }
    }

    fn ends_with(&self, status: u16) {
        if let Some(live) = &self.live {
            live.notes().status = Some(status);
        }
    }

    fn tell(&self, headers: &mut HeaderMap) {
        let Some(context) = self.context() else { return };
        if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        if let Some(state) = &self.caller.state {
            headers.insert(TRACESTATE, state.clone());
        }
    }
}

/// A span that lasts until its answer has been written.
#[derive(Clone)]
pub(crate) struct Sending(#[expect(dead_code, reason = "it is held for its end")] Arc<Span>);

impl Live {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        let Live { tracer, policy, mut context, started, model, entry, notes } = *live;
        let notes = notes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = Instant::now();
        let is_failure = notes.status.is_some_and(|status| entry.is_failure(status));
        let by_tail = !context.is_sampled();
        if by_tail && !(tracer.tail.wants(ended - started, is_failure) && policy.take()) {
            return;
        }
        context.flags |= SAMPLED;
        let caller = std::mem::take(&mut self.caller);
        let finished = Finished { context, caller, started, ended, model, entry, is_failure, notes };
        tracer.keep(finished, by_tail);
    }
}

/// A tensor as `name datatype [shape]`.
fn describe(name: &str, tensor: &Tensor) -> String {
    format!("{name} {} {:?}", tensor.datatype().name(), &tensor.shape()[..])
}
