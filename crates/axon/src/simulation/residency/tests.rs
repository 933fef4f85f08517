//! Fewer seeds than `benchmarks/residency`, and a bug planted for each rule, which the checker has to name.
//!
//! `AXON_SIM_SEEDS=n` runs so many seeds, `AXON_SIM_SEED=n` begins with that one and, alone, runs only it.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;
use crate::residency::planted::PlantedBug;

/// Every planted bug is found within so many seeds.
const SEEDS_FOR_A_BUG: u64 = 300;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{value}`")))
}

#[test]
fn a_thousand_seeds_hold_every_rule() {
    let first = variable("AXON_SIM_SEED");
    let count = variable("AXON_SIM_SEEDS").unwrap_or(if first.is_some() { 1 } else { 1_000 });
    let first = first.unwrap_or(0);
    println!("first seed {first}, {count} seeds");
    let start = Instant::now();
    let mut total = Checked::default();
    for seed in first..first + count {
        total += check(seed, start).unwrap_or_else(|fault| panic!("{fault}\nhint: AXON_SIM_SEED={seed}"));
    }
    println!("{total:?}");
    // What never happens cannot be checked.
    if count >= 500 {
        let Checked { hits, waits, refused, loads, failures, evictions, given_up } = total;
        let [too_large, failed, no_room, not_worth_it, _] = refused;
        let all =
            [hits, waits, too_large, failed, no_room, not_worth_it, loads, failures, evictions, given_up];
        assert!(all.iter().all(|&count| count > 0), "{total:?}");
    }
}

#[test]
fn the_same_seed_does_the_same_wherever_it_begins() {
    let start = Instant::now();
    let elsewhere = start + Duration::from_secs(1_000_000);
    for seed in 0..50 {
        assert_eq!(check(seed, start), check(seed, elsewhere), "seed {seed}");
    }
}

#[test]
fn a_planted_bug_is_found_by_the_rule_it_breaks() {
    let start = Instant::now();
    let check_bug = |bug: PlantedBug, expected: &[Broken]| {
        let found: Vec<Fault> = (0..SEEDS_FOR_A_BUG)
            .filter_map(|seed| check_with(seed, start, |residency| residency.bug = Some(bug)).err())
            .collect();
        let broken: BTreeSet<Broken> = found.iter().map(|fault| fault.broken).collect();
        println!("{bug:?}: {} of {SEEDS_FOR_A_BUG} seeds, {broken:?}", found.len());
        assert!(expected.iter().any(|expected| broken.contains(expected)), "{bug:?} is found as {broken:?}");
    };
    check_bug(PlantedBug::ForgetsLeavers, &[Broken::Budget]);
    check_bug(PlantedBug::KeepsFailed, &[Broken::Accounts]);
    check_bug(PlantedBug::KeepsEstimate, &[Broken::Accounts]);
    check_bug(PlantedBug::LoadsTwice, &[Broken::SingleFlight]);
    check_bug(PlantedBug::IgnoresPins, &[Broken::Pins]);
    check_bug(PlantedBug::IgnoresStays, &[Broken::Stays]);
    check_bug(PlantedBug::IgnoresWorth, &[Broken::Thrash]);
    check_bug(PlantedBug::LoadsOneTooMany, &[Broken::Slots]);
    check_bug(PlantedBug::LoadsNothing, &[Broken::Progress]);
    check_bug(PlantedBug::KeepsOver, &[Broken::Sheds]);
    check_bug(PlantedBug::RetriesAtOnce, &[Broken::BackOff]);
    check_bug(PlantedBug::RefusesWhatFits, &[Broken::ReasonToRefuse]);
}

/// **Source** of the cells: `docs/residency.md`.
const CELLS: [(Pattern, f64); 5] = [
    (Pattern::Zipf, 0.2),
    (Pattern::Zipf, 0.5),
    (Pattern::Drift, 0.2),
    (Pattern::Scans, 0.2),
    (Pattern::Cyclic, 0.5),
];

#[test]
fn models_are_loaded_for_little_more_time_than_by_the_best_rule_and_a_fifth_of_the_worst() {
    const SEEDS: u64 = 1;
    const REQUESTS: usize = 6_000;
    let mut best_of_lru = f64::INFINITY;
    for (pattern, share) in CELLS {
        let mut sums = [0.0; Policy::ALL.len()];
        let mut bound = 0.0;
        for seed in 0..SEEDS {
            let workload = Workload::new(pattern, REQUESTS, seed);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
            let budget = (workload.bytes() as f64 * share) as u64;
            bound += least_loading(&workload, budget).as_secs_f64();
            for (sum, policy) in sums.iter_mut().zip(Policy::ALL) {
                *sum += play(&workload, policy, budget).loading.as_secs_f64();
            }
        }
        let minutes = sums.map(|sum| sum / 60.0 / SEEDS as f64);
        println!("{pattern:?} {share}: {minutes:.1?} minutes, at least {:.1}", bound / 60.0 / SEEDS as f64);
        let [lru, _, _, _, axon, _] = sums;
        let best = sums[..5].iter().copied().fold(f64::INFINITY, f64::min);
        assert!(sums[..5].iter().all(|&sum| sum >= bound), "no rule is below the bound");
        assert!(axon <= 1.4 * best, "{pattern:?} {share}: {axon} s, the best is {best} s");
        best_of_lru = best_of_lru.min(axon / lru);
    }
    assert!(best_of_lru <= 0.2, "where LRU is worst, {best_of_lru} of its time");
}

#[test]
fn the_lru_that_is_shipped_is_the_lru_that_is_compared_with() {
    for (pattern, share) in CELLS {
        let mut workload = Workload::new(pattern, 3_000, 1);
        for model in &mut workload.models {
            model.bytes = 1 << 20;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        let budget = (workload.bytes() as f64 * share) as u64;
        let (shipped, compared) =
            (policies::play_lru(&workload, budget), play(&workload, Policy::Lru, budget));
        assert!(shipped.loads > 0 && shipped.refused == 0);
        assert_eq!(shipped, compared, "{pattern:?}");
    }
}
