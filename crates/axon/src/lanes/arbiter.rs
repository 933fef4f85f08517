//! Chooses which model's batch runs next on one device: the decisions without the threads.
//!
//! A pure state machine: the caller passes in every moment. A *seat* is a model on the device. A seat claims a lane
//! when it has work and an idle instance: claims → is called → takes → runs → finishes; it withdraws its claim, or its
//! call, when the work is gone.
//!
//! The rule: the most urgent class first. Within a class, seats that have had much more than their share of the
//! device's time come after the others; among the rest the batch goes first that must start first to be in time.
//!
//! Invariants: what is held and called never needs more lanes than there are; while a lane is free, only a seat waits
//! for it that needs more lanes than are free, and those after it; a seat is called once for each claim.

#[cfg(test)]
pub(crate) mod planted;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::demand::{Demand, Luck};
use crate::batcher::{Class, Outlook, Surroundings};

/// A run that takes so many times what was foretold is not counted as holding its lane any more: it hangs, or what is
/// foretold is worth nothing. Whoever waits runs beside it.
const OVERDUE: u32 = 10;
/// No run is overdue before.
const NEVER_OVERDUE_BEFORE: Duration = Duration::from_secs(1);
/// How far ahead of its share a seat may be, and how much of a share unused it keeps, where no limit asks for less.
const MOST_AHEAD: Duration = Duration::from_millis(100);
/// The least part of the device that a seat counts on, so that what is foretold stays finite.
const LEAST_SHARE: f64 = 0.01;

/// Names a model on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeatId(u64);

/// Names a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(u64);

/// How a model uses the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its part of the device's time against those of the others, at least 1.
    pub weight: u32,
    /// Instances that run at the same time, at least 1.
    pub instances: usize,
    /// Lanes that each run takes, at least 1: its threads.
    pub width: usize,
}

#[derive(Debug)]
struct Seat {
    terms: Terms,
    claim: Option<Outlook>,
    is_called: bool,
    runs: usize,
    /// Seconds of lanes that it has had, by its weight: seats that always have work have about the same.
    time: f64,
    demand: Demand,
    luck: Luck,
}

#[derive(Debug)]
struct Run {
    seat: SeatId,
    width: usize,
    began: Instant,
    /// When it is foretold to end.
    ends: Instant,
    overdue: Instant,
    /// Seconds that its seat has paid for.
    paid: f64,
}

/// The models and lanes of one device.
#[derive(Debug)]
pub struct Arbiter {
    /// `None` has as many as `least`, and as the model that runs most at once.
    configured: Option<usize>,
    least: usize,
    widest: usize,
    lightest: u32,
    seats: BTreeMap<SeatId, Seat>,
    /// Seats that claim, run, or were asked lately; only these are looked at.
    active: BTreeSet<SeatId>,
    runs: BTreeMap<RunId, Run>,
    /// The time of the seat that has had least of those that were active.
    clock: f64,
    next: u64,
    swept: Option<Instant>,
    #[cfg(test)]
    plant: Option<planted::PlantedBug>,
}

impl Arbiter {
    /// A device without models. It has `lanes` lanes; without them, `least`, and never fewer than one model alone uses.
    #[must_use]
    pub fn new(lanes: Option<usize>, least: usize) -> Self {
        Self {
            configured: lanes.map(|lanes| lanes.max(1)),
            least: least.max(1),
            widest: 0,
            lightest: 1,
            seats: BTreeMap::new(),
            active: BTreeSet::new(),
            runs: BTreeMap::new(),
            clock: 0.0,
            next: 0,
            swept: None,
            #[cfg(test)]
            plant: None,
        }
    }

