//! What the p99 is foretold to be, beside what comes out when the same load is played through the batcher.

use std::num::NonZeroUsize;

use super::*;
use crate::simulation::random::Random;

/// Milliseconds of a run by its rows, the most rows of a run, instances, and rows of each request.
type Profile = (&'static [(usize, f64)], usize, usize, usize);

/// What is said is at most so many times as much, or as little, as what comes out.
const WITHIN: f64 = 1.5;
const REQUESTS: usize = 20_000;
/// No batches, a run that grows with its rows only, one that hardly grows, and one with a step.
const PROFILES: [Profile; 9] = [
    (&[(1, 1.1), (64, 7.4)], 64, 1, 1),
    (&[(1, 1.1), (64, 7.4)], 64, 2, 1),
    (&[(1, 1.1), (64, 7.4)], 64, 1, 4),
    (&[(1, 5.0)], 1, 1, 1),
    (&[(1, 5.0)], 1, 4, 1),
    (&[(1, 1.1), (8, 8.1)], 8, 1, 1),
    (&[(1, 1.1), (8, 8.1)], 8, 2, 2),
    (&[(1, 20.0), (32, 20.5)], 32, 1, 1),
    (&[(1, 2.0), (16, 3.0), (17, 5.0), (32, 6.0)], 32, 1, 1),
];

fn played((curve, most, instances, request_rows): Profile, load: f64, noise: f64, seed: u64) -> ReplayReport {
    let bound = |number| NonZeroUsize::new(number).unwrap();
    let curve: Vec<_> = curve.iter().map(|&(rows, ms)| (rows, Duration::from_secs_f64(ms / 1e3))).collect();
    let full = curve.last().unwrap().1;
    let gap = full.mul_f64(request_rows as f64 / (most * instances) as f64 / load);
    let mut random = Random::new(!seed);
    let mut at = Duration::ZERO;
    let arrivals = std::iter::repeat_with(|| {
        at += random.around(gap);
        at
    });
    let trace = Replay {
        arrivals: arrivals.take(REQUESTS).collect(),
        rows: vec![request_rows; REQUESTS],
        // Nothing is refused.
        deadline: Duration::from_secs(100_000),
        curve,
        instances,
        max_batch_rows: bound(most),
        max_queue_size: bound(REQUESTS),
        noise,
        seed,
    };
    crate::simulation::replay(&trace, Instant::now()).unwrap()
}

#[test]
fn the_p99_is_foretold_within_half_of_what_comes_out() {
    let mut wrong = Vec::new();
    let mut ratios = Vec::new();
    for (index, profile) in PROFILES.into_iter().enumerate() {
        for noise in [0.03, 0.15] {
            for load in [0.3, 0.5, 0.7, 0.9] {
                let report = played(profile, load, noise, 7);
                let (came, said) = (report.p99.unwrap(), report.predicted_p99);
                let ratio = said.map_or(f64::INFINITY, |said| said.as_secs_f64() / came.as_secs_f64());
                println!(
                    "profile {index}, noise {noise}, load {load}: {said:?} said, {came:?} came, {ratio:.2}"
                );
                ratios.push(ratio);
                if !(1.0 / WITHIN..=WITHIN).contains(&ratio) {
                    wrong.push((index, noise, load, ratio));
                }
            }
        }
    }
    ratios.sort_by(f64::total_cmp);
    let [least, half, most] = [0, ratios.len() / 2, ratios.len() - 1].map(|rank| ratios[rank]);
    println!("said / came: from {least:.2} to {most:.2}, half of them up to {half:.2}; seed 7");
    assert!(wrong.is_empty(), "{wrong:?}");
}
