//! `axon simulate`: a trace through the batcher under virtual time.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use axon::simulation::{Replay, ReplayReport, replay};
use axon::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::detached;
use crate::errors::IntoPyResult;

/// What is played, as `axon.cli.simulate` passes it on.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct NativeReplay {
    arrivals: Vec<f64>,
    rows: Vec<usize>,
    deadline_s: f64,
    curve: Vec<(usize, f64)>,
    instances: usize,
    max_batch_rows: NonZeroUsize,
    max_queue_size: NonZeroUsize,
    noise: f64,
    seed: u64,
}

impl NativeReplay {
    fn parse(self) -> Result<Replay> {
        let named = |field: &'static str, index: usize| {
            move |problem: String| Error::invalid(format!("{field}[{index}]"), problem)
        };
        let mut arrivals = Vec::with_capacity(self.arrivals.len());
        for (index, &at) in self.arrivals.iter().enumerate() {
            arrivals.push(seconds(at).map_err(named("arrivals", index))?);
        }
        let mut curve = Vec::with_capacity(self.curve.len());
        for (index, &(rows, took)) in self.curve.iter().enumerate() {
            curve.push((rows, seconds(took).map_err(named("curve", index))?));
        }
        Ok(Replay {
            arrivals,
            rows: self.rows,
            deadline: seconds(self.deadline_s).map_err(|problem| Error::invalid("deadline_s", problem))?,
            curve,
            instances: self.instances,
            max_batch_rows: self.max_batch_rows,
            max_queue_size: self.max_queue_size,
            noise: self.noise,
            seed: self.seed,
        })
    }
}

fn seconds(value: f64) -> std::result::Result<Duration, String> {
    Duration::try_from_secs_f64(value).map_err(|_| format!("expected seconds from 0 to 1e9, got {value:?}"))
}

/// Plays a trace to its end and returns what came of it.
#[pyfunction]
pub fn simulate(py: Python<'_>, trace: NativeReplay) -> PyResult<Bound<'_, PyDict>> {
    let trace = trace.parse().or_raise(py)?;
    let report = detached(py, || replay(&trace, Instant::now())).or_raise(py)?;
    to_dict(py, &report)
}

fn to_dict<'py>(py: Python<'py>, report: &ReplayReport) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counts = [
        ("received", report.received),
        ("in_time", report.in_time),
        ("late", report.late),
        ("refused_queue_full", report.refused_queue_full),
        ("refused_predicted", report.refused_predicted),
        ("shed", report.shed),
        ("expired", report.expired),
        ("batches", report.batches),
    ];
    for (name, count) in counts {
        dict.set_item(name, count)?;
    }
    dict.set_item("mean_batch_rows", report.mean_batch_rows)?;
    let latencies = [
        ("p50_s", report.p50),
        ("p99_s", report.p99),
        ("predicted_p99_s", report.predicted_p99),
        ("max_s", report.max),
    ];
    for (name, latency) in latencies {
        dict.set_item(name, latency.map(|latency| latency.as_secs_f64()))?;
    }
    dict.set_item("busy", report.busy)?;
    dict.set_item("elapsed_s", report.elapsed.as_secs_f64())?;
    dict.set_item("trace", format!("{:016x}", report.trace))?;
    Ok(dict)
}
