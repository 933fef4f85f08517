//! One loaded version: read the outline → session → probe → plan → instances.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use super::reaper::Departure;
use crate::config::{Batching, Device, MAX_TIMEOUT, ModelConfig, granted_cores};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::Executor;
use crate::metrics::ModelStatistics;
use crate::onnx::{ModelFile, Session, SessionOptions};
use crate::probe::{Batchable, Findings, probe};
use crate::request::{InferenceRequest, InferenceResponse, NamedTensor};
use crate::scheduler::{Limits, Output, RequestId, Scheduler, SchedulerConfig, Timer};
use crate::signature::Signature;

/// A run shorter than this is dominated by what surrounds it: one instance in four cores keeps up with the wire, and
/// more would only take its cores.
const TINY_RUN: Duration = Duration::from_micros(100);

/// How a model is run, chosen at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Threads that run the model, each a batch at a time.
    pub instances: usize,
    /// Threads of one run.
    pub threads: usize,
    /// The most rows that are run together; 1 when the model is not batched.
    pub max_batch_rows: NonZeroUsize,
    /// Whether ONNX Runtime keeps the memory of one run for the next.
    pub arena: bool,
}

impl Plan {
    /// Never more threads than `cores`. One thread a run: two callers of one thread each beat one caller of two
    /// threads by 3 to 37 % in throughput, and idle threads that spin cost more than they save.
    /// **Source:** measured with ONNX Runtime 1.31; see `docs/decisions/0002`.
    fn choose(config: &ModelConfig, findings: &Findings, arena: bool, cores: NonZeroUsize) -> Self {
        let tiny = findings.single().is_some_and(|single| single < TINY_RUN);
        let chosen = match config.device {
            // One caller for each session of a provider that is not the CPU's, and one session of it.
            Device::Cuda => 1,
            Device::Cpu if tiny => (cores.get() / 4).max(1),
            Device::Cpu => cores.get(),
        };
        let instances = config.instances.map_or(chosen, NonZeroUsize::get);
        let instances = if config.device == Device::Cuda { 1 } else { instances.min(cores.get()) };
        let batched =
            matches!(findings.batchable, Batchable::Yes { .. }) && config.batching == Batching::Auto;
        let knee = NonZeroUsize::new(findings.knee()).unwrap_or(NonZeroUsize::MIN);
        Self { instances, threads: 1, max_batch_rows: if batched { knee } else { NonZeroUsize::MIN }, arena }
    }
}

/// A version that is ready.
pub struct Model {
    name: String,
    version: u64,
    signature: Signature,
    outline: ModelFile,
    findings: Findings,
    plan: Plan,
    config: ModelConfig,
    statistics: Arc<ModelStatistics>,
    scheduler: Arc<Scheduler>,
    /// After `scheduler`, so that it drops the last of it.
    departure: Option<Departure>,
}

