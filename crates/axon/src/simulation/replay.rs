//! Plays moments of arrival that a user recorded through the batcher, under virtual time.
//!
//! Instances take what the curve says, with seeded noise. As in production, an instance that is free polls whenever
//! something happens, and a timer polls at the batcher's next deadline.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use super::random::{Random, Trace};
use super::ratio;
use crate::batcher::{BatchId, Batcher, Limits, Rejected, Rules, Waiting, predicted_p99};
use crate::error::{Error, Result};

/// The latest arrival and the longest deadline, far beyond any trace; moments up to it can be added without overflow.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);
const MAX_INSTANCES: usize = 1024;
const MAX_ROWS: usize = 1_000_000;
const TICK: Duration = Duration::from_nanos(1);

/// What is played.
#[derive(Clone, Debug)]
pub struct Replay {
    /// When requests arrive, from the start, ascending.
    pub arrivals: Vec<Duration>,
    /// The rows of each request; empty where each has 1.
    pub rows: Vec<usize>,
    /// How long after its arrival an answer is wanted.
    pub deadline: Duration,
    /// What a run takes by rows, ascending; straight lines between the points and beyond the last.
    pub curve: Vec<(usize, Duration)>,
    /// Copies of the model that run at the same time.
    pub instances: usize,
    /// The most rows that are run together.
    pub max_batch_rows: NonZeroUsize,
    /// The most requests that wait.
    pub max_queue_size: NonZeroUsize,
    /// The standard deviation of a run's time as a share of it, from 0 to 1.
    pub noise: f64,
    /// Of the noise.
    pub seed: u64,
}

/// What came of it, in requests where nothing else is said.
///
/// `received` = `in_time` + `late` + the two refusals + `shed` + `expired`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayReport {
    /// In the trace.
    pub received: usize,
    /// Answered at or before the deadline.
    pub in_time: usize,
    /// Answered after it.
    pub late: usize,
    /// Refused at arrival because `max_queue_size` waited.
    pub refused_queue_full: usize,
    /// Refused at arrival because the answer would have been late.
    pub refused_predicted: usize,
    /// Given up in the queue because the answer would have been late.
    pub shed: usize,
    /// Waited until the deadline.
    pub expired: usize,
    /// Runs of the model.
    pub batches: usize,
    /// Rows in a run, on average.
    pub mean_batch_rows: f64,
    /// From arrival to answer: half of those answered took at most this; `None` when none was.
    pub p50: Option<Duration>,
    /// As `p50`, for 99 of 100.
    pub p99: Option<Duration>,
    /// The longest.
    pub max: Option<Duration>,
    /// What was foretold of `p99` at the end, from the mean rate; `None` beyond the capacity.
    pub predicted_p99: Option<Duration>,
    /// The share of the instances' time in which they ran.
    pub busy: f64,
    /// Virtual time until the last event.
    pub elapsed: Duration,
    /// A hash over all events.
    pub trace: u64,
}

/// Plays a trace to its end. Virtual time begins at `start`, which may be any moment: nothing depends on it.
///
/// # Errors
/// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) naming the field of `replay` that cannot be played.
pub fn replay(replay: &Replay, start: Instant) -> Result<ReplayReport> {
    check(replay)?;
    Ok(Player::new(replay, start).play())
}

fn check(replay: &Replay) -> Result<()> {
    let Replay { arrivals, rows, deadline, curve, instances, noise, .. } = replay;
    if let Some(index) = (1..arrivals.len()).find(|&index| arrivals[index] < arrivals[index - 1]) {
        return Err(Error::invalid(
            format!("arrivals[{index}]"),
            "expected ascending moments, got an earlier one",
        ));
    }
    if arrivals.last().is_some_and(|&last| last > LONGEST) {
        return Err(Error::invalid(
            "arrivals",
            format_args!("expected at most {LONGEST:?}, got a later moment"),
        ));
    }
    if !rows.is_empty() && rows.len() != arrivals.len() {
        let (wanted, got) = (arrivals.len(), rows.len());
        return Err(Error::invalid(
            "rows",
            format_args!("expected {wanted}, one for each arrival, got {got}"),
        ));
    }
    if let Some(index) = rows.iter().position(|rows| !(1..=MAX_ROWS).contains(rows)) {
        let got = rows[index];
        return Err(Error::invalid(
            format!("rows[{index}]"),
            format_args!("expected 1 to {MAX_ROWS}, got {got}"),
        ));
    }
    if deadline.is_zero() || *deadline > LONGEST {
        return Err(Error::invalid(
            "deadline",
            format_args!("expected 1ns to {LONGEST:?}, got {deadline:?}"),
        ));
    }
    if !(1..=MAX_INSTANCES).contains(instances) {
        return Err(Error::invalid(
            "instances",
            format_args!("expected 1 to {MAX_INSTANCES}, got {instances}"),
        ));
    }
    if !(0.0..=1.0).contains(noise) {
        return Err(Error::invalid("noise", format_args!("expected 0 to 1, got {noise}")));
    }
    check_curve(curve)
}

