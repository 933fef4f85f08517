//! Which models stay loaded on one device: a budget of bytes, spent on what is worth it.
//!
//! A pure state machine: the caller passes in every `Instant` and does what [`Residency::poll`] says. `repository` drives
//! it in production and `simulation` under test.
//!
//! A model's states: absent → queued → loading → resident → absent; the bytes of a copy that was evicted stay charged
//! until the caller says that they have come back. A model is worth its decayed rate of requests × the time that its
//! next load would take; its score is that for each byte. By [`EvictionPolicy::Lru`] the score is the last use instead, and
//! nothing is refused for its worth.
//!
//! Left out: how a model is loaded, who waits for it, what its bytes are. **Source** of the rule: `docs/residency.md`.
//!
//! Invariants: no load begins while its bytes and what is charged exceed the budget; a model has one load at a time; at
//! most [`Rules::parallel_loads`] load at once; what is pinned, or came too lately, stays; a set that is worth more than
//! the newcomer leaves for it only within [`Rules::churn_share`] of the time; every queued model is loaded or given up.

mod demand;
#[cfg(test)]
pub(crate) mod planted;
#[cfg(test)]
mod tests;
mod types;
mod victims;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use demand::{Churn, Demand, Speed};

pub use types::{
    Cause, CopyId, Decision, EvictionPolicy, Hints, ModelId, Place, Refusal, Rules, Step, View, Wish,
};

/// The most models that wait for room or for a slot; one more is refused.
pub const MAX_QUEUED: usize = 128;

/// What is known of one model.
struct Model {
    hints: Hints,
    /// What it takes: foretold by the caller, then measured.
    bytes: u64,
    /// What the last loads took; `None` before the first.
    reload: Option<Duration>,
    demand: Demand,
    last_used: Option<Instant>,
    place: Place,
    failures: u32,
    /// Not loaded before, after a load that failed.
    retry_at: Option<Instant>,
}

/// The models of one device.
pub struct Residency {
    rules: Rules,
    budget: u64,
    models: BTreeMap<ModelId, Model>,
    /// In the order in which they came.
    queue: VecDeque<ModelId>,
    /// Evicted, and not known to have come back.
    leaving: BTreeMap<CopyId, (ModelId, u64)>,
    /// To be told by [`Residency::poll`]; what is in here is in `leaving` too.
    evicted: VecDeque<(ModelId, CopyId, Cause)>,
    /// The bytes of what loads, is resident or is leaving.
    charged: u64,
    next_copy: u64,
    churn: Churn,
    speed: Speed,
    #[cfg(test)]
    pub(crate) bug: Option<planted::PlantedBug>,
}

impl Residency {
    /// An empty device of `budget` bytes.
    #[must_use]
    pub fn new(rules: Rules, budget: u64, now: Instant) -> Self {
        Self {
            churn: Churn::new(rules.churn_share, rules.churn_burst, now),
            rules,
            budget,
            models: BTreeMap::new(),
            queue: VecDeque::new(),
            leaving: BTreeMap::new(),
            evicted: VecDeque::new(),
            charged: 0,
            next_copy: 0,
            speed: Speed::default(),
            #[cfg(test)]
            bug: None,
        }
    }

    /// Enters a model that is foretold to take `bytes`, or changes what is known of one whose bytes nobody has measured.
    pub fn add(&mut self, id: ModelId, bytes: u64, hints: Hints, now: Instant) {
        let rules = &self.rules;
        let model = self.models.entry(id).or_insert_with(|| Model {
            hints: Hints::default(),
            bytes,
            reload: None,
            demand: Demand::seeded(rules.seed, now),
            last_used: None,
            place: Place::Absent,
            failures: 0,
            retry_at: None,
        });
        model.hints = hints;
        if model.reload.is_none() && !model.place.is_charged() {
            model.bytes = bytes;
        }
    }

    /// Enters a model of which nothing is known, if it is not known.
    pub fn add_unknown(&mut self, id: ModelId, now: Instant) {
        if !self.models.contains_key(&id) {
            self.add(id, 0, Hints::default(), now);
        }
    }

    /// Forgets a model that is not there; false when it is.
    pub fn remove(&mut self, id: ModelId) -> bool {
        if self.models.get(&id).is_some_and(|model| !matches!(model.place, Place::Absent)) {
            return false;
        }
        self.models.remove(&id);
        true
    }

