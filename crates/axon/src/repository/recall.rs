//! Finds out what a model is and how it is best run, or takes what an earlier load of it has found out.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
        if let Some(recalled) = self.quickly(&fit) {
            return Ok(recalled);
        }
        let load = |threads| self.located.load(self.options(threads));
        let started = Instant::now();
        let session = load(1)?;
        let cost = Load { duration: started.elapsed(), bytes: self.bytes };
        let fit = fit(session.signature())?;
        let question = question(self.config, &fit, self.arena);
        let known = known(self.located, &question, &session, load).map_or_else(
            || {
                let known = measure(self.config, &fit, (session, cost, self.arena), load)?;
                remember(self.located, &question, &known.0, &known.1);
                Ok(known)
            },
            Ok,
        );
        Ok(Recalled { fit, known: known?, quick: None })
    }

    /// From what was imported and is known, without packing weights. The sessions have not run: an earlier load has run
    /// the model, on this machine and with this runtime.
    fn quickly(&self, fit: impl Fn(&Signature) -> Result<Fit>) -> Option<Recalled> {
        let quick = self.located.quick()?;
        let load = |threads| quick.unpacked(self.options(threads));
        let session = load(1).ok()?;
        let fit = fit(session.signature()).ok()?;
        let Remembered { findings, plan } = self.located.recall(&question(self.config, &fit, self.arena))?;
        let cost = Load { duration: Duration::ZERO, bytes: 0 };
        let sessions = Lab::new(session, cost, &[], load).into_executors(plan.split()).ok()?;
        let options = self.options(plan.threads);
        Some(Recalled { fit, known: (findings, plan, sessions), quick: Some((quick, options)) })
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

/// What is known of a model: its findings, its plan, and a session for each instance, each of which has run once.
pub(super) type Known = (Findings, Plan, Vec<Arc<Session>>);

/// What an earlier load has found out; `None` when it is to be found out, which includes that the model does not run
/// now as it did then.
fn known(
    located: &Located<'_>,
    question: &str,
    session: &Arc<Session>,
    load: impl Fn(usize) -> Result<Arc<Session>>,
) -> Option<Known> {
    let Remembered { findings, plan } = located.recall(question)?;
    let cost = Load { duration: Duration::ZERO, bytes: 0 };
    let sessions = Lab::new(Arc::clone(session), cost, &[], load).into_executors(plan.split()).ok()?;
    let mut last: Option<&Arc<Session>> = None;
    for session in &sessions {
        // Ready means warm; instances of one thread share a session.
        if last.is_none_or(|last| !Arc::ptr_eq(last, session)) {
            try_once(session.signature(), &mut Arc::clone(session)).ok()?;
        }
        last = Some(session);
    }
    Some((findings, plan, sessions))
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
