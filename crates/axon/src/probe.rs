//! What is measured when a model is loaded: may its requests share a run, and how long does a run take?
//!
//! The signature alone cannot tell. A model may fix its batch inside (an exporter's `Reshape` to `[1, ...]`), or mix
//! rows (a mean over the batch, dynamic quantisation), which runs and is silently wrong. So rows are run alone and
//! beside hostile neighbours, at every place of a small batch, and must come out the same.

mod comparison;
mod inputs;

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use synapse::{Tensor, concat_rows, split_rows};

use crate::config::Batching;
use crate::error::Result;
use crate::executor::Executor;
use crate::signature::{Dimension, Signature};
use comparison::{Comparison, compare, floats};
use inputs::{Fill, InputMaker};

pub use comparison::tolerance;

/// The most rows that are run together.
pub const MAX_ROWS: usize = 64;

/// Bytes of inputs that one probe batch may take.
const MAX_BYTES: usize = 64 << 20;

/// How long the run-time curve is measured for, together; longer where a run is slow, so that two points come of it.
const CURVE_BUDGET: Duration = Duration::from_millis(150);
const LONGEST_CURVE: Duration = Duration::from_secs(1);

/// A run of one row that takes longer is tried beside one kind of neighbour only.
const SLOW_RUN: Duration = Duration::from_millis(500);

/// A batch is not grown for less than this gain per row.
const WORTHWHILE: f64 = 0.95;

/// Whether requests may share a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Batchable {
    /// Rows are independent. `bitwise` says that a row's answer is the same alone and in a batch, bit for bit; else
    /// it is within [`tolerance`].
    Yes {
        /// Equal bit for bit.
        bitwise: bool,
    },
    /// They influence each other, for this reason, and share runs all the same: the model's owner insists.
    Insisted(String),
    /// They may not, for this reason.
    No(String),
}

impl Batchable {
    /// True when requests share runs, for dimension 0 counts rows.
    #[must_use]
    pub fn shares_runs(&self) -> bool {
        matches!(self, Self::Yes { .. } | Self::Insisted(_))
    }
}

impl fmt::Display for Batchable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes { bitwise: true } => f.write_str("yes, bit for bit"),
            Self::Yes { bitwise: false } => f.write_str("yes, within tolerance"),
            Self::Insisted(reason) => write!(f, "insisted on, although {reason}"),
            Self::No(reason) => write!(f, "no: {reason}"),
        }
    }
}

/// The time of one run of a number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Rows run together.
    pub rows: usize,
    /// The fastest of a few runs.
    pub duration: Duration,
}

/// What the probe found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// Whether requests may share a run.
    pub batchable: Batchable,
    /// Whether the same inputs give the same outputs; `None` when the probe could not run the model.
    pub deterministic: Option<bool>,
    /// Run time over rows, by rows; only one row when it is not batchable, empty when the probe could not run it.
    pub curve: Vec<CurvePoint>,
    /// Bytes of the inputs and outputs of one row, of the size that was tried; 0 when it could not run it.
    pub bytes_of_row: usize,
    /// Inputs of one row that it was run on, or of what it takes instead; empty when it could not run it.
    #[serde(skip)]
    pub sample: Vec<Tensor>,
    /// Why the probe could not run the model, if so. It is served all the same: real inputs may fit.
    pub not_run: Option<String>,
}

impl Findings {
    /// What is known without a run.
    #[must_use]
    pub fn untried(batchable: Batchable) -> Self {
        Self {
            batchable,
            deterministic: None,
            curve: Vec::new(),
            bytes_of_row: 0,
            sample: Vec::new(),
            not_run: None,
        }
    }

    /// The time of a run of one row.
    #[must_use]
    pub fn single(&self) -> Option<Duration> {
        self.curve.first().map(|point| point.duration)
    }

    /// The rows beyond which a larger batch gains less than 5 % per row.
    #[must_use]
    pub fn knee(&self) -> usize {
        let per_row = |point: &CurvePoint| point.duration.as_secs_f64() / point.rows as f64;
        let best = self.curve.iter().map(per_row).fold(f64::INFINITY, f64::min);
        let knee = self.curve.iter().find(|point| per_row(point) * WORTHWHILE <= best);
        knee.map_or(1, |point| point.rows)
    }
}

