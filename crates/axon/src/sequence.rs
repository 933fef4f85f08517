//! Keeps the requests of a stateful model in their sequences.
//!
//! A pure state machine, as `batcher` is: the caller passes in every moment, `R` is handed back as it came, `S` is what
//! is kept between the requests of one sequence. It decides which request may run now; how they are batched, and run,
//! is the scheduler's.
//!
//! A sequence's life: waiting for a slot → live (its requests run one at a time, in their order) → ended, by the request
//! that says so or by asking nothing for `max_idle`. A request that starts a sequence anew begins without state.
//!
//! Invariants: at most `max_live` sequences have slots; a sequence has one request running at most; its requests leave
//! in arrival order; at most `max_waiting` requests wait; every accepted request leaves exactly once, by being run, by
//! `cancel`, by `expired` or by `close`.
//!
//! **Source:** Triton's sequence batcher, strategies "direct" and "oldest", between which a client sees no difference
//! but the number of slots.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::request::{Sequence, SequenceId};

/// The bounds of a model's sequences.
#[derive(Clone, Copy, Debug)]
pub struct SequenceLimits {
    /// The most sequences that have a slot.
    pub max_live: usize,
    /// The most requests that wait for their turn or for a slot.
    pub max_waiting: usize,
    /// A sequence that asks nothing for longer has ended.
    pub max_idle: Duration,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It is its sequence's first and does not say so.
    NoStart,
    /// As many requests wait as may.
    Full,
    /// The model is being closed.
    Closed,
}

/// Names a request that waits.
pub type Number = u64;

/// A request that may run now.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn<R, S> {
    /// The sequence, to be named when it has been answered.
    pub id: SequenceId,
    /// The request.
    pub request: R,
    /// It begins its sequence.
    pub start: bool,
    /// It ends its sequence.
    pub end: bool,
    /// What the last request of the sequence left; `None` at the start.
    pub state: Option<S>,
}

struct Waiting<R> {
    number: Number,
    start: bool,
    end: bool,
    deadline: Instant,
    request: R,
}

#[expect(clippy::struct_excessive_bools, reason = "each says something else, and most combinations can be")]
struct Live<R, S> {
    waiting: VecDeque<Waiting<R>>,
    state: Option<S>,
    has_slot: bool,
    is_running: bool,
    /// The running request is the last one.
    is_ending: bool,
    /// The request that came last did not end the sequence.
    is_open: bool,
    /// When it was answered last, or came to be.
    last: Instant,
}

/// The sequences of one model.
pub struct Sequences<R, S> {
    limits: SequenceLimits,
    known: BTreeMap<SequenceId, Live<R, S>>,
    /// Sequences without a slot, in the order in which they came.
    without_slot: VecDeque<SequenceId>,
    slots: usize,
    waiting: usize,
    next: Number,
    is_closed: bool,
}

impl<R, S: Clone> Sequences<R, S> {
    /// No sequences yet.
    #[must_use]
    pub fn new(limits: SequenceLimits) -> Self {
        Self {
            limits,
            known: BTreeMap::new(),
            without_slot: VecDeque::new(),
            slots: 0,
            waiting: 0,
            next: 0,
            is_closed: false,
        }
    }

    /// Takes a request; [`Sequences::turns`] then gives it out when its turn has come.
    ///
    /// # Errors
    /// Why it is not taken, with the request.
    pub fn arrive(
        &mut self,
        sequence: &Sequence,
        request: R,
        deadline: Instant,
        now: Instant,
    ) -> Result<Number, (NotTaken, R)> {
        self.end_idle(now);
        if self.is_closed {
            return Err((NotTaken::Closed, request));
        }
        let is_open = self.known.get(&sequence.id).is_some_and(|live| live.is_open);
        if !is_open && !sequence.start {
            return Err((NotTaken::NoStart, request));
        }
        if self.waiting >= self.limits.max_waiting {
            return Err((NotTaken::Full, request));
        }
        let number = self.next;
        self.next += 1;
        self.waiting += 1;
        let is_new = !self.known.contains_key(&sequence.id);
        let live = self.known.entry(sequence.id.clone()).or_insert_with(|| Live {
            waiting: VecDeque::new(),
            state: None,
            has_slot: false,
            is_running: false,
            is_ending: false,
            is_open: true,
            last: now,
        });
        live.is_open = !sequence.end;
        live.waiting.push_back(Waiting {
            number,
            start: sequence.start,
            end: sequence.end,
            deadline,
            request,
        });
        if is_new {
            self.without_slot.push_back(sequence.id.clone());
        }
        Ok(number)
    }