    /// The lanes of the device.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.configured.unwrap_or_else(|| self.least.max(self.widest))
    }

    /// True when models may have to wait for one another, or for lanes.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.seats.len() > 1 || self.widest > self.lanes()
    }

    /// A model comes.
    pub fn join(&mut self, terms: Terms) -> SeatId {
        let id = SeatId(self.next);
        self.next += 1;
        let terms = Terms {
            weight: terms.weight.max(1),
            instances: terms.instances.max(1),
            width: terms.width.max(1),
        };
        let seat = Seat {
            terms,
            claim: None,
            is_called: false,
            runs: 0,
            time: self.clock,
            demand: Demand::default(),
            luck: Luck::default(),
        };
        self.seats.insert(id, seat);
        self.measure();
        id
    }

    /// A model goes, with its claim and call; what it still runs holds its lanes until it ends.
    pub fn leave(&mut self, seat: SeatId) {
        self.seats.remove(&seat);
        self.active.remove(&seat);
        self.measure();
    }

    fn measure(&mut self) {
        let terms = || self.seats.values().map(|seat| seat.terms);
        self.widest = terms().map(|terms| terms.instances.saturating_mul(terms.width)).max().unwrap_or(0);
        self.lightest = terms().map(|terms| terms.weight).min().unwrap_or(1);
    }

    /// A seat has work and an idle instance, or (`None`) not any more.
    pub fn claim(&mut self, seat: SeatId, outlook: Option<Outlook>, now: Instant) {
        let ahead = self.most_ahead(now).as_secs_f64();
        let clock = self.clock;
        let Some(state) = self.seats.get_mut(&seat) else { return };
        if outlook.is_some() && state.claim.is_none() && state.runs == 0 {
            // What was not used while others ran is not saved up.
            state.time = state.time.max(clock - ahead);
        }
        state.watch(now);
        state.claim = outlook;
        if outlook.is_none() {
            state.is_called = false;
        } else {
            self.active.insert(seat);
        }
    }

    /// The seats that may run from now on and have not been told: wake an instance of each, which then takes.
    pub fn call(&mut self, now: Instant) -> Vec<SeatId> {
        std::iter::from_fn(|| self.call_next(now)).collect()
    }

    /// As [`Arbiter::call`], one seat at a time.
    pub fn call_next(&mut self, now: Instant) -> Option<SeatId> {
        self.sweep(now);
        self.advance();
        #[cfg(test)]
        if self.plant_in_call() {
            return None;
        }
        let seat = self.first(now)?;
        let free = self.free(now);
        let lanes = self.lanes();
        let state = self.seats.get_mut(&seat)?;
        if state.terms.width.min(lanes) > free {
            return None;
        }
        state.is_called = true;
        Some(seat)
    }

    /// A called seat's instance takes its lane; `None` when the seat is not called.
    pub fn take(&mut self, seat: SeatId, now: Instant) -> Option<RunId> {
        let lanes = self.lanes();
        let state = self.seats.get_mut(&seat)?;
        if !state.is_called {
            return None;
        }
        state.watch(now);
        let outlook = state.claim.take()?;
        state.is_called = false;
        state.runs += 1;
        let id = RunId(self.next);
        self.next += 1;
        let width = state.terms.width.min(lanes);
        let takes = outlook.run.min(Duration::from_secs(3600));
        let overdue = now + (takes * OVERDUE).max(NEVER_OVERDUE_BEFORE);
        self.runs.insert(id, Run { seat, width, began: now, ends: now + takes, overdue, paid: 0.0 });
        self.pay(id, takes.as_secs_f64());
        Some(id)
    }

    /// A run has ended, or runs nothing after all.
    pub fn finish(&mut self, run: RunId, now: Instant) {
        let Some(Run { began, overdue, .. }) = self.runs.get(&run) else { return };
        let took = now.min(*overdue).saturating_duration_since(*began);
        self.pay(run, took.as_secs_f64());
        if let Some(Run { seat, .. }) = self.runs.remove(&run)
            && let Some(seat) = self.seats.get_mut(&seat)
        {
            seat.watch(now);
            seat.runs -= 1;
        }
    }

    /// Brings what a run's seat has paid to `seconds` of each of its lanes.
    fn pay(&mut self, run: RunId, seconds: f64) {
        let lightest = f64::from(self.lightest);
        let Some(run) = self.runs.get_mut(&run) else { return };
        let Some(seat) = self.seats.get_mut(&run.seat) else { return };
        #[cfg(test)]
        let seconds = if self.plant == Some(planted::PlantedBug::PaysNothing) { 0.0 } else { seconds };
        let more = (seconds - run.paid) * run.width as f64;
        seat.time += more * lightest / f64::from(seat.terms.weight);
        run.paid = seconds;
    }

    /// A request that is to be answered within `limit`, and takes `seconds` of a lane, has been accepted.
    pub fn heard(&mut self, seat: SeatId, class: Class, (limit, seconds): (Duration, f64), now: Instant) {
        if let Some(state) = self.seats.get_mut(&seat) {
            state.demand.add(class, limit, seconds * state.terms.width as f64, now);
            self.active.insert(seat);
        }
    }

    /// What a run of `seat` for `class` may take: half of the tightest limit that others of this class, or a more
    /// urgent one, have had lately. `None` where there was none.
    #[must_use]
    pub fn cap(&self, seat: SeatId, class: Class, now: Instant) -> Option<Duration> {
        #[cfg(test)]
        if self.plant == Some(planted::PlantedBug::ForgetsLimits) {
            return None;
        }
        let others = self.active.iter().filter(|&&other| other != seat);
        let limits = others.filter_map(|other| self.seats.get(other)?.demand.tightest(class, now));
        limits.min().map(|limit| limit / 2)
    }

    /// What `seat` may count on for a request of `class` that must start at `latest`.
    #[must_use]
    pub fn surroundings(&self, seat: SeatId, class: Class, latest: Instant, now: Instant) -> Surroundings {
        let wait = self.wait(seat, class, latest, now);
        let share = self.share(seat, now);
        let free_at = if wait.is_zero() { None } else { now.checked_add(wait) };
        Surroundings { free_at, share, cap: self.cap(seat, class, now) }
    }

    /// How long the lanes are needed for what runs, and for what others run first.
    fn wait(&self, seat: SeatId, class: Class, latest: Instant, now: Instant) -> Duration {
        let lanes = self.lanes();
        let held = || self.runs.values().filter(|run| now < run.overdue);
        let residual = |run: &Run| run.ends.saturating_duration_since(now).as_secs_f64();
        let busy: usize = held().map(|run| run.width).sum();
        let mut seconds: f64 = held().map(|run| residual(run) * run.width as f64).sum();
        for (other, state) in self.active_seats() {
            let Some(claim) = state.claim else { continue };
            if other != seat && (claim.class, claim.latest) < (class, latest) {
                seconds += claim.run.as_secs_f64() * self.width(state) as f64;
            }
        }
        let first = if busy < lanes { 0.0 } else { held().map(residual).fold(f64::INFINITY, f64::min) };
        let is_free = busy < lanes && seconds == 0.0;
        let wait = if is_free { 0.0 } else { first.max((seconds / lanes as f64).min(3600.0)) };
        Duration::try_from_secs_f64(wait).unwrap_or_default()
    }

    /// The part of its instances that the device can run on average, more than 0 to 1: what the others leave, and what
    /// is its own by weight at least.
    #[must_use]
    pub fn share(&self, seat: SeatId, now: Instant) -> f64 {
        let Some(state) = self.seats.get(&seat) else { return 1.0 };
        let lanes = self.lanes() as f64;
        let (mut others, mut weights) = (0.0, f64::from(state.terms.weight));
        for (other, state) in self.active_seats() {
            let demand = state.demand.lanes(now);
            if other != seat && demand > 0.0 {
                others += demand;
                weights += f64::from(state.terms.weight);
            }
        }
        let own = lanes * f64::from(state.terms.weight) / weights;
        let wanted = (state.terms.instances * self.width(state)) as f64;
        let left = ((lanes - others) / wanted).min(state.luck.share());
        left.max(own / wanted).clamp(LEAST_SHARE, 1.0)
    }

    /// When to call again if nothing else happens: a seat waits, and a run is overdue then.
    #[must_use]
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let waits = self.active_seats().any(|(_, state)| state.claim.is_some() && !state.is_called);
        let overdue = self.runs.values().map(|run| run.overdue).filter(|&at| at > now).min();
        // Whoever is called and has not taken its lane yet may hang as soon as it has.
        waits.then(|| overdue.unwrap_or(now + NEVER_OVERDUE_BEFORE))
    }

    /// Lanes that are neither held nor called for.
    fn free(&self, now: Instant) -> usize {
        let held: usize = self.runs.values().filter(|run| now < run.overdue).map(|run| run.width).sum();
        #[cfg(test)]
        let held = self.plant_in_held(held);
        let called = self.active_seats().filter(|(_, seat)| seat.is_called).map(|(_, seat)| self.width(seat));
        self.lanes().saturating_sub(held + called.sum::<usize>())
    }

    /// Those that wait and are not called.
    fn waiting(&self) -> impl Iterator<Item = (SeatId, &Seat, Outlook)> {
        let seats = self.active_seats().filter(|(_, seat)| !seat.is_called);
        seats.filter_map(|(id, seat)| Some((id, seat, seat.claim?)))
    }

    /// Who runs next of them.
    fn first(&self, now: Instant) -> Option<SeatId> {
        #[cfg(test)]
        if let Some(chosen) = self.plant_in_first() {
            return Some(chosen);
        }
        let class = self.waiting().map(|(.., claim)| claim.class).min()?;
        let most = self.most_time(class, now);
        let waiting = self.waiting().filter(|(.., claim)| claim.class == class);
        waiting.min_by_key(|&(id, seat, claim)| (seat.time > most, claim.latest, id)).map(|(id, ..)| id)
    }

    /// What a seat may have had before others of its class come first.
    fn most_time(&self, class: Class, now: Instant) -> f64 {
        let waiting = self.waiting().filter(|(.., claim)| claim.class == class);
        let least = waiting.map(|(_, seat, _)| seat.time).fold(f64::INFINITY, f64::min);
        least + self.most_ahead(now).as_secs_f64()
    }

    /// True when a seat that waits has had so much that others of its class come first.
    #[must_use]
    pub fn is_ahead(&self, seat: SeatId, now: Instant) -> bool {
        let state = self.seats.get(&seat);
        let class = state.and_then(|state| state.claim).map(|claim| claim.class);
        class.zip(state).is_some_and(|(class, state)| state.time > self.most_time(class, now))
    }

    /// How far ahead of its share a seat may be: no further than a run may take.
    fn most_ahead(&self, now: Instant) -> Duration {
        let limits = self.active_seats().filter_map(|(_, seat)| seat.demand.tightest(Class::MAX, now));
        limits.min().map_or(MOST_AHEAD, |limit| (limit / 2).min(MOST_AHEAD))
    }

    fn width(&self, seat: &Seat) -> usize {
        seat.terms.width.min(self.lanes())
    }

    fn active_seats(&self) -> impl Iterator<Item = (SeatId, &Seat)> {
        self.active.iter().filter_map(|id| Some((*id, self.seats.get(id)?)))
    }

    /// The clock follows the seat that has had least.
    fn advance(&mut self) {
        let busy = self.active_seats().filter(|(_, seat)| seat.claim.is_some() || seat.runs > 0);
        let least = busy.map(|(_, seat)| seat.time).fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            self.clock = self.clock.max(least);
        }
    }

    /// Forgets who has not been active lately, once in a while.
    fn sweep(&mut self, now: Instant) {
        let interval = super::demand::WINDOW;
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < interval) {
            return;
        }
        self.swept = Some(now);
        let seats = &self.seats;
        self.active.retain(|id| {
            seats.get(id).is_some_and(|seat| {
                seat.claim.is_some() || seat.runs > 0 || seat.demand.tightest(Class::MAX, now).is_some()
            })
        });
    }
}

impl Seat {
    /// Counts the time since the last change.
    fn watch(&mut self, now: Instant) {
        self.luck.add(self.runs, usize::from(self.claim.is_some()), now);
    }
}

#[cfg(test)]
mod tests;
