//! What the batcher's operations cost with 4,096 requests waiting.

use std::time::{Duration, Instant};

use axon::batcher::{Batcher, Waiting};

use crate::MOST_ROWS;
use crate::policies::rules;
use crate::random::Random;

const WAITING: usize = 4096;

/// Nanoseconds for each push, and for each formed batch of 64 rows.
fn measure(same_deadline: bool) -> (f64, f64) {
    let mut random = Random::new(1);
    let (mut batcher, start) = (Batcher::new(rules(1.0)), Instant::now());
    let mut waiting = |request: usize| {
        let more = if same_deadline { request as u64 } else { random.next() % 1_000_000 };
        let deadline = start + Duration::from_secs(3600) + Duration::from_micros(more);
        Waiting { key: (), class: 1, rows: 1, bytes: 0, deadline, lingers: Duration::ZERO, request }
    };
    let mut sent = 0;
    let mut push = |batcher: &mut Batcher<(), usize>, count: usize| {
        let requests: Vec<_> = (0..count).map(|index| waiting(sent + index)).collect();
        sent += count;
        let began = Instant::now();
        for request in requests {
            let _ = std::hint::black_box(batcher.push(request, start));
        }
        began.elapsed()
    };
    push(&mut batcher, WAITING);
    let (mut pushing, mut forming, rounds) = (Duration::ZERO, Duration::ZERO, 2000_u32);
    for _ in 0..rounds {
        let began = Instant::now();
        let action = batcher.poll(start, true);
        let id = action.batch.as_ref().map(|batch| batch.id);
        forming += began.elapsed();
        if let Some(id) = id {
            batcher.finish(id, None, start);
        }
        pushing += push(&mut batcher, MOST_ROWS);
    }
    let each = |total: Duration, count: u32| total.as_secs_f64() * 1e9 / f64::from(count);
    (each(pushing, rounds * MOST_ROWS as u32), each(forming, rounds))
}

pub fn report() {
    println!("\nwith {WAITING} requests waiting, median of 5 rounds");
    for (name, same) in [("deadlines in order", true), ("deadlines at random", false)] {
        let mut rounds: Vec<_> = (0..5).map(|_| measure(same)).collect();
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let push = rounds[2].0;
        rounds.sort_by(|a, b| a.1.total_cmp(&b.1));
        println!("{name:<22} push {push:>6.0} ns   formed batch of {MOST_ROWS} {:>6.0} ns", rounds[2].1);
    }
}
