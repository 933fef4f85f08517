//! Chooses how a model is run on the cores it is granted: instances, threads of one run, rows of a batch.
//!
//! A split of the cores is tried and not guessed: whether two runs of one thread or one run of two threads give more
//! rows a second depends on the model and on the machine. `choose` decides from what a [`Trial`] measures; [`Lab`] is
//! the one that runs the model, and tests have one whose durations are written down. [`reconsider`] says when a running
//! model's learned run times no longer fit its plan.
//!
//! Invariants: instances times threads is at most the cores; a batch has at most `row_limit` rows; a model whose runs
//! are tiny, and a machine of one core, cost no trial.

mod lab;
mod reconsider;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Batching, Device, ModelConfig, Profile};
use crate::probe::{Findings, MAX_ROWS};

pub use lab::{Lab, Load};
pub use reconsider::{Change, Observed, reconsider};

/// A run shorter than this, whose rows at the knee take less than [`TINY_ROW`] each, is dominated by what surrounds it:
/// one instance in four cores keeps up with the wire, and more would only take its cores.
const TINY_RUN: Duration = Duration::from_micros(100);

/// What a request over HTTP costs by itself. **Source:** `benchmarks/results/overhead-2026-11-24-d8d01cc.json`, 15 µs.
const TINY_ROW: Duration = Duration::from_micros(15);

/// What all trials of a model may take together, loading sessions included.
const BUDGET: Duration = Duration::from_secs(1);

/// Each figure is the best of as many rounds, where the budget has room for them: what other programs on the machine
/// do meanwhile is not the model's cost.
const ROUNDS: usize = 3;

/// How long one figure is measured for in one round, at least one run.
const FIGURE: Duration = Duration::from_millis(10);

/// The most runs of one figure.
const MOST_RUNS: usize = 64;

/// One thread a run is left only for as much: it needs one copy of the weights, whatever the instances.
const WORTHWHILE: f64 = 1.05;

/// The latency profile gives up at most this share of the best throughput.
const LEAST_SHARE: f64 = 0.5;

/// How cores are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Runs at once.
    pub instances: usize,
    /// Threads of one run.
    pub threads: usize,
}

/// A split and what was measured of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Runs at once.
    pub instances: usize,
    /// Threads of one run.
    pub threads: usize,
    /// Rows of the batches below.
    pub rows: usize,
    /// Rows a second when all instances run such batches at once.
    pub rows_per_second: f64,
    /// The time of a run of one row, alone.
    pub single: Duration,
    /// The time of a run of such a batch, alone.
    pub full: Duration,
}

/// Why the plan is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Because {
    /// Several splits were tried, and the profile likes this one best.
    Measured(Profile),
    /// There is one core.
    OneCore,
    /// A run is so short that more instances would only take the wire's cores.
    TinyRun,
    /// The configuration says how many instances, and leaves no core for more threads.
    Configured,
    /// Runs, or loads, take so long that another split could not be tried in time.
    SlowRun,
    /// The model failed on made-up inputs.
    NotTried,
    /// It does not run on the CPU's cores.
    Device,
    /// The test backend only waits.
    TestBackend,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured(Profile::Throughput) => "most rows/s of those tried",
            Self::Measured(Profile::Latency) => {
                "shortest run of those tried that keep half of the best throughput"
            }
            Self::OneCore => "one core is granted",
            Self::TinyRun => "a run is too short to be worth more",
            Self::Configured => "the configuration says so",
            Self::SlowRun => "a run takes too long to try others at load",
            Self::NotTried => "the model could not be tried with made-up inputs",
            Self::Device => "a GPU runs one batch at a time",
            Self::TestBackend => "the test backend only waits",
        })
    }
}

/// How a model is run, chosen at load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Threads that run the model, each a batch at a time.
    pub instances: usize,
    /// Threads of one run.
    pub threads: usize,
    /// The most rows that are run together; 1 when batches do not pay or may not be.
    pub max_batch_rows: NonZeroUsize,
    /// What `max_batch_rows` may grow to at run time: by memory, by the configuration, and by what the probe tried.
    pub row_limit: NonZeroUsize,
    /// Whether ONNX Runtime keeps the memory of one run for the next.
    pub arena: bool,
    /// Why it is so.
    pub because: Because,
    /// The splits that were compared; only the chosen one, from the probe's curve, when none were, and none when the
    /// probe could not run the model.
    pub why: Vec<Candidate>,
}