/// Runs the model once on made-up inputs, as [`probe`] does first.
///
/// # Errors
/// Why no inputs could be run; real ones may fit.
pub fn try_once(signature: &Signature, executor: &mut dyn Executor) -> Result<()> {
    let mut last = Ok(());
    let found = InputMaker::new().find_runnable(signature, |inputs| {
        last = executor.run(inputs).map(drop);
        last.is_ok()
    });
    if found { Ok(()) } else { last }
}

/// Inputs of different sizes and values that the model can be run on, to compare what two copies of it answer; none when
/// it cannot be run on made-up inputs.
pub fn samples(signature: &Signature, executor: &mut dyn Executor) -> Vec<Vec<Tensor>> {
    let mut maker = InputMaker::new();
    if !maker.find_runnable(signature, |inputs| executor.run(inputs).is_ok()) {
        return Vec::new();
    }
    maker.find_magnitude(signature, |inputs| executor.run(inputs).is_ok());
    let kinds = [(1, Fill::Random), (1, Fill::Extreme), (3, Fill::Moderate)];
    let inputs = kinds.map(|(rows, fill)| maker.rows(signature, rows, fill));
    inputs.into_iter().filter(|inputs| executor.run(inputs).is_ok()).collect()
}

/// Runs the model to find out: about thirty runs of one to four rows and 150 ms, for a slow model ten of one or two
/// rows and a second.
///
/// Where the owner insists on [`Batching::Always`], rows that influence each other share runs all the same, if the model
/// takes several and answers with one for each.
pub fn probe(signature: &Signature, executor: &mut dyn Executor, batching: Batching) -> Findings {
    let mut maker = InputMaker::new();
    let mut not_run = None;
    let found = maker.find_runnable(signature, |inputs| {
        executor.run(inputs).map_err(|error| not_run = Some(error)).is_ok()
    });
    if !found {
        let reason =
            not_run.map_or_else(|| "no inputs to try".to_owned(), |error| error.message().to_owned());
        let batchable = Batchable::No("the model could not be tried with made-up inputs".to_owned());
        return Findings { not_run: Some(reason), ..Findings::untried(batchable) };
    }
    let mut trial = Trial { signature, maker, executor, bytes_of_row: 0 };
    let deterministic = trial.is_deterministic();
    let obstacle = static_obstacle(signature);
    let insists = obstacle.is_none() && batching == Batching::Always && trial.splits();
    let insisted = |batchable| match batchable {
        Batchable::No(reason) if insists => Batchable::Insisted(reason),
        batchable => batchable,
    };
    let batchable = insisted(match obstacle {
        Some(reason) => Batchable::No(reason),
        None if deterministic == Some(false) => {
            Batchable::No("the same inputs give different outputs".to_owned())
        }
        None => trial.rows_are_independent(),
    });
    let max_rows = if batchable.shares_runs() { MAX_ROWS } else { 1 };
    let mut curve = trial.measure(max_rows);
    let batchable = insisted(trial.confirm(batchable, &curve));
    if matches!(batchable, Batchable::No(_)) {
        curve.truncate(1);
    }
    let sample = trial.maker.row(signature, Fill::Random);
    let bytes_of_row = trial.bytes_of_row;
    Findings { batchable, deterministic, curve, bytes_of_row, sample, not_run: None }
}

/// Why the signature alone rules batching out; `None` when it does not.
fn static_obstacle(signature: &Signature) -> Option<String> {
    let mut symbol: Option<&Option<String>> = None;
    let inputs = signature.inputs.iter().map(|spec| ("input", spec));
    let outputs = signature.outputs.iter().map(|spec| ("output", spec));
    for (side, spec) in inputs.chain(outputs) {
        let name = &spec.name;
        let Some(shape) = &spec.shape else { return Some(format!("{side} `{name}` has no fixed rank")) };
        match shape.first() {
            None => return Some(format!("{side} `{name}` is a scalar")),
            Some(Dimension::Fixed(size)) => {
                return Some(format!("dimension 0 of {side} `{name}` is fixed at {size}"));
            }
            Some(Dimension::Dynamic(name_of_rows)) if side == "input" => {
                if *symbol.get_or_insert(name_of_rows) != name_of_rows {
                    return Some("the inputs name dimension 0 differently".to_owned());
                }
            }
            // Outputs may name it as they like: the trial counts their rows.
            Some(Dimension::Dynamic(_)) => {}
        }
    }
    signature.inputs.is_empty().then(|| "the model has no inputs".to_owned())
}

