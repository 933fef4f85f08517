//! A request while it is answered.
//!
//! received → (whole) → ended; one that is dropped before it has ended was cancelled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::outcome::{Code, Outcome, Protocol};
use super::requests::{Answer, ModelMetrics};
use crate::error::Error;
use crate::request::Timing;

/// A request that counts as in flight until it has ended or is dropped.
#[derive(Debug)]
#[must_use = "a request that is dropped counts as cancelled"]
pub struct Observed {
    /// `None` when nothing is counted.
    metrics: Option<Arc<ModelMetrics>>,
    protocol: Protocol,
    /// When the whole request was here.
    arrived: Option<Instant>,
    request_bytes: u64,
    timing: Timing,
    outcome: Outcome,
    trace: Option<u128>,
}

impl Observed {
    /// A request that has come by `protocol`; `None` counts nothing.
    pub fn begin(metrics: Option<Arc<ModelMetrics>>, protocol: Protocol) -> Self {
        if let Some(metrics) = &metrics {
            metrics.receive(protocol);
        }
        Self {
            metrics,
            protocol,
            arrived: None,
            request_bytes: 0,
            timing: Timing::default(),
            outcome: Outcome::Answered,
            trace: None,
        }
    }

    /// False when nothing is counted.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.metrics.is_some()
    }

    /// The whole request is here, of so many bytes: its time begins.
    pub fn arrive(&mut self, bytes: usize) {
        self.request_bytes = bytes as u64;
        if self.is_counted() {
            self.arrived = Some(Instant::now());
        }
    }

    /// The trace that its observations point to, where it is one that is kept.
    pub fn set_trace(&mut self, trace: Option<u128>) {
        self.trace = trace;
    }

    /// It was run.
    pub fn ran(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// It is refused, or failed.
    pub fn refuse(&mut self, error: &Error) {
        self.outcome = Outcome::of(error);
    }

    /// It has ended: its caller is told `code`, in so many bytes.
    pub fn end(mut self, code: Code, response_bytes: usize) {
        let Some(metrics) = self.metrics.take() else { return };
        if self.outcome == Outcome::Answered {
            metrics.observe(&Answer {
                timing: self.timing,
                total: self.arrived.map(|arrived| arrived.elapsed()).unwrap_or_default(),
                request_bytes: self.request_bytes,
                response_bytes: response_bytes as u64,
                trace: self.trace,
            });
        }
        // Last: whoever sees the end sees what was observed of it.
        metrics.end(self.protocol, self.outcome, code);
    }

    /// It has ended as its outcome says, in the process itself.
    fn end_in_process(self, response_bytes: usize) {
        let code = Code::in_process(self.outcome);
        self.end(code, response_bytes);
    }

    /// The same request in two hands: who submits it, and who answers it.
    #[must_use = "a request that is dropped counts as cancelled"]
    pub fn share(self) -> Shared {
        Shared(Arc::new(Mutex::new(Some(self))))
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Some(metrics) = self.metrics.take() {
            metrics.end(self.protocol, Outcome::Cancelled, Code::cancelled(self.protocol));
        }
    }
}

/// A request of a caller in the process, whose answer comes by a callback; it is dropped with the last of its clones.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Option<Observed>>>);

impl Shared {
    /// It was answered with so many bytes.
    pub fn answer(&self, timing: Timing, response_bytes: usize) {
        if let Some(mut observed) = self.take() {
            observed.ran(timing);
            observed.end_in_process(response_bytes);
        }
    }

    /// It was refused, or failed.
    pub fn refuse(&self, error: &Error) {
        if let Some(mut observed) = self.take() {
            observed.refuse(error);
            observed.end_in_process(0);
        }
    }

    fn take(&self) -> Option<Observed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::super::requests::ModelSnapshot;
    use super::*;
    use crate::error::ErrorKind;

    fn sums(snapshot: &ModelSnapshot) -> (u64, u64, u64) {
        let received = snapshot.received.iter().sum();
        let ended = snapshot.ended.iter().map(|ended| ended.count).sum();
        let in_flight = Protocol::ALL.into_iter().map(|protocol| snapshot.in_flight(protocol)).sum();
        (received, ended, in_flight)
    }

