//! The scheduler with executors that need no model. Waiting is on channels, never on a clock.

mod blame;
mod lanes;
mod leaving;
mod order;

use std::sync::mpsc::{Receiver, Sender, channel};

use std::num::NonZeroUsize;

use super::*;
use crate::ErrorKind;

/// Copies its input; before each run it reports the rows and waits for leave.
struct Gated {
    started: Sender<usize>,
    leave: Receiver<()>,
}

impl Executor for Gated {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let rows = inputs[0].shape()[0];
        self.started.send(rows).unwrap();
        self.leave.recv().unwrap();
        let values = inputs[0].as_slice::<i64>().unwrap();
        assert!(!values.contains(&-2), "planted panic");
        if values.contains(&-1) {
            return Err(Error::invalid("inputs", "planted"));
        }
        Ok(inputs.to_vec())
    }
}

struct Fixture {
    scheduler: Arc<Scheduler>,
    started: Receiver<usize>,
    leave: Sender<()>,
    statistics: Arc<ModelStatistics>,
}

/// A device with so many lanes.
fn host(lanes: usize) -> Host {
    let lanes = NonZeroUsize::new(lanes);
    Host { timer: Timer::start().unwrap(), lanes: Lanes::new(lanes, NonZeroUsize::MIN) }
}

impl Fixture {
    fn new(max_batch_rows: usize, max_queue_size: usize) -> Self {
        let (started_sender, started) = channel();
        let (leave, leave_receiver) = channel();
        let executor = Box::new(Gated { started: started_sender, leave: leave_receiver });
        Self::with(executor, started, leave, (max_batch_rows, max_queue_size))
    }

    /// An `executor` that tells what it starts, on a device of its own.
    fn with(
        executor: Box<dyn Executor>,
        started: Receiver<usize>,
        leave: Sender<()>,
        bounds: (usize, usize),
    ) -> Self {
        Self::on(&host(2), executor, (started, leave), bounds)
    }

    /// As [`Fixture::with`], on a device that others may use too.
    fn on(
        host: &Host,
        executor: Box<dyn Executor>,
        (started, leave): (Receiver<usize>, Sender<()>),
        (max_batch_rows, max_queue_size): (usize, usize),
    ) -> Self {
        let bound = |number| NonZeroUsize::new(number).unwrap();
        let limits = Limits {
            max_batch_rows: bound(max_batch_rows),
            max_queue_size: bound(max_queue_size),
            max_queue_bytes: 1 << 20,
        };
        let config = SchedulerConfig { rules: Rules::new(limits), weight: 1, threads: 1, replan: None };
        let statistics = Arc::new(ModelStatistics::default());
        let scheduler =
            Scheduler::start("test", config, vec![executor], Arc::clone(&statistics), host).unwrap();
        Self { scheduler: Arc::new(scheduler), started, leave, statistics }
    }

    fn submit(&self, value: i64, timeout: Duration) -> (Result<Accepted>, Receiver<Result<Output>>) {
        let (sender, receiver) = channel();
        let inputs = vec![Tensor::from_vec(&[1], vec![value]).unwrap()];
        let admitted = Admitted {
            inputs,
            rows: 1,
            key: BatchKey::new(),
            class: 1,
            outputs: None,
            doubt: None,
            delay: Duration::ZERO,
            lingers: Duration::ZERO,
        };
        let reply: Reply = Box::new(move |answer| drop(sender.send(answer)));
        let accepted = self.scheduler.submit(admitted, timeout, reply);
        self.scheduler.wake();
        (accepted, receiver)
    }

    fn executions(&self) -> u64 {
        self.statistics.execution_count.load(Ordering::Relaxed)
    }

    /// Submits a request and waits until the only instance runs it.
    fn occupy(&self) -> Receiver<Result<Output>> {
        let (accepted, answer) = self.submit(0, LONG);
        accepted.unwrap();
        assert_eq!(self.started.recv().unwrap(), 1);
        answer
    }
}

const LONG: Duration = Duration::from_secs(60);

fn value(answer: &Receiver<Result<Output>>) -> Result<(i64, usize)> {
    let output = answer.recv().unwrap()?;
    Ok((output.tensors[0].as_slice::<i64>().unwrap()[0], output.timing.batch_rows))
}

