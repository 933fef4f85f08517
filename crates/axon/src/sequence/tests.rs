//! Sequences in virtual time.

use std::collections::BTreeSet;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(max_live: usize) -> SequenceLimits {
    SequenceLimits { max_live, max_waiting: 16, max_idle: SECOND }
}

fn of(id: u64, start: bool, end: bool) -> Sequence {
    Sequence { id: SequenceId::Number(id), start, end }
}

/// What runs: the sequence, the request, the state before it.
fn runs(turns: Vec<Turn<u64, u64>>) -> Vec<(SequenceId, u64, Option<u64>)> {
    turns.into_iter().map(|turn| (turn.id, turn.request, turn.state)).collect()
}

#[test]
fn requests_of_one_sequence_run_one_at_a_time_and_see_its_state() {
    let now = Instant::now();
    let late = now + 10 * SECOND;
    let mut sequences = Sequences::new(limits(4));
    for (request, end) in [(10, false), (11, false), (12, true)] {
        sequences.arrive(&of(1, request == 10, end), request, late, now).unwrap();
    }
    sequences.arrive(&of(2, true, false), 20, late, now).unwrap();
    let (one, two) = (SequenceId::Number(1), SequenceId::Number(2));
    assert_eq!(runs(sequences.turns(now)), [(one.clone(), 10, None), (two.clone(), 20, None)]);
    assert_eq!(runs(sequences.turns(now)), []);
    sequences.answered(&one, Some(100), now);
    assert_eq!(runs(sequences.turns(now)), [(one.clone(), 11, Some(100))]);
    // A run that fails leaves the state as it was.
    sequences.answered(&one, None, now);
    assert_eq!(runs(sequences.turns(now)), [(one.clone(), 12, Some(100))]);
    sequences.answered(&one, Some(300), now);
    assert_eq!(sequences.live(), 1);
    assert_eq!(sequences.arrive(&of(1, false, false), 13, late, now).unwrap_err(), (NotTaken::NoStart, 13));
    sequences.arrive(&of(1, true, false), 14, late, now).unwrap();
    assert_eq!(runs(sequences.turns(now)), [(one, 14, None)]);
}

#[test]
fn a_sequence_that_asks_nothing_ends_and_its_slot_goes_to_the_next() {
    let now = Instant::now();
    let late = now + 100 * SECOND;
    let mut sequences = Sequences::new(limits(1));
    let one = SequenceId::Number(1);
    sequences.arrive(&of(1, true, false), 10, late, now).unwrap();
    sequences.arrive(&of(2, true, false), 20, late, now).unwrap();
    assert_eq!(sequences.turns(now).len(), 1);
    // While its request runs it is not idle, however long that takes.
    assert_eq!(runs(sequences.turns(now + 50 * SECOND)), []);
    sequences.answered(&one, Some(1), now + 50 * SECOND);
    assert_eq!(sequences.next_change(), Some(now + 51 * SECOND));
    assert_eq!(runs(sequences.turns(now + 50 * SECOND + SECOND / 2)), []);
    assert_eq!(runs(sequences.turns(now + 51 * SECOND)), [(SequenceId::Number(2), 20, None)]);
    let refused = sequences.arrive(&of(1, false, false), 11, late, now + 51 * SECOND);
    assert_eq!(refused.unwrap_err().0, NotTaken::NoStart);
}

#[test]
fn what_waits_can_be_taken_back_expires_and_is_bounded() {
    let now = Instant::now();
    let mut sequences: Sequences<u64, u64> = Sequences::new(SequenceLimits { max_waiting: 2, ..limits(1) });
    sequences.arrive(&of(1, true, false), 10, now + 10 * SECOND, now).unwrap();
    assert_eq!(sequences.turns(now).len(), 1);
    let number = sequences.arrive(&of(2, true, false), 20, now + SECOND, now).unwrap();
    sequences.arrive(&of(3, true, false), 30, now + SECOND, now).unwrap();
    assert_eq!(
        sequences.arrive(&of(4, true, false), 40, now + SECOND, now).unwrap_err(),
        (NotTaken::Full, 40)
    );
    assert_eq!(sequences.cancel(&SequenceId::Number(2), number), Some(20));
    assert_eq!(sequences.cancel(&SequenceId::Number(2), number), None);
    assert_eq!(sequences.expired(now + SECOND / 2), Vec::<u64>::new());
    assert_eq!(sequences.expired(now + SECOND), [30]);
    assert!(sequences.is_quiet());
    sequences.arrive(&of(1, false, true), 11, now + 10 * SECOND, now).unwrap();
    assert_eq!(sequences.close(), [11]);
    assert_eq!(sequences.arrive(&of(5, true, false), 50, now, now).unwrap_err(), (NotTaken::Closed, 50));
}

/// Random arrivals, answers, cancellations and waits keep the invariants; each request leaves once.
#[test]
fn whatever_comes_each_request_leaves_once_and_in_its_order() {
    let seed: u64 = std::env::var("AXON_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("AXON_SIM_SEED={seed}");
    let mut random = seed;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut now = Instant::now();
    let mut sequences = Sequences::new(limits(3));
    let (mut accepted, mut left) = (BTreeSet::new(), BTreeSet::new());
    let mut running: Vec<(SequenceId, u64)> = Vec::new();
    let mut last_run = BTreeMap::new();
    for request in 0..20_000 {
        now += Duration::from_millis(next(300));
        let id = next(6);
        let deadline = now + Duration::from_millis(1 + next(5000));
        if sequences.arrive(&of(id, next(3) == 0, next(5) == 0), request, deadline, now).is_ok() {
            accepted.insert(request);
        }
        for request in sequences.expired(now) {
            assert!(left.insert(request));
        }
        for turn in sequences.turns(now) {
            assert!(left.insert(turn.request));
            assert!(!running.iter().any(|(id, _)| *id == turn.id), "one at a time");
            assert!(last_run.insert(turn.id.clone(), turn.request) < Some(turn.request), "in order");
            assert!(!turn.start || turn.state.is_none());
            running.push((turn.id, turn.request));
        }
        assert!(sequences.live() <= 3);
        while running.len() > usize::try_from(next(4)).unwrap() {
            let (id, request) = running.swap_remove(0);
            sequences.answered(&id, (next(4) > 0).then_some(request), now);
        }
    }
    for request in sequences.close() {
        assert!(left.insert(request));
    }
    assert_eq!(accepted, left);
}
