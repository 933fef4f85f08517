//! One loaded version: read the outline → session → fit the configuration → probe → plan → instances.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answers::{Answers, bypasses};
use super::calm::calmly;
use super::packing::succeed;
use super::reaper::Departure;
use super::recall::{Loading, Recalled};
use super::scan::Found;
use super::sequencer::{Sequencer, Slots};
use super::ticket::{Place, Ticket};
use crate::config::{Batching, MAX_TIMEOUT, ModelConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Arranged, Executor, Identity, execute_delay};
use crate::import::ModelCache;
use crate::metrics::{ModelMetrics, ModelStatistics};
use crate::model_config::{Backend, Chosen, Fit, ModelConfiguration, read_labels};
use crate::onnx::ModelFile;
use crate::plan::{Observed, Plan, reconsider};
use crate::probe::{Batchable, CurvePoint, Findings};
use crate::request::{InferenceRequest, InferenceResponse, NamedTensor, Sequence};
use crate::scheduler::{Host, Limits, Output, Replan, Rules, Scheduler, SchedulerConfig};
use crate::signature::{Admitted, Signature};

/// A version that is ready.
pub struct Model {
    name: String,
    version: u64,
    signature: Signature,
    outline: Option<ModelFile>,
    findings: Findings,
    plan: Plan,
    config: ModelConfig,
    configuration: ModelConfiguration,
    /// By output.
    labels: BTreeMap<String, Vec<String>>,
    counts_rows: bool,
    statistics: Arc<ModelStatistics>,
    /// For a stateful model.
    sequencer: Option<Sequencer>,
    /// Where its answers are kept.
    answers: Option<Arc<Answers>>,
    scheduler: Arc<Scheduler>,
    /// After `scheduler`, so that it drops the last of it.
    departure: Option<Departure>,
}

/// A request that fits its model.
pub(super) struct Asked {
    pub admitted: Admitted,
    /// The outputs asked for, as indices in the model's order; `None` for all.
    pub wanted: Option<Vec<usize>>,
    /// What is to blame if the run fails.
    pub doubt: Option<Error>,
    /// How long it may wait.
    pub timeout: Duration,
}

/// A version that was read and probed, before its instances start.
struct Prepared {
    outline: Option<ModelFile>,
    fit: Fit,
    findings: Findings,
    plan: Plan,
    /// The name of its file; empty without one.
    file_name: String,
    executors: Vec<Box<dyn Executor>>,
    /// Forgets what was measured, when it is no longer so.
    forget: Box<dyn Fn() + Send>,
}

impl Prepared {
    /// Reads and probes a model file.
    fn onnx(found: &Found, path: &Path, config: &ModelConfig, cache: &ModelCache) -> Result<Self> {
        let outline = ModelFile::read(path)?;
        let arena = !outline.dynamic_rows;
        let located = cache.locate(path, &outline, config.device);
        let loading = Loading { located: &located, config, bytes: outline.size, arena };
        let Recalled { fit, known, quick } = loading.load(|signature| found.configuration.fit(signature))?;
        let (findings, plan, sessions) = known;
        warn_of_findings(found, &findings, config.batching);
        located.want();
        let executors = match quick {
            None => arrange(sessions, &fit),
            Some((quick, options)) => arrange(succeed(&found.name, sessions, quick, options), &fit),
        };
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let forget = Box::new(located.forgetting());
        Ok(Self { outline: Some(outline), fit, findings, plan, file_name, executors, forget })
    }

    /// The test backend: its instances only wait, so that they are as many as is configured, whatever the cores.
    fn identity(found: &Found) -> Result<Self> {
        let configuration = &found.configuration;
        let fit = configuration.fit_identity()?;
        let delay = configuration.execute_delay();
        tracing::warn!(
            model = found.name,
            version = found.version,
            delay_ms = delay.as_millis(),
            "the backend identity is for tests: this model answers with its inputs"
        );
        let batchable = match fit.max_batch_size {
            Some(_) => Batchable::Yes { bitwise: true },
            None => Batchable::No("its configuration says max_batch_size 0".to_owned()),
        };
        let curve = vec![CurvePoint { rows: 1, duration: delay }];
        let findings = Findings { deterministic: Some(true), curve, ..Findings::untried(batchable) };
        let plan = Plan::waiting(configuration.instances(), fit.max_batch_size.unwrap_or(NonZeroUsize::MIN));
        let executors =
            (0..plan.instances).map(|_| Box::new(Identity::new(delay)) as Box<dyn Executor>).collect();
        let (file_name, forget) = (String::new(), Box::new(|| ()));
        Ok(Self { outline: None, fit, findings, plan, file_name, executors, forget })
    }
}

