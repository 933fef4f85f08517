//! Callers that go: while they wait, while their batch runs, and when the server itself does.

use super::*;
use crate::executor::{Identity, Run};

/// Runs until it is stopped, or until it gets leave when it waits for that; tells whether it was stopped.
struct Stoppable {
    started: Sender<usize>,
    /// Looks for the signal only once it has leave.
    leave: Option<Receiver<()>>,
    stopped: Sender<bool>,
}

impl Executor for Stoppable {
    fn run(&mut self, _inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        unreachable!("the scheduler runs for requests")
    }

    fn run_for(&mut self, run: &Run<'_>) -> Result<Vec<Tensor>> {
        self.started.send(run.inputs[0].shape()[0]).unwrap();
        let is_stopped = match &self.leave {
            Some(leave) => {
                leave.recv().unwrap();
                run.stop.is_tripped()
            }
            None => run.stop.wait(10 * LONG),
        };
        self.stopped.send(is_stopped).unwrap();
        if is_stopped { Err(Error::stopped()) } else { Ok(run.inputs.to_vec()) }
    }
}

fn stoppable(needs_leave: bool) -> (Fixture, Receiver<bool>) {
    let (started_sender, started) = channel();
    let (leave, leave_receiver) = channel();
    let (stopped_sender, stopped) = channel();
    let leave_receiver = needs_leave.then_some(leave_receiver);
    let executor = Stoppable { started: started_sender, leave: leave_receiver, stopped: stopped_sender };
    (Fixture::with(Box::new(executor), started, leave, (8, 16)), stopped)
}

fn cancelled(fixture: &Fixture) -> (u64, u64) {
    (fixture.statistics.cancel.read().0, fixture.statistics.fail.read().0)
}

#[test]
fn a_run_that_its_only_caller_leaves_is_stopped_and_the_instance_is_free() {
    let (fixture, stopped) = stoppable(false);
    for count in 1..=2 {
        let (accepted, answer) = fixture.submit(1, LONG);
        assert_eq!(fixture.started.recv().unwrap(), 1);
        fixture.scheduler.cancel(&accepted.unwrap());
        assert!(stopped.recv().unwrap());
        assert!(answer.recv().is_err(), "a caller that has gone gets no answer");
        assert_eq!(cancelled(&fixture), (count, count));
        assert_eq!(fixture.executions(), count);
    }
}

#[test]
fn a_batch_is_stopped_by_the_last_of_its_callers_and_not_before() {
    let (fixture, stopped) = stoppable(true);
    let first = fixture.occupy();
    let (accepted, answers): (Vec<_>, Vec<_>) = (1..=3).map(|value| fixture.submit(value, LONG)).unzip();
    fixture.leave.send(()).unwrap();
    assert!(!stopped.recv().unwrap());
    value(&first).unwrap();
    assert_eq!(fixture.started.recv().unwrap(), 3);
    for accepted in accepted {
        fixture.scheduler.cancel(&accepted.unwrap());
    }
    fixture.leave.send(()).unwrap();
    assert!(stopped.recv().unwrap());
    assert!(answers.iter().all(|answer| answer.recv().is_err()));
    assert_eq!(cancelled(&fixture), (3, 3));
    assert_eq!(fixture.statistics.success.read().0, 1);
    assert_eq!(fixture.executions(), 2);
}

#[test]
fn the_rows_of_those_who_leave_a_running_batch_are_discarded() {
    let (fixture, stopped) = stoppable(true);
    let first = fixture.occupy();
    let (accepted, answers): (Vec<_>, Vec<_>) = (1..=3).map(|value| fixture.submit(value, LONG)).unzip();
    fixture.leave.send(()).unwrap();
    assert!(!stopped.recv().unwrap());
    value(&first).unwrap();
    assert_eq!(fixture.started.recv().unwrap(), 3);
    for accepted in &accepted[..2] {
        fixture.scheduler.cancel(accepted.as_ref().unwrap());
        // Who leaves twice has left once.
        fixture.scheduler.cancel(accepted.as_ref().unwrap());
    }
    fixture.leave.send(()).unwrap();
    assert!(!stopped.recv().unwrap(), "somebody waits for the run");
    assert_eq!(value(&answers[2]).unwrap(), (3, 3));
    assert!(answers[..2].iter().all(|answer| answer.recv().is_err()));
    assert_eq!(cancelled(&fixture), (2, 2));
    assert_eq!(fixture.statistics.inference_count.load(Ordering::Relaxed), 2);
    fixture.scheduler.cancel(accepted[2].as_ref().unwrap());
    assert_eq!(cancelled(&fixture), (2, 2), "a request that has been answered cannot be taken back");
}

#[test]
fn who_leaves_a_batch_that_fails_is_not_run_again() {
    let fixture = Fixture::new(8, 16);
    let _first = fixture.occupy();
    let (accepted, answers): (Vec<_>, Vec<_>) =
        [1, -1, 2].into_iter().map(|value| fixture.submit(value, LONG)).unzip();
    fixture.leave.send(()).unwrap();
    assert_eq!(fixture.started.recv().unwrap(), 3);
    fixture.scheduler.cancel(accepted[0].as_ref().unwrap());
    (0..4).for_each(|_| fixture.leave.send(()).unwrap());
    assert_eq!(value(&answers[1]).unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(value(&answers[2]).unwrap(), (2, 1));
    assert!(answers[0].recv().is_err());
    assert_eq!(fixture.started.try_iter().collect::<Vec<_>>(), [2, 1, 1], "the half of the one who left");
}

#[test]
fn a_made_up_delay_ends_when_its_caller_leaves() {
    let (_, started) = channel();
    let (leave, _) = channel();
    let fixture = Fixture::with(Box::new(Identity::new(10 * LONG)), started, leave, (1, 16));
    let (accepted, answer) = fixture.submit(1, LONG);
    let accepted = accepted.unwrap();
    while fixture.scheduler.waiting() > 0 {
        std::thread::yield_now();
    }
    fixture.scheduler.cancel(&accepted);
    assert!(answer.recv().is_err(), "a caller that has gone gets no answer");
    fixture.scheduler.close(LONG);
}

#[test]
fn closing_stops_what_does_not_end_in_time() {
    let (fixture, stopped) = stoppable(false);
    let running = fixture.occupy();
    let (_, waiting) = fixture.submit(1, LONG);
    fixture.scheduler.close(Duration::from_millis(1));
    assert!(stopped.recv().unwrap());
    for answer in [running, waiting] {
        assert_eq!(value(&answer).unwrap_err().kind(), ErrorKind::ShuttingDown);
    }
    assert_eq!(cancelled(&fixture), (0, 2));
}
