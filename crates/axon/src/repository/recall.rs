//! Finds out what a model is and how it is best run, or takes what an earlier load of it has found out.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{ModelConfig, granted_cores};
use crate::error::Result;
use crate::import::{Located, Remembered};
use crate::model_config::Fit;
use crate::onnx::Session;
use crate::plan::{Lab, Load, Plan, Question, choose};
use crate::probe::{Batchable, Findings, probe, try_once};

/// All that the findings and the plan depend on, besides the model and the machine.
pub(super) fn question(config: &ModelConfig, fit: &Fit, arena: bool) -> String {
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
pub(super) fn known(
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
pub(super) fn measure(
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
pub(super) fn remember(located: &Located<'_>, question: &str, findings: &Findings, plan: &Plan) {
    if findings.not_run.is_none() {
        located.remember(question, Remembered { findings: findings.clone(), plan: plan.clone() });
    }
}