#[test]
fn what_waits_while_the_instance_is_busy_runs_as_one_batch() {
    let fixture = Fixture::new(8, 16);
    let first = fixture.occupy();
    let answers: Vec<_> = (1..=3).map(|value| fixture.submit(value, LONG).1).collect();
    fixture.leave.send(()).unwrap();
    assert_eq!(fixture.started.recv().unwrap(), 3);
    fixture.leave.send(()).unwrap();
    assert_eq!(value(&first).unwrap(), (0, 1));
    for (answer, expected) in answers.iter().zip(1..) {
        assert_eq!(value(answer).unwrap(), (expected, 3));
    }
    assert_eq!(fixture.statistics.execution_count.load(Ordering::Relaxed), 2);
    assert_eq!(fixture.statistics.inference_count.load(Ordering::Relaxed), 4);
}

#[test]
fn one_bad_request_does_not_fail_its_neighbours() {
    for (culprit, kind) in [(-1, ErrorKind::InvalidRequest), (-2, ErrorKind::Internal)] {
        let fixture = Fixture::new(8, 16);
        let _first = fixture.occupy();
        let answers: Vec<_> = [1, culprit, 2].map(|value| fixture.submit(value, LONG).1).into();
        (0..5).for_each(|_| fixture.leave.send(()).unwrap());
        assert_eq!(value(&answers[0]).unwrap(), (1, 1));
        assert_eq!(value(&answers[1]).unwrap_err().kind(), kind);
        assert_eq!(value(&answers[2]).unwrap(), (2, 1));
    }
}

#[test]
fn a_request_expires_while_the_instance_is_busy_and_never_runs() {
    let fixture = Fixture::new(8, 16);
    let _first = fixture.occupy();
    let (_, late) = fixture.submit(1, Duration::from_millis(5));
    assert_eq!(value(&late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    fixture.leave.send(()).unwrap();
    let (_, next) = fixture.submit(2, LONG);
    assert_eq!(fixture.started.recv().unwrap(), 1);
    fixture.leave.send(()).unwrap();
    assert_eq!(value(&next).unwrap(), (2, 1));
}

#[test]
fn a_full_queue_refuses_and_says_when_to_retry() {
    let fixture = Fixture::new(1, 2);
    let _first = fixture.occupy();
    let _waiting: Vec<_> = (0..2).map(|value| fixture.submit(value, LONG)).collect();
    let error = fixture.submit(3, LONG).0.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert_eq!(error.retry_after(), Some(Duration::from_millis(100)));
    (0..3).for_each(|_| fixture.leave.send(()).unwrap());
}

#[test]
fn a_cancelled_request_is_never_run() {
    let fixture = Fixture::new(8, 16);
    let _first = fixture.occupy();
    let (id, gone) = fixture.submit(1, LONG);
    let (_, stays) = fixture.submit(2, LONG);
    fixture.scheduler.cancel(&id.unwrap());
    assert!(gone.recv().is_err(), "a caller that has gone gets no answer");
    (0..2).for_each(|_| fixture.leave.send(()).unwrap());
    assert_eq!(value(&stays).unwrap(), (2, 1));
}

#[test]
fn closing_answers_what_was_accepted() {
    let fixture = Fixture::new(1, 16);
    let first = fixture.occupy();
    let (_, second) = fixture.submit(1, LONG);
    (0..2).for_each(|_| fixture.leave.send(()).unwrap());
    fixture.scheduler.close(LONG);
    assert_eq!((value(&first).unwrap(), value(&second).unwrap()), ((0, 1), (1, 1)));
    assert_eq!(fixture.submit(2, LONG).0.unwrap_err().kind(), ErrorKind::ShuttingDown);
}

#[test]
fn what_cannot_be_drained_in_time_is_told_so() {
    let fixture = Fixture::new(1, 16);
    let first = fixture.occupy();
    let (_, second) = fixture.submit(1, LONG);
    assert!(!fixture.scheduler.drain(Duration::from_millis(1)));
    assert_eq!(value(&second).unwrap_err().kind(), ErrorKind::ShuttingDown);
    fixture.leave.send(()).unwrap();
    assert_eq!(value(&first).unwrap(), (0, 1));
}

#[test]
fn an_alarm_that_is_stale_sets_no_new_one() {
    let fixture = Fixture::new(1, 16);
    let first = fixture.occupy();
    let (_, second) = fixture.submit(1, LONG);
    let shared = &fixture.scheduler.shared;
    let set = shared.timer.alarms();
    (0..3).for_each(|_| timer::ring(shared));
    let left = shared.timer.alarms();
    (0..2).for_each(|_| fixture.leave.send(()).unwrap());
    assert_eq!((value(&first).unwrap(), value(&second).unwrap()), ((0, 1), (1, 1)));
    assert!(set > 0);
    assert_eq!(left, set);
}
