//! Several models on one device: hundreds of seeds, and a bug planted in the arbiter for each invariant of the device.
//!
//! `AXON_SIM_SEEDS` and `AXON_SIM_SEED` as for one model.

use super::*;
use crate::lanes::Arbiter;
use crate::lanes::planted::PlantedBug as ArbiterBug;
use crate::simulation::device::DeviceDriver;

const DEFAULT_SEEDS: u64 = 60;
const SEEDS_FOR_A_BUG: u64 = 40;

fn replay(violation: &Violation) -> ! {
    let seed = violation.seed;
    panic!(
        "{violation}\nhint: AXON_SIM_SEED={seed} cargo test -p axon simulation::tests::device -- --nocapture"
    )
}

#[test]
fn on_a_device_with_several_models_every_invariant_holds() {
    let first = variable("AXON_SIM_SEED");
    let count = variable("AXON_SIM_SEEDS").unwrap_or(if first.is_some() { 1 } else { DEFAULT_SEEDS });
    let first = first.unwrap_or(0);
    println!("first seed {first}, {count} seeds");
    let start = Instant::now();
    let (mut elapsed, mut events, mut freezes, mut in_time, mut spread) = (0.0, 0, 0, 0.0, 0.0_f64);
    for seed in first..first + count {
        let scenario = DeviceScenario::from_seed(seed);
        if count == 1 {
            println!("{scenario:#?}");
        }
        let report = run_device(&scenario, start).unwrap_or_else(|violation| replay(&violation));
        elapsed += report.elapsed.as_secs_f64();
        events += report.events;
        freezes += report.freezes;
        in_time += report.share_in_time();
        spread = spread.max(report.greatest_spread);
    }
    let real = start.elapsed().as_secs_f64();
    println!(
        "{:.1} % in time; shares apart by {spread:.2} of what they may; {:.0} virtual seconds and {:.0} events per second",
        100.0 * in_time / count as f64,
        elapsed / real,
        events as f64 / real,
    );
    assert!(count == 1 || spread > 0.0, "no two models were ever compared");
    assert!(count == 1 || freezes > 0, "the process never stood still");
}

#[test]
fn on_a_device_the_same_seed_gives_the_same_trace() {
    let start = Instant::now();
    let elsewhere = start + Duration::from_secs(1_000_000);
    let mut traces = BTreeSet::new();
    for seed in 0..30 {
        let scenario = DeviceScenario::from_seed(seed);
        let report = run_device(&scenario, start).unwrap_or_else(|violation| replay(&violation));
        assert_eq!(Ok(&report), run_device(&scenario, elsewhere).as_ref(), "seed {seed}");
        traces.insert(report.trace);
    }
    assert_eq!(traces.len(), 30, "different seeds give different traces");
}

/// Each bug with what it breaks.
const PLANTED: [(ArbiterBug, Invariant); 7] = [
    (ArbiterBug::LeavesALaneIdle, Invariant::IdleLane),
    (ArbiterBug::HandsOutOneTooMany, Invariant::LanesHeld),
    (ArbiterBug::CountsTheHung, Invariant::IdleLane),
    (ArbiterBug::LatestFirst, Invariant::MostUrgentModel),
    (ArbiterBug::LeastUrgentFirst, Invariant::MostUrgentModel),
    (ArbiterBug::PaysNothing, Invariant::FairShare),
    (ArbiterBug::ForgetsLimits, Invariant::BlockingCap),
];

#[test]
fn every_bug_planted_in_the_arbiter_is_found_and_named() {
    let start = Instant::now();
    let mut wrong = Vec::new();
    for (bug, invariant) in PLANTED {
        let run = |seed: u64| {
            let scenario = DeviceScenario::from_seed(seed);
            let arbiter = Arbiter::new(Some(scenario.lanes), 1).with_bug(bug);
            DeviceDriver::new(&scenario, start, arbiter, Batcher::new).run()
        };
        let found: Vec<_> = (0..SEEDS_FOR_A_BUG).filter_map(|seed| run(seed).err()).collect();
        let Some(first) = found.first() else {
            wrong.push(format!("{bug:?} breaks nothing in {SEEDS_FOR_A_BUG} seeds"));
            continue;
        };
        println!("{bug:?}, in {} seeds: {first}", found.len());
        let other = found.iter().find(|violation| violation.invariant != invariant);
        wrong.extend(other.map(|violation| format!("{bug:?}: {violation}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let named: BTreeSet<_> = PLANTED.into_iter().map(|(_, invariant)| invariant).collect();
    assert_eq!(named.len(), Invariant::BlockingCap as usize - Invariant::SameTrace as usize);
}

#[test]
fn a_batch_that_ignores_its_cap_is_found() {
    let start = Instant::now();
    let batcher = |rules| Batcher::new(rules).with_bug(PlantedBug::IgnoresTheCap);
    let found = (0..SEEDS_FOR_A_BUG).find_map(|seed| {
        let scenario = DeviceScenario::from_seed(seed);
        let arbiter = Arbiter::new(Some(scenario.lanes), 1);
        DeviceDriver::new(&scenario, start, arbiter, batcher).run().err()
    });
    assert_eq!(found.map(|violation| violation.invariant), Some(Invariant::BlockingCap));
}