struct Trial<'a> {
    signature: &'a Signature,
    maker: InputMaker,
    executor: &'a mut dyn Executor,
    bytes_of_row: usize,
}

impl Trial<'_> {
    /// Whether two runs of the same inputs agree; `None` when they cannot be run.
    fn is_deterministic(&mut self) -> Option<bool> {
        let inputs = self.maker.row(self.signature, Fill::Random);
        let outputs = self.executor.run(&inputs).ok()?;
        self.bytes_of_row = inputs.iter().chain(&outputs).map(|tensor| tensor.memory().len()).sum();
        Some(outputs == self.executor.run(&inputs).ok()?)
    }

    /// Runs one row alone, then at every place beside neighbours that are large and that are not numbers.
    fn rows_are_independent(&mut self) -> Batchable {
        let started = Instant::now();
        if self.run_alone().is_none() {
            return could_not_run("a row alone");
        }
        let single = started.elapsed();
        let executor = &mut *self.executor;
        self.maker.find_magnitude(self.signature, |inputs| executor.run(inputs).is_ok());
        // A slow model is tried with fewer rows and neighbours, so that loading it takes ten runs and not forty.
        let rows = if single > Duration::from_millis(20) { 2 } else { 4 };
        let fills = [Fill::Extreme, Fill::NotANumber, Fill::Random];
        let fills = if single > SLOW_RUN { &fills[..1] } else { &fills[..] };
        let mut bitwise = true;
        let mut tried = false;
        for &fill in fills {
            // Another row each time: one alone may be blind to what mixes, such as an index of the largest.
            let Some((row, alone)) = self.run_alone() else { continue };
            let neighbours: Vec<_> = (1..rows).map(|_| self.maker.row(self.signature, fill)).collect();
            // A neighbour that the model refuses by itself says nothing about a batch.
            if neighbours.iter().any(|neighbour| self.executor.run(neighbour).is_err()) {
                continue;
            }
            tried = true;
            for place in 0..rows {
                let mut members: Vec<&Vec<Tensor>> = neighbours.iter().collect();
                members.insert(place, &row);
                match self.run_beside(&members, place, &alone) {
                    Ok(equal) => bitwise &= equal,
                    Err(reason) => return Batchable::No(reason),
                }
            }
        }
        if !tried {
            return could_not_run("a batch");
        }
        Batchable::Yes { bitwise }
    }

    /// Whether two rows are run together and every output has one row for each.
    fn splits(&mut self) -> bool {
        let rows = self.maker.rows(self.signature, 2, Fill::Moderate);
        let outputs = self.executor.run(&rows);
        outputs.is_ok_and(|outputs| outputs.iter().all(|output| split_rows(output, &[1, 1]).is_ok()))
    }

    /// A row and the outputs that it gives alone; `None` when the model refuses it, or answers nothing that could
    /// show an influence.
    fn run_alone(&mut self) -> Option<(Vec<Tensor>, Vec<Tensor>)> {
        let row = self.maker.row(self.signature, Fill::Moderate);
        let alone = self.executor.run(&row).ok()?;
        let tells =
            |output: &Tensor| floats(output).is_none_or(|values| values.iter().any(|value| !value.is_nan()));
        alone.iter().any(tells).then_some((row, alone))
    }

    /// Tries a row beside as many neighbours as a batch of each measured size has.
    fn confirm(&mut self, batchable: Batchable, curve: &[CurvePoint]) -> Batchable {
        let Batchable::Yes { mut bitwise } = batchable else { return batchable };
        for rows in curve.iter().map(|point| point.rows).filter(|&rows| rows > 4) {
            let Some((row, alone)) = self.run_alone() else { continue };
            let neighbours = self.maker.rows(self.signature, rows - 1, Fill::Extreme);
            if self.executor.run(&neighbours).is_err() {
                continue;
            }
            match self.run_beside(&[&row, &neighbours], 0, &alone) {
                Ok(equal) => bitwise &= equal,
                Err(reason) => return Batchable::No(reason),
            }
        }
        Batchable::Yes { bitwise }
    }

    /// True when the row at `place` comes out as it does alone, bit for bit; false when it does within tolerance.
    fn run_beside(
        &mut self,
        members: &[&Vec<Tensor>],
        place: usize,
        alone: &[Tensor],
    ) -> Result<bool, String> {
        let counts: Vec<usize> = members
            .iter()
            .map(|member| member.first().and_then(|tensor| tensor.shape().rows()).unwrap_or(1))
            .collect();
        let rows: usize = counts.iter().sum();
        let join = |index: usize| {
            let parts: Vec<&Tensor> = members.iter().filter_map(|member| member.get(index)).collect();
            concat_rows(&parts)
        };
        let inputs: Result<Vec<_>, _> = (0..self.signature.inputs.len()).map(join).collect();
        let inputs = inputs.map_err(|error| error.to_string())?;
        let outputs = self.executor.run(&inputs).map_err(|_| format!("a run of {rows} rows fails"))?;
        let mut bitwise = true;
        for ((output, alone), spec) in outputs.iter().zip(alone).zip(&self.signature.outputs) {
            let parts = split_rows(output, &counts);
            let parts = parts
                .map_err(|_| format!("output `{}` does not have one row for each input row", spec.name))?;
            match parts.get(place).map(|part| compare(part, alone)) {
                Some(Comparison::Equal) => {}
                Some(Comparison::Close) => bitwise = false,
                _ => return Err(format!("rows influence each other in output `{}`", spec.name)),
            }
        }
        Ok(bitwise)
    }

    /// Times runs of 1, 2, 4, ... rows until the budget is spent, or memory is.
    fn measure(&mut self, max_rows: usize) -> Vec<CurvePoint> {
        let started = Instant::now();
        let mut end = started + CURVE_BUDGET;
        let mut curve: Vec<CurvePoint> = Vec::new();
        let mut rows = 1;
        while rows <= max_rows && self.maker.bytes_of_row(self.signature).saturating_mul(rows) <= MAX_BYTES {
            let inputs = self.maker.rows(self.signature, rows, Fill::Random);
            let left = end.saturating_duration_since(Instant::now());
            // The next size takes at most twice the last one; it is warmed up once and timed at least once.
            if curve.last().is_some_and(|last| last.duration * 4 > left) {
                break;
            }
            let share = left / ((max_rows / rows).ilog2() + 1);
            let Some(duration) = self.time(&inputs, share) else { break };
            if curve.is_empty() {
                // By the run of one row alone: a fast model must not be slow to load because its large batches are.
                end = end.max(started + (duration * 12).min(LONGEST_CURVE));
            }
            curve.push(CurvePoint { rows: self.maker.rows_made(self.signature, rows), duration });
            rows *= 2;
        }
        curve
    }

    /// The fastest of up to nine runs that fit `share`, after one that warms up: what other programs on the machine do
    /// meanwhile is not the model's cost.
    fn time(&mut self, inputs: &[Tensor], share: Duration) -> Option<Duration> {
        const RUNS: usize = 9;
        let end = Instant::now() + share;
        self.executor.run(inputs).ok()?;
        let mut durations = Vec::with_capacity(RUNS);
        while durations.len() < RUNS && (durations.is_empty() || Instant::now() < end) {
            let started = Instant::now();
            self.executor.run(inputs).ok()?;
            durations.push(started.elapsed());
        }
        durations.into_iter().min()
    }
}

fn could_not_run(what: &str) -> Batchable {
    Batchable::No(format!("{what} could not be run"))
}

#[cfg(test)]
mod tests;
