//! Bugs for the simulation to find; only test builds have them. Each hook in the batcher is one call of this file.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::cut::{Cut, Moment};
use super::line::{Line, Rank};
use super::{Action, Batch, Batcher, Class, Entry, Rejected, RequestId};

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
    /// What fits is taken from another shape.
    MixesKeys,
    /// A batch stops at two requests.
    StopsOneShort,
    /// The third request of a batch is too much.
    PanicsAtThree,
    /// The requests of a batch are in reverse.
    NewestFirst,
    /// The shape whose head has most time goes first.
    LatestLaneFirst,
    /// The least urgent class goes first.
    LeastUrgentFirst,
    /// A request that could be in time is given up.
    ShedsTheSavable,
    /// A request that cannot be in time is run.
    RunsTheHopeless,
    /// What would be in time is refused.
    RefusesTheFeasible,
    /// A full queue gives up a request that is as urgent as the one that comes.
    DisplacesItsEqual,
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
    /// A cancelled request is handed back and stays in its shape.
    RunsTheCancelled,
    /// Cancelling takes the request before.
    CancelsTheNeighbour,
    /// Closing does not hand back the last request.
    ForgetsOnClose,
    /// A request that may wait on behind the others is given up.
    GivesUpTheDelayed,
    /// A batch may take any time, whatever other models need.
    IgnoresTheCap,
}

use PlantedBug as Bug;

/// A bug, and how it makes a second request out of one.
#[derive(Debug)]
pub(super) struct Plant<R> {
    bug: PlantedBug,
    copy: fn(&R) -> R,
    /// A request that was cancelled and will run.
    ghost: Option<R>,
    /// What is being pushed is accepted.
    accepts: Cell<bool>,
}

impl<K: Ord + Clone, R: Clone> Batcher<K, R> {
    /// The same batcher with a mistake in it.
    pub(crate) fn with_bug(mut self, bug: PlantedBug) -> Self {
        let limits = &mut self.rules.limits;
        match bug {
            Bug::AcceptsOneByteTooMany => limits.max_queue_bytes += 1,
            Bug::RunsOneRowTooMany => limits.max_batch_rows = limits.max_batch_rows.saturating_add(1),
            _ => {}
        }
        self.plant = Some(Plant { bug, copy: R::clone, ghost: None, accepts: Cell::new(false) });
        self
    }
}

impl<K: Ord + Clone, R> Batcher<K, R> {
    fn has(&self, bug: PlantedBug) -> bool {
        self.plant.as_ref().is_some_and(|plant| plant.bug == bug)
    }

    pub(super) fn plant_in_push(&mut self) {
        if self.has(Bug::RandomIds) {
            self.next_number += RandomState::new().hash_one(()) % 2;
        }
    }

    /// Whether the request is accepted whatever speaks against it, or refused though nothing does.
    pub(super) fn plant_in_check(&self, deadline: Instant, now: Instant) -> Option<Result<bool, Rejected>> {
        let Plant { bug, accepts, .. } = self.plant.as_ref()?;
        let accepted = match bug {
            Bug::AcceptsAfterClose => self.closed,
            Bug::AcceptsTheExpired => !self.closed && deadline <= now,
            _ => false,
        };
        accepts.set(accepted);
        let almost_full = self.len() + 1 == self.rules.limits.max_queue_size.get();
        if *bug == Bug::RefusesOneTooEarly && almost_full && !self.closed && deadline > now {
            return Some(Err(Rejected::QueueFull));
        }
        accepted.then_some(Ok(false))
    }

    /// What a request is foretold to wait.
    pub(super) fn plant_in_foretold(&self, wait: Duration) -> Duration {
        if self.has(Bug::RefusesTheFeasible) && !self.is_empty() { wait * 3 } else { wait }
    }

    /// True when the queue is not full yet.
    pub(super) fn plant_in_full(&self, length: usize) -> bool {
        let accepts = self.plant.as_ref().is_some_and(|plant| plant.accepts.get());
        accepts || self.has(Bug::AcceptsOneTooMany) && length == self.rules.limits.max_queue_size.get()
    }

    /// The class of which a request must leave a full queue, at least.
    pub(super) fn plant_in_displace(&self, class: Class) -> Class {
        if self.has(Bug::DisplacesItsEqual) { class.saturating_sub(1) } else { class }
    }

    pub(super) fn plant_in_poll(&mut self, now: Instant, instance_free: bool) -> Option<Action<R>> {
        if self.has(Bug::FormsBeforeItExpires) && instance_free && self.head_is_late(now) {
            let &(class, _, place) = self.queue.heads.first()?;
            let key = self.queue.shape(place)?.key.clone();
            let entries = self.take_first(place, class, 1);
            let batch = Some(self.start(key, entries, now));
            let expired = self.expire(now);
            return Some(self.planted_action(expired, Vec::new(), batch));
        }
        if self.has(Bug::FormsForNobody) {
            let (expired, mut shed) = (self.expire(now), Vec::new());
            let batch = self.form(now, &mut shed);
            return Some(self.planted_action(expired, shed, batch));
        }
        if self.has(Bug::ExpiresEarly)
            && let Some((&rank, _)) = self.queue.deadlines.first_key_value()
            && !self.queue.deadlines.iter().any(|(&rank, &(place, class))| self.lingers(place, class, rank))
        {
            let until = rank.0.max(now);
            let expired = self.expire(until);
            return Some(self.planted_action(expired, Vec::new(), None));
        }
        (self.has(Bug::ExpiresOnlyWhenFree) && !instance_free).then_some(Action {
            expired: Vec::new(),
            shed: Vec::new(),
            delayed: Vec::new(),
            batch: None,
        })
    }

