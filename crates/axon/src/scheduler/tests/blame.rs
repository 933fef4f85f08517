//! Batches that fail: who is to blame gets the error, and nobody else.

use super::*;

/// What became of a batch.
struct Ended {
    /// The value and the rows of its run, for each request.
    answers: Vec<Result<(i64, usize)>>,
    /// The rows of the runs that were needed.
    started: Vec<usize>,
    fixture: Fixture,
}

/// Runs `values` as one batch, with leave for every run.
fn run_batch(values: &[i64]) -> Ended {
    let fixture = Fixture::new(64, 64);
    let first = fixture.occupy();
    let answers: Vec<_> = values.iter().map(|&value| fixture.submit(value, LONG).1).collect();
    (0..2 * values.len()).for_each(|_| fixture.leave.send(()).unwrap());
    value(&first).unwrap();
    let answers = answers.iter().map(value).collect();
    let started = fixture.started.try_iter().collect();
    Ended { answers, started, fixture }
}

#[test]
fn one_culprit_costs_two_runs_for_each_halving_at_most() {
    for (count, most) in [(2, 2), (5, 6), (8, 6), (16, 8), (32, 10)] {
        for culprit in 0..count {
            let mut values: Vec<i64> = (1..=count).collect();
            values[usize::try_from(culprit).unwrap()] = -1;
            let Ended { answers, started, fixture } = run_batch(&values);
            for (answer, value) in answers.into_iter().zip(values) {
                match (answer, value) {
                    (Err(error), -1) => assert_eq!(error.kind(), ErrorKind::InvalidRequest),
                    (answer, value) => assert_eq!(answer.unwrap().0, value),
                }
            }
            assert!(started.len() <= 1 + most, "culprit {culprit} of {count}: {started:?}");
            assert_eq!(fixture.executions(), 1 + started.len() as u64, "each run counts");
            let counted = |counter: &crate::metrics::DurationCounter| counter.read().0;
            assert_eq!(counted(&fixture.statistics.fail), 1);
            assert_eq!(counted(&fixture.statistics.success), u64::try_from(count).unwrap());
        }
    }
}

#[test]
fn no_batch_is_run_more_often_than_twice_its_requests() {
    let Ended { answers, started, .. } = run_batch(&[-1; 13]);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().kind() == ErrorKind::InvalidRequest));
    assert_eq!(started.len(), 2 * 13 - 1);
    let Ended { answers, started, .. } = run_batch(&[1, -1, 2, -2, -1, 3, 4, -2]);
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!(failed, 4);
    assert!(started.len() < 16, "{started:?}");
}

#[test]
fn a_panic_of_the_model_does_not_lose_the_instance() {
    let fixture = Fixture::new(1, 16);
    for (count, culprit) in [(1, -2), (2, -2)] {
        let (_, answer) = fixture.submit(culprit, LONG);
        fixture.leave.send(()).unwrap();
        let error = value(&answer).unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Internal, "internal error"));
        assert_eq!(fixture.statistics.instance_restarts.load(Ordering::Relaxed), count);
        let (_, next) = fixture.submit(1, LONG);
        fixture.leave.send(()).unwrap();
        assert_eq!(value(&next).unwrap(), (1, 1));
    }
}

#[test]
fn a_reply_that_panics_does_not_lose_the_instance() {
    let fixture = Fixture::new(1, 16);
    let inputs = vec![Tensor::from_vec(&[1], vec![1_i64]).unwrap()];
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
    fixture.scheduler.submit(admitted, LONG, Box::new(|_| panic!("planted"))).unwrap();
    fixture.scheduler.wake();
    let (_, next) = fixture.submit(2, LONG);
    (0..2).for_each(|_| fixture.leave.send(()).unwrap());
    assert_eq!(value(&next).unwrap(), (2, 1));
}

#[test]
fn what_expires_while_its_batch_fails_is_not_run_again() {
    const SHORT: Duration = Duration::from_secs(1);
    let fixture = Fixture::new(8, 16);
    let _first = fixture.occupy();
    let (_, culprit) = fixture.submit(-1, LONG);
    let (_, late) = fixture.submit(1, SHORT);
    fixture.leave.send(()).unwrap();
    assert_eq!(fixture.started.recv().unwrap(), 2);
    // What came after it and may wait as long has expired: so has it.
    let (_, later) = fixture.submit(2, SHORT);
    assert_eq!(value(&later).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    (0..2).for_each(|_| fixture.leave.send(()).unwrap());
    assert_eq!(value(&culprit).unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(value(&late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(fixture.started.try_iter().collect::<Vec<_>>(), [1], "the culprit alone");
}
