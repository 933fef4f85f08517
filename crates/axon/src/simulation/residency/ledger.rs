//! The checker's own account of a device: simpler than the state machine's, kept from what was said and done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::scenario::Scenario;
use super::{Broken, Fault};
use crate::residency::{CopyId, ModelId, Place, Refusal, Residency, View};

/// A copy that is charged.
#[derive(Clone, Copy, Debug)]
struct Copy {
    model: ModelId,
    bytes: u64,
    state: CopyState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopyState {
    Loading,
    /// Since then.
    Resident(Instant),
    Leaving,
}

/// The account.
pub(super) struct Ledger {
    seed: u64,
    start: Instant,
    now: Instant,
    budget: u64,
    slots: usize,
    least_stay: f64,
    longest_stay: Duration,
    churn_share: f64,
    churn_burst: Duration,
    copies: BTreeMap<CopyId, Copy>,
    pinned: BTreeMap<ModelId, bool>,
    /// Loads that failed one after the other, and when the next may begin.
    failed: BTreeMap<ModelId, (u32, Instant)>,
    first_retry: Duration,
    longest_retry: Duration,
    /// Time of loads that were worth less than what left, and the longest of them.
    churned: Duration,
    longest_churn: Duration,
}

/// What is seen of the residents before a model is wanted.
pub(super) type Seen = BTreeMap<ModelId, View>;

impl Ledger {
    pub fn new(scenario: &Scenario, start: Instant) -> Self {
        let rules = &scenario.rules;
        let pinned = scenario.players.iter().enumerate();
        Self {
            seed: scenario.seed,
            start,
            now: start,
            budget: scenario.budget,
            slots: rules.parallel_loads,
            least_stay: rules.least_stay,
            longest_stay: rules.longest_stay,
            churn_share: rules.churn_share,
            churn_burst: rules.churn_burst,
            copies: BTreeMap::new(),
            pinned: pinned.map(|(index, player)| (id(index), player.hints.pinned)).collect(),
            failed: BTreeMap::new(),
            first_retry: rules.first_retry,
            longest_retry: rules.longest_retry,
            churned: Duration::ZERO,
            longest_churn: Duration::ZERO,
        }
    }

    pub fn at(&mut self, now: Instant) {
        self.now = now;
    }

    pub fn fault(&self, broken: Broken, detail: String) -> Fault {
        Fault { broken, seed: self.seed, at: self.now - self.start, detail }
    }

    fn charged(&self, is: impl Fn(CopyState) -> bool) -> u64 {
        self.copies.values().filter(|copy| is(copy.state)).map(|copy| copy.bytes).sum()
    }

    fn loading(&self) -> usize {
        self.copies.values().filter(|copy| copy.state == CopyState::Loading).count()
    }

    pub fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
    }

    pub fn set_pinned(&mut self, model: ModelId, pinned: bool) {
        self.pinned.insert(model, pinned);
    }

    pub fn forgive(&mut self, model: ModelId) {
        self.failed.remove(&model);
    }

    pub fn begins(&mut self, model: ModelId, copy: CopyId, bytes: u64) -> Result<(), Fault> {
        let charged = self.charged(|_| true);
        if charged + bytes > self.budget {
            let budget = self.budget;
            return Err(self.fault(Broken::Budget, format!("{charged} charged, {bytes} more, of {budget}")));
        }
        if self.copies.values().any(|copy| copy.model == model && copy.state != CopyState::Leaving) {
            return Err(self.fault(Broken::SingleFlight, format!("{model:?} again")));
        }
        if self.loading() >= self.slots {
            return Err(self.fault(Broken::Slots, format!("more than {}", self.slots)));
        }
        self.copies.insert(copy, Copy { model, bytes, state: CopyState::Loading });
        Ok(())
    }

    pub fn loaded(&mut self, copy: CopyId, bytes: u64) {
        if let Some(copy) = self.copies.get_mut(&copy) {
            copy.bytes = bytes;
            copy.state = CopyState::Resident(self.now);
            self.failed.remove(&copy.model);
        }
    }

    pub fn failed(&mut self, copy: CopyId) {
        if let Some(Copy { model, .. }) = self.copies.remove(&copy) {
            let (failures, _) = self.failed.get(&model).copied().unwrap_or((0, self.now));
            let wait = self.first_retry.saturating_mul(1 << failures.min(20)).min(self.longest_retry);
            self.failed.insert(model, (failures + 1, self.now + wait));
        }
    }

    pub fn grows(&mut self, copy: CopyId, bytes: u64) {
        if let Some(copy) = self.copies.get_mut(&copy) {
            copy.bytes = bytes;
        }
    }

    /// Over the budget now, so that anything may leave.
    pub fn is_over(&self) -> bool {
        self.charged(|state| state != CopyState::Leaving) > self.budget
    }