fn check_curve(curve: &[(usize, Duration)]) -> Result<()> {
    if curve.is_empty() {
        return Err(Error::invalid("curve", "expected rows and seconds of at least one run, got none"));
    }
    let mut before = 0;
    for (index, &(rows, took)) in curve.iter().enumerate() {
        if rows <= before || rows > MAX_ROWS {
            let wanted = before + 1;
            let text = format_args!("expected {wanted} to {MAX_ROWS} rows, ascending, got {rows}");
            return Err(Error::invalid(format!("curve[{index}][0]"), text));
        }
        if took.is_zero() || took > Duration::from_secs(3600) {
            let text = format_args!("expected more than 0 and at most 3600 seconds, got {took:?}");
            return Err(Error::invalid(format!("curve[{index}][1]"), text));
        }
        before = rows;
    }
    Ok(())
}

/// What a run of so many rows takes, without noise.
fn interpolated(curve: &[(usize, Duration)], rows: usize) -> f64 {
    let seconds = |&(_, took): &(usize, Duration)| took.as_secs_f64();
    let (first, last) = (&curve[0], &curve[curve.len() - 1]);
    if rows <= first.0 {
        return seconds(first);
    }
    if curve.len() == 1 {
        // Nothing is known of the part that does not grow.
        return seconds(last) * ratio(rows, last.0);
    }
    let after = curve.partition_point(|point| point.0 < rows).min(curve.len() - 1);
    let (low, high) = (&curve[after - 1], &curve[after]);
    let slope = (seconds(high) - seconds(low)) / (high.0 - low.0) as f64;
    if rows > last.0 {
        return seconds(last) + slope.max(0.0) * (rows - last.0) as f64;
    }
    seconds(low) + slope * (rows - low.0) as f64
}

#[derive(Debug)]
struct Run {
    id: BatchId,
    ends: Duration,
    took: Duration,
    requests: Vec<usize>,
}

struct Player<'a> {
    replay: &'a Replay,
    start: Instant,
    now: Duration,
    next: usize,
    batcher: Batcher<(), usize>,
    /// What each instance runs.
    running: Vec<Option<Run>>,
    random: Random,
    latencies: Vec<Duration>,
    rows: usize,
    busy: Duration,
    report: ReplayReport,
    trace: Trace,
}

impl<'a> Player<'a> {
    fn new(replay: &'a Replay, start: Instant) -> Self {
        let Replay { max_batch_rows, max_queue_size, .. } = *replay;
        let limits = Limits { max_batch_rows, max_queue_size, max_queue_bytes: usize::MAX };
        let rules = Rules { instances: replay.instances, curve: replay.curve.clone(), ..Rules::new(limits) };
        Self {
            replay,
            start,
            now: Duration::ZERO,
            next: 0,
            batcher: Batcher::new(rules),
            running: (0..replay.instances).map(|_| None).collect(),
            random: Random::new(replay.seed),
            latencies: Vec::new(),
            rows: 0,
            busy: Duration::ZERO,
            report: ReplayReport::default(),
            trace: Trace::default(),
        }
    }

    fn play(mut self) -> ReplayReport {
        loop {
            let arrival = self.replay.arrivals.get(self.next).copied();
            let ending = self.first_to_end();
            let wake = self.wakes();
            let Some(at) = [arrival, ending.map(|(at, _)| at), wake].into_iter().flatten().min() else {
                break;
            };
            self.now = at;
            self.note(&[nanos(at)]);
            match ending {
                Some((ends, index)) if ends == at => self.finish(index),
                _ if arrival == Some(at) => self.arrive(),
                // The timer: expired requests leave also while all instances are busy.
                _ => self.poll(None),
            }
            self.settle();
        }
        self.into_report()
    }

    fn first_to_end(&self) -> Option<(Duration, usize)> {
        let runs = self.running.iter().enumerate();
        runs.filter_map(|(index, run)| run.as_ref().map(|run| (run.ends, index))).min()
    }

    /// When the timer looks at the queue; never at the present moment again, so that time goes on.
    fn wakes(&self) -> Option<Duration> {
        let wake = self.batcher.next_wake(self.start + self.now)?;
        Some(wake.saturating_duration_since(self.start).max(self.now + TICK))
    }