    fn planted_action(&mut self, expired: Vec<R>, shed: Vec<R>, batch: Option<Batch<R>>) -> Action<R> {
        Action { expired, shed, delayed: std::mem::take(&mut self.delayed), batch }
    }

    /// True when a request that may wait on is given up instead.
    pub(super) fn plant_in_linger(&self) -> bool {
        self.has(Bug::GivesUpTheDelayed)
    }

    /// True when the request that is to start first must not. Without it a batch that has nothing late in it would
    /// only look too small, because what is late came next.
    fn head_is_late(&self, now: Instant) -> bool {
        self.queue.heads.first().is_some_and(|(_, rank, _)| rank.0 <= now)
    }

    /// The shape and class that are served; `None` for no batch.
    pub(super) fn plant_in_choice(&mut self, chosen: (Class, usize)) -> Option<(Class, usize)> {
        if self.has(Bug::LatestLaneFirst) {
            let same = self.queue.heads.iter().rfind(|(class, ..)| *class == chosen.0);
            return same.map(|&(class, _, place)| (class, place));
        }
        if self.has(Bug::LeastUrgentFirst) {
            return self.queue.heads.last().map(|&(class, _, place)| (class, place));
        }
        let full = self.len() >= self.rules.limits.max_batch_rows.get();
        (full || !self.has(Bug::WaitsForAFullBatch)).then_some(chosen)
    }

    /// True when requests that cannot be in time are kept.
    pub(super) fn plant_in_shed(&self) -> bool {
        self.has(Bug::RunsTheHopeless)
    }

    pub(super) fn plant_in_cut(&self, line: &Line<Entry<R>>, moment: &Moment<'_>) -> Option<Cut> {
        let cut = moment.choose(line);
        assert!(!self.has(Bug::PanicsAtThree) || cut.take < 3, "planted panic");
        if self.has(Bug::StopsOneShort) && cut.take > 2 {
            return Some(Cut { take: 2, ..cut });
        }
        if self.has(Bug::ShedsTheSavable) && cut.take == line.len() && cut.take > 1 {
            return Some(Cut { shed: 1, take: cut.take - 1 });
        }
        None
    }

    /// How long a batch may take.
    pub(super) fn plant_in_cap(&self, cap: Option<Duration>) -> Option<Duration> {
        cap.filter(|_| !self.has(Bug::IgnoresTheCap))
    }

    /// True when a batch is not filled up with less urgent requests.
    pub(super) fn plant_in_fill(&self, requests: usize) -> bool {
        self.has(Bug::StopsOneShort) && requests >= 2
    }

    pub(super) fn plant_in_batch(&mut self, mut batch: Batch<R>, place: usize) -> Batch<R> {
        let Some(Plant { bug, copy, .. }) = self.plant else { return batch };
        batch.requests.extend(self.plant.as_mut().and_then(|plant| plant.ghost.take()));
        match bug {
            Bug::MiscountsRows => batch.rows += 1,
            Bug::NewestFirst => batch.requests.reverse(),
            Bug::RunsTwice => {
                let twice = batch.requests.last().map(copy);
                batch.requests.extend(twice);
            }
            Bug::LosesARequest => drop(batch.requests.pop()),
            Bug::MixesKeys => {
                let left = self.rules.limits.max_batch_rows.get().saturating_sub(batch.rows);
                let other = self.queue.heads.iter().find_map(|&(class, rank, other)| {
                    let rows = self.queue.shape(other)?.lines.get(&class)?.line.get(rank)?.rows;
                    (other != place && rows <= left).then_some((other, class, rank, rows))
                });
                if let Some((other, class, rank, rows)) = other {
                    batch.rows += rows;
                    batch.requests.extend(self.take(other, class, rank).map(|entry| entry.request));
                }
            }
            _ => {}
        }
        batch
    }

    pub(super) fn plant_in_accounts(&mut self, left: &Entry<R>) {
        if self.has(Bug::KeepsDeadlines) {
            self.queue.deadlines.insert(left.rank, (usize::MAX, 0));
        }
    }

    pub(super) fn plant_in_bytes(&mut self, left: &[Entry<R>]) {
        if self.has(Bug::KeepsBytes) {
            self.queue.bytes += left.iter().map(|entry| entry.bytes).sum::<usize>();
        }
    }

    /// What cancelling returns, unless it is done right.
    pub(super) fn plant_in_cancel(&mut self, id: RequestId) -> ControlFlow<Option<R>> {
        let rank: Rank = (id.deadline, id.number);
        let Some(Plant { bug, copy, .. }) = self.plant else { return ControlFlow::Continue(()) };
        let line = self.queue.shape(id.place).and_then(|shape| shape.lines.get(&id.class));
        let Some(entry) = line.and_then(|line| line.line.get(rank)) else { return ControlFlow::Continue(()) };
        let returned = match bug {
            Bug::IgnoresCancel => None,
            Bug::RunsTheCancelled => {
                let ghost = copy(&entry.request);
                if let Some(plant) = &mut self.plant {
                    plant.ghost = Some(ghost);
                }
                self.take(id.place, id.class, rank).map(|entry| entry.request)
            }
            Bug::CancelsTheNeighbour => {
                let position = line.map_or(0, |line| line.line.before(rank).0);
                let before = position.checked_sub(1).and_then(|before| line?.line.rank_at(before));
                self.take(id.place, id.class, before.unwrap_or(rank)).map(|entry| entry.request)
            }
            _ => return ControlFlow::Continue(()),
        };
        ControlFlow::Break(returned)
    }

    pub(super) fn plant_in_close(&self, mut entries: Vec<Entry<R>>) -> Vec<Entry<R>> {
        if self.has(Bug::ForgetsOnClose) {
            entries.pop();
        }
        entries
    }
}
