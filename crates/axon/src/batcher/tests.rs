//! The queue by hand. Everything else that must hold is held by `simulation`.

use std::num::NonZeroUsize;

use super::*;

struct Fixture {
    batcher: Batcher<u8, u32>,
    start: Instant,
}

fn limits(max_batch_rows: usize, max_queue_size: usize) -> Limits {
    let bound = |number| NonZeroUsize::new(number).unwrap();
    Limits {
        max_batch_rows: bound(max_batch_rows),
        max_queue_size: bound(max_queue_size),
        max_queue_bytes: 10_000,
    }
}

impl Fixture {
    /// Of a model whose runs take no time.
    fn new(max_batch_rows: usize, max_queue_size: usize) -> Self {
        Self::with(Rules::new(limits(max_batch_rows, max_queue_size)))
    }

    fn with(rules: Rules) -> Self {
        Self { batcher: Batcher::new(rules), start: Instant::now() }
    }

    /// Of a model that runs `fixed_ms` and `per_row_ms` more for each row.
    fn timed(max_batch_rows: usize, fixed_ms: u64, per_row_ms: u64) -> Self {
        let curve = [1, 2].map(|rows| (rows, ms(fixed_ms + per_row_ms * rows as u64)));
        Self::with(Rules { curve: curve.into(), ..Rules::new(limits(max_batch_rows, 100)) })
    }

    fn at(&self, after: u64) -> Instant {
        self.start + ms(after)
    }

    fn push(&mut self, request: u32, key: u8, rows: usize, deadline_ms: u64) -> Result<RequestId, Rejected> {
        self.urgent(1, request, key, rows, deadline_ms).map(|accepted| accepted.id)
    }

    fn urgent(
        &mut self,
        class: Class,
        request: u32,
        key: u8,
        rows: usize,
        deadline_ms: u64,
    ) -> Result<Accepted<u32>, Rejected> {
        let deadline = self.at(deadline_ms);
        let waiting = Waiting { key, class, rows, bytes: 100, deadline, lingers: Duration::ZERO, request };
        self.batcher.push(waiting, self.start).map_err(|refused| refused.reason)
    }

