//! Rules of what stays loaded, each played on the same requests.

use std::time::{Duration, Instant};

use super::{Played, Sized, Workload};
#[cfg(test)]
use crate::residency::EvictionPolicy;
use crate::residency::{Decision, Hints, ModelId, Residency, Rules, Step, Wish};

/// A rule of what stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// What was not used for longest leaves.
    Lru,
    /// What is asked least often leaves, by a count that decays.
    LeastAsked,
    /// What is idle for longest leaves, for each second of its load.
    IdleByCost,
    /// Greedy dual, size and frequency: what leaves last sets the age of all that comes after.
    Gdsf,
    /// Axon's rule, where everything that is asked is loaded.
    Axon,
    /// Axon's rule as it is shipped: what is worth less than what it displaces is refused past a share of the time.
    AxonRefusing,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Lru, Self::LeastAsked, Self::IdleByCost, Self::Gdsf, Self::Axon, Self::AxonRefusing];

    /// A name for a table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::LeastAsked => "least asked, decayed",
            Self::IdleByCost => "idle / cost",
            Self::Gdsf => "GDSF",
            Self::Axon => "Axon",
            Self::AxonRefusing => "Axon, refusing",
        }
    }
}

/// Plays a workload by a rule, on a device of `budget` bytes. A load takes no virtual time.
#[must_use]
pub fn play(workload: &Workload, policy: Policy, budget: u64) -> Played {
    let rules = Rules::default();
    match policy {
        Policy::Axon => {
            play_residency(workload, Rules { churn_share: 1.0, least_stay: 0.0, ..rules }, budget)
        }
        Policy::AxonRefusing => play_residency(workload, rules, budget),
        _ => play_ranked(workload, policy, budget),
    }
}

/// Plays a workload by the state machine's own [`EvictionPolicy::Lru`].
#[cfg(test)]
pub(super) fn play_lru(workload: &Workload, budget: u64) -> Played {
    let rules = Rules { eviction: EvictionPolicy::Lru, least_stay: 0.0, ..Rules::default() };
    play_residency(workload, rules, budget)
}

fn play_residency(workload: &Workload, rules: Rules, budget: u64) -> Played {
    // Any moment: nothing depends on it.
    let start = Instant::now();
    let mut residency = Residency::new(rules, budget, start);
    let mut played = Played::default();
    let id = |index: usize| ModelId(u32::try_from(index).unwrap_or(u32::MAX));
    for (index, model) in workload.models.iter().enumerate() {
        residency.add(id(index), model.bytes, Hints::default(), start);
    }
    for request in &workload.requests {
        let (now, model) = (start + request.at, id(request.model));
        played.requests += 1;
        residency.requested(model, 1, now);
        if let Decision::Refused(_) = residency.want(model, Wish::Request, now) {
            played.refused += 1;
        }
        loop {
            match residency.poll(now) {
                Step::Idle => break,
                Step::Evict(_, copy, _) => {
                    residency.left(copy);
                }
                Step::GiveUp(..) => played.refused += 1,
                Step::Load(loading, _) => {
                    let Some(Sized { bytes, reload }) = workload.models.get(loading.0 as usize).copied()
                    else {
                        continue;
                    };
                    residency.loaded(loading, bytes, reload, now);
                    played.loads += 1;
                    played.loading += reload;
                }
            }
        }
    }
    played
}

/// What the simple rules know of a model.
#[derive(Clone, Copy, Default)]
struct Known {
    is_resident: bool,
    last: Duration,
    count: f64,
    /// GDSF's priority.
    height: f64,
}

fn play_ranked(workload: &Workload, policy: Policy, budget: u64) -> Played {
    let half_life = Rules::default().half_life.as_secs_f64();
    let mut known = vec![Known::default(); workload.models.len()];
    let (mut used, mut age) = (0, 0.0);
    let mut played = Played::default();
    for request in &workload.requests {
        let (now, model) = (request.at, workload.models[request.model]);
        let decay = |known: &Known| (-now.saturating_sub(known.last).as_secs_f64() / half_life).exp2();
        played.requests += 1;
        if model.bytes > budget {
            played.refused += 1;
            continue;
        }
        if !known[request.model].is_resident {
            while used + model.bytes > budget {
                let residents = known.iter().enumerate().filter(|(_, known)| known.is_resident);
                let worth = residents.map(|(index, known)| {
                    let idle = now.saturating_sub(known.last).as_secs_f64();
                    let cost = workload.models[index].reload.as_secs_f64();
                    let worth = match policy {
                        Policy::LeastAsked => known.count * decay(known),
                        Policy::IdleByCost => -idle / cost,
                        Policy::Gdsf => known.height,
                        _ => -idle,
                    };
                    (worth, index)
                });
                let Some((worth, victim)) = worth.min_by(|one, other| one.0.total_cmp(&other.0)) else {
                    break;
                };
                known[victim].is_resident = false;
                used -= workload.models[victim].bytes;
                if policy == Policy::Gdsf {
                    age = worth;
                    known[victim].count = 0.0;
                }
            }
            used += model.bytes;
            played.loads += 1;
            played.loading += model.reload;
        }
        let known = &mut known[request.model];
        known.count = if policy == Policy::Gdsf { known.count } else { known.count * decay(known) } + 1.0;
        known.is_resident = true;
        known.last = now;
        known.height = age + known.count * model.reload.as_secs_f64() / model.bytes as f64;
    }
    played
}