    /// The requests whose turn has come.
    pub fn turns(&mut self, now: Instant) -> Vec<Turn<R, S>> {
        self.end_idle(now);
        while self.slots < self.limits.max_live {
            let Some(id) = self.without_slot.pop_front() else { break };
            if let Some(live) = self.known.get_mut(&id) {
                live.has_slot = true;
                self.slots += 1;
            }
        }
        let mut turns = Vec::new();
        for (id, live) in &mut self.known {
            if !live.has_slot || live.is_running {
                continue;
            }
            let Some(next) = live.waiting.pop_front() else { continue };
            self.waiting -= 1;
            live.is_running = true;
            live.is_ending = next.end;
            let state = if next.start { None } else { live.state.clone() };
            turns.push(Turn {
                id: id.clone(),
                request: next.request,
                start: next.start,
                end: next.end,
                state,
            });
        }
        turns
    }

    /// The running request of a sequence has been answered; `state` is what it leaves, `None` when it failed and all
    /// stays as it was before it.
    pub fn answered(&mut self, id: &SequenceId, state: Option<S>, now: Instant) {
        let Some(live) = self.known.get_mut(id) else { return };
        live.is_running = false;
        live.last = now;
        if state.is_some() {
            live.state = state;
        }
        if std::mem::take(&mut live.is_ending) {
            live.state = None;
            if live.waiting.is_empty() {
                self.forget(id);
            }
        }
    }

    /// Takes a request back that waits; `None` when it does not wait any more.
    pub fn cancel(&mut self, id: &SequenceId, number: Number) -> Option<R> {
        let live = self.known.get_mut(id)?;
        let place = live.waiting.iter().position(|waiting| waiting.number == number)?;
        let taken = live.waiting.remove(place)?;
        self.waiting -= 1;
        self.forget_if_nothing(id);
        Some(taken.request)
    }

    /// The requests whose deadline has passed while they waited.
    pub fn expired(&mut self, now: Instant) -> Vec<R> {
        let late = |live: &Live<R, S>| live.waiting.iter().any(|waiting| waiting.deadline <= now);
        let ids: Vec<SequenceId> =
            self.known.iter().filter(|(_, live)| late(live)).map(|(id, _)| id.clone()).collect();
        let mut expired = Vec::new();
        for id in ids {
            let Some(live) = self.known.get_mut(&id) else { continue };
            let (late, rest): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut live.waiting).into_iter().partition(|waiting| waiting.deadline <= now);
            live.waiting = rest;
            self.waiting -= late.len();
            expired.extend(late.into_iter().map(|waiting| waiting.request));
            self.forget_if_nothing(&id);
        }
        expired
    }

    /// When something changes by itself next: a deadline passes, or a sequence has been idle for too long.
    #[must_use]
    pub fn next_change(&self) -> Option<Instant> {
        let change = |live: &Live<R, S>| {
            let deadline = live.waiting.iter().map(|waiting| waiting.deadline).min();
            let is_idle = live.has_slot && !live.is_running && live.waiting.is_empty();
            deadline.into_iter().chain(is_idle.then(|| live.last + self.limits.max_idle)).min()
        };
        self.known.values().filter_map(change).min()
    }

    /// Takes no more, and gives back what waits.
    pub fn close(&mut self) -> Vec<R> {
        self.is_closed = true;
        self.waiting = 0;
        let waiting = self.known.values_mut().flat_map(|live| std::mem::take(&mut live.waiting));
        waiting.map(|waiting| waiting.request).collect()
    }

    /// Takes no more; what waits goes on.
    pub fn refuse_new(&mut self) {
        self.is_closed = true;
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.waiting == 0
    }

    /// The sequences that have a slot.
    #[must_use]
    pub fn live(&self) -> usize {
        self.slots
    }

    fn end_idle(&mut self, now: Instant) {
        let max_idle = self.limits.max_idle;
        let is_over = |live: &Live<R, S>| {
            live.has_slot && !live.is_running && live.waiting.is_empty() && live.last + max_idle <= now
        };
        let over: Vec<SequenceId> =
            self.known.iter().filter(|(_, live)| is_over(live)).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.forget(&id);
        }
    }

    /// Forgets a sequence none of whose requests ever ran or waits.
    fn forget_if_nothing(&mut self, id: &SequenceId) {
        let is_nothing = |live: &Live<R, S>| live.waiting.is_empty() && !live.has_slot && !live.is_running;
        if self.known.get(id).is_some_and(is_nothing) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: &SequenceId) {
        let Some(live) = self.known.remove(id) else { return };
        if live.has_slot {
            self.slots -= 1;
        } else {
            self.without_slot.retain(|other| other != id);
        }
    }
}

#[cfg(test)]
mod tests;