    #[test]
    fn a_request_ends_once_and_as_it_was_answered() {
        let metrics = Arc::new(ModelMetrics::default());
        let begin = |protocol| Observed::begin(Some(Arc::clone(&metrics)), protocol);
        let mut answered = begin(Protocol::Http);
        assert_eq!(sums(&metrics.snapshot()), (1, 0, 1));
        answered.arrive(100);
        let timing = Timing {
            queue: Duration::from_millis(2),
            compute: Duration::from_millis(3),
            batch_rows: 4,
            ..Timing::default()
        };
        answered.ran(timing);
        answered.set_trace(Some(7));
        answered.end(Code::http(200), 200);
        let mut refused = begin(Protocol::Grpc);
        refused.refuse(&Error::shutting_down());
        refused.end(Code::grpc(14), 0);
        drop(begin(Protocol::Http));
        let snapshot = metrics.snapshot();
        assert_eq!(sums(&snapshot), (3, 3, 0));
        let count = |outcome| snapshot.count(outcome);
        assert_eq!(
            [count(Outcome::Answered), count(Outcome::Draining), count(Outcome::Cancelled)],
            [1, 1, 1]
        );
        let observations = &snapshot.observations;
        for histogram in [
            &observations.queue,
            &observations.compute,
            &observations.total,
            &observations.request_bytes,
            &observations.response_bytes,
        ] {
            assert_eq!(histogram.count(), 1);
        }
        assert_eq!(observations.queue.whole_sum(), 2_000_000);
        assert_eq!(observations.compute.whole_sum(), 3_000_000);
        assert_eq!(observations.request_bytes.whole_sum(), 100);
        assert_eq!(observations.response_bytes.whole_sum(), 200);
        let traces = observations.total.classic().into_iter().filter_map(|bucket| bucket.exemplar);
        assert_eq!(traces.map(|exemplar| exemplar.trace).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn a_late_answer_counts_against_the_target() {
        let metrics = Arc::new(ModelMetrics::default());
        metrics.set_latency_target(Some(Duration::from_nanos(1)));
        let answer = || {
            let mut observed = Observed::begin(Some(Arc::clone(&metrics)), Protocol::Http);
            observed.arrive(0);
            // The clock has moved on when it ends.
            let began = Instant::now();
            while began.elapsed() < Duration::from_nanos(10) {}
            observed.end(Code::http(200), 0);
        };
        answer();
        assert_eq!(metrics.snapshot().late, 1);
        metrics.set_latency_target(Some(Duration::from_secs(300)));
        answer();
        assert_eq!(metrics.snapshot().late, 1);
        metrics.set_latency_target(None);
        assert_eq!(metrics.snapshot().latency_target, super::super::DEFAULT_TARGET);
    }

    #[test]
    fn a_request_in_two_hands_ends_by_the_one_that_answers_or_with_the_last() {
        let metrics = Arc::new(ModelMetrics::default());
        let share = || Observed::begin(Some(Arc::clone(&metrics)), Protocol::InProcess).share();
        let (asked, answering) = (share(), share());
        let other = answering.clone();
        answering.answer(Timing::default(), 8);
        drop((answering, other));
        asked.refuse(&Error::new(ErrorKind::Overloaded, "x"));
        drop(asked);
        let gone = share();
        let reply = gone.clone();
        drop(gone);
        assert_eq!(sums(&metrics.snapshot()), (3, 2, 1));
        drop(reply);
        let snapshot = metrics.snapshot();
        assert_eq!(sums(&snapshot), (3, 3, 0));
        assert_eq!(
            [Outcome::Answered, Outcome::QueueFull, Outcome::Cancelled].map(|o| snapshot.count(o)),
            [1; 3]
        );
    }

    #[test]
    fn no_snapshot_shows_more_ended_than_received() {
        let metrics = Arc::new(ModelMetrics::default());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        while count < 1000 || !stop.load(Ordering::Relaxed) {
                            let observed = Observed::begin(Some(Arc::clone(&metrics)), Protocol::Http);
                            observed.end(Code::http(200), 1);
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            for _ in 0..2000 {
                let snapshot = metrics.snapshot();
                let (received, ended, in_flight) = sums(&snapshot);
                assert_eq!(received, ended + in_flight, "{snapshot:?}");
            }
            stop.store(true, Ordering::Relaxed);
            let all: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
            let snapshot = metrics.snapshot();
            assert_eq!(sums(&snapshot), (all, all, 0));
            assert_eq!(snapshot.observations.total.count(), all);
        });
    }
}