    /// Notes that `count` requests came for a model until `now`.
    pub fn requested(&mut self, id: ModelId, count: u64, now: Instant) {
        let half_life = self.rules.half_life;
        let Some(model) = self.models.get_mut(&id) else { return };
        if count > 0 {
            model.demand.add(count as f64, now, half_life);
            model.last_used = Some(model.last_used.map_or(now, |last| last.max(now)));
        }
    }

    /// What becomes of a model that somebody wants now; what it displaces is told by [`Residency::poll`].
    pub fn want(&mut self, id: ModelId, wish: Wish, now: Instant) -> Decision {
        let Some(model) = self.models.get(&id) else { return Decision::Refused(Refusal::Unknown) };
        match model.place {
            Place::Resident { .. } => return Decision::Resident,
            Place::Loading { .. } if self.loads_twice() => {}
            Place::Queued { .. } | Place::Loading { .. } => return Decision::Coming(self.ready_in(id, now)),
            Place::Absent => {}
        }
        let is_early = |at: &Instant| *at > now && wish == Wish::Request && !self.retries_at_once();
        if let Some(retry_at) = model.retry_at.filter(is_early) {
            return Decision::Refused(Refusal::Failed { retry_after: retry_at - now });
        }
        if self.queue.len() >= MAX_QUEUED {
            return Decision::Refused(Refusal::Busy { retry_after: self.queue_time(now) });
        }
        if let Err(refusal) = self.make_room(id, wish, now) {
            return Decision::Refused(refusal);
        }
        self.place(id, Place::Queued { since: now });
        self.queue.push_back(id);
        Decision::Coming(self.ready_in(id, now))
    }

    /// The next thing to do. The caller does it and asks again until there is nothing; then after every event, and at
    /// [`Residency::next_moment`].
    pub fn poll(&mut self, now: Instant) -> Step {
        self.expire(now);
        self.shed(now);
        if let Some((id, copy, cause)) = self.evicted.pop_front() {
            return Step::Evict(id, copy, cause);
        }
        let loading = self.loading();
        if loading >= self.most_loads() {
            return Step::Idle;
        }
        // One that waits for large leavers does not hold up a small one: each has its own room promised.
        let fitting = (0..self.queue.len()).find(|&index| self.fits(self.queue[index]));
        if let Some(id) = fitting.and_then(|index| self.queue.remove(index)) {
            return self.begin(id, now);
        }
        if loading == 0 && self.leaving.is_empty() {
            return self.unblock(now);
        }
        Step::Idle
    }

    fn begin(&mut self, id: ModelId, now: Instant) -> Step {
        let copy = CopyId(self.next_copy);
        self.next_copy += 1;
        let bytes = self.models.get(&id).map_or(0, |model| model.bytes);
        self.charged += bytes;
        self.place(id, Place::Loading { since: now, copy, bytes });
        Step::Load(id, copy)
    }

    /// Nothing moves and what is first in the queue has no room: others have turned out larger than was foretold.
    fn unblock(&mut self, now: Instant) -> Step {
        let Some(id) = self.queue.pop_front() else { return Step::Idle };
        self.place(id, Place::Absent);
        match self.make_room(id, Wish::Operator, now) {
            Ok(()) => {
                self.place(id, Place::Queued { since: now });
                self.queue.push_front(id);
                match self.evicted.pop_front() {
                    Some((victim, copy, cause)) => Step::Evict(victim, copy, cause),
                    None => Step::Idle,
                }
            }
            Err(refusal) => Step::GiveUp(id, refusal),
        }
    }

    /// A load has ended: the model takes `bytes`, and took `took` to load.
    pub fn loaded(&mut self, id: ModelId, bytes: u64, took: Duration, now: Instant) {
        let keeps_estimate = self.keeps_estimate();
        let Some(model) = self.models.get_mut(&id) else { return };
        let Place::Loading { copy, bytes: reserved, .. } = model.place else { return };
        let bytes = if keeps_estimate { reserved } else { bytes };
        model.reload = Some(model.reload.map_or(took, |before| (before + took) / 2));
        model.bytes = bytes;
        model.failures = 0;
        model.retry_at = None;
        model.last_used = Some(model.last_used.map_or(now, |last| last.max(now)));
        self.charged = self.charged - reserved + bytes;
        self.speed.learn(bytes, took);
        self.place(id, Place::Resident { since: now, copy, bytes });
    }

