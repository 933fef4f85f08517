//! Runs the batcher under seeded virtual time, with everything that may go wrong, and checks it at every step.
//!
//! A [`Scenario`] comes from a seed: limits, arrivals, deadlines, failing instances, callers who go away, a shutdown.
//! The driver does what `scheduler` does in production: an instance that is free polls whenever something happens, a
//! timer polls at deadlines. The ledger keeps its own, simpler account of every request and compares it with what the
//! batcher did. There are no threads, no clock and no hash maps here, so a seed replays to the last event.
//!
//! Some seeds have a process that stands still, for up to 20 s: all that was due meanwhile happens at once. Nothing in
//! the batcher knows of another clock than the monotonic one, so that a wall clock that jumps is not simulated.
//!
//! Left out: runs that never end (that they are stopped is the scheduler's), the scheduler's locks and threads, the split
//! of a batch's outputs, the time on the wire.
//!
//! A user's own moments of arrival are played by [`replay`], without the ledger: `axon simulate`. What stays loaded is
//! simulated by [`residency`].
//!
//! Each [`Invariant`] is proved able to fail by a bug planted in the batcher; `simulation/tests.rs`.
//!
//! ```
//! use axon::simulation::{Scenario, run};
//!
//! let report = run(&Scenario::from_seed(7), std::time::Instant::now())?;
//! println!("{:.1} rows in a batch, {:.0} % in time", report.mean_batch_rows(), 100.0 * report.share_in_time());
//! # Ok::<(), axon::simulation::Violation>(())
//! ```

mod device;
mod driver;
mod ledger;
mod random;
mod replay;
pub mod residency;
mod scenario;

use std::fmt;
use std::time::{Duration, Instant};

use crate::batcher::Batcher;
use driver::Driver;

pub use device::{DeviceReport, DeviceScenario, SharedModel, run_device};
pub use replay::{Replay, ReplayReport, replay};
pub use scenario::{Arrivals, Cancellation, Freezes, MAX_KEYS, Rows, Scenario, Service, Shutdown, Timeouts};

/// Runs a scenario to its end. Virtual time begins at `start`, which may be any moment: nothing depends on it.
///
/// # Errors
/// The first [`Violation`] of an invariant, when the batcher has a defect.
pub fn run(scenario: &Scenario, start: Instant) -> Result<Report, Violation> {
    Driver::new(scenario, start, Batcher::new(scenario.rules())).run()
}

/// Runs a scenario twice and compares what happened, event by event.
///
/// # Errors
/// As [`run`]; [`Invariant::SameTrace`] when the runs differ.
pub fn run_twice(scenario: &Scenario, start: Instant) -> Result<Report, Violation> {
    same_trace(run(scenario, start)?, &run(scenario, start)?)
}

fn same_trace(first: Report, second: &Report) -> Result<Report, Violation> {
    if first.trace == second.trace {
        return Ok(first);
    }
    Err(Violation {
        invariant: Invariant::SameTrace,
        seed: first.seed,
        at: first.elapsed,
        detail: format!("two runs hash to {:016x} and {:016x}", first.trace, second.trace),
    })
}

/// What always holds. **Source** of the numbers: the invariants of the test plan, of which I6 to I8, I11 and I13 are
/// about parts that are not simulated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// I1: an accepted request gets exactly one outcome.
    OneOutcome,
    /// I2: what is handed back is the request that it was handed back for, and ids only grow.
    OwnRequest,
    /// I3: nothing starts, or is accepted, at or after its deadline.
    NotLate,
    /// I3: a cancelled request leaves at once and never starts.
    NotCancelled,
    /// I4: at most `max_queue_size` requests wait.
    QueueSize,
    /// I4: at most `max_queue_bytes` wait, or one request alone.
    QueueBytes,
    /// I4: a request is refused only for a reason, and told that reason.
    ReasonToRefuse,
    /// I4: nothing is accepted after the shutdown began.
    ClosedForGood,
    /// I5: a batch has 1 to `max_batch_rows` rows, or is one larger request; its rows are its requests' rows.
    BatchRows,
    /// I5: the requests of a batch have one key.
    OneKey,
    /// A batch is what comes first of its key, by class, deadline and arrival, in that order.
    Order,
    /// The next request of its key would not have fitted into the batch, or not in time.
    Maximal,
    /// What runs is foretold to be in time, but for one request that tries whether that still holds.
    Useful,
    /// A request is given up only when it cannot be in time, or when a batch that leaves it out serves more.
    ReasonToShed,
    /// A full queue gives up its least urgent request for a more urgent one, and only then.
    LeastUrgentLeaves,
    /// A batch is formed only for an instance that is free.
    OnlyWhenFree,
    /// I9: the key whose first request comes first, by class, deadline and arrival, is served first.
    MostUrgentKey,
    /// I9: what cannot start any more is given up at the next look at the queue, and nothing before its deadline.
    ExpiresInTime,
    /// I10: no instance is idle while a request waits, unless it is kept waiting, and then no longer than it may.
    WorkConservation,
    /// I12: accepted = answered + failed + expired + shed + displaced + cancelled + shut down + waiting + running.
    Balance,
    /// The queue's bytes and its next deadline are those of the requests that wait.
    Accounts,
    /// No call of the batcher panics.
    NoPanic,
    /// What may wait on when its time is over is put behind the others, once, and not given up.
    WaitsOn,
    /// Where answers leave in order, none leaves before an earlier one that is still to come.
    AnswersInOrder,
    /// No answer is held whose turn has come, nor any at or after its deadline.
    HeldForAReason,
    /// I14: the same seed makes the same things happen.
    SameTrace,
    /// Runs that are not long overdue hold no more lanes than the device has.
    LanesHeld,
    /// No lane is idle while a model waits for it.
    IdleLane,
    /// The model runs next whose class is the most urgent, and of those within their share the one that must start first.
    MostUrgentModel,
    /// Models that always have work have had the device's time by their weights, within a bound.
    FairShare,
    /// No batch of several requests runs longer than half of the tightest limit that others of its class or a more
    /// urgent one have had lately.
    BlockingCap,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// The seed of the scenario: the same code breaks it again.
    pub seed: u64,
    /// The virtual time since the start.
    pub at: Duration,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, seed, at, detail } = self;
        write!(f, "{invariant:?} does not hold at {at:?} of seed {seed}: {detail}")
    }
}