impl Plan {
    /// What is known of the chosen split.
    #[must_use]
    pub fn chosen(&self) -> Option<&Candidate> {
        let is_chosen = |candidate: &&Candidate| candidate.split() == self.split();
        self.why.iter().find(is_chosen)
    }

    /// How the cores are divided.
    #[must_use]
    pub fn split(&self) -> Split {
        Split { instances: self.instances, threads: self.threads }
    }

    /// The test backend's: its instances only wait, so that they are as many as is configured, whatever the cores.
    #[must_use]
    pub fn waiting(instances: Option<NonZeroUsize>, max_batch_rows: NonZeroUsize) -> Self {
        Self {
            instances: instances.map_or(1, NonZeroUsize::get),
            threads: 1,
            max_batch_rows,
            row_limit: max_batch_rows,
            arena: false,
            because: Because::TestBackend,
            why: Vec::new(),
        }
    }
}

impl Candidate {
    /// How it divides the cores.
    #[must_use]
    pub fn split(&self) -> Split {
        Split { instances: self.instances, threads: self.threads }
    }
}

/// Where splits are tried.
pub trait Trial {
    /// How long the trials have taken so far.
    fn elapsed(&self) -> Duration;

    /// About how long [`Trial::open`] will take without its warm-up; `None` when the split's copies of the model would
    /// take too much memory.
    fn opening(&self, split: Split) -> Option<Duration>;

    /// Makes a split ready to run, and warms it up with a batch of `rows`; false when it cannot be had.
    fn open(&mut self, split: Split, rows: usize) -> bool;

    /// The fastest of `runs` runs of `rows`, one after the other; `None` when one fails.
    fn alone(&mut self, split: Split, rows: usize, runs: usize) -> Option<Duration>;

    /// How long all instances together take for `runs` runs of `rows` each; `None` when one fails.
    fn together(&mut self, split: Split, rows: usize, runs: usize) -> Option<Duration>;
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The model's settings.
    pub config: &'a ModelConfig,
    /// What the probe found with one thread a run.
    pub findings: &'a Findings,
    /// The most rows of a run that the model's owner allows; `None` leaves it open.
    pub max_rows: Option<NonZeroUsize>,
    /// Whether ONNX Runtime keeps the memory of one run for the next.
    pub arena: bool,
    /// The cores granted.
    pub cores: NonZeroUsize,
}

/// Chooses how to run a model; runs it by `trial` where that can change the choice, for about a second at most.
///
/// The exception is the split of all cores under [`Profile::Latency`], which is tried however long it takes: whoever
/// asks for short runs is not served by a guess.
pub fn choose(question: &Question<'_>, trial: &mut dyn Trial) -> Plan {
    let (base, skipped) = question.base();
    let row_limit = question.row_limit();
    let rows = question.rows(row_limit);
    let curve = question.unmeasured(base, rows);
    let mut because = skipped.unwrap_or(Because::SlowRun);
    let mut why: Vec<_> = curve.into_iter().collect();
    if skipped.is_none() {
        let measured = Comparison { question, trial, rows, base: why.first().cloned() }.measure();
        if measured.len() > 1 {
            (because, why) = (Because::Measured(question.config.profile), measured);
        }
    }
    let chosen = best(&why, question.config.profile);
    let split = chosen.map_or(base, Candidate::split);
    let is_flat = chosen.is_some_and(Candidate::is_flat);
    let max_batch_rows = match NonZeroUsize::new(rows) {
        Some(rows) if question.is_batched() && !is_flat => rows,
        _ => NonZeroUsize::MIN,
    };
    Plan {
        instances: split.instances,
        threads: split.threads,
        max_batch_rows,
        row_limit,
        arena: question.arena,
        because,
        why,
    }
}

