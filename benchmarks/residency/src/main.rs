//! Prints what the rules of residency come to on seeded workloads, and what the state machine's own operations cost.

use std::time::{Duration, Instant};

use axon::residency::{Decision, Hints, ModelId, Residency, Rules, Step, Wish};
use axon::simulation::residency::{Checked, Pattern, Played, Policy, Workload, check, least_loading, play};

const SEEDS: u64 = 5;
const REQUESTS: usize = 20_000;
const CHECKED_SEEDS: u64 = 20_000;

const CELLS: [(&str, Pattern, f64); 5] = [
    ("zipf, 20 %", Pattern::Zipf, 0.2),
    ("zipf, 50 %", Pattern::Zipf, 0.5),
    ("zipf that drifts, 20 %", Pattern::Drift, 0.2),
    ("zipf with scans, 20 %", Pattern::Scans, 0.2),
    ("cyclic, 50 %", Pattern::Cyclic, 0.5),
];

fn main() {
    println!("minutes of loading / % of requests that waited for a load (% refused), mean of {SEEDS} seeds");
    print!("{:24}", "");
    for policy in Policy::ALL {
        print!("{:>21}", policy.name());
    }
    println!("{:>14}", "no rule below");
    for (name, pattern, share) in CELLS {
        print_cell(name, pattern, share);
    }
    println!();
    for models in [100, 1_000, 10_000] {
        println!("{models:6} models: {:.1} µs for a load that displaces another", displacing(models));
    }
    let start = Instant::now();
    let mut total = Checked::default();
    for seed in 0..CHECKED_SEEDS {
        match check(seed, start) {
            Ok(checked) => total += checked,
            Err(fault) => {
                println!("{fault}");
                std::process::exit(1);
            }
        }
    }
    println!("\n{CHECKED_SEEDS} seeds hold every rule: {total:?}");
}

fn print_cell(name: &str, pattern: Pattern, share: f64) {
    let mut sums = [Played::default(); Policy::ALL.len()];
    let mut bound = Duration::ZERO;
    for seed in 0..SEEDS {
        let workload = Workload::new(pattern, REQUESTS, seed);
        let budget = (workload.bytes() as f64 * share) as u64;
        bound += least_loading(&workload, budget);
        for (sum, policy) in sums.iter_mut().zip(Policy::ALL) {
            let played = play(&workload, policy, budget);
            sum.requests += played.requests;
            sum.loads += played.loads;
            sum.refused += played.refused;
            sum.loading += played.loading;
        }
    }
    print!("{name:24}");
    for sum in sums {
        let percent = |count: u64| 100.0 * count as f64 / sum.requests as f64;
        let refused = if sum.refused > 0 { format!(" ({:.0})", percent(sum.refused)) } else { String::new() };
        let minutes = sum.loading.as_secs_f64() / 60.0 / SEEDS as f64;
        print!("{:>21}", format!("{minutes:.1} / {:.0}{refused}", percent(sum.loads)));
    }
    println!("{:>14.1}", bound.as_secs_f64() / 60.0 / SEEDS as f64);
}

/// The time of one load that displaces another, with so many models of which half fit.
fn displacing(models: u32) -> f64 {
    let start = Instant::now();
    let rules = Rules { churn_share: 1.0, least_stay: 0.0, ..Rules::default() };
    let mut residency = Residency::new(rules, u64::from(models) * 50, start);
    let mut now = start;
    for id in (0..models).map(ModelId) {
        residency.add(id, 100, Hints::default(), now);
    }
    let mut ask = |id: ModelId| {
        now += Duration::from_millis(100);
        residency.requested(id, 1, now);
        let is_coming = matches!(residency.want(id, Wish::Request, now), Decision::Coming(_));
        loop {
            match residency.poll(now) {
                Step::Idle => return is_coming,
                Step::GiveUp(..) => {}
                Step::Evict(_, copy, _) => assert!(residency.left(copy)),
                Step::Load(id, _) => {
                    residency.loaded(id, 100, Duration::from_millis(u64::from(id.0 % 97)), now)
                }
            }
        }
    };
    (0..models / 2).map(ModelId).for_each(|id| {
        ask(id);
    });
    let began = Instant::now();
    let loads = (models / 2..models).map(ModelId).filter(|&id| ask(id)).count();
    began.elapsed().as_secs_f64() * 1e6 / loads.max(1) as f64
}
