//! Bugs for the simulation to find; only test builds have them. Each hook in the batcher is one call of this file.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use super::{Action, Batch, Batcher, Entry, RequestId};

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlantedBug {
    /// The queue's bound is off by one.
    AcceptsOneTooMany,
    /// So is that of its bytes.
    AcceptsOneByteTooMany,
    /// The bound is off by one to the other side.
    RefusesOneTooEarly,
    /// A request may arrive after its deadline.
    AcceptsTheExpired,
    /// The shutdown does not refuse anything.
    AcceptsAfterClose,
    /// Ids depend on something other than the calls.
    RandomIds,
    /// The batch's bound is off by one.
    RunsOneRowTooMany,
    /// The batch says one row more than it has.
    MiscountsRows,
    /// What fits is taken from another lane.
    MixesKeys,
    /// A batch stops at two requests.
    StopsOneShort,
    /// The third request of a batch is too much.
    PanicsAtThree,
    /// The newest request of a lane goes first.
    NewestFirst,
    /// The lane whose head came last goes first.
    NewestLaneFirst,
    /// A free instance gets nothing until a batch is full.
    WaitsForAFullBatch,
    /// A batch is formed while all instances are busy.
    FormsForNobody,
    /// The batch is formed first, and then the expired are taken out.
    FormsBeforeItExpires,
    /// The expired stay while all instances are busy.
    ExpiresOnlyWhenFree,
    /// Everything that a poll looks at is given up.
    ExpiresEarly,
    /// The last request of a batch is in it twice.
    RunsTwice,
    /// The last request of a batch is dropped.
    LosesARequest,
    /// Bytes are counted at arrival and never returned.
    KeepsBytes,
    /// The deadlines of those that left are kept.
    KeepsDeadlines,
    /// Cancelling does nothing.
    IgnoresCancel,
    /// A cancelled request is handed back and stays in its lane.
    RunsTheCancelled,
    /// Cancelling takes the request before.
    CancelsTheNeighbour,
    /// Closing does not hand back the last request.
    ForgetsOnClose,
}

use PlantedBug as Bug;

/// A bug, and how it makes a second request out of one.
#[derive(Debug)]
pub(super) struct Plant<R> {
    bug: PlantedBug,
    copy: fn(&R) -> R,
}

impl<K: Ord + Clone, R: Clone> Batcher<K, R> {
    /// The same batcher with a mistake in it.
    pub(crate) fn with_bug(mut self, bug: PlantedBug) -> Self {
        let limits = &mut self.limits;
        match bug {
            Bug::AcceptsOneByteTooMany => limits.max_queue_bytes += 1,
            Bug::RunsOneRowTooMany => limits.max_batch_rows = limits.max_batch_rows.saturating_add(1),
            Bug::RefusesOneTooEarly => {
                let fewer = NonZeroUsize::new(limits.max_queue_size.get() - 1);
                limits.max_queue_size = fewer.unwrap_or(limits.max_queue_size);
            }
            _ => {}
        }
        self.plant = Some(Plant { bug, copy: R::clone });
        self
    }
}

impl<K: Ord + Clone, R> Batcher<K, R> {
    fn has(&self, bug: PlantedBug) -> bool {
        self.plant.as_ref().is_some_and(|plant| plant.bug == bug)
    }

    pub(super) fn plant_in_push(&mut self) {
        if self.has(Bug::RandomIds) {
            self.next_id += RandomState::new().hash_one(()) % 2;
        }
    }

    /// True when the request is accepted whatever speaks against it.
    pub(super) fn plant_in_reason(&self, deadline: Instant, now: Instant) -> bool {
        let Some(Plant { bug, .. }) = self.plant else { return false };
        match bug {
            Bug::AcceptsAfterClose => self.closed,
            Bug::AcceptsTheExpired => !self.closed && deadline <= now,
            Bug::AcceptsOneTooMany => {
                !self.closed && deadline > now && self.len() == self.limits.max_queue_size.get()
            }
            _ => false,
        }
    }

    pub(super) fn plant_in_poll(&mut self, now: Instant, instance_free: bool) -> Option<Action<R>> {
        if self.has(Bug::FormsBeforeItExpires) && instance_free && self.head_is_late(now) {
            let batch = self.form();
            return Some(Action { expired: self.expire(now), batch });
        }
        if self.has(Bug::FormsForNobody) {
            return Some(Action { expired: self.expire(now), batch: self.form() });
        }
        if self.has(Bug::ExpiresEarly)
            && let Some(deadline) = self.next_deadline()
        {
            return Some(Action { expired: self.expire(deadline.max(now)), batch: None });
        }
        (self.has(Bug::ExpiresOnlyWhenFree) && !instance_free)
            .then_some(Action { expired: Vec::new(), batch: None })
    }