    /// A copy leaves; by the operator's wish if `is_told`, after its keep-alive if `is_expired`.
    pub fn leaves(&mut self, copy: CopyId, view: &View, is_told: bool, was_over: bool) -> Result<(), Fault> {
        let Some(known) = self.copies.get(&copy).copied() else {
            return Err(self.fault(Broken::Accounts, format!("{copy:?} leaves and was not there")));
        };
        if self.pinned.get(&known.model) == Some(&true) && !is_told {
            return Err(self.fault(Broken::Pins, format!("{:?} leaves", known.model)));
        }
        if let CopyState::Resident(since) = known.state {
            let stay = view.reload.mul_f64(self.least_stay).min(self.longest_stay);
            // What expired may go before it has earned its load, not before its owner's own limit.
            let expires = view.hints.keep_alive.is_some_and(|keep| self.now >= since + keep);
            let least = if expires { view.hints.keep_at_least } else { stay.max(view.hints.keep_at_least) };
            let stayed = self.now - since;
            if stayed < least && !is_told && !was_over {
                return Err(self.fault(Broken::Stays, format!("{stayed:?} of {least:?}")));
            }
        }
        self.copies.insert(copy, Copy { state: CopyState::Leaving, ..known });
        Ok(())
    }

    pub fn left(&mut self, copy: CopyId) {
        self.copies.remove(&copy);
    }

    /// A request was heard: what it displaced is worth less, or churn has a budget.
    pub fn displaced(&mut self, newcomer: &View, seen: &Seen, residency: &Residency) -> Result<(), Fault> {
        let worth = |view: &View| view.score * view.bytes as f64;
        let is_gone = |model: &ModelId| {
            residency.view(*model, self.now).is_some_and(|view| view.place == Place::Absent)
        };
        let gone = seen.iter().filter(|(model, _)| is_gone(model));
        let lost: f64 = gone.map(|(_, view)| worth(view)).sum();
        if lost <= worth(newcomer) * (1.0 + 1e-9) || self.churn_share >= 1.0 {
            return Ok(());
        }
        let before = self.churned;
        self.churned += newcomer.reload;
        self.longest_churn = self.longest_churn.max(newcomer.reload);
        // The load that is begun on the last of the balance may overdraw it.
        let may = self.churn_burst + (self.now - self.start).mul_f64(self.churn_share);
        if before > may + self.longest_churn
            || (self.churn_share <= 0.0 && before > self.churn_burst + self.longest_churn)
        {
            return Err(self.fault(Broken::Thrash, format!("{before:?} of {may:?}")));
        }
        Ok(())
    }

    pub fn wanted_early(&self, model: ModelId) -> Result<(), Fault> {
        match self.failed.get(&model) {
            Some((_, until)) if *until > self.now => {
                Err(self
                    .fault(Broken::BackOff, format!("{model:?} is queued {:?} too early", *until - self.now)))
            }
            _ => Ok(()),
        }
    }

    /// `promised` is what the queue takes.
    pub fn refused(&self, view: &View, refusal: Refusal, promised: u64) -> Result<(), Fault> {
        let free = self.budget.saturating_sub(self.charged(|state| state != CopyState::Leaving) + promised);
        let is_for_room = matches!(refusal, Refusal::NoRoom { .. } | Refusal::NotWorthIt { .. });
        if is_for_room && view.bytes <= free {
            return Err(
                self.fault(Broken::ReasonToRefuse, format!("{} fit in {free}: {refusal:?}", view.bytes))
            );
        }
        Ok(())
    }

    /// After all was done that was to be done.
    pub fn settled(&self, residency: &Residency) -> Result<(), Fault> {
        let (charged, told) = (self.charged(|_| true), residency.charged());
        if charged != told {
            return Err(self.fault(Broken::Accounts, format!("{charged} are charged, it says {told}")));
        }
        let may_leave = |copy: &Copy| {
            matches!(copy.state, CopyState::Resident(_)) && self.pinned.get(&copy.model) != Some(&true)
        };
        if self.is_over() && self.copies.values().any(may_leave) {
            return Err(self.fault(Broken::Sheds, format!("{charged} of {}", self.budget)));
        }
        let views = residency.ids().filter_map(|model| residency.view(model, self.now));
        let queued: Vec<View> = views.filter(|view| matches!(view.place, Place::Queued { .. })).collect();
        let is_still = self.copies.values().all(|copy| matches!(copy.state, CopyState::Resident(_)));
        if is_still && !queued.is_empty() {
            return Err(self.fault(Broken::Progress, format!("{} wait and nothing moves", queued.len())));
        }
        let fitting = queued.iter().find(|view| charged + view.bytes <= self.budget);
        if let (Some(view), true) = (fitting, self.loading() < self.slots) {
            return Err(self.fault(Broken::Progress, format!("{} bytes fit, and a slot is free", view.bytes)));
        }
        Ok(())
    }
}

pub(super) fn id(index: usize) -> ModelId {
    ModelId(u32::try_from(index).unwrap_or(u32::MAX))
}
