//! Answers callers, each once; in the order in which their requests were accepted where the model's owner asks for that.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::attendance::Caller;
use super::load::Refusals;
use super::refused::held_too_long;
use super::{Output, Refusal, Reply};
use crate::batcher::{Leaves, Order};
use crate::error::{Error, Result};

/// A reply that is given even when it is forgotten: dropped unused, it answers with an internal error.
pub(super) struct ReplyOnce {
    reply: Option<Reply>,
    /// Its place in the order, where answers have one.
    turn: Option<Turn>,
}

impl ReplyOnce {
    pub(super) fn new(reply: Reply, turn: Option<Turn>) -> Self {
        Self { reply: Some(reply), turn }
    }

    /// Answers: an error at once, an answer when its turn comes.
    pub(super) fn send(mut self, answer: Result<Output>) {
        match (self.turn.take(), answer) {
            (Some(turn), Ok(output)) => {
                if let Some(reply) = self.reply.take() {
                    turn.answer(reply, output);
                }
            }
            (turn, answer) => {
                self.give(answer);
                drop(turn);
            }
        }
    }

    fn give(&mut self, answer: Result<Output>) {
        if let Some(reply) = self.reply.take() {
            give(reply, answer);
        }
    }

    /// For a request that was never accepted, or whose caller has gone.
    pub(super) fn forget(mut self) {
        self.reply = None;
    }
}

impl Drop for ReplyOnce {
    fn drop(&mut self) {
        self.give(Err(Error::internal("a request was dropped without an answer")));
    }
}

fn give(reply: Reply, answer: Result<Output>) {
    // A caller's callback that panics must not take the instance with it.
    if std::panic::catch_unwind(AssertUnwindSafe(|| reply(answer))).is_err() {
        tracing::error!("the callback of a request panicked");
    }
}

/// An answer that is held until its turn comes.
struct Held {
    reply: Reply,
    output: Output,
    caller: Arc<Caller>,
}

/// The answers of a model that leave in order. At most `max_queue_size` are held: see [`Answers::open`].
pub(super) struct Answers {
    state: Mutex<State>,
    refusals: Arc<Refusals>,
    most_held: usize,
}

#[derive(Default)]
struct State {
    order: Order<Held>,
    /// A thread gives what is ready; others leave it to that one, so that nothing overtakes.
    is_giving: bool,
}

/// A request's place in the order. Dropped, it holds up nobody any more.
pub(super) struct Turn {
    answers: Arc<Answers>,
    caller: Arc<Caller>,
    number: u64,
    deadline: Instant,
    /// The order has its answer, and keeps its place.
    is_answered: bool,
}

impl Turn {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn answer(mut self, reply: Reply, output: Output) {
        self.is_answered = true;
        let caller = Arc::clone(&self.caller);
        let unwanted = self.answers.lock().order.answer(
            self.number,
            self.deadline,
            Held { reply, output, caller },
            Instant::now(),
        );
        // Its caller has taken it back: nobody hears it. Dropped when nothing is locked.
        drop(unwanted);
        self.answers.give_ready();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answers.leave(self.number);
        }
    }
}

impl Answers {
    pub(super) fn new(refusals: Arc<Refusals>, most_held: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), refusals, most_held })
    }

    /// A place behind all that have one; `None` when too many answers are held already. Called with the model's lock held,
    /// so that the order is that of the queue.
    pub(super) fn open(self: &Arc<Self>, caller: &Arc<Caller>, deadline: Instant) -> Option<Turn> {
        let mut state = self.lock();
        if state.order.held() >= self.most_held {
            return None;
        }
        let number = state.order.open();
        Some(Turn {
            answers: Arc::clone(self),
            caller: Arc::clone(caller),
            number,
            deadline,
            is_answered: false,
        })
    }

    pub(super) fn most_held(&self) -> usize {
        self.most_held
    }

    /// A request will not be answered.
    pub(super) fn leave(&self, number: u64) {
        // Dropped when nothing is locked: with it a lease on the model may end.
        let gone = self.lock().order.vacate(number);
        drop(gone);
        self.give_ready();
    }

    /// Gives up what is held and whose deadline has passed.
    pub(super) fn expire(&self, now: Instant) {
        self.lock().order.expire(now);
        self.give_ready();
    }

    /// How many are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lock().order.held()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lock().order.next_deadline()
    }

    fn give_ready(&self) {
        let mut state = self.lock();
        if state.is_giving {
            return;
        }
        state.is_giving = true;
        while let Some(next) = state.order.pop() {
            drop(state);
            self.give_one(next);
            state = self.lock();
        }
        state.is_giving = false;
    }

    fn give_one(&self, next: Leaves<Held>) {
        let (Leaves::InTurn(held) | Leaves::TooLate(held)) = &next;
        if held.caller.has_left() {
            return;
        }
        match next {
            Leaves::InTurn(Held { reply, output, .. }) => give(reply, Ok(output)),
            Leaves::TooLate(Held { reply, .. }) => {
                self.refusals.add(Refusal::Late);
                give(reply, Err(held_too_long()));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