    fn settle(&mut self) {
        for index in 0..self.running.len() {
            if self.running[index].is_none() && !self.batcher.is_empty() {
                self.poll(Some(index));
            }
        }
    }

    fn arrive(&mut self) {
        let request = self.next;
        self.next += 1;
        self.report.received += 1;
        let now = self.start + self.now;
        let rows = self.replay.rows.get(request).copied().unwrap_or(1);
        let deadline = now + self.replay.deadline;
        let pushed = self.batcher.push(
            Waiting { key: (), class: 1, rows, bytes: 0, deadline, lingers: Duration::ZERO, request },
            now,
        );
        self.note(&[request as u64, pushed.as_ref().map_or(u64::MAX, |accepted| accepted.id.number())]);
        match pushed {
            // All are of one class and limit, so that none gives way to a later one; if one did, it would be counted.
            Ok(accepted) => self.report.shed += accepted.displaced.len(),
            Err(refused) => match refused.reason {
                Rejected::PredictedMiss { .. } | Rejected::TooShort { .. } => {
                    self.report.refused_predicted += 1;
                }
                Rejected::Expired => self.report.expired += 1,
                Rejected::QueueFull | Rejected::QueueBytesFull | Rejected::Closed => {
                    self.report.refused_queue_full += 1;
                }
            },
        }
    }

    /// Polls for the instance `free`, or only for what has expired.
    fn poll(&mut self, free: Option<usize>) {
        let action = self.batcher.poll(self.start + self.now, free.is_some());
        self.report.expired += action.expired.len();
        self.report.shed += action.shed.len();
        for request in action.expired.into_iter().chain(action.shed) {
            self.note(&[request as u64]);
        }
        let (Some(index), Some(batch)) = (free, action.batch) else { return };
        self.note(&[index as u64, batch.rows as u64]);
        let took = self.service(batch.rows);
        self.report.batches += 1;
        self.rows += batch.rows;
        self.busy += took;
        self.running[index] =
            Some(Run { id: batch.id, ends: self.now + took, took, requests: batch.requests });
    }

    fn finish(&mut self, index: usize) {
        let Some(Run { id, took, requests, .. }) = self.running[index].take() else { return };
        self.batcher.finish(id, Some(took), self.start + self.now);
        for request in requests {
            self.note(&[request as u64]);
            let latency = self.now.saturating_sub(self.replay.arrivals[request]);
            self.latencies.push(latency);
            if latency <= self.replay.deadline { self.report.in_time += 1 } else { self.report.late += 1 }
        }
    }

    fn service(&mut self, rows: usize) -> Duration {
        // Twelve even numbers add up to nearly a normal one of variance 1, without a logarithm.
        let normal = (0..12).map(|_| self.random.share()).sum::<f64>() - 6.0;
        let noise = (1.0 + self.replay.noise * normal).max(0.1);
        Duration::from_secs_f64(interpolated(&self.replay.curve, rows) * noise).max(TICK)
    }

    fn into_report(mut self) -> ReplayReport {
        self.latencies.sort_unstable();
        let whole = self.now.as_secs_f64() * self.running.len() as f64;
        ReplayReport {
            mean_batch_rows: ratio(self.rows, self.report.batches),
            p50: at_share(&self.latencies, 50),
            p99: at_share(&self.latencies, 99),
            max: self.latencies.last().copied(),
            predicted_p99: self.foretold(),
            busy: if whole > 0.0 { self.busy.as_secs_f64() / whole } else { 0.0 },
            elapsed: self.now,
            trace: self.trace.hash(),
            ..self.report
        }
    }

    fn foretold(&self) -> Option<Duration> {
        let Replay { arrivals, rows, .. } = self.replay;
        let seconds = arrivals.last()?.saturating_sub(arrivals[0]).as_secs_f64();
        let rows = if rows.is_empty() { arrivals.len() } else { rows.iter().sum() };
        let rate = if seconds > 0.0 { rows as f64 / seconds } else { f64::INFINITY };
        predicted_p99(self.batcher.estimator(), self.batcher.demand(rate, ratio(rows, arrivals.len())))
    }

    fn note(&mut self, words: &[u64]) {
        for &word in words {
            self.trace.add(word);
        }
    }
}

