//! Makes an entry of a model: for a process of its own, which can be stopped.
//!
//! load as it is, writing what was optimised → answer samples → load what was written → answer the same → compare → seal.
//!
//! What was written counts only when every answer is the same, bit for bit, as the model's as it is: whoever asked it
//! before gets what he got before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use synapse::Tensor;

use super::profile::{Measured, Profile};
use super::store::{GRAPH, WEIGHTS, seal_entry};
use crate::config::Device;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::onnx::{ModelFile, Session, SessionOptions, runtime_version};
use crate::probe::samples;
use crate::storage::Disk;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Job {
    /// The model's file.
    pub model: PathBuf,
    /// The empty folder that the entry is written to.
    pub folder: PathBuf,
    /// The entry's name.
    pub key: String,
}

/// Why nothing came of it.
pub(super) enum Obstacle {
    /// The model is left as it is, now and later.
    LeaveAlone(String),
    /// It could not be tried.
    Failed(Error),
}

/// Writes the entry that `job` asks for; it says so itself when the model is to be left as it is.
///
/// # Errors
/// [`ErrorKind::InvalidModel`](crate::ErrorKind) when ONNX Runtime refuses the model;
/// [`ErrorKind::Internal`](crate::ErrorKind) when a file cannot be read or written.
pub fn build(job: &Job) -> Result<()> {
    build_on(&Disk::default(), job)
}

pub(super) fn build_on(disk: &Disk, job: &Job) -> Result<()> {
    let outline = ModelFile::read(&job.model)?;
    let (left_alone, measured) = match write(disk, job) {
        Ok(measured) => (None, Some(measured)),
        Err(Obstacle::LeaveAlone(reason)) => {
            for path in disk.list(&job.folder).map_err(Error::internal)? {
                disk.remove_file(&path).map_err(Error::internal)?;
            }
            (Some(reason), None)
        }
        Err(Obstacle::Failed(error)) => return Err(error),
    };
    let profile = profile(&job.model, &outline, left_alone, measured);
    seal_entry(disk, &job.folder, &job.key, &profile).map_err(Error::internal)
}

pub(super) fn profile(
    model: &Path,
    outline: &ModelFile,
    left_alone: Option<String>,
    measured: Option<Measured>,
) -> Profile {
    let beside = outline.external.iter().filter_map(|file| Some(file.metadata().ok()?.len()));
    Profile {
        model: model.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        model_bytes: beside.fold(outline.size, u64::saturating_add),
        runtime: runtime_version().unwrap_or_default().to_owned(),
        left_alone,
        measured,
    }
}

fn write(disk: &Disk, job: &Job) -> Result<Measured, Obstacle> {
    let leave = |reason: &str| Obstacle::LeaveAlone(reason.to_owned());
    let options = SessionOptions { device: Device::Cpu, threads: 1, arena: false };
    let graph = job.folder.join(GRAPH);
    let started = Instant::now();
    let mut plain = Session::save(&job.model, options, &graph, WEIGHTS).map_err(Obstacle::Failed)?;
    let import = started.elapsed();
    let signature = plain.signature().clone();
    let samples = samples(&signature, &mut plain);
    if samples.is_empty() {
        return Err(leave("it could not be run on made-up inputs, so that answers cannot be compared"));
    }
    let expected = answers(&mut plain, &samples).map_err(Obstacle::Failed)?.0;
    if answers(&mut plain, &samples).map_err(Obstacle::Failed)?.0 != expected {
        return Err(leave("the same inputs give different outputs, so that answers cannot be compared"));
    }
    // Both at once would take twice the memory.
    drop(plain);
    for path in disk.list(&job.folder).map_err(|error| Obstacle::Failed(Error::internal(error)))? {
        disk.sync(&path).map_err(|error| Obstacle::Failed(Error::internal(error)))?;
    }
    // ONNX Runtime does not always tell when it could not write; a part of a file that is missing shows here.
    ModelFile::read(&graph).map_err(|error| Obstacle::Failed(Error::internal(error)))?;
    let started = Instant::now();
    let mut saved = Session::load_saved(&graph, options)
        .map_err(|error| Obstacle::LeaveAlone(format!("what was written cannot be loaded: {error}")))?;
    let load = started.elapsed();
    if *saved.signature() != signature {
        return Err(leave("its inputs and outputs change when it is optimised"));
    }
    let Ok((answered, first_run)) = answers(&mut saved, &samples) else {
        return Err(leave("what was written cannot be run"));
    };
    if answered != expected {
        return Err(leave("its answers change when it is optimised once and for all"));
    }
    Ok(Measured {
        import_ms: milliseconds(import),
        load_ms: milliseconds(load),
        first_run_ms: milliseconds(first_run),
        run_ms: run_times(&mut saved, &samples),
        compared: samples.len(),
    })
}

/// The outputs for each sample, and how long the first took.
fn answers(session: &mut Arc<Session>, samples: &[Vec<Tensor>]) -> Result<(Vec<Vec<Tensor>>, Duration)> {
    let started = Instant::now();
    let mut first = None;
    let mut all = Vec::with_capacity(samples.len());
    for sample in samples {
        all.push(Executor::run(session, sample)?);
        first.get_or_insert_with(|| started.elapsed());
    }
    Ok((all, first.unwrap_or_default()))
}

fn run_times(session: &mut Arc<Session>, samples: &[Vec<Tensor>]) -> Vec<(usize, f64)> {
    let time = |sample: &Vec<Tensor>| {
        let started = Instant::now();
        Executor::run(session, sample).ok()?;
        let rows = sample.first().and_then(|tensor| tensor.shape().rows()).unwrap_or(1);
        Some((rows, milliseconds(started.elapsed())))
    };
    let mut times: Vec<(usize, f64)> = samples.iter().filter_map(time).collect();
    times.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    times.dedup_by_key(|(rows, _)| *rows);
    times
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