impl Question<'_> {
    fn is_batched(&self) -> bool {
        self.findings.batchable.shares_runs() && self.config.batching != Batching::Off
    }

    /// One thread a run, and why nothing else is tried, if so.
    fn base(&self) -> (Split, Option<Because>) {
        let cores = self.cores.get();
        let given = self.config.instances.map(|instances| instances.get().min(cores));
        let single = self.findings.single();
        let is_tiny = single.is_some_and(|single| single < TINY_RUN) && self.row_at_the_knee() < TINY_ROW;
        let few = (cores / 4).max(1);
        let (chosen, skipped) = match self.config.device {
            // One caller for each session of a provider that is not the CPU's, and one session of it.
            Device::Cuda => return (Split { instances: 1, threads: 1 }, Some(Because::Device)),
            Device::Cpu if cores == 1 => (1, Some(Because::OneCore)),
            Device::Cpu if single.is_none() => (cores, Some(Because::NotTried)),
            Device::Cpu if is_tiny => (few, Some(Because::TinyRun)),
            Device::Cpu => (cores, None),
        };
        // Instances that were asked for are a bound on cores too, unless short runs were asked for as well.
        let leaves_cores = |instances: usize| {
            self.config.profile == Profile::Latency && instances * 2 <= cores && skipped.is_none()
        };
        let skipped = match given {
            Some(instances) if leaves_cores(instances) => None,
            Some(_) if cores > 1 => Some(Because::Configured),
            _ => skipped,
        };
        (Split { instances: given.unwrap_or(chosen), threads: 1 }, skipped)
    }

    /// What a row costs in the batches that will be formed.
    fn row_at_the_knee(&self) -> Duration {
        let rows = self.rows(self.row_limit());
        let point = self.findings.curve.iter().find(|point| point.rows >= rows);
        point.map_or(Duration::ZERO, |point| point.duration / u32::try_from(point.rows).unwrap_or(u32::MAX))
    }

    /// Other splits, the likeliest first.
    fn others(&self) -> Vec<Split> {
        let cores = self.cores.get();
        let instances = self.config.instances.map(|instances| instances.get().min(cores));
        let most = cores / instances.unwrap_or(1);
        let mut threads: Vec<usize> = [2, 4].into_iter().filter(|&threads| threads < most).collect();
        threads.extend((most > 1).then_some(most));
        if self.config.profile == Profile::Latency {
            threads.reverse();
        }
        let split = |threads: usize| Split { instances: instances.unwrap_or(cores / threads), threads };
        threads.into_iter().map(split).collect()
    }

    /// The most rows of a run, for whatever reason but that they do not pay.
    fn row_limit(&self) -> NonZeroUsize {
        if !self.is_batched() {
            return NonZeroUsize::MIN;
        }
        let by_memory = self.config.max_batch_bytes / self.findings.bytes_of_row.max(1);
        let most = MAX_ROWS.min(by_memory).min(self.max_rows.map_or(usize::MAX, NonZeroUsize::get));
        NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN)
    }

    /// The rows of the batches that are compared: the knee's. A model that is not batched takes as many as it does.
    fn rows(&self, limit: NonZeroUsize) -> usize {
        if self.is_batched() {
            return self.findings.knee().clamp(1, limit.get());
        }
        self.findings.curve.first().map_or(1, |point| point.rows)
    }

    /// What the probe's curve says of one thread a run, as if instances did not slow each other down.
    fn unmeasured(&self, split: Split, rows: usize) -> Option<Candidate> {
        let curve = &self.findings.curve;
        let single = self.findings.single()?;
        let full = curve.iter().find(|point| point.rows >= rows).map_or(single, |point| point.duration);
        let rate = per_second(split.instances * rows, full);
        let Split { instances, threads } = split;
        Some(Candidate { instances, threads, rows, rows_per_second: rate, single, full })
    }
}

/// The trial of all splits, side by side.
struct Comparison<'a> {
    question: &'a Question<'a>,
    trial: &'a mut dyn Trial,
    rows: usize,
    base: Option<Candidate>,
}

