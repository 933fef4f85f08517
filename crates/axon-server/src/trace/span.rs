//! The span of one request, from its first byte to the last of its answer.
//!
//! What is noted while it goes on costs a lock that nobody else holds and a few copies; the spans are made of it later,
//! by the exporter. Where nothing is traced there is nothing to note, and nothing is allocated.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axon::error::Error;
use axon::metrics::Outcome;
use axon::request::{CacheUse, InferenceRequest, InferenceResponse, Inputs, Timing};
use hyper::Response;
use hyper::header::{HeaderMap, HeaderValue};
use synapse::Tensor;

use super::context::{Caller, RANDOM, SAMPLED, SpanContext, TRACEPARENT, TRACESTATE};
use super::sampling::{Level, Policy};
use super::{IDS, Tracer};
use crate::access::{self, AccessLog};
use crate::app::App;
use crate::logging;
use crate::status::{grpc_code, status_of};

/// What was asked, by which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A verb over HTTP, as its path ends.
    Http { verb: &'static str, version: Option<u64>, is_http2: bool, is_tls: bool },
    /// A call of the inference service, or one question of a stream.
    Grpc { method: &'static str },
    /// A stream of questions, from its first byte to its last.
    Stream,
}

impl Entry {
    /// Whether an answer's status says that the server is to blame, and not the caller.
    /// **Source:** OpenTelemetry's semantic conventions for spans of HTTP and gRPC servers.
    fn is_failure(self, status: u16) -> bool {
        match self {
            Self::Http { .. } => status >= 500,
            Self::Grpc { .. } | Self::Stream => matches!(status, 2 | 4 | 12..=15),
        }
    }

    /// Whether an answer's status says that the request was refused or failed.
    fn is_error(self, status: u16) -> bool {
        match self {
            Self::Http { .. } => status >= 400,
            Self::Grpc { .. } | Self::Stream => status != 0,
        }
    }

    /// The protocol, and what was asked of `model`.
    fn describe(self, model: &str) -> (&'static str, String) {
        match self {
            Self::Http { verb, version: None, .. } => ("http", format!("POST /v2/models/{model}/{verb}")),
            Self::Http { verb, version: Some(version), .. } => {
                ("http", format!("POST /v2/models/{model}/versions/{version}/{verb}"))
            }
            Self::Grpc { method } => ("grpc", format!("/inference.GRPCInferenceService/{method}")),
            Self::Stream => ("grpc", format!("/inference.GRPCInferenceService/{STREAM}")),
        }
    }
}

/// The call of a stream.
pub(super) const STREAM: &str = "ModelStreamInfer";

/// A request that may be traced. Its span ends when this is dropped.
pub(crate) struct Span {
    caller: Caller,
    live: Option<Box<Live>>,
}

/// A request that is traced, or may have a line in the access log.
struct Live {
    tracing: Option<Tracing>,
    access: AccessLog,
    context: SpanContext,
    started: Instant,
    model: String,
    entry: Entry,
    notes: Mutex<Notes>,
}

/// Who traces a request, and how.
struct Tracing {
    tracer: Arc<Tracer>,
    policy: Arc<Policy>,
}

impl Tracing {
    /// Of a request to `model`; `None` when it is not traced.
    fn of(app: &App, model: &str) -> Option<Self> {
        let tracer = app.tracer.as_ref()?;
        let policy = tracer.policies.of(model);
        (policy.level != Level::Off).then(|| Self { tracer: Arc::clone(tracer), policy })
    }
}

/// What is noted of a request while it goes on.
#[derive(Default)]
pub(super) struct Notes {
    pub id: Option<String>,
    /// When it had been read.
    pub received: Option<Instant>,
    /// How it was run, well or not.
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
    /// The version that answered; `None` when its run failed.
    pub version: Option<u64>,
    pub timing: Timing,
}

pub(super) struct Failure {
    pub at: Instant,
    /// The protocol's code of its kind.
    pub code: &'static str,
    /// How it ended, as metrics name it.
    pub outcome: Outcome,
    pub message: String,
}

impl Notes {
    /// From when on a request waited that was never run, and how that ended.
    pub fn waited(&self) -> Option<(Instant, &Failure)> {
        let received = self.received.filter(|_| self.answer.is_none())?;
        let failure = self.failure.as_ref()?;
        let was_queued = matches!(
            failure.outcome,
            Outcome::QueueFull
                | Outcome::PredictedMiss
                | Outcome::Displaced
                | Outcome::Expired
                | Outcome::Quota
                | Outcome::Draining
                | Outcome::Loading
                | Outcome::Cancelled
        );
        was_queued.then_some((received, failure))
    }

    /// When the answer, or the refusal, was there to be sent.
    pub fn ready(&self) -> Option<Instant> {
        let answered = self.answer.map(|answer| answer.at);
        answered.or_else(|| self.failure.as_ref().map(|failure| failure.at))
    }
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
        let Notes { received, answer, .. } = &self.notes;
        let queue_and_compute = match answer {
            Some(answer) => 2 * u64::from(answer.timing.run.is_some()),
            None => u64::from(self.notes.waited().is_some()),
        };
        1 + u64::from(received.is_some()) + queue_and_compute + u64::from(self.notes.ready().is_some())
    }
}