/// The least value that `percent` of 100 do not exceed, of ascending ones.
fn at_share(ascending: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (ascending.len() * percent).div_ceil(100);
    ascending.get(rank.max(1) - 1).copied()
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(10);

    /// `rate` requests a second, evenly, for `count`; runs of n rows take 1 + 0.1n ms.
    fn evenly(rate: f64, count: u32) -> Replay {
        let bound = |number| NonZeroUsize::new(number).unwrap();
        Replay {
            arrivals: (0..count).map(|index| Duration::from_secs_f64(f64::from(index) / rate)).collect(),
            rows: Vec::new(),
            deadline: LIMIT,
            curve: vec![(1, Duration::from_micros(1100)), (16, Duration::from_micros(2600))],
            instances: 1,
            max_batch_rows: bound(64),
            max_queue_size: bound(1024),
            noise: 0.03,
            seed: 7,
        }
    }

    /// Of `evenly`: 64 rows in 7.4 ms.
    const CAPACITY: f64 = 64.0 / 7.4e-3;

    fn played(trace: &Replay) -> ReplayReport {
        let report = replay(trace, Instant::now()).unwrap();
        let ReplayReport { in_time, late, refused_queue_full, refused_predicted, shed, expired, .. } = report;
        assert_eq!(report.received, trace.arrivals.len());
        let outcomes = in_time + late + refused_queue_full + refused_predicted + shed + expired;
        assert_eq!(report.received, outcomes, "each request has one outcome: {report:?}");
        report
    }

    #[test]
    fn the_same_seed_has_the_same_hash_and_another_has_another() {
        let trace = evenly(5000.0, 5000);
        assert_eq!(played(&trace), played(&trace));
        let other = Replay { seed: 8, ..trace.clone() };
        assert_ne!(played(&trace).trace, played(&other).trace);
    }

    #[test]
    fn at_a_tenth_of_capacity_all_are_in_time() {
        let report = played(&evenly(CAPACITY / 10.0, 2000));
        assert_eq!(report.in_time, 2000, "{report:?}");
        assert!(report.max.unwrap() <= LIMIT && report.busy < 1.0, "{report:?}");
    }

    #[test]
    fn at_ten_times_capacity_the_device_is_kept_busy_with_what_is_in_time() {
        let report = played(&evenly(10.0 * CAPACITY, 100_000));
        // What is waiting when the trace ends is answered too, so that a little more than a tenth is possible. 10 ms hold
        // one run of 7.4 ms and a wait of 2.6 ms: the device cannot always be filled.
        let share = report.in_time as f64 / report.received as f64;
        assert!((0.07..0.105).contains(&share), "{share}: {report:?}");
        assert!(report.busy > 0.95, "{report:?}");
    }

    #[test]
    fn two_instances_answer_about_twice_as_many() {
        let trace = evenly(10.0 * CAPACITY, 50_000);
        let (one, two) = (played(&trace).in_time, played(&Replay { instances: 2, ..trace }).in_time);
        assert!(two as f64 > 1.7 * one as f64, "{one} and {two}");
    }

    #[test]
    fn a_short_queue_refuses_what_does_not_fit() {
        let trace = Replay {
            max_queue_size: NonZeroUsize::MIN,
            deadline: Duration::from_secs(10),
            ..evenly(9000.0, 900)
        };
        assert!(played(&trace).refused_queue_full > 0);
    }

    #[test]
    fn the_curve_is_followed_between_and_beyond_its_points() {
        let curve = evenly(1.0, 1).curve;
        for (rows, milliseconds) in [(1, 1.1), (4, 1.4), (16, 2.6), (64, 7.4)] {
            let took = interpolated(&curve, rows) * 1e3;
            assert!((took - milliseconds).abs() < 1e-9, "{rows} rows: {took}");
        }
        assert!((interpolated(&curve[..1], 4) - 4.4e-3).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_played_is_named() {
        let wrong = |change: fn(&mut Replay)| {
            let mut trace = evenly(100.0, 3);
            change(&mut trace);
            replay(&trace, Instant::now()).unwrap_err().field().map(str::to_owned)
        };
        assert_eq!(wrong(|trace| trace.arrivals.reverse()).as_deref(), Some("arrivals[1]"));
        assert_eq!(wrong(|trace| trace.rows = vec![1]).as_deref(), Some("rows"));
        assert_eq!(wrong(|trace| trace.rows = vec![1, 0, 1]).as_deref(), Some("rows[1]"));
        assert_eq!(wrong(|trace| trace.deadline = Duration::ZERO).as_deref(), Some("deadline"));
        assert_eq!(wrong(|trace| trace.curve.clear()).as_deref(), Some("curve"));
        assert_eq!(wrong(|trace| trace.curve.reverse()).as_deref(), Some("curve[1][0]"));
        assert_eq!(wrong(|trace| trace.curve[0].1 = Duration::ZERO).as_deref(), Some("curve[0][1]"));
        assert_eq!(wrong(|trace| trace.instances = 0).as_deref(), Some("instances"));
        assert_eq!(wrong(|trace| trace.noise = f64::NAN).as_deref(), Some("noise"));
    }
}