    /// A load has ended without a model; it is not tried again for a while, twice as long each time.
    pub fn failed(&mut self, id: ModelId, now: Instant) {
        let keeps_charge = self.keeps_failed();
        let (first, longest) = (self.rules.first_retry, self.rules.longest_retry);
        let Some(model) = self.models.get_mut(&id) else { return };
        let Place::Loading { bytes, .. } = model.place else { return };
        let wait = first.saturating_mul(1_u32.checked_shl(model.failures).unwrap_or(u32::MAX)).min(longest);
        model.failures = model.failures.saturating_add(1);
        model.retry_at = Some(now + wait);
        model.place = Place::Absent;
        if !keeps_charge {
            self.charged -= bytes;
        }
    }

    /// A model may be tried again at once: its files have changed.
    pub fn forgive(&mut self, id: ModelId) {
        if let Some(model) = self.models.get_mut(&id) {
            model.failures = 0;
            model.retry_at = None;
        }
    }

    /// The files of a model have changed: what was measured of it holds no longer, and it may be tried at once. One that is
    /// there keeps its bytes until it is loaded again.
    pub fn changed(&mut self, id: ModelId, bytes: u64) {
        self.forgive(id);
        let Some(model) = self.models.get_mut(&id) else { return };
        if !model.place.is_charged() {
            model.bytes = bytes;
            model.reload = None;
        }
    }

    /// A resident model turns out to take `bytes`.
    pub fn correct(&mut self, id: ModelId, bytes: u64) {
        let Some(model) = self.models.get_mut(&id) else { return };
        if let Place::Resident { bytes: charged, .. } = &mut model.place {
            self.charged = self.charged - *charged + bytes;
            *charged = bytes;
            model.bytes = bytes;
        }
    }

    /// The bytes of a copy have come back; false for one that was not evicted.
    pub fn left(&mut self, copy: CopyId) -> bool {
        let Some((_, bytes)) = self.leaving.remove(&copy) else { return false };
        self.charged -= bytes;
        self.evicted.retain(|(_, evicted, _)| *evicted != copy);
        true
    }

    /// A model has been loaded, asked for here or not: returns the copy that is there now. One that was there before
    /// leaves. The only way in which more than the budget is charged for as long as that takes.
    pub fn published(&mut self, id: ModelId, bytes: u64, took: Duration, now: Instant) -> Option<CopyId> {
        match self.models.get(&id)?.place {
            Place::Loading { copy, .. } => {
                self.loaded(id, bytes, took, now);
                return Some(copy);
            }
            Place::Resident { .. } | Place::Queued { .. } => drop(self.retire(id)),
            Place::Absent => {}
        }
        let copy = CopyId(self.next_copy);
        self.next_copy += 1;
        self.place(id, Place::Loading { since: now, copy, bytes: 0 });
        self.loaded(id, bytes, took, now);
        Some(copy)
    }

    /// Somebody else unloads a resident model, or takes it out of the queue; returns the copy that leaves.
    pub fn retire(&mut self, id: ModelId) -> Option<CopyId> {
        match self.models.get(&id)?.place {
            Place::Resident { .. } => {
                let copy = self.evict(id, Cause::Room)?;
                self.evicted.retain(|(_, evicted, _)| *evicted != copy);
                Some(copy)
            }
            Place::Queued { .. } => {
                self.queue.retain(|queued| *queued != id);
                self.place(id, Place::Absent);
                None
            }
            Place::Absent | Place::Loading { .. } => None,
        }
    }

    /// Changes what a model's owner wishes.
    pub fn set_hints(&mut self, id: ModelId, change: impl FnOnce(&mut Hints)) {
        if let Some(model) = self.models.get_mut(&id) {
            change(&mut model.hints);
        }
    }

    /// Changes the budget; [`Residency::poll`] tells what has to leave.
    pub fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// The next moment at which [`Residency::poll`] may have something to do though nothing happened.
    #[must_use]
    pub fn next_moment(&self) -> Option<Instant> {
        self.models.values().filter_map(Model::expires).min()
    }

    /// How long it is until a model is ready, if its load begins as soon as it may.
    #[must_use]
    pub fn ready_in(&self, id: ModelId, now: Instant) -> Duration {
        let Some(model) = self.models.get(&id) else { return Duration::ZERO };
        let own = self.reload(model);
        match model.place {
            Place::Resident { .. } => Duration::ZERO,
            Place::Loading { since, .. } => left_of(own, now.saturating_duration_since(since)),
            Place::Absent => own + self.queue_time(now),
            Place::Queued { .. } => {
                let ahead = self.queue.iter().take_while(|queued| **queued != id);
                own + self.slot_time(ahead, now)
            }
        }
    }