impl Comparison<'_> {
    /// Opens what the budget has room for, and measures it in rounds that go through all splits in turn, so that a
    /// busy moment of the machine hits all alike.
    fn measure(mut self) -> Vec<Candidate> {
        let Some(base) = self.base.take() else { return Vec::new() };
        let mut splits = vec![base.split()];
        let mut committed = self.round_of(base.split(), &base);
        for (index, split) in self.question.others().into_iter().enumerate() {
            let is_wanted = index == 0 && self.question.config.profile == Profile::Latency;
            let Some(opening) = self.trial.opening(split) else { continue };
            let round = self.round_of(split, &base);
            let cost = opening + base.full + round;
            let fits = self.trial.elapsed() + committed + cost <= BUDGET;
            if (is_wanted || fits) && self.trial.open(split, self.rows) {
                splits.push(split);
                committed += round;
            }
        }
        if splits.len() == 1 {
            return Vec::new();
        }
        self.rounds(&splits, &base)
    }

    fn rounds(&mut self, splits: &[Split], base: &Candidate) -> Vec<Candidate> {
        let mut best: Vec<Option<Candidate>> = vec![None; splits.len()];
        for round in 0..ROUNDS {
            let started = self.trial.elapsed();
            for (split, best) in splits.iter().zip(&mut best) {
                let figures = self.figures(*split, base);
                // A split that fails once is not chosen.
                *best = match (best.take(), figures) {
                    (Some(best), Some(new)) => Some(best.better(&new)),
                    (None, Some(new)) if round == 0 => Some(new),
                    _ => None,
                };
            }
            let now = self.trial.elapsed();
            if now + now.saturating_sub(started) > BUDGET {
                break;
            }
        }
        best.into_iter().flatten().collect()
    }

    /// One round's figures of one split; those of one thread alone are known from the probe.
    fn figures(&mut self, split: Split, base: &Candidate) -> Option<Candidate> {
        let rows = self.rows;
        let (single, full) = if split == base.split() {
            (base.single, base.full)
        } else {
            // A model that is not batched has one size only.
            let single = if rows == 1 || !self.question.is_batched() {
                None
            } else {
                Some(self.trial.alone(split, 1, runs_of(base.single))?)
            };
            let full = self.trial.alone(split, rows, runs_of(base.full))?;
            (single.unwrap_or(full), full)
        };
        let runs = runs_of(base.full);
        let rows_per_second = if split.instances == 1 {
            per_second(rows, full)
        } else {
            per_second(split.instances * rows * runs, self.trial.together(split, rows, runs)?)
        };
        let Split { instances, threads } = split;
        Some(Candidate { instances, threads, rows, rows_per_second, single, full })
    }

    /// About how long [`Comparison::figures`] takes, if more threads a run gain nothing.
    fn round_of(&self, split: Split, base: &Candidate) -> Duration {
        let figure = |run: Duration| run * u32::try_from(runs_of(run)).unwrap_or(u32::MAX);
        let is_base = split == base.split();
        let alone = if is_base { Duration::ZERO } else { figure(base.full) };
        let single = if is_base || self.rows == 1 { Duration::ZERO } else { figure(base.single) };
        let together = if split.instances == 1 { Duration::ZERO } else { figure(base.full) };
        alone + single + together
    }
}

impl Candidate {
    /// The best figures of two rounds.
    fn better(self, other: &Self) -> Self {
        Self {
            rows_per_second: self.rows_per_second.max(other.rows_per_second),
            single: self.single.min(other.single),
            full: self.full.min(other.full),
            ..self
        }
    }

    /// True when a batch takes about as long as its rows one after the other.
    fn is_flat(&self) -> bool {
        let one_by_one = self.single.as_secs_f64() * self.rows as f64;
        self.full.as_secs_f64() > one_by_one / WORTHWHILE
    }
}

/// The first candidate is the one of one thread a run; it stays unless another is clearly better.
fn best(candidates: &[Candidate], profile: Profile) -> Option<&Candidate> {
    let (first, others) = candidates.split_first()?;
    let most = candidates.iter().map(|candidate| candidate.rows_per_second).fold(0.0, f64::max);
    let keeps_up = |candidate: &Candidate| candidate.rows_per_second >= most * LEAST_SHARE;
    let score = |candidate: &Candidate| match profile {
        Profile::Throughput => candidate.rows_per_second,
        Profile::Latency if keeps_up(candidate) => 1.0 / candidate.single.as_secs_f64().max(1e-9),
        Profile::Latency => 0.0,
    };
    let other = others.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    Some(other.filter(|other| score(other) > score(first) * WORTHWHILE).unwrap_or(first))
}

/// The runs that one figure takes.
fn runs_of(run: Duration) -> usize {
    let runs = FIGURE.as_nanos() / run.as_nanos().max(1);
    usize::try_from(runs).unwrap_or(MOST_RUNS).clamp(1, MOST_RUNS)
}

fn per_second(rows: usize, duration: Duration) -> f64 {
    rows as f64 / duration.as_secs_f64().max(1e-9)
}
