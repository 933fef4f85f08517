//! Thousands of seeds; and a bug planted in the batcher for each invariant, which the simulation has to name.
//!
//! `AXON_SIM_SEEDS=n` runs so many seeds, `AXON_SIM_SEED=n` begins with that one and, alone, runs only it.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;
use crate::batcher::OrderBug;
use crate::batcher::planted::PlantedBug;

mod device;
mod prediction;

const DEFAULT_SEEDS: u64 = 2_000;
/// Every planted bug is found within so many seeds.
const SEEDS_FOR_A_BUG: u64 = 200;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{value}`")))
}

fn replay(violation: &Violation) -> ! {
    let seed = violation.seed;
    panic!(
        "{violation}\nhint: AXON_SIM_SEED={seed} cargo test -p axon simulation::tests::thousands -- --nocapture"
    )
}

#[test]
fn thousands_of_seeds_hold_every_invariant() {
    let first = variable("AXON_SIM_SEED");
    let count = variable("AXON_SIM_SEEDS").unwrap_or(if first.is_some() { 1 } else { DEFAULT_SEEDS });
    let first = first.unwrap_or(0);
    println!("first seed {first}, {count} seeds");
    if count == 1 {
        println!("{:#?}", Scenario::from_seed(first));
    }
    let start = Instant::now();
    let mut total = Report::default();
    for seed in first..first + count {
        total += &run(&Scenario::from_seed(seed), start).unwrap_or_else(|violation| replay(&violation));
    }
    let real = start.elapsed().as_secs_f64();
    println!("{total:#?}");
    println!(
        "mean batch {:.2} rows, {:.2} requests; {:.1} % in time; {:.0} virtual seconds and {:.0} events per second",
        total.mean_batch_rows(),
        total.mean_batch_requests(),
        100.0 * total.share_in_time(),
        total.elapsed.as_secs_f64() / real,
        total.events as f64 / real,
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let start = Instant::now();
    let elsewhere = start + Duration::from_secs(1_000_000);
    let mut traces = BTreeSet::new();
    for seed in 0..50 {
        let scenario = Scenario::from_seed(seed);
        let report = run_twice(&scenario, start).unwrap_or_else(|violation| replay(&violation));
        assert_eq!(Ok(&report), run(&scenario, elsewhere).as_ref(), "seed {seed} depends on when it starts");
        traces.insert(report.trace);
    }
    assert_eq!(traces.len(), 50, "different seeds give different traces");
}

/// What never happens cannot be checked.
#[test]
fn the_seeds_reach_every_outcome() {
    let start = Instant::now();
    let mut total = Report::default();
    for seed in 0..SEEDS_FOR_A_BUG {
        total += &run(&Scenario::from_seed(seed), start).unwrap_or_else(|violation| replay(&violation));
    }
    let Report { refused_queue_full, refused_queue_bytes_full, refused_expired, refused_closed, .. } = total;
    let Report { refused_predicted, shed, displaced, .. } = total;
    let Report { answered, in_time, failed, expired, cancelled, shut_down, oversized_batches, .. } = total;
    let refused =
        [refused_queue_full, refused_queue_bytes_full, refused_expired, refused_closed, refused_predicted];
    let late = answered - in_time;
    let outcomes =
        [answered, failed, expired, shed, displaced, cancelled, shut_down, late, oversized_batches];
    for count in refused.into_iter().chain(outcomes).chain([total.freezes]) {
        assert!(count >= 50, "{total:#?}");
    }
    assert_eq!(total.received, total.accepted + refused.iter().sum::<usize>());
    assert_eq!(total.accepted, answered + failed + expired + shed + displaced + cancelled + shut_down);
    assert!(total.mean_batch_rows() > 2.0 && total.share_in_time() > 0.2, "{total:#?}");
}

/// Each bug with what it breaks.
const PLANTED: [(PlantedBug, Invariant); 32] = [
    (PlantedBug::RunsTwice, Invariant::OneOutcome),
    (PlantedBug::ForgetsOnClose, Invariant::OneOutcome),
    (PlantedBug::CancelsTheNeighbour, Invariant::OwnRequest),
    (PlantedBug::AcceptsTheExpired, Invariant::NotLate),
    (PlantedBug::FormsBeforeItExpires, Invariant::NotLate),
    (PlantedBug::IgnoresCancel, Invariant::NotCancelled),
    (PlantedBug::RunsTheCancelled, Invariant::NotCancelled),
    (PlantedBug::AcceptsOneTooMany, Invariant::QueueSize),
    (PlantedBug::AcceptsOneByteTooMany, Invariant::QueueBytes),
    (PlantedBug::RefusesOneTooEarly, Invariant::ReasonToRefuse),
    (PlantedBug::AcceptsAfterClose, Invariant::ClosedForGood),
    (PlantedBug::RunsOneRowTooMany, Invariant::BatchRows),
    (PlantedBug::MiscountsRows, Invariant::BatchRows),
    (PlantedBug::MixesKeys, Invariant::OneKey),
    (PlantedBug::NewestFirst, Invariant::Order),
    (PlantedBug::StopsOneShort, Invariant::Maximal),
    (PlantedBug::FormsForNobody, Invariant::OnlyWhenFree),
    (PlantedBug::LatestLaneFirst, Invariant::MostUrgentKey),
    (PlantedBug::LeastUrgentFirst, Invariant::MostUrgentKey),
    (PlantedBug::RunsTheHopeless, Invariant::Useful),
    (PlantedBug::RefusesTheFeasible, Invariant::ReasonToRefuse),
    (PlantedBug::ShedsTheSavable, Invariant::ReasonToShed),
    (PlantedBug::DisplacesItsEqual, Invariant::LeastUrgentLeaves),
    (PlantedBug::ExpiresOnlyWhenFree, Invariant::ExpiresInTime),
    (PlantedBug::ExpiresEarly, Invariant::ExpiresInTime),
    (PlantedBug::WaitsForAFullBatch, Invariant::WorkConservation),
    (PlantedBug::LosesARequest, Invariant::Balance),
    (PlantedBug::KeepsBytes, Invariant::Accounts),
    (PlantedBug::KeepsDeadlines, Invariant::Accounts),
    (PlantedBug::PanicsAtThree, Invariant::NoPanic),
    (PlantedBug::GivesUpTheDelayed, Invariant::WaitsOn),
    (PlantedBug::RandomIds, Invariant::SameTrace),
];

/// Without a bug the same seeds break nothing, which `the_seeds_reach_every_outcome` sees.
#[test]
fn every_planted_bug_is_found_and_named() {
    let start = Instant::now();
    let elsewhere = start + Duration::from_secs(1_000_000);
    let mut wrong = Vec::new();
    for (bug, invariant) in PLANTED {
        let found: Vec<_> =
            (0..SEEDS_FOR_A_BUG).filter_map(|seed| run_with(bug, seed, start).err()).collect();
        let Some(first) = found.first() else {
            wrong.push(format!("{bug:?} breaks nothing in {SEEDS_FOR_A_BUG} seeds"));
            continue;
        };
        println!("{bug:?}: {first}");
        let other = found.iter().find(|violation| violation.invariant != invariant);
        wrong.extend(other.map(|violation| format!("{bug:?}: {violation}")));
        let replayed = run_with(bug, first.seed, elsewhere).unwrap_err();
        assert_eq!((replayed.invariant, replayed.at), (first.invariant, first.at), "{bug:?} replays");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let named = PLANTED.into_iter().map(|(_, invariant)| invariant);
    let named: BTreeSet<_> = named.chain(PLANTED_IN_ORDER.map(|(_, invariant)| invariant)).collect();
    // `SameTrace` is the last of them.
    assert_eq!(named.len(), Invariant::SameTrace as usize + 1, "an invariant without a bug: {named:?}");
}

const PLANTED_IN_ORDER: [(OrderBug, Invariant); 3] = [
    (OrderBug::LeavesAtOnce, Invariant::AnswersInOrder),
    (OrderBug::HoldsForTheGone, Invariant::HeldForAReason),
    (OrderBug::KeepsTheLate, Invariant::HeldForAReason),
];

#[test]
fn every_bug_planted_in_the_order_of_answers_is_found_and_named() {
    let start = Instant::now();
    for (bug, invariant) in PLANTED_IN_ORDER {
        let run = |seed| {
            let scenario = Scenario::from_seed(seed);
            Driver::new(&scenario, start, Batcher::new(scenario.rules())).with_order_bug(bug).run()
        };
        let found: Vec<_> = (0..SEEDS_FOR_A_BUG).filter_map(|seed| run(seed).err()).collect();
        let first = found.first().unwrap_or_else(|| panic!("{bug:?} breaks nothing"));
        println!("{bug:?}, in {} seeds: {first}", found.len());
        assert!(found.iter().all(|violation| violation.invariant == invariant), "{bug:?}: {found:#?}");
    }
}

fn run_with(bug: PlantedBug, seed: u64, start: Instant) -> Result<Report, Violation> {
    let scenario = Scenario::from_seed(seed);
    let once = || Driver::new(&scenario, start, Batcher::new(scenario.rules()).with_bug(bug)).run();
    let first = once()?;
    // Only this one needs a second run to be seen.
    if bug == PlantedBug::RandomIds { same_trace(first, &once()?) } else { Ok(first) }
}