    /// True when the request that is to start first must not. Without it a batch that has nothing late in it would
    /// only look too small, because what is late came next.
    fn head_is_late(&self, now: Instant) -> bool {
        let lane = self.heads.first_key_value().and_then(|(_, key)| self.lanes.get(key));
        lane.and_then(VecDeque::front).is_some_and(|head| head.deadline <= now)
    }

    /// The lane that is served; `None` for no batch.
    pub(super) fn plant_in_choice(&mut self, key: K) -> Option<K> {
        if self.has(Bug::NewestFirst)
            && let Some(lane) = self.lanes.get_mut(&key)
        {
            lane.rotate_right(1);
        }
        if self.has(Bug::NewestLaneFirst) {
            return self.heads.last_key_value().map(|(_, key)| key.clone());
        }
        let full = self.len() >= self.limits.max_batch_rows.get();
        (full || !self.has(Bug::WaitsForAFullBatch)).then_some(key)
    }

    /// True when the batch stops growing.
    pub(super) fn plant_in_growth(&self, batch: &Batch<R>) -> bool {
        assert!(!self.has(Bug::PanicsAtThree) || batch.requests.len() < 2, "planted panic");
        self.has(Bug::StopsOneShort) && batch.requests.len() == 2
    }

    pub(super) fn plant_in_batch(&mut self, batch: &mut Batch<R>, key: &K) {
        match self.plant {
            Some(Plant { bug: Bug::MiscountsRows, .. }) => batch.rows += 1,
            Some(Plant { bug: Bug::RunsTwice, copy }) => {
                let twice = batch.requests.last().map(copy);
                batch.requests.extend(twice);
            }
            Some(Plant { bug: Bug::LosesARequest, .. }) => {
                batch.requests.pop();
            }
            Some(Plant { bug: Bug::MixesKeys, .. }) => {
                let left = self.limits.max_batch_rows.get().saturating_sub(batch.rows);
                let other = self.lanes.iter().find_map(|(other, lane)| {
                    lane.front()
                        .filter(|front| other != key && front.rows <= left)
                        .map(|front| (front.id, front.rows))
                });
                if let Some((id, rows)) = other {
                    batch.rows += rows;
                    batch.requests.extend(self.take(id));
                }
            }
            _ => {}
        }
    }

    pub(super) fn plant_in_accounts(&mut self, left: &Entry<R>) {
        if self.has(Bug::KeepsBytes) {
            self.bytes += left.bytes;
        }
        if self.has(Bug::KeepsDeadlines) {
            self.deadlines.insert((left.deadline, left.id));
        }
    }

    /// What cancelling returns, unless it is done right.
    pub(super) fn plant_in_cancel(&mut self, id: RequestId) -> ControlFlow<Option<R>> {
        let returned = match self.plant {
            _ if !self.keys.contains_key(&id) => return ControlFlow::Continue(()),
            Some(Plant { bug: Bug::IgnoresCancel, .. }) => None,
            Some(Plant { bug: Bug::CancelsTheNeighbour, .. }) => {
                let before = self.keys.range(..id).next_back().map(|(&before, _)| before);
                self.take(before.unwrap_or(id))
            }
            Some(Plant { bug: Bug::RunsTheCancelled, copy }) => self.cancel_on_paper(id, copy),
            _ => return ControlFlow::Continue(()),
        };
        ControlFlow::Break(returned)
    }

    fn cancel_on_paper(&mut self, id: RequestId, copy: fn(&R) -> R) -> Option<R> {
        let key = self.keys.remove(&id)?;
        let entry = self.lanes.get_mut(&key)?.iter_mut().find(|entry| entry.id == id)?;
        self.deadlines.remove(&(entry.deadline, id));
        // It costs nothing any more, so that the bounds hold with it.
        self.bytes -= std::mem::take(&mut entry.bytes);
        entry.rows = 0;
        Some(copy(&entry.request))
    }

    pub(super) fn plant_in_close(&self, entries: &mut Vec<Entry<R>>) {
        if self.has(Bug::ForgetsOnClose) {
            entries.pop();
        }
    }
}
