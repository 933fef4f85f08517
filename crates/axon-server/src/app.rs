//! What every request needs, whatever protocol it came by.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axon::alias::Routed;
use axon::config::{Device, Metrics};
use axon::metrics::Observed;
use axon::repository::Model;
use axon::request::{InferenceRequest, InferenceResponse};
use axon::server::InferenceServer;
use axon::{Error, ErrorKind, Result};
use tokio::sync::{Notify, oneshot, watch};

use crate::access::AccessLog;
use crate::codec::{DecodeOptions, Decoded, OutputFormat, Parsed};
use crate::compat::Compat;
use crate::connection::Ports;
use crate::history::History;
use crate::metrics::Scrapes;
use crate::settings::Settings;
use crate::shared_memory::SharedMemory;
use crate::threads::Desk;
use crate::tls::Tls;
use crate::trace::{Span, Tracer};

/// Copies of more bytes than this are made on another thread: they take a millisecond or more.
const INLINE_COPY: u64 = 4 << 20;

/// The server as its verbs see it.
pub(crate) struct App {
    pub server: InferenceServer,
    /// The most bytes of a body or message, as sent and decoded.
    pub body_limit: usize,
    pub in_flight: InFlight,
    /// True when what has come is answered and the server is to end: what would go on for ever ends with it.
    pub finishing: watch::Receiver<bool>,
    /// That of the thread that serves.
    pub desk: Arc<Desk>,
    pub settings: Settings,
    pub compat: Compat,
    pub shared_memory: Arc<SharedMemory>,
    /// Whether metrics are told.
    pub metrics: Metrics,
    /// Where models run that do not say.
    pub device: Device,
    pub ports: Arc<Ports>,
    /// What the ports speak TLS with; `None` where they speak none.
    pub tls: Option<Arc<Tls>>,
    pub scrapes: Scrapes,
    pub started: Instant,
    /// What was lately, for whoever looks at it.
    pub history: History,
    /// Which requests are told of in the log.
    pub access: AccessLog,
    /// Traces requests, where there is a collector.
    pub tracer: Option<Arc<Tracer>>,
}

impl App {
    /// Asks a model, and notes in `observed` and `span` how it ran. Dropping the future takes the request out of the
    /// queue. `routed` is the alias that has led to the model, if one has.
    pub async fn ask(
        &self,
        request: InferenceRequest,
        routed: Option<&Routed>,
        observed: &mut Observed,
        span: &Span,
    ) -> Result<InferenceResponse> {
        span.received(&request);
        let (sender, receiver) = oneshot::channel();
        let desk = Desk::of_this_thread(&self.desk);
        let answering = Arc::clone(&desk);
        let reply = move |answer| answering.answers.push(sender, answer);
        let mut ticket = match routed {
            None => self.server.submit_when_loaded(request, reply).await?,
            Some(routed) => self.server.submit_routed(routed.clone(), request, reply).await?,
        };
        desk.wakes.push(ticket.leave_wake());
        let response = ticket.finish(receiver).await?;
        observed.ran(response.timing);
        span.ran(&response);
        Ok(response)
    }

    /// Whether metrics are told.
    pub fn counts(&self) -> bool {
        self.metrics == Metrics::On
    }

    /// Reads a request by `parse`, what is in shared memory last; on another thread where that takes long.
    pub async fn decode(
        &self,
        is_long: bool,
        parse: impl FnOnce(&DecodeOptions<'_>) -> Result<Parsed> + Send + 'static,
    ) -> Result<Decoded> {
        let (regions, nan) = (Arc::clone(&self.shared_memory), self.compat == Compat::Triton);
        let shared_limit = self.body_limit as u64;
        let parsed =
            off_the_wire(is_long, move || parse(&DecodeOptions { nan, regions: &*regions, shared_limit }))
                .await?;
        let is_long = parsed.shared_bytes() > INLINE_COPY;
        off_the_wire(is_long, move || parsed.finish()).await
    }

    /// The model whose labels an answer needs; `None` when it needs none. A model that was unloaded since has answered
    /// all the same; its classes have no names then.
    pub fn labelled(&self, format: &OutputFormat, response: &InferenceResponse) -> Option<Arc<Model>> {
        if !format.classifies() {
            return None;
        }
        self.server.model(&response.model, Some(response.version)).ok()
    }

    /// Counts a request as in flight, unless the server takes no more.
    pub fn enter(&self) -> Result<InFlightGuard<'_>> {
        if self.server.is_stopping() {
            return Err(Error::shutting_down());
        }
        Ok(self.in_flight.enter())
    }
}

/// Writes a failure to the log, for whoever answers with it: loud where the server is to blame.
pub(crate) fn log_failure(error: &Error, model: Option<&str>, id: Option<&str>, span: &Span) {
    let trace_id = span.context().map(|context| tracing::field::display(context.trace_id()));
    let (request_id, cause, message) = (id, error.cause(), error.message());
    match error.kind() {
        ErrorKind::Internal | ErrorKind::ExecutionFailed => {
            tracing::error!(model, request_id, trace_id, cause, "{message}");
        }
        _ => tracing::debug!(model, request_id, trace_id, cause, "{message}"),
    }
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

/// A request that is in flight until this is dropped.
pub(crate) struct InFlightGuard<'a>(&'a InFlight);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// Reads or writes long text on another thread, so that other connections do not wait for it.
pub(crate) async fn off_the_wire<T: Send + 'static>(
    is_long: bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if !is_long {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}
