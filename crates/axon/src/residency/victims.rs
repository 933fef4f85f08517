//! What leaves: for a newcomer, for a budget that was exceeded, after its time.

use std::time::{Duration, Instant};

use super::{Cause, CopyId, EvictionPolicy, Model, ModelId, Place, Refusal, Residency, Wish};

/// The longest that a refused caller is told to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A MiB, for scores that a person can read.
const MIB: f64 = 1_048_576.0;

impl Model {
    /// When it is unloaded though there is room.
    pub(super) fn expires(&self) -> Option<Instant> {
        let (Place::Resident { since, .. }, false) = (self.place, self.hints.pinned) else { return None };
        let idle =
            self.last_used.map_or(since, |used| used.max(since)).checked_add(self.hints.keep_alive?)?;
        let stay = since.checked_add(self.hints.keep_at_least)?;
        Some(idle.max(stay))
    }
}

impl Residency {
    /// What a model is worth: seconds of loading that it saves in a half-life.
    pub(super) fn worth(&self, model: &Model, now: Instant) -> f64 {
        let count = model.demand.at(now, self.rules.half_life);
        count * model.hints.weight * self.reload(model).as_secs_f64()
    }

    pub(super) fn score(&self, model: &Model, now: Instant) -> f64 {
        if self.rules.eviction == EvictionPolicy::Lru {
            return model
                .last_used
                .map_or(f64::NEG_INFINITY, |used| -now.saturating_duration_since(used).as_secs_f64());
        }
        let in_a_second =
            self.worth(model, now) * std::f64::consts::LN_2 / self.rules.half_life.as_secs_f64();
        in_a_second / (model.bytes.max(1) as f64 / MIB)
    }

    /// When a resident model may be evicted; `None` for one that may never be.
    fn evictable_at(&self, model: &Model) -> Option<Instant> {
        let Place::Resident { since, .. } = model.place else { return None };
        if model.hints.pinned && !self.ignores_pins() {
            return None;
        }
        if self.ignores_stays() {
            return Some(since);
        }
        let stay = self.reload(model).mul_f64(self.rules.least_stay).min(self.rules.longest_stay);
        since.checked_add(stay.max(model.hints.keep_at_least))
    }

    /// What is there to be used once what leaves has left and what is queued has come.
    fn unpromised(&self) -> i128 {
        let promised: u64 = self.queue.iter().filter_map(|id| Some(self.models.get(id)?.bytes)).sum();
        i128::from(self.budget) - i128::from(self.charged) + i128::from(self.leaving_bytes())
            - i128::from(promised)
    }

    /// Evicts what is worth least until `id` has room promised.
    pub(super) fn make_room(&mut self, id: ModelId, wish: Wish, now: Instant) -> Result<(), Refusal> {
        let Some(newcomer) = self.models.get(&id) else { return Err(Refusal::Unknown) };
        let bytes = newcomer.bytes;
        if bytes > self.budget {
            return Err(Refusal::TooLarge { bytes, budget: self.budget });
        }
        let missing = i128::from(bytes) - self.unpromised();
        if missing <= 0 {
            if self.refuses_what_fits() {
                return Err(Refusal::NoRoom { retry_after: LONGEST_WAIT });
            }
            return Ok(());
        }
        let reload = self.reload(newcomer);
        let Some(victims) = self.choose(missing, now) else {
            let stays = self.models.values().filter_map(|model| self.evictable_at(model));
            let soonest = stays.filter(|&at| at > now).min().map_or(LONGEST_WAIT, |at| at - now);
            return Err(Refusal::NoRoom { retry_after: soonest.max(reload).min(LONGEST_WAIT) });
        };
        let lost: f64 =
            victims.iter().filter_map(|victim| Some(self.worth(self.models.get(victim)?, now))).sum();
        let is_losing = self.rules.eviction == EvictionPolicy::Value && lost > self.worth(newcomer, now);
        if is_losing
            && wish == Wish::Request
            && !self.ignores_worth()
            && let Err(wait) = self.churn.spend(reload, now)
        {
            return Err(Refusal::NotWorthIt { retry_after: wait.max(reload).min(LONGEST_WAIT) });
        }
        for victim in victims {
            self.evict(victim, Cause::Room);
        }
        Ok(())
    }

    /// Residents whose bytes make up `missing`, those worth least for each byte; `None` when all that may leave do not.
    fn choose(&self, missing: i128, now: Instant) -> Option<Vec<ModelId>> {
        let may_leave = |model: &Model| self.evictable_at(model).is_some_and(|at| at <= now);
        let residents = self.models.iter().filter(|(_, model)| may_leave(model));
        let mut ranked: Vec<_> =
            residents.map(|(&id, model)| (self.score(model, now), id, i128::from(model.bytes))).collect();
        ranked.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        let mut gained = 0;
        let mut count = 0;
        while gained < missing {
            gained += ranked.get(count)?.2;
            count += 1;
        }
        ranked.truncate(count);
        // The last may have been so large that others need not go: those worth most stay.
        let mut index = ranked.len();
        while index > 0 {
            index -= 1;
            if let Some(&(_, _, bytes)) = ranked.get(index)
                && gained - bytes >= missing
            {
                gained -= bytes;
                ranked.remove(index);
            }
        }
        Some(ranked.into_iter().map(|(_, id, _)| id).collect())
    }

    /// Takes a resident's place; its bytes stay charged.
    pub(super) fn evict(&mut self, id: ModelId, cause: Cause) -> Option<CopyId> {
        let model = self.models.get_mut(&id)?;
        let Place::Resident { copy, bytes, .. } = model.place else { return None };
        model.place = Place::Absent;
        self.leaving.insert(copy, (id, bytes));
        self.evicted.push_back((id, copy, cause));
        Some(copy)
    }

    /// Evicts what nobody has used for as long as its owner keeps it.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_over = |model: &Model| model.expires().is_some_and(|at| at <= now);
        let over: Vec<_> =
            self.models.iter().filter(|(_, model)| is_over(model)).map(|(&id, _)| id).collect();
        for id in over {
            self.evict(id, Cause::Unused);
        }
    }

    /// Evicts what is worth least while more is charged than the budget, because a measurement has corrected what was
    /// foretold or the budget has shrunk. What came lately goes too: the bytes are taken already.
    pub(super) fn shed(&mut self, now: Instant) {
        while self.charged - self.leaving_bytes() > self.budget && !self.keeps_over() {
            let residents = self.models.iter().filter(|(_, model)| {
                matches!(model.place, Place::Resident { .. }) && (!model.hints.pinned || self.ignores_pins())
            });
            let scored = residents.map(|(&id, model)| (self.score(model, now), id));
            let Some((_, id)) = scored.min_by(|one, other| one.0.total_cmp(&other.0)) else { return };
            self.evict(id, Cause::Room);
        }
    }
}
