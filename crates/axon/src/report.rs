//! What is known of a loaded model, as `axon inspect` shows it.

use serde::Serialize;

use crate::onnx::{ModelFile, runtime_version};
use crate::plan::Candidate;
use crate::probe::Batchable;
use crate::repository::Model;
use crate::signature::{Dimension, TensorSpec};

/// All that was read, measured and chosen when a model was loaded.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    /// The model.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// What runs it, as the protocol names it.
    pub platform: &'static str,
    /// Bytes of its file; 0 for a model without one.
    pub size_bytes: u64,
    /// The version of the default operator set.
    pub opset: u64,
    /// Who made the file, as it says.
    pub producer: String,
    /// The version of ONNX Runtime; `none` for a model that it does not run.
    pub runtime: String,
    /// The execution provider.
    pub device: &'static str,
    /// What it takes.
    pub inputs: Vec<TensorReport>,
    /// What it gives.
    pub outputs: Vec<TensorReport>,
    /// Whether requests may share a run.
    pub batchable: bool,
    /// Why they may not, or would not if the owner did not insist.
    pub not_batchable_because: Option<String>,
    /// Whether a row's answer is the same alone and in a batch, bit for bit; `None` when it is not batched.
    pub bitwise: Option<bool>,
    /// Whether the same inputs give the same outputs; `None` when the model could not be tried.
    pub deterministic: Option<bool>,
    /// Why the model could not be tried with made-up inputs.
    pub not_tried_because: Option<String>,
    /// The time of one run over rows.
    pub run_time: Vec<RunTime>,
    /// Threads that run the model.
    pub instances: usize,
    /// Threads of one run.
    pub threads: usize,
    /// The most rows that are run together.
    pub max_batch_rows: usize,
    /// What instances and threads were chosen for.
    pub profile: &'static str,
    /// Why they are as many.
    pub chosen_because: String,
    /// The splits of the cores that were compared; one, from `run_time`, when none were.
    pub candidates: Vec<CandidateReport>,
    /// Whether ONNX Runtime keeps the memory of one run for the next.
    pub arena: bool,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: &'static str,
    /// Its shape, -1 for a dynamic dimension.
    pub shape: Vec<i64>,
    /// The names of its dynamic dimensions, null for the others.
    pub dimension_names: Vec<Option<String>>,
}

/// A split of the cores, and what was measured of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CandidateReport {
    /// Runs at once.
    pub instances: usize,
    /// Threads of one run.
    pub threads: usize,
    /// Rows of the batches that give the rate.
    pub rows: usize,
    /// Rows a second when all instances run such batches at once.
    pub rows_per_second: f64,
    /// The time of a run of one row, alone, in milliseconds.
    pub single_milliseconds: f64,
    /// The time of a run of such a batch, alone, in milliseconds.
    pub batch_milliseconds: f64,
    /// Whether it was chosen.
    pub is_chosen: bool,
}

/// A point of the run-time curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RunTime {
    /// Rows run together.
    pub rows: usize,
    /// The fastest of a few runs, in milliseconds.
    pub milliseconds: f64,
}

impl ModelReport {
    /// Reports on a loaded model.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        let (findings, plan) = (model.findings(), model.plan());
        let (outline, runtime) = match model.outline() {
            Some(outline) => (outline.clone(), runtime_version().unwrap_or_default()),
            None => (ModelFile::default(), "none"),
        };
        let (batchable, reason, bitwise) = match &findings.batchable {
            Batchable::Yes { bitwise } => (true, None, Some(*bitwise)),
            Batchable::Insisted(reason) => (true, Some(reason.clone()), None),
            Batchable::No(reason) => (false, Some(reason.clone()), None),
        };
        Self {
            name: model.name().to_owned(),
            version: model.version(),
            platform: model.platform(),
            size_bytes: outline.size,
            opset: outline.opset,
            producer: outline.producer,
            runtime: runtime.to_owned(),
            device: model.config().device.name(),
            inputs: model.signature().inputs.iter().map(TensorReport::new).collect(),
            outputs: model.signature().outputs.iter().map(TensorReport::new).collect(),
            batchable,
            not_batchable_because: reason,
            bitwise,
            deterministic: findings.deterministic,
            not_tried_because: findings.not_run.clone(),
            run_time: findings
                .curve
                .iter()
                .map(|point| RunTime { rows: point.rows, milliseconds: point.duration.as_secs_f64() * 1e3 })
                .collect(),
            instances: plan.instances,
            threads: plan.threads,
            max_batch_rows: plan.max_batch_rows.get(),
            profile: model.config().profile.name(),
            chosen_because: plan.because.to_string(),
            candidates: plan
                .why
                .iter()
                .map(|candidate| CandidateReport::new(candidate, candidate.split() == plan.split()))
                .collect(),
            arena: plan.arena,
        }
    }
}

impl CandidateReport {
    fn new(candidate: &Candidate, is_chosen: bool) -> Self {
        Self {
            instances: candidate.instances,
            threads: candidate.threads,
            rows: candidate.rows,
            rows_per_second: candidate.rows_per_second,
            single_milliseconds: candidate.single.as_secs_f64() * 1e3,
            batch_milliseconds: candidate.full.as_secs_f64() * 1e3,
            is_chosen,
        }
    }
}

impl TensorReport {
    fn new(spec: &TensorSpec) -> Self {
        let name = |dimension: &Dimension| match dimension {
            Dimension::Dynamic(name) => name.clone(),
            Dimension::Fixed(_) => None,
        };
        Self {
            name: spec.name.clone(),
            datatype: spec.datatype.name(),
            shape: spec.wire_shape(),
            dimension_names: spec.shape.iter().flatten().map(name).collect(),
        }
    }
}
