//! What the simulation does not show as plainly.

use std::time::{Duration, Instant};

use super::*;

const A: ModelId = ModelId(0);
const B: ModelId = ModelId(1);
const C: ModelId = ModelId(2);

/// A device of 100 bytes with models of these bytes.
fn device(bytes: &[u64], now: Instant) -> Residency {
    let mut residency = Residency::new(Rules::default(), 100, now);
    for (id, &bytes) in (0..).map(ModelId).zip(bytes) {
        residency.add(id, bytes, Hints::default(), now);
    }
    residency
}

/// Wants a model for a request and does at once what is to be done; loads take a second.
fn ask(residency: &mut Residency, id: ModelId, now: Instant) -> Decision {
    residency.requested(id, 1, now);
    let decision = residency.want(id, Wish::Request, now);
    settle(residency, now);
    decision
}

fn settle(residency: &mut Residency, now: Instant) {
    loop {
        match residency.poll(now) {
            Step::Idle => return,
            Step::GiveUp(..) => {}
            Step::Evict(_, copy, _) => assert!(residency.left(copy)),
            Step::Load(id, _) => {
                let bytes = residency.view(id, now).unwrap().bytes;
                residency.loaded(id, bytes, Duration::from_secs(1), now);
            }
        }
    }
}

fn is_resident(residency: &Residency, id: ModelId, now: Instant) -> bool {
    matches!(residency.view(id, now).unwrap().place, Place::Resident { .. })
}

#[test]
fn what_is_asked_more_often_stays() {
    let start = Instant::now();
    let mut residency = device(&[50, 50, 50], start);
    for _ in 0..5 {
        ask(&mut residency, A, start);
    }
    ask(&mut residency, B, start);
    let later = start + Duration::from_secs(60);
    assert!(matches!(ask(&mut residency, C, later), Decision::Coming(_)));
    assert!(is_resident(&residency, A, later) && is_resident(&residency, C, later));
    assert!(!is_resident(&residency, B, later));
}

#[test]
fn by_lru_what_was_used_longest_ago_leaves_whatever_it_is_worth() {
    let start = Instant::now();
    let mut residency = device(&[50, 50, 50], start);
    residency.rules.eviction = EvictionPolicy::Lru;
    // Nothing may be loaded that is worth less than what leaves: LRU does not ask.
    residency.churn = Churn::new(0.0, Duration::ZERO, start);
    for _ in 0..100 {
        ask(&mut residency, A, start);
    }
    ask(&mut residency, B, start + Duration::from_secs(30));
    let later = start + Duration::from_secs(60);
    assert!(matches!(ask(&mut residency, C, later), Decision::Coming(_)));
    assert!(!is_resident(&residency, A, later));
    assert!(is_resident(&residency, B, later) && is_resident(&residency, C, later));
    let score = |id| residency.view(id, later).unwrap().score;
    assert!((score(B) + 30.0).abs() < 1e-9 && score(C).abs() < 1e-9);
    residency.set_budget(60);
    settle(&mut residency, later);
    assert!(!is_resident(&residency, B, later) && is_resident(&residency, C, later));
}

#[test]
fn what_was_popular_ages_and_makes_way() {
    let start = Instant::now();
    let mut residency = device(&[60, 60], start);
    for _ in 0..100 {
        ask(&mut residency, A, start);
    }
    residency.churn = Churn::new(0.0, Duration::ZERO, start);
    let soon = start + Duration::from_secs(60);
    assert!(matches!(ask(&mut residency, B, soon), Decision::Refused(Refusal::NotWorthIt { .. })));
    let later = start + Duration::from_secs(600 * 12);
    assert!(matches!(ask(&mut residency, B, later), Decision::Coming(_)));
    assert!(is_resident(&residency, B, later));
}

#[test]
fn one_large_model_displaces_no_more_than_it_needs() {
    let start = Instant::now();
    let mut residency = device(&[20, 70, 60], start);
    ask(&mut residency, A, start);
    ask(&mut residency, A, start);
    ask(&mut residency, B, start);
    let later = start + Duration::from_secs(60);
    // By bytes B is worth least; it is enough, so that A need not go.
    for _ in 0..5 {
        ask(&mut residency, C, later);
    }
    assert!(is_resident(&residency, A, later) && is_resident(&residency, C, later));
}

