//! What happens to a device's models, from a seed.

use std::time::Duration;

use super::super::random::Random;
use crate::residency::{Hints, Rules};

/// One model of a scenario.
#[derive(Clone, Debug)]
pub(super) struct Player {
    /// What its owner's file says that it takes.
    pub foretold: u64,
    /// What it takes.
    pub bytes: u64,
    /// What a load takes.
    pub reload: Duration,
    /// How often a load fails.
    pub failing: f64,
    pub hints: Hints,
    /// How much of the requests are its.
    pub share: f64,
}

/// Something that comes from outside.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happening {
    Request(usize),
    /// The operator loads it, whatever it is worth.
    Load(usize),
    /// The operator unloads it.
    Unload(usize),
    /// The operator pins it, or lets it go.
    Pin(usize, bool),
    /// The operator has changed its files.
    Forgive(usize),
    /// So much of the first budget is left.
    Budget(f64),
    /// A resident takes this many times what it did.
    Grow(usize, f64),
}

/// A scenario.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub seed: u64,
    pub rules: Rules,
    pub budget: u64,
    pub players: Vec<Player>,
    /// In order of time.
    pub happenings: Vec<(Duration, Happening)>,
    /// The longest that an evicted model is still used.
    pub longest_lease: Duration,
}

const MIB: u64 = 1 << 20;

impl Scenario {
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let budget = MIB * random.between(50, 500) as u64;
        let exact = random.chance(0.3);
        let players: Vec<_> =
            (0..random.between(2, 24)).map(|_| player(&mut random, budget, exact)).collect();
        let rules = Rules {
            half_life: Duration::from_secs(1) + random.up_to(Duration::from_secs(100)),
            parallel_loads: random.between(1, 3),
            least_stay: random.pick(&[0.0, 1.0, 3.0]),
            churn_share: random.pick(&[0.0, 0.1, 0.5, 1.0]),
            churn_burst: random.up_to(Duration::from_secs(2)),
            first_retry: Duration::from_millis(100) + random.up_to(Duration::from_secs(1)),
            longest_retry: Duration::from_secs(5),
            ..Rules::default()
        };
        let happenings = happenings(&mut random, &players);
        let longest_lease =
            random.pick(&[Duration::ZERO, Duration::from_millis(100), Duration::from_secs(3)]);
        Self { seed, rules, budget, players, happenings, longest_lease }
    }
}

fn player(random: &mut Random, budget: u64, exact: bool) -> Player {
    let foretold = (budget as f64 * (0.02 + 0.5 * random.share() * random.share())).max(1.0);
    let foretold = if random.chance(0.03) { budget as f64 * 1.5 } else { foretold };
    let factor = if exact { 1.0 } else { 0.5 + random.share() };
    let hints = Hints {
        pinned: random.chance(0.08),
        weight: random.pick(&[1.0, 1.0, 1.0, 10.0]),
        keep_alive: random.chance(0.2).then(|| random.up_to(Duration::from_secs(5))),
        keep_at_least: if random.chance(0.2) { random.up_to(Duration::from_secs(2)) } else { Duration::ZERO },
    };
    let longest = random.pick(&[Duration::from_millis(200), Duration::from_secs(3)]);
    let whole = |bytes: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, below 2^40")]
        let bytes = bytes as u64;
        bytes
    };
    Player {
        foretold: whole(foretold),
        bytes: whole(foretold * factor),
        reload: Duration::from_millis(5) + random.up_to(longest),
        failing: random.pick(&[0.0, 0.0, 0.1, 1.0]),
        hints,
        share: random.share() * random.share() * random.share(),
    }
}

fn happenings(random: &mut Random, players: &[Player]) -> Vec<(Duration, Happening)> {
    let whole: f64 = players.iter().map(|player| player.share).sum();
    let gap = random.pick(&[Duration::from_millis(5), Duration::from_millis(100), Duration::from_secs(1)]);
    let rare = random.pick(&[0.0, 0.02, 0.1]);
    let mut at = Duration::ZERO;
    let mut all = Vec::new();
    for _ in 0..random.between(50, 400) {
        at += random.around(gap);
        let any = random.between(0, players.len() - 1);
        let happening = if random.chance(rare) {
            match random.between(0, 6) {
                0 => Happening::Load(any),
                1 => Happening::Unload(any),
                2 => Happening::Pin(any, random.chance(0.3)),
                3 => Happening::Forgive(any),
                4 => Happening::Grow(any, 0.7 + 0.6 * random.share()),
                _ => Happening::Budget(random.pick(&[0.3, 0.8, 1.0, 1.0])),
            }
        } else {
            let mut left = random.share() * whole;
            let asked = players.iter().position(|player| {
                left -= player.share;
                left <= 0.0
            });
            Happening::Request(asked.unwrap_or(any))
        };
        all.push((at, happening));
    }
    all
}