impl Span {
    /// Begins the span of a request to `model` that came at `started`.
    pub fn begin(app: &App, caller: Caller, started: Instant, model: &str, entry: Entry) -> Self {
        // The log tells of each question of a stream.
        let access = if entry == Entry::Stream { AccessLog::Off } else { app.access };
        let tracing = Tracing::of(app, model);
        if tracing.is_none() && access == AccessLog::Off {
            return Self { caller, live: None };
        }
        let (trace, inherited) = match caller.context {
            Some(caller) => (caller.trace, caller.flags & RANDOM),
            None => (IDS.trace(), RANDOM),
        };
        let context = match (&tracing, caller.context) {
            // Nobody here has a span of it.
            (None, Some(caller)) => caller,
            (tracing, of) => {
                let sampled = tracing.as_ref().is_some_and(|tracing| tracing.policy.samples(of, trace));
                SpanContext { trace, span: IDS.span(), flags: inherited | if sampled { SAMPLED } else { 0 } }
            }
        };
        let (model, notes) = (model.to_owned(), Mutex::default());
        let live = Live { tracing, access, context, started, model, entry, notes };
        Self { caller, live: Some(Box::new(live)) }
    }

    /// Of a request that nobody traces.
    pub fn none() -> Self {
        Self { caller: Caller::default(), live: None }
    }

    /// What logs and exemplars name: the request's own span, or else its caller's.
    pub fn context(&self) -> Option<SpanContext> {
        self.live.as_ref().map_or(self.caller.context, |live| Some(live.context))
    }

    /// The id of its trace, where that is one that is kept from the beginning.
    pub fn kept_trace(&self) -> Option<u128> {
        let live = self.live.as_ref().filter(|live| live.tracing.is_some())?;
        live.context.is_sampled().then_some(live.context.trace)
    }

    /// What the questions of a stream belong to where they do not say.
    pub fn within(&self) -> Caller {
        let is_local = self.live.is_some();
        Caller { context: self.context(), state: self.caller.state.clone(), is_local }
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
            _ if !live.describes() => Vec::new(),
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
        let outputs = response.outputs.iter().filter(|_| live.describes());
        let described = outputs.map(|output| describe(&output.name, &output.tensor)).collect();
        let mut notes = live.notes();
        notes.tensors[1] = described;
        let InferenceResponse { version, timing, .. } = *response;
        notes.answer = Some(Answer { at: Instant::now(), version: Some(version), timing });
    }

    /// The request is refused or has failed; what is told first of it counts.
    pub fn failed(&self, error: &Error) {
        let Some(live) = &self.live else { return };
        let mut notes = live.notes();
        if notes.failure.is_some() {
            return;
        }
        let (at, code, outcome) = (Instant::now(), status_of(error.kind()).1, Outcome::of(error));
        notes.failure = Some(Failure { at, code, outcome, message: error.message().to_owned() });
        if let Some(&timing) = error.timing() {
            notes.answer = Some(Answer { at, version: None, timing });
        }
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

    /// What headers would tell the caller, by their names, for an answer that has none of its own.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, String)> {
        let context = self.context();
        let state = self.caller.state.as_ref().filter(|_| context.is_some());
        let state = state.and_then(|state| Some(("tracestate", state.to_str().ok()?.to_owned())));
        context.map(|context| ("traceparent", context.to_string())).into_iter().chain(state)
    }

    fn ends_with(&self, status: u16) {
        if let Some(live) = &self.live {
            live.notes().status = Some(status);
        }
    }

    /// Tells the caller of the span in headers or trailers.
    pub fn tell(&self, headers: &mut HeaderMap) {
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
    /// Whether the shapes of tensors are noted.
    fn describes(&self) -> bool {
        self.tracing.as_ref().is_some_and(|tracing| tracing.policy.level == Level::Tensors)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        let ended = Instant::now();
        let Live { tracing, access, mut context, started, model, entry, notes } = *live;
        let notes = notes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let is_failure = notes.status.is_some_and(|status| entry.is_failure(status));
        if access.wants(notes.status.is_none_or(|status| entry.is_error(status))) {
            tell(entry, &model, context, &notes, ended - started);
        }
        let Some(Tracing { tracer, policy }) = tracing else { return };
        let by_tail = !context.is_sampled();
        // A stream is as long as its caller likes.
        let took = if entry == Entry::Stream { Duration::ZERO } else { ended - started };
        if by_tail && !(tracer.tail.wants(took, is_failure) && policy.take()) {
            return;
        }
        context.flags |= SAMPLED;
        let caller = std::mem::take(&mut self.caller);
        let finished = Finished { context, caller, started, ended, model, entry, is_failure, notes };
        tracer.keep(finished, by_tail);
    }
}

/// Writes the line of the access log.
fn tell(entry: Entry, model: &str, context: SpanContext, notes: &Notes, total: Duration) {
    let (protocol, asked) = entry.describe(model);
    let mut line = access::line(protocol, &asked, notes.status, total);
    line.field("model", model);
    if let Some(Answer { version, timing, .. }) = notes.answer {
        if let Some(version) = version {
            line.bare("version", version);
        }
        line.milliseconds("queue_ms", timing.queue);
        line.milliseconds("compute_ms", timing.compute);
        line.bare("batch_rows", timing.batch_rows);
        if timing.cache == CacheUse::Hit {
            line.field("cache", "hit");
        }
    }
    if let Some(id) = &notes.id {
        line.field("request_id", id);
    }
    access::name(&mut line, Some(context));
    if let Some(Failure { code, message, .. }) = &notes.failure {
        line.field("code", code);
        line.field("error", message);
    }
    logging::write(line);
}

/// A tensor as `name datatype [shape]`.
fn describe(name: &str, tensor: &Tensor) -> String {
    format!("{name} {} {:?}", tensor.datatype().name(), &tensor.shape()[..])
}