impl std::error::Error for Violation {}

/// What happened in a simulation, in requests where nothing else is said.
///
/// `received` = `accepted` + the five refusals; `accepted` = the seven outcomes from `answered` to `shut_down`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The scenario's seed.
    pub seed: u64,
    /// Sent by callers.
    pub received: usize,
    /// Let into the queue.
    pub accepted: usize,
    /// Refused because `max_queue_size` waited.
    pub refused_queue_full: usize,
    /// Refused because `max_queue_bytes` waited.
    pub refused_queue_bytes_full: usize,
    /// Refused because the deadline had passed.
    pub refused_expired: usize,
    /// Refused because of the shutdown.
    pub refused_closed: usize,
    /// Refused because the answer would have been late.
    pub refused_predicted: usize,
    /// Ran, and the model answered.
    pub answered: usize,
    /// Answered at or before the deadline.
    pub in_time: usize,
    /// Ran, and the instance failed.
    pub failed: usize,
    /// Waited until the deadline.
    pub expired: usize,
    /// Given up in the queue because the answer would have been late.
    pub shed: usize,
    /// Left the full queue for a more urgent request.
    pub displaced: usize,
    /// Left the queue because the caller had gone.
    pub cancelled: usize,
    /// Waited when the queue was closed.
    pub shut_down: usize,
    /// Runs of the model.
    pub batches: usize,
    /// Requests in these runs.
    pub batched_requests: usize,
    /// Rows in these runs.
    pub batched_rows: usize,
    /// Runs of one request of more than `max_batch_rows` rows.
    pub oversized_batches: usize,
    /// Events handled; the invariants were checked after each.
    pub events: usize,
    /// Times that the whole process stood still.
    pub freezes: usize,
    /// Virtual time until the last request had its outcome.
    pub elapsed: Duration,
    /// A hash over all events.
    pub trace: u64,
}

impl Report {
    /// Rows in a run of the model, on average.
    #[must_use]
    pub fn mean_batch_rows(&self) -> f64 {
        ratio(self.batched_rows, self.batches)
    }

    /// Requests in a run of the model, on average.
    #[must_use]
    pub fn mean_batch_requests(&self) -> f64 {
        ratio(self.batched_requests, self.batches)
    }

    /// The share of received requests that were answered at or before their deadline.
    #[must_use]
    pub fn share_in_time(&self) -> f64 {
        ratio(self.in_time, self.received)
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Sums over scenarios; `seed` stays that of the first, and `trace` becomes a hash over all in order.
impl std::ops::AddAssign<&Self> for Report {
    fn add_assign(&mut self, other: &Self) {
        self.received += other.received;
        self.accepted += other.accepted;
        self.refused_queue_full += other.refused_queue_full;
        self.refused_queue_bytes_full += other.refused_queue_bytes_full;
        self.refused_expired += other.refused_expired;
        self.refused_closed += other.refused_closed;
        self.refused_predicted += other.refused_predicted;
        self.answered += other.answered;
        self.in_time += other.in_time;
        self.failed += other.failed;
        self.expired += other.expired;
        self.shed += other.shed;
        self.displaced += other.displaced;
        self.cancelled += other.cancelled;
        self.shut_down += other.shut_down;
        self.batches += other.batches;
        self.batched_requests += other.batched_requests;
        self.batched_rows += other.batched_rows;
        self.oversized_batches += other.oversized_batches;
        self.events += other.events;
        self.freezes += other.freezes;
        self.elapsed += other.elapsed;
        self.trace = random::Trace::of(self.trace).add(other.trace).hash();
    }
}

#[cfg(test)]
mod tests;