impl Model {
    /// Loads what was found, probes it and starts its instances. What is known of it in `cache` is not found out again.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidModel`](crate::ErrorKind) when it cannot be served.
    pub fn load(found: &Found, config: &ModelConfig, cache: &ModelCache, host: &Host) -> Result<Self> {
        let (path, configuration) = (found.path.clone()?, &found.configuration);
        configuration.check_device(config.device)?;
        let stateful = configuration.sequence().cloned();
        let config = configured(config, configuration);
        let labels = read_labels_of(found)?;
        let prepared = match configuration.backend() {
            Backend::OnnxRuntime => calmly(|| Prepared::onnx(found, &path, &config, cache))?,
            Backend::Identity => Prepared::identity(found)?,
        };
        let Prepared { outline, fit, findings, plan, file_name, executors, forget } = prepared;
        let is_batched = fit.may_batch;
        let chosen = Chosen {
            name: &found.name,
            file_name: &file_name,
            device: config.device,
            instances: plan.instances,
            max_batch_rows: plan.max_batch_rows,
        };
        let configuration = configuration.effective(&fit, &chosen)?;
        let limits = Limits {
            max_batch_rows: plan.max_batch_rows,
            max_queue_size: config.max_queue_size,
            max_queue_bytes: config.max_queue_bytes,
        };
        let rules = rules(limits, &findings, &configuration);
        warn_of_target(found, &config, &findings);
        // Requests of a sequence have places that were laid out for the plan.
        let may_replan = stateful.is_none() && configuration.backend() == Backend::OnnxRuntime;
        let replan = may_replan.then(|| replan(&found.name, plan.clone(), forget));
        let scheduler_config =
            SchedulerConfig { rules, weight: config.weight.get(), threads: plan.threads, replan };
        let statistics = Arc::new(ModelStatistics::default());
        let scheduler =
            Scheduler::start(&found.name, scheduler_config, executors, Arc::clone(&statistics), host)?;
        let scheduler = Arc::new(scheduler);
        let counts_rows = findings.batchable.shares_runs();
        let slots = Slots {
            instances: plan.instances,
            max_batch_rows: plan.max_batch_rows.get(),
            max_waiting: config.max_queue_size.get(),
        };
        let outputs = fit.signature.outputs.len();
        let start = |batching| Sequencer::start(batching, &slots, is_batched, outputs, &scheduler);
        let sequencer = stateful.map(start).transpose()?;
        Ok(Self {
            name: found.name.clone(),
            version: found.version,
            signature: fit.signature,
            outline,
            counts_rows,
            findings,
            plan,
            config,
            configuration,
            labels,
            statistics,
            sequencer,
            answers: None,
            scheduler,
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

    /// The outline of its file; `None` for a backend without one.
    #[must_use]
    pub fn outline(&self) -> Option<&ModelFile> {
        self.outline.as_ref()
    }

    /// What runs it, as the protocol's metadata has it: `onnxruntime_onnx`.
    #[must_use]
    pub fn platform(&self) -> &'static str {
        self.configuration.backend().platform()
    }

    /// Its configuration as it is acted on, with what was left out filled in.
    #[must_use]
    pub fn configuration(&self) -> &ModelConfiguration {
        &self.configuration
    }

    /// The names of the classes of `output`, by index, where its configuration names a file of them.
    #[must_use]
    pub fn labels(&self, output: &str) -> Option<&[String]> {
        self.labels.get(output).map(Vec::as_slice)
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

    /// The settings it was loaded with, its configuration's in place of the server's.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its counters.
    #[must_use]
    pub fn statistics(&self) -> &ModelStatistics {
        &self.statistics
    }

    /// The counters of its version; `None` when metrics are off.
    #[must_use]
    pub fn metrics(&self) -> Option<&Arc<ModelMetrics>> {
        self.statistics.metrics()
    }

    /// Has `metrics` count what it runs and answers.
    pub(super) fn count_in(&self, metrics: Arc<ModelMetrics>) {
        metrics.set_latency_target(self.config.latency_target);
        self.statistics.count_in(metrics);
    }

    /// What is known of its load.
    #[must_use]
    pub fn load_now(&self) -> crate::scheduler::Load {
        self.scheduler.load()
    }

    /// The requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Queues a request; [`Ticket::wake`] then has it run. `reply` is called once with the answer and must not
    /// block: on another thread, or before this returns where the answer was kept. The request holds a lease on this version until it is answered.
    ///
    /// # Errors
    /// When the request does not fit or is refused at arrival; `reply` is then not called.
    pub fn submit(
        self: Arc<Self>,
        request: InferenceRequest,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> Result<Ticket> {
        let InferenceRequest { inputs, outputs, timeout, parameters, sequence, priority, .. } = request;
        let mut admitted =
            self.signature.admit(inputs, &outputs, self.counts_rows(), self.config.max_batch_size)?;
        if self.configuration.is_identity() {
            admitted.delay = execute_delay(&parameters)?;
        }
        let (wanted, doubt) = (admitted.outputs.take(), admitted.doubt.take());
        admitted.class = self.configuration.dynamic_batching().class(priority);
        let setting = self.config.latency_target.unwrap_or(self.config.request_timeout);
        let timeout = self.configuration.queue_of(admitted.class).timeout(timeout, setting).min(MAX_TIMEOUT);
        let asked = Asked { admitted, wanted, doubt, timeout };
        match &self.answers {
            Some(answers) if !bypasses(&parameters)? => {
                let answers = Arc::clone(answers);
                answers.submit(self, asked, Box::new(reply))
            }
            _ => self.run(asked, sequence.as_ref(), reply),
        }
    }

    /// Queues a request that has a run for itself, as far as others do not share its batch.
    pub(super) fn run(
        self: Arc<Self>,
        asked: Asked,
        sequence: Option<&Sequence>,
        reply: impl FnOnce(Result<InferenceResponse>) + Send + 'static,
    ) -> Result<Ticket> {
        let Asked { admitted, wanted, doubt, timeout } = asked;
        let lease = Arc::clone(&self);
        let reply = Box::new(move |answer: Result<Output>| {
            reply(match answer {
                Ok(output) => Ok(lease.respond(wanted.as_deref(), output)),
                Err(error) if error.kind() == ErrorKind::ExecutionFailed => Err(doubt.unwrap_or(error)),
                Err(error) => Err(error),
            });
        });
        let place = match &self.sequencer {
            None => Place::Queue(self.scheduler.submit(admitted, timeout, reply)?),
            Some(sequencer) => Place::Sequence(sequencer.submit(sequence, admitted, timeout, reply)?),
        };
        Ok(Ticket::new(self, place))
    }

    pub(super) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    pub(super) fn sequencer(&self) -> Option<&Sequencer> {
        self.sequencer.as_ref()
    }

    pub(super) fn answers(&self) -> Option<&Arc<Answers>> {
        self.answers.as_ref()
    }

    pub(super) fn set_answers(&mut self, answers: Arc<Answers>) {
        self.answers = Some(answers);
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
        self.counts_rows
    }

    /// Decides who joins its instances when the last lease is gone; until then, whoever drops it does.
    pub(super) fn depart_by(&mut self, departure: impl FnOnce(&Arc<Scheduler>) -> Departure) {
        self.departure = Some(departure(&self.scheduler));
    }

    pub(super) fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        if let Some(sequencer) = &self.sequencer {
            sequencer.close(limit);
        }
        self.scheduler.close(end.saturating_duration_since(Instant::now()));
    }
}

/// Executors whose clients see what the configuration says.
fn arrange<E: Executor + 'static>(executors: Vec<E>, fit: &Fit) -> Vec<Box<dyn Executor>> {
    let layout = fit.layout.clone().map(Arc::new);
    let arrange = |executor| match &layout {
        Some(layout) => Box::new(Arranged::new(executor, Arc::clone(layout))) as Box<dyn Executor>,
        None => Box::new(executor),
    };
    executors.into_iter().map(arrange).collect()
}

/// The server's settings with what the model's configuration says; the tighter limit of rows counts.
fn configured(config: &ModelConfig, configuration: &ModelConfiguration) -> ModelConfig {
    let mut config = config.clone();
    let rows = [config.max_batch_size, configuration.max_batch_size()];
    config.max_batch_size = rows.into_iter().flatten().min();
    config.max_queue_size = configuration.queue().max_queue_size.unwrap_or(config.max_queue_size);
    config.instances = configuration.instances().or(config.instances);
    config.latency_target = configuration.latency_target().or(config.latency_target);
    config.batching = configuration.batching().unwrap_or(config.batching);
    config.weight = configuration.weight().unwrap_or(config.weight);
    config.profile = configuration.profile().unwrap_or(config.profile);
    config
}

/// How the queue is served, from what was measured and what is configured.
fn rules(limits: Limits, findings: &Findings, configuration: &ModelConfiguration) -> Rules {
    let batching = configuration.dynamic_batching();
    let sizes = batching.policies.iter();
    Rules {
        class_sizes: sizes.filter_map(|(&level, policy)| Some((level, policy.max_queue_size?))).collect(),
        preferred_rows: batching.preferred_rows.clone(),
        max_delay: batching.max_delay,
        curve: findings.curve.iter().map(|point| (point.rows, point.duration)).collect(),
        ..Rules::new(limits)
    }
}

/// Changes the rows of batches where learned run times have left the plan; instances and threads wait for a load.
fn replan(name: &str, mut plan: Plan, forget: Box<dyn Fn() + Send>) -> Replan {
    let name = name.to_owned();
    Box::new(move |estimator, batches, age| {
        let predict = |rows| estimator.predict(rows);
        let change = reconsider(&plan, &Observed { predict: &predict, batches, age })?;
        if change.is_split_stale {
            forget();
        }
        let (before, rows) = (plan.max_batch_rows, change.max_batch_rows);
        tracing::info!(
            model = name,
            is_split_stale = change.is_split_stale,
            "batches have up to {rows} rows from now on, not {before}: runs take another time than at load"
        );
        plan.max_batch_rows = rows;
        Some(rows)
    })
}

/// A latency target needs room for the run that is under way, its own, and what differs between them.
/// **Source:** `docs/scheduling.md`.
const LEAST_TARGET_IN_RUNS: u32 = 4;

fn warn_of_target(found: &Found, config: &ModelConfig, findings: &Findings) {
    let (Some(target), Some(single)) = (config.latency_target, findings.single()) else { return };
    let least = single * LEAST_TARGET_IN_RUNS;
    if target < least {
        tracing::warn!(
            model = found.name,
            version = found.version,
            "the latency target of {} ms is below {:.1} ms, four runs of one row: many requests will be refused",
            target.as_millis(),
            least.as_secs_f64() * 1e3
        );
    }
}

/// Says what an owner must know of what was found out: that the model could not be tried, and where he insists on batches,
/// what they cost or that there are none.
fn warn_of_findings(found: &Found, findings: &Findings, batching: Batching) {
    let Found { name: model, version, .. } = found;
    if let Some(reason) = &findings.not_run {
        tracing::warn!(model, version, "the model failed on made-up inputs, so it is not batched: {reason}");
    }
    match &findings.batchable {
        Batchable::Insisted(reason) => tracing::warn!(
            model,
            version,
            "batching is `always`, so answers depend on who asks at the same time: {reason}"
        ),
        Batchable::No(reason) if batching == Batching::Always => {
            tracing::warn!(model, version, "batching is `always`, and the model is not batched: {reason}");
        }
        _ => {}
    }
}

fn read_labels_of(found: &Found) -> Result<BTreeMap<String, Vec<String>>> {
    let mut labels = BTreeMap::new();
    for (index, output) in found.configuration.outputs().iter().enumerate() {
        let Some(name) = &output.labels else { continue };
        let path = format!("output[{index}].label_filename");
        let folder = found.folder.as_deref().ok_or_else(|| {
            found.configuration.error(&path, "a lone model file has no folder that labels could lie in")
        })?;
        let read = read_labels(folder, name).map_err(|error| found.configuration.error(&path, error))?;
        labels.insert(output.name.clone(), read);
    }
    Ok(labels)
}