    /// What runs at a moment; the instance is free again at once.
    fn batch(&mut self, after: u64) -> Option<Vec<u32>> {
        let batch = self.batcher.poll(self.at(after), true).batch?;
        self.batcher.finish(batch.id, None, self.at(after));
        Some(batch.requests)
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn a_batch_is_the_longest_prefix_that_fits() {
    let mut queue = Fixture::new(4, 10);
    for (request, rows) in [(0, 1), (1, 2), (2, 2), (3, 1), (4, 9), (5, 1)] {
        queue.push(request, 0, rows, 1000).unwrap();
    }
    assert_eq!(queue.batcher.poll(queue.start, false).batch, None);
    let batches: Vec<_> = std::iter::from_fn(|| queue.batch(1)).collect();
    assert_eq!(batches, [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
    assert!(queue.batcher.is_empty());
    assert_eq!(queue.batcher.bytes(), 0);
}

#[test]
fn shapes_do_not_mix_and_do_not_block_each_other() {
    let mut queue = Fixture::new(4, 10);
    for (request, key) in [(0, 7), (1, 3), (2, 7), (3, 3), (4, 7)] {
        queue.push(request, key, 1, 1000).unwrap();
    }
    let batches: Vec<_> = std::iter::from_fn(|| queue.batch(1)).collect();
    assert_eq!(batches, [vec![0, 2, 4], vec![1, 3]]);
}

#[test]
fn the_earliest_deadline_goes_first_and_ties_by_arrival() {
    let mut queue = Fixture::new(2, 10);
    for (request, deadline) in [(0, 900), (1, 500), (2, 500), (3, 100)] {
        queue.push(request, 0, 1, deadline).unwrap();
    }
    let batches: Vec<_> = std::iter::from_fn(|| queue.batch(1)).collect();
    assert_eq!(batches, [vec![3, 1], vec![2, 0]]);
}

#[test]
fn the_most_urgent_class_goes_first_and_others_fill_its_batch() {
    let mut queue = Fixture::new(3, 10);
    for (class, request) in [(3, 0), (2, 1), (1, 2), (2, 3), (1, 4)] {
        queue.urgent(class, request, 0, 1, 1000).unwrap();
    }
    let batches: Vec<_> = std::iter::from_fn(|| queue.batch(1)).collect();
    assert_eq!(batches, [vec![2, 4, 1], vec![3, 0]]);
}

#[test]
fn a_full_queue_gives_up_the_least_urgent_for_a_more_urgent_one() {
    let mut queue = Fixture::new(1, 2);
    queue.urgent(2, 0, 0, 1, 1000).unwrap();
    queue.urgent(3, 1, 0, 1, 1000).unwrap();
    assert_eq!(queue.urgent(3, 2, 0, 1, 1000), Err(Rejected::QueueFull));
    assert_eq!(queue.urgent(2, 3, 0, 1, 1000).unwrap().displaced, [1]);
    assert_eq!(queue.urgent(1, 4, 0, 1, 1000).unwrap().displaced, [3]);
    assert_eq!([queue.batch(1), queue.batch(1), queue.batch(1)], [Some(vec![4]), Some(vec![0]), None]);
}

#[test]
fn a_class_has_a_bound_of_its_own() {
    let sizes = BTreeMap::from([(2, NonZeroUsize::MIN)]);
    let mut queue = Fixture::with(Rules { class_sizes: sizes, ..Rules::new(limits(1, 10)) });
    queue.urgent(2, 0, 0, 1, 1000).unwrap();
    assert_eq!(queue.urgent(2, 1, 0, 1, 1000), Err(Rejected::QueueFull));
    queue.urgent(1, 2, 0, 1, 1000).unwrap();
    queue.urgent(1, 3, 0, 1, 1000).unwrap();
}

#[test]
fn a_request_that_expired_is_never_run() {
    let mut queue = Fixture::new(4, 10);
    queue.push(0, 0, 1, 50).unwrap();
    queue.push(1, 0, 1, 20).unwrap();
    queue.push(2, 0, 1, 21).unwrap();
    assert_eq!(queue.batcher.next_wake(queue.start), Some(queue.at(20)));
    let action = queue.batcher.poll(queue.at(20), true);
    assert_eq!((action.expired, action.batch.map(|batch| batch.requests)), (vec![1], Some(vec![2, 0])));
    assert_eq!(queue.push(3, 0, 1, 0), Err(Rejected::Expired));
}

#[test]
fn what_would_be_late_is_refused_at_arrival() {
    let mut queue = Fixture::timed(1, 10, 0);
    // With a hundredth of the time to spare.
    let wait = |run, left| ms(run) + ms(left) / 100;
    assert_eq!(queue.push(0, 0, 1, 9), Err(Rejected::TooShort { run: wait(10, 9) }));
    queue.push(1, 0, 1, 11).unwrap();
    assert_eq!(queue.push(2, 0, 1, 11), Err(Rejected::PredictedMiss { wait: wait(20, 11) }));
    queue.push(3, 0, 1, 21).unwrap();
    let batch = queue.batcher.poll(queue.start, true).batch.unwrap();
    assert_eq!(batch.requests, [1]);
    // Behind the run and the one that waits.
    assert_eq!(queue.push(4, 0, 1, 30), Err(Rejected::PredictedMiss { wait: wait(30, 30) }));
    queue.push(5, 0, 1, 31).unwrap();
    queue.batcher.finish(batch.id, Some(ms(10)), queue.at(10));
    // What a run took longer does not cost the next its place.
    assert_eq!([queue.batch(11), queue.batch(21)], [Some(vec![3]), Some(vec![5])]);
}

#[test]
fn with_time_enough_nothing_is_refused() {
    let mut queue = Fixture::timed(1, 100, 0);
    for request in 0..64 {
        queue.push(request, 0, 1, 10_000).unwrap();
    }
    let served: Vec<_> = (0..64).map(|turn| queue.batch(turn * 100).unwrap()).collect();
    assert_eq!(served.concat(), (0..64).collect::<Vec<_>>());
}

#[test]
fn a_batch_jumps_over_what_would_make_it_small() {
    // l(n) = 1 + n ms, 8 rows at most. The first two have time for one row, the others for eight.
    let mut queue = Fixture::timed(8, 1, 1);
    for request in 0..10 {
        queue.push(request, 0, 1, if request < 2 { 20 } else { 26 }).unwrap();
    }
    let now = queue.at(17);
    let action = queue.batcher.poll(now, true);
    assert_eq!(action.shed, [0, 1]);
    assert_eq!(action.batch.unwrap().requests, (2..10).collect::<Vec<_>>());
}

#[test]
fn a_small_batch_runs_when_the_rest_can_wait() {
    let mut queue = Fixture::timed(8, 1, 1);
    for request in 0..10 {
        queue.push(request, 0, 1, if request < 2 { 20 } else { 100 }).unwrap();
    }
    let action = queue.batcher.poll(queue.at(17), true);
    assert_eq!((action.shed, action.batch.unwrap().requests), (vec![], vec![0, 1]));
}

#[test]
fn what_cannot_be_in_time_any_more_is_given_up() {
    let mut queue = Fixture::timed(1, 10, 0);
    queue.push(0, 0, 1, 15).unwrap();
    queue.push(1, 0, 1, 30).unwrap();
    let action = queue.batcher.poll(queue.at(6), true);
    assert_eq!((action.shed, action.batch.unwrap().requests), (vec![0], vec![1]));
}

#[test]
fn a_model_that_was_slow_once_is_tried_again() {
    let mut queue = Fixture::timed(1, 1, 0);
    for run in 0..5 {
        queue.push(run, 0, 1, 1000).unwrap();
        let batch = queue.batcher.poll(queue.start, true).batch.unwrap();
        queue.batcher.finish(batch.id, Some(ms(if run == 0 { 1 } else { 50 })), queue.start);
    }
    queue.push(5, 0, 1, 10).unwrap_err();
    let late = |queue: &mut Fixture| {
        let deadline = queue.at(210);
        let waiting =
            Waiting { key: 0, class: 1, rows: 1, bytes: 0, deadline, lingers: Duration::ZERO, request: 6 };
        queue.batcher.push(waiting, queue.at(200)).is_ok()
    };
    assert!(late(&mut queue), "one is let through");
    assert!(!late(&mut queue), "and no second one before the first has told");
    let batch = queue.batcher.poll(queue.at(200), true).batch.unwrap();
    assert_eq!(batch.requests, [6]);
}

#[test]
fn a_request_is_kept_waiting_only_as_its_owner_says() {
    let rules = Rules { preferred_rows: vec![2, 4], max_delay: ms(5), ..Rules::new(limits(8, 20)) };
    let mut queue = Fixture::with(rules);
    queue.push(0, 0, 1, 1000).unwrap();
    assert_eq!(queue.batch(0), None);
    assert_eq!(queue.batcher.next_wake(queue.start), Some(queue.at(5)));
    queue.push(1, 0, 1, 1000).unwrap();
    queue.push(2, 0, 1, 1000).unwrap();
    assert_eq!(queue.batch(0), Some(vec![0, 1]), "the largest preferred size that is there");
    assert_eq!(queue.batch(0), None);
    assert_eq!(queue.batch(5), Some(vec![2]));
}

#[test]
fn a_cancelled_request_leaves_at_once() {
    let mut queue = Fixture::new(2, 10);
    let ids: Vec<_> = (0..4).map(|request| queue.push(request, 0, 1, 1000).unwrap()).collect();
    assert_eq!(queue.batcher.cancel(ids[0]), Some(0));
    assert_eq!(queue.batcher.cancel(ids[2]), Some(2));
    assert_eq!(queue.batcher.cancel(ids[2]), None);
    assert_eq!(queue.batch(1), Some(vec![1, 3]));
    assert_eq!(queue.batcher.cancel(ids[3]), None);
}

#[test]
fn the_bounds_refuse_one_more() {
    let mut queue = Fixture::new(2, 2);
    queue.push(0, 0, 1, 1000).unwrap();
    queue.push(1, 1, 1, 1000).unwrap();
    assert_eq!(queue.push(2, 0, 1, 1000), Err(Rejected::QueueFull));
    let mut queue = Fixture::new(2, 200);
    for request in 0..100 {
        queue.push(request, 0, 1, 1000).unwrap();
    }
    assert_eq!(queue.push(100, 0, 1, 1000), Err(Rejected::QueueBytesFull));
    assert_eq!(queue.batcher.close(), (0..100).collect::<Vec<_>>());
    assert_eq!(queue.push(101, 0, 1, 1000), Err(Rejected::Closed));
}

impl Fixture {
    fn push_lingering(&mut self, request: u32, deadline_ms: u64, lingers_ms: u64) -> RequestId {
        let (deadline, lingers) = (self.at(deadline_ms), ms(lingers_ms));
        let waiting = Waiting { key: 0, class: 1, rows: 1, bytes: 100, deadline, lingers, request };
        self.batcher.push(waiting, self.start).unwrap().id
    }
}

#[test]
fn what_may_wait_on_goes_behind_the_others_and_is_run_all_the_same() {
    let mut fixture = Fixture::new(1, 8);
    fixture.push_lingering(1, 10, 1000);
    fixture.push(2, 0, 1, 500).unwrap();
    fixture.push(3, 0, 1, 900).unwrap();
    let action = fixture.batcher.poll(fixture.at(10), false);
    assert_eq!((action.expired, action.shed, action.delayed.len()), (vec![], vec![], 1));
    assert_eq!(fixture.batcher.next_wake(fixture.at(10)), Some(fixture.at(500)));
    assert_eq!([11, 12, 13].map(|at| fixture.batch(at)), [2, 3, 1].map(|request| Some(vec![request])));
    assert!(fixture.batcher.is_empty());
}

#[test]
fn what_waits_on_expires_in_the_end_and_is_cancelled_wherever_it_is() {
    let mut fixture = Fixture::new(1, 8);
    let first = fixture.push_lingering(1, 10, 50);
    let second = fixture.push_lingering(2, 10, 50);
    assert_eq!(fixture.batcher.poll(fixture.at(20), false).expired, Vec::<u32>::new());
    assert_eq!(fixture.batcher.cancel(second), Some(2));
    assert_eq!(fixture.batcher.cancel(second), None);
    assert_eq!(fixture.batcher.poll(fixture.at(59), false).expired, Vec::<u32>::new());
    assert_eq!(
        fixture.batcher.poll(fixture.at(60), true),
        Action { expired: vec![1], shed: vec![], delayed: vec![], batch: None }
    );
    assert_eq!(fixture.batcher.cancel(first), None);
    assert_eq!((fixture.batcher.len(), fixture.batcher.bytes()), (0, 0));
}

#[test]
fn what_may_wait_on_is_not_refused_for_missing_its_first_deadline() {
    let mut fixture = Fixture::timed(1, 10, 0);
    for request in 0..5 {
        fixture.push_lingering(request, 30, 1000);
    }
    assert_eq!(
        fixture.push(9, 0, 1, 30),
        Err(Rejected::PredictedMiss { wait: ms(60) + time_to_spare(ms(30)) })
    );
    let ran: Vec<_> = [0, 10, 20, 30, 40].into_iter().filter_map(|at| fixture.batch(at)).flatten().collect();
    assert_eq!(ran, [0, 1, 2, 3, 4]);
}
