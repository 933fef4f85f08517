//! Plays a scenario against the state machine and asks the ledger after every step.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::random::Random;
use super::ledger::{Ledger, Seen, id};
use super::scenario::{Happening, Player, Scenario};
use super::{Broken, Fault};
use crate::residency::{CopyId, Decision, ModelId, Place, Refusal, Residency, Step, Wish};

/// What a scenario came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Requests for what was there.
    pub hits: u64,
    /// Requests for what was, or came to be, on its way.
    pub waits: u64,
    /// Requests that were refused, by reason: too large, failed lately, no room, not worth it, too many.
    pub refused: [u64; 5],
    /// Loads that succeeded.
    pub loads: u64,
    /// Loads that failed.
    pub failures: u64,
    /// Copies that were evicted.
    pub evictions: u64,
    /// Models that were queued and given up.
    pub given_up: u64,
}

impl std::ops::AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.waits += other.waits;
        self.loads += other.loads;
        self.failures += other.failures;
        self.evictions += other.evictions;
        self.given_up += other.given_up;
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum += more;
        }
    }
}

/// Plays the scenario of a seed. Virtual time begins at `start`, which may be any moment.
///
/// # Errors
/// The first [`Fault`], when the state machine has a defect.
pub fn check(seed: u64, start: Instant) -> Result<Checked, Fault> {
    check_with(seed, start, |_| {})
}

pub(crate) fn check_with(
    seed: u64,
    start: Instant,
    prepare: impl FnOnce(&mut Residency),
) -> Result<Checked, Fault> {
    let scenario = Scenario::from_seed(seed);
    let mut residency = Residency::new(scenario.rules.clone(), scenario.budget, start);
    for (index, player) in scenario.players.iter().enumerate() {
        residency.add(id(index), player.foretold, player.hints, start);
    }
    prepare(&mut residency);
    let ledger = Ledger::new(&scenario, start);
    let random = Random::new(seed ^ 0x5eed);
    Checker {
        scenario: &scenario,
        residency,
        ledger,
        random,
        ends: BTreeMap::new(),
        number: 0,
        done: Checked::default(),
    }
    .run(start)
}

/// What ends later.
#[derive(Clone, Copy, Debug)]
enum End {
    Load(ModelId, CopyId),
    Leave(CopyId),
}

struct Checker<'a> {
    scenario: &'a Scenario,
    residency: Residency,
    ledger: Ledger,
    random: Random,
    ends: BTreeMap<(Instant, u64), End>,
    number: u64,
    done: Checked,
}

/// Nothing takes longer to come to rest than this, once nothing comes from outside any more.
const LONGEST: Duration = Duration::from_secs(3600);

