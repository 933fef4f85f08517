//! Finds out what a model is and how it is best run, or takes what an earlier load of it has found out.

use std::sync::Arc;
use std::time::Instant;

use crate::config::{ModelConfig, granted_cores};
use crate::error::Result;
use crate::import::{Located, Quick, Remembered};
use crate::model_config::Fit;
use crate::onnx::{Session, SessionOptions};
use crate::plan::{Lab, Load, Plan, Question, choose};
use crate::probe::{Batchable, Findings, probe, try_once};
use crate::signature::Signature;

/// A model that is being loaded.
pub(super) struct Loading<'a> {
    pub located: &'a Located<'a>,
    pub config: &'a ModelConfig,
    /// Bytes of its file.
    pub bytes: u64,
    pub arena: bool,
}

/// What came of it.
pub(super) struct Recalled {
    pub fit: Fit,
    pub known: Known,
    /// Where its weights are still to be packed.
    pub quick: Option<(Quick, SessionOptions)>,
}

impl Loading<'_> {
    /// Loads it, and finds out what no earlier load has; `fit` compares its signature with its configuration.
    ///
    /// # Errors
    /// What `fit` says, and when a session cannot be made.
    pub fn load(&self, fit: impl Fn(&Signature) -> Result<Fit>) -> Result<Recalled> {
        // As many as the last time, so that the session that tells the signature is one of those that serve.
        let threads = self.located.threads().unwrap_or(1);
        if let Some(recalled) = self.quickly(threads, &fit) {
            return Ok(recalled);
        }
        let load = |threads| self.located.load(self.options(threads));
        let started = Instant::now();
        let session = load(threads)?;
        let cost = Load { duration: started.elapsed(), bytes: self.bytes };
        let fit = fit(session.signature())?;
        let question = question(self.config, &fit, self.arena);
        let first = (threads, Arc::clone(&session));
        if let Some(known) = known(self.located, &question, first, load).filter(|known| have_run(&known.2)) {
            return Ok(Recalled { fit, known, quick: None });
        }
        let session = if threads == 1 { session } else { load(1)? };
        let known = measure(self.config, &fit, (session, cost, self.arena), load)?;
        remember(self.located, &question, &known.0, &known.1);
        Ok(Recalled { fit, known, quick: None })
    }

    /// From what was imported and is known, without packing weights. The sessions have not run: an earlier load has run
    /// the model, on this machine and with this runtime.
    fn quickly(&self, threads: usize, fit: impl Fn(&Signature) -> Result<Fit>) -> Option<Recalled> {
        let quick = self.located.quick()?;
        let load = |threads| quick.unpacked(self.options(threads));
        let session = load(threads).ok()?;
        let fit = fit(session.signature()).ok()?;
        let question = question(self.config, &fit, self.arena);
        let known = known(self.located, &question, (threads, session), load)?;
        let options = self.options(known.1.threads);
        Some(Recalled { fit, known, quick: Some((quick, options)) })
    }

    fn options(&self, threads: usize) -> SessionOptions {
        SessionOptions { device: self.config.device, threads, arena: self.arena }
    }
}

/// All that the findings and the plan depend on, besides the model and the machine.
fn question(config: &ModelConfig, fit: &Fit, arena: bool) -> String {
    let ModelConfig { batching, max_batch_bytes, instances, profile, device, .. } = config;
    // What is found out, and how, is this version's.
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "axon {version}, batching {batching}, {max_batch_bytes} bytes, {instances:?} instances for {profile} on {device}, {:?} rows, \
         may batch {}, arena {arena}, {} cores",
        fit.max_batch_size,
        fit.may_batch,
        granted_cores()
    )
}

/// What is known of a model: its findings, its plan, and a session for each instance.
pub(super) type Known = (Findings, Plan, Vec<Arc<Session>>);

/// What an earlier load has found out, with sessions for it, of which `first` is one if it has as many threads; `None`
/// when it is to be found out.
fn known(
    located: &Located<'_>,
    question: &str,
    first: (usize, Arc<Session>),
    load: impl Fn(usize) -> Result<Arc<Session>>,
) -> Option<Known> {
    let Remembered { findings, plan } = located.recall(question)?;
    let first = Some(first).filter(|(threads, _)| *threads == plan.threads).map(|(_, session)| session);
    let first = first.map_or_else(|| load(plan.threads), Ok).ok()?;
    let sessions = if plan.threads == 1 {
        vec![first; plan.instances]
    } else {
        let more = (1..plan.instances).map(|_| load(plan.threads));
        std::iter::once(Ok(first)).chain(more).collect::<Result<_>>().ok()?
    };
    Some((findings, plan, sessions))
}

/// Runs each session once: ready means warm. False where one does not run now as it did then.
fn have_run(sessions: &[Arc<Session>]) -> bool {
    let mut last: Option<&Arc<Session>> = None;
    sessions.iter().all(|session| {
        // Instances of one thread share a session.
        let is_new = last.replace(session).is_none_or(|last| !Arc::ptr_eq(last, session));
        !is_new || try_once(session.signature(), &mut Arc::clone(session)).is_ok()
    })
}

/// Probes a model and tries how to run it.
///
/// # Errors
/// When a session that the plan needs cannot be made.
fn measure(
    config: &ModelConfig,
    fit: &Fit,
    (session, cost, arena): (Arc<Session>, Load, bool),
    load: impl Fn(usize) -> Result<Arc<Session>>,
) -> Result<Known> {
    let mut findings = probe(session.signature(), &mut Arc::clone(&session), config.batching);
    if !fit.may_batch && findings.batchable.shares_runs() {
        findings.batchable = Batchable::No("its configuration says max_batch_size 0".to_owned());
    }
    let question =
        Question { config, findings: &findings, max_rows: fit.max_batch_size, arena, cores: granted_cores() };
    let mut lab = Lab::new(session, cost, &findings.sample, load);
    let plan = choose(&question, &mut lab);
    let sessions = lab.into_executors(plan.split())?;
    // Only the trials need it.
    findings.sample = Vec::new();
    Ok((findings, plan, sessions))
}

/// Remembers what this load has found out, unless the model could not be run.
fn remember(located: &Located<'_>, question: &str, findings: &Findings, plan: &Plan) {
    if findings.not_run.is_none() {
        located.remember(question, Remembered { findings: findings.clone(), plan: plan.clone() });
    }
}