impl Model {
    /// Loads the file, probes it and starts its instances.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind) when it cannot be served.
    pub fn load(
        name: &str,
        version: u64,
        path: &Path,
        config: &ModelConfig,
        timer: &Arc<Timer>,
    ) -> Result<Self> {
        let outline = ModelFile::read(path)?;
        let arena = !outline.dynamic_rows;
        let session = Session::load(path, SessionOptions { device: config.device, threads: 1, arena })?;
        let signature = session.signature().clone();
        let findings = probe(&signature, &mut Arc::clone(&session));
        if let Some(reason) = &findings.not_run {
            tracing::warn!(
                model = name,
                version,
                "the model failed on made-up inputs, so it is not batched: {reason}"
            );
        }
        let plan = Plan::choose(config, &findings, arena, granted_cores());
        let limits = Limits {
            max_batch_rows: plan.max_batch_rows,
            max_queue_size: config.max_queue_size,
            max_queue_bytes: config.max_queue_bytes,
        };
        let batch_duration =
            findings.curve.iter().rev().find(|point| point.rows <= plan.max_batch_rows.get());
        let scheduler_config = SchedulerConfig {
            limits,
            batch_duration: batch_duration
                .map_or(Duration::ZERO, |point| point.duration / u32::try_from(plan.instances).unwrap_or(1)),
        };
        let executors =
            (0..plan.instances).map(|_| Box::new(Arc::clone(&session)) as Box<dyn Executor>).collect();
        let statistics = Arc::new(ModelStatistics::default());
        let scheduler =
            Scheduler::start(name, scheduler_config, executors, Arc::clone(&statistics), Arc::clone(timer))?;
        Ok(Self {
            name: name.to_owned(),
            version,
            signature,
            outline,
            findings,
            plan,
            config: config.clone(),
            statistics,
            scheduler: Arc::new(scheduler),
            departure: None,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What it takes and gives.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The outline of its file.
    #[must_use]
    pub fn outline(&self) -> &ModelFile {
        &self.outline
    }

    /// What the load-time probe found.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// How it is run.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The settings it was loaded with.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its counters.
    #[must_use]
    pub fn statistics(&self) -> &ModelStatistics {
        &self.statistics
    }

    /// The requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Queues a request; [`Ticket::wake`] then has it run. `reply` is called once with the answer, on another thread,
    /// and must not block. The request holds a lease on this version until it is answered.
    ///
    /// # Errors
    /// When the request does not fit or is refused at arrival; `reply` is then not called.
    pub fn submit(
        self: Arc<Self>,
        request: InferenceRequest,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> Result<Ticket> {
        let InferenceRequest { inputs, outputs, timeout, .. } = request;
        let mut admitted =
            self.signature.admit(inputs, &outputs, self.counts_rows(), self.config.max_batch_size)?;
        let (wanted, doubt) = (admitted.outputs.take(), admitted.doubt.take());
        let timeout = timeout.unwrap_or(self.config.request_timeout).min(MAX_TIMEOUT);
        let lease = Arc::clone(&self);
        let reply = Box::new(move |answer: Result<Output>| {
            reply(match answer {
                Ok(output) => Ok(lease.respond(wanted.as_deref(), output)),
                Err(error) if error.kind() == ErrorKind::ExecutionFailed => Err(doubt.unwrap_or(error)),
                Err(error) => Err(error),
            });
        });
        let id = self.scheduler.submit(admitted, timeout, reply)?;
        Ok(Ticket { model: self, id, is_woken: false })
    }

    fn respond(&self, wanted: Option<&[usize]>, output: Output) -> InferenceResponse {
        let Output { tensors, timing, .. } = output;
        let mut named: Vec<_> = self
            .signature
            .outputs
            .iter()
            .zip(tensors)
            .map(|(spec, tensor)| NamedTensor::new(spec.name.as_str(), tensor))
            .collect();
        if let Some(wanted) = wanted {
            named = wanted.iter().filter_map(|&index| named.get(index).cloned()).collect();
        }
        InferenceResponse { model: self.name.clone(), version: self.version, outputs: named, timing }
    }

    /// True when dimension 0 counts rows: requests of any number of rows may share a run.
    #[must_use]
    pub fn counts_rows(&self) -> bool {
        matches!(self.findings.batchable, Batchable::Yes { .. })
    }

    /// Decides who joins its instances when the last lease is gone; until then, whoever drops it does.
    pub(super) fn depart_by(&mut self, departure: impl FnOnce(&Arc<Scheduler>) -> Departure) {
        self.departure = Some(departure(&self.scheduler));
    }

    pub(super) fn close(&self, limit: Duration) {
        self.scheduler.close(limit);
    }
}

/// An accepted request.
#[must_use = "wake, finish or cancel it"]
pub struct Ticket {
    model: Arc<Model>,
    id: RequestId,
    /// Whether an instance has been told; one that is dropped untold tells it.
    is_woken: bool,
}

impl Ticket {
    /// Wakes an instance for the request, and for what was queued with it.
    pub fn wake(&mut self) {
        self.is_woken = true;
        self.model.scheduler.wake();
    }

    /// Takes the request out of the queue; its reply is dropped. Does nothing when it runs or has been answered.
    pub fn cancel(mut self) {
        self.is_woken = true;
        self.model.scheduler.cancel(self.id);
    }

    /// Has the request run and waits for the answer that its reply sends. Dropping the future cancels the request.
    ///
    /// Other tasks that are ready queue their requests first: what has come together runs together.
    ///
    /// # Errors
    /// What the answer says; [`ErrorKind::Internal`](crate::ErrorKind) when the sender was dropped.
    pub async fn finish(
        self,
        answer: oneshot::Receiver<Result<InferenceResponse>>,
    ) -> Result<InferenceResponse> {
        let mut guard = CancelOnDrop(Some(self));
        yield_once().await;
        if let Some(ticket) = &mut guard.0 {
            ticket.wake();
        }
        let answer = answer.await;
        guard.0 = None;
        answer.map_err(Error::internal)?
    }
}

/// A request that was queued is run, also when its ticket is dropped unused.
impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_woken {
            self.wake();
        }
    }
}

struct CancelOnDrop(Option<Ticket>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.cancel();
        }
    }
}

/// Lets every other task that is ready run first.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