impl Checker<'_> {
    fn run(mut self, start: Instant) -> Result<Checked, Fault> {
        for &(at, happening) in &self.scenario.happenings {
            let now = start + at;
            self.go_on_until(now)?;
            self.ledger.at(now);
            self.happens(happening, now)?;
            self.settle(now)?;
        }
        let end = start + self.scenario.happenings.last().map_or(Duration::ZERO, |(at, _)| *at) + LONGEST;
        self.go_on_until(end)?;
        self.ledger.at(end);
        self.settle(end)?;
        let queued = self.residency.ids().filter_map(|model| self.residency.view(model, end));
        let queued =
            queued.filter(|view| matches!(view.place, Place::Queued { .. } | Place::Loading { .. })).count();
        if queued > 0 {
            return Err(self.ledger.fault(Broken::Progress, format!("{queued} are never loaded")));
        }
        Ok(self.done)
    }

    /// Ends what ends, and looks when the state machine wants it, until `now`.
    fn go_on_until(&mut self, now: Instant) -> Result<(), Fault> {
        loop {
            let end = self.ends.first_key_value().map(|((at, _), _)| *at);
            let moment = self.residency.next_moment();
            let Some(next) = end.into_iter().chain(moment).min().filter(|&next| next <= now) else {
                return Ok(());
            };
            self.ledger.at(next);
            if end == Some(next)
                && let Some((_, end)) = self.ends.pop_first()
            {
                self.end(end, next);
            }
            self.settle(next)?;
        }
    }

    fn player(&self, model: ModelId) -> &Player {
        &self.scenario.players[model.0 as usize]
    }

    fn end(&mut self, end: End, now: Instant) {
        match end {
            End::Leave(copy) => {
                self.residency.left(copy);
                self.ledger.left(copy);
            }
            End::Load(model, copy) => {
                let Player { failing, bytes, reload, .. } = *self.player(model);
                if self.random.chance(failing) {
                    self.done.failures += 1;
                    self.residency.failed(model, now);
                    self.ledger.failed(copy);
                } else {
                    self.done.loads += 1;
                    self.residency.loaded(model, bytes, reload, now);
                    self.ledger.loaded(copy, bytes);
                }
            }
        }
    }

    fn happens(&mut self, happening: Happening, now: Instant) -> Result<(), Fault> {
        match happening {
            Happening::Request(index) => return self.want(id(index), Wish::Request, now),
            Happening::Load(index) => return self.want(id(index), Wish::Operator, now),
            Happening::Unload(index) => {
                let Some(view) = self.residency.view(id(index), now) else { return Ok(()) };
                if let Some(copy) = self.residency.retire(id(index)) {
                    self.ledger.leaves(copy, &view, true, false)?;
                    self.departs(copy, now);
                }
            }
            Happening::Pin(index, pinned) => {
                self.residency.set_hints(id(index), |hints| hints.pinned = pinned);
                self.ledger.set_pinned(id(index), pinned);
            }
            Happening::Forgive(index) => {
                self.residency.forgive(id(index));
                self.ledger.forgive(id(index));
            }
            Happening::Budget(share) => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
                let budget = (self.scenario.budget as f64 * share) as u64;
                self.residency.set_budget(budget);
                self.ledger.set_budget(budget);
            }
            Happening::Grow(index, factor) => {
                let place = self.residency.view(id(index), now).map(|view| view.place);
                if let Some(Place::Resident { copy, bytes, .. }) = place {
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
                    let bytes = (bytes as f64 * factor) as u64;
                    self.residency.correct(id(index), bytes);
                    self.ledger.grows(copy, bytes);
                }
            }
        }
        Ok(())
    }

    fn want(&mut self, model: ModelId, wish: Wish, now: Instant) -> Result<(), Fault> {
        if wish == Wish::Request {
            self.residency.requested(model, 1, now);
        }
        let view = |residency: &Residency, model| residency.view(model, now);
        let seen: Seen =
            self.residency.ids().filter_map(|model| Some((model, view(&self.residency, model)?))).collect();
        let residents = seen
            .iter()
            .filter(|(_, view)| matches!(view.place, Place::Resident { .. }))
            .map(|(id, view)| (*id, *view));
        let residents: Seen = residents.collect();
        let Some(newcomer) = seen.get(&model) else { return Ok(()) };
        let queued = seen.values().filter(|view| matches!(view.place, Place::Queued { .. }));
        let promised: u64 = queued.map(|view| view.bytes).sum();
        match self.residency.want(model, wish, now) {
            Decision::Resident => self.done.hits += 1,
            Decision::Coming(_) => {
                self.done.waits += 1;
                if wish == Wish::Request {
                    if newcomer.place == Place::Absent {
                        self.ledger.wanted_early(model)?;
                    }
                    self.ledger.displaced(newcomer, &residents, &self.residency)?;
                }
            }
            Decision::Refused(refusal) => {
                self.ledger.refused(newcomer, refusal, promised)?;
                let reason = match refusal {
                    Refusal::Unknown | Refusal::TooLarge { .. } => 0,
                    Refusal::Failed { .. } => 1,
                    Refusal::NoRoom { .. } => 2,
                    Refusal::NotWorthIt { .. } => 3,
                    Refusal::Busy { .. } => 4,
                };
                self.done.refused[reason] += 1;
            }
        }
        Ok(())
    }

    /// Does what the state machine says until there is nothing.
    fn settle(&mut self, now: Instant) -> Result<(), Fault> {
        let was_over = self.ledger.is_over();
        for _ in 0..10_000 {
            match self.residency.poll(now) {
                Step::Idle => return self.ledger.settled(&self.residency),
                Step::GiveUp(..) => self.done.given_up += 1,
                Step::Evict(model, copy, _) => {
                    self.done.evictions += 1;
                    if let Some(view) = self.residency.view(model, now) {
                        self.ledger.leaves(copy, &view, false, was_over)?;
                    }
                    self.departs(copy, now);
                }
                Step::Load(model, copy) => {
                    let bytes = self.residency.view(model, now).map_or(0, |view| view.bytes);
                    self.ledger.begins(model, copy, bytes)?;
                    let took = self.player(model).reload.mul_f64(0.8 + 0.4 * self.random.share());
                    self.later(now + took, End::Load(model, copy));
                }
            }
        }
        Err(self.ledger.fault(Broken::Progress, "there is always something to do".to_owned()))
    }

    fn departs(&mut self, copy: CopyId, now: Instant) {
        let lease = self.random.up_to(self.scenario.longest_lease);
        self.later(now + lease, End::Leave(copy));
    }

    fn later(&mut self, at: Instant, end: End) {
        self.number += 1;
        self.ends.insert((at, self.number), end);
    }
}