#[test]
fn the_bytes_of_what_leaves_are_not_used_before_they_have_come_back() {
    let start = Instant::now();
    let mut residency = device(&[80, 80], start);
    ask(&mut residency, A, start);
    let later = start + Duration::from_secs(60);
    residency.requested(B, 5, later);
    assert!(matches!(residency.want(B, Wish::Request, later), Decision::Coming(_)));
    let Step::Evict(A, copy, Cause::Room) = residency.poll(later) else { panic!("A has to leave") };
    assert_eq!(residency.poll(later), Step::Idle);
    assert_eq!(residency.charged(), 80);
    residency.left(copy);
    assert!(matches!(residency.poll(later), Step::Load(B, _)));
}

#[test]
fn a_model_that_fails_is_left_alone_twice_as_long_each_time() {
    let mut now = Instant::now();
    let mut residency = device(&[10], now);
    for seconds in [1, 2, 4, 8] {
        assert!(matches!(residency.want(A, Wish::Request, now), Decision::Coming(_)));
        assert!(matches!(residency.poll(now), Step::Load(A, _)));
        residency.failed(A, now);
        let retry_after = Duration::from_secs(seconds);
        assert_eq!(residency.want(A, Wish::Request, now), Decision::Refused(Refusal::Failed { retry_after }));
        now += retry_after;
    }
    assert!(matches!(residency.want(A, Wish::Request, now), Decision::Coming(_)));
    residency.poll(now);
    residency.failed(A, now);
    residency.forgive(A);
    assert!(matches!(residency.want(A, Wish::Request, now), Decision::Coming(_)), "its files have changed");
}

#[test]
fn a_model_that_is_kept_for_a_while_leaves_after_it() {
    let start = Instant::now();
    let mut residency = device(&[10], start);
    residency.set_hints(A, |hints| hints.keep_alive = Some(Duration::from_secs(5)));
    ask(&mut residency, A, start);
    let until = residency.next_moment().unwrap();
    assert_eq!(until - start, Duration::from_secs(5));
    residency.requested(A, 1, start + Duration::from_secs(3));
    settle(&mut residency, until);
    assert!(is_resident(&residency, A, until), "it was used since");
    let until = residency.next_moment().unwrap();
    settle(&mut residency, until);
    assert!(!is_resident(&residency, A, until));
    assert_eq!(residency.next_moment(), None);
}

#[test]
fn an_operator_loads_what_is_not_worth_it_but_never_what_is_pinned_away() {
    let start = Instant::now();
    let mut residency = device(&[60, 60], start);
    residency.churn = Churn::new(0.0, Duration::ZERO, start);
    for _ in 0..100 {
        ask(&mut residency, A, start);
    }
    let later = start + Duration::from_secs(60);
    residency.set_hints(A, |hints| hints.pinned = true);
    assert!(matches!(residency.want(B, Wish::Operator, later), Decision::Refused(Refusal::NoRoom { .. })));
    residency.set_hints(A, |hints| hints.pinned = false);
    assert!(matches!(residency.want(B, Wish::Operator, later), Decision::Coming(_)));
}

#[test]
fn who_waits_is_told_how_long() {
    let start = Instant::now();
    let mut residency = device(&[10, 10, 10, 10], start);
    for id in [A, B, C, ModelId(3)] {
        ask(&mut residency, id, start);
        residency.retire(id);
    }
    let copies: Vec<_> = residency.leaving.keys().copied().collect();
    for copy in copies {
        residency.left(copy);
    }
    for id in [A, B, C] {
        assert!(matches!(residency.want(id, Wish::Request, start), Decision::Coming(_)));
        residency.poll(start);
    }
    let seconds = |id, now| residency.ready_in(id, now).as_secs_f64();
    assert!((seconds(A, start) - 1.0).abs() < 1e-9, "it is being loaded");
    assert!((seconds(C, start) - 2.0).abs() < 1e-9, "it waits for one of two slots");
    let half = start + Duration::from_millis(500);
    assert!((seconds(A, half) - 0.5).abs() < 1e-9);
    assert!(seconds(A, start + Duration::from_secs(4)) > 0.0, "late, and not there yet");
}