    /// The time of a load, measured or foretold from the bytes.
    fn reload(&self, model: &Model) -> Duration {
        model.reload.unwrap_or_else(|| self.speed.foretell(model.bytes))
    }

    fn queue_time(&self, now: Instant) -> Duration {
        self.slot_time(self.queue.iter(), now)
    }

    /// When a slot is free for whoever comes after `ahead`.
    fn slot_time<'a>(&self, ahead: impl Iterator<Item = &'a ModelId>, now: Instant) -> Duration {
        let slots = u32::try_from(self.rules.parallel_loads).unwrap_or(u32::MAX).max(1);
        let (mut loading, mut sum) = (0, Duration::ZERO);
        for model in self.models.values() {
            if let Place::Loading { since, .. } = model.place {
                loading += 1;
                sum += left_of(self.reload(model), now.saturating_duration_since(since));
            }
        }
        let mut waiting = 0;
        for id in ahead {
            waiting += 1;
            sum += self.models.get(id).map_or(Duration::ZERO, |model| self.reload(model));
        }
        if loading + waiting < self.rules.parallel_loads { Duration::ZERO } else { sum / slots }
    }

    /// The budget.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// The bytes that count against it.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// What is known of a model.
    #[must_use]
    pub fn view(&self, id: ModelId, now: Instant) -> Option<View> {
        let model = self.models.get(&id)?;
        let count = model.demand.at(now, self.rules.half_life);
        Some(View {
            place: model.place,
            hints: model.hints,
            bytes: model.bytes,
            rate: count * std::f64::consts::LN_2 / self.rules.half_life.as_secs_f64(),
            score: self.score(model, now),
            reload: self.reload(model),
            last_used: model.last_used,
            until: model.expires(),
            failures: model.failures,
            retry_at: model.retry_at,
        })
    }

    /// What a model takes, if somebody has measured it.
    #[must_use]
    pub fn measured(&self, id: ModelId) -> Option<u64> {
        let model = self.models.get(&id)?;
        model.reload.map(|_| model.bytes)
    }

    /// How many models are being loaded.
    #[must_use]
    pub fn loading(&self) -> usize {
        self.count(|place| matches!(place, Place::Loading { .. }))
    }

    /// Every model, ascending.
    pub fn ids(&self) -> impl Iterator<Item = ModelId> + '_ {
        self.models.keys().copied()
    }

    fn place(&mut self, id: ModelId, place: Place) {
        if let Some(model) = self.models.get_mut(&id) {
            model.place = place;
        }
    }

    fn count(&self, is: impl Fn(&Place) -> bool) -> usize {
        self.models.values().filter(|model| is(&model.place)).count()
    }

    fn fits(&self, id: ModelId) -> bool {
        let bytes = self.models.get(&id).map_or(0, |model| model.bytes);
        let charged = if self.forgets_leavers() { self.charged - self.leaving_bytes() } else { self.charged };
        charged.saturating_add(bytes) <= self.budget
    }

    fn leaving_bytes(&self) -> u64 {
        self.leaving.values().map(|(_, bytes)| bytes).sum()
    }
}

/// What is left of a load that was foretold to take `whole`; one that takes longer is soon to end, a quarter each time.
fn left_of(whole: Duration, elapsed: Duration) -> Duration {
    whole.checked_sub(elapsed).unwrap_or(elapsed / 4)
}

/// The hooks of the planted bugs, which only test builds have.
#[cfg(not(test))]
#[allow(clippy::unused_self, reason = "the test build's have a self")]
impl Residency {
    const fn forgets_leavers(&self) -> bool {
        false
    }

    const fn keeps_failed(&self) -> bool {
        false
    }

    const fn keeps_estimate(&self) -> bool {
        false
    }

    const fn loads_twice(&self) -> bool {
        false
    }

    const fn ignores_pins(&self) -> bool {
        false
    }

    const fn ignores_stays(&self) -> bool {
        false
    }

    const fn ignores_worth(&self) -> bool {
        false
    }

    const fn keeps_over(&self) -> bool {
        false
    }

    const fn retries_at_once(&self) -> bool {
        false
    }

    const fn refuses_what_fits(&self) -> bool {
        false
    }

    const fn most_loads(&self) -> usize {
        self.rules.parallel_loads
    }
}
