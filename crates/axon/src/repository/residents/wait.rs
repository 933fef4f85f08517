//! Callers that wait for a model, each until his own deadline.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::refusal::{coming, overloaded};
use super::{Desk, MAX_WAITERS};
use crate::error::Result;
use crate::residency::Wish;

/// Somebody who waits.
pub(in crate::repository) struct Waiter {
    until: Instant,
    wish: Wish,
    answer: oneshot::Sender<Result<()>>,
}

/// What becomes of a caller who wants a model.
pub(in crate::repository) enum Wanted {
    /// The model is there.
    Ready,
    /// It comes, or this says why not.
    Wait(oneshot::Receiver<Result<()>>),
}

impl Desk {
    pub(super) fn wait(&mut self, name: &str, wish: Wish, until: Instant) -> Result<Wanted> {
        if self.waiting >= MAX_WAITERS {
            self.forget_the_gone();
        }
        if self.waiting >= MAX_WAITERS {
            return Err(overloaded(name, Duration::from_secs(1)));
        }
        let (answer, receiver) = oneshot::channel();
        self.waiters.entry(name.to_owned()).or_default().push(Waiter { until, wish, answer });
        self.waiting += 1;
        Ok(Wanted::Wait(receiver))
    }

    /// Callers that have gone away wait no more.
    fn forget_the_gone(&mut self) {
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.answer.is_closed());
            !waiters.is_empty()
        });
        self.waiting = self.waiters.values().map(Vec::len).sum();
    }

    /// Answers all that wait for a model.
    pub(super) fn answer(&mut self, name: &str, answer: &Result<()>) {
        let waiters = self.waiters.remove(name).unwrap_or_default();
        self.waiting -= waiters.len();
        for waiter in waiters {
            // One that has gone away does not want it any more.
            let _ = waiter.answer.send(answer.clone());
        }
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.waiters.values().flatten().map(|waiter| waiter.until).min()
    }

    /// The operator's, if he is among those that wait.
    pub(super) fn strongest_wish(&self, name: &str) -> Wish {
        let mut waiters = self.waiters.get(name).into_iter().flatten();
        if waiters.any(|waiter| waiter.wish == Wish::Operator) { Wish::Operator } else { Wish::Request }
    }

    /// Refuses those that will not wait as long as a model is foretold to take.
    pub(super) fn dismiss_hasty(&mut self, name: &str, ready_in: Duration, now: Instant) {
        self.dismiss(name, |waiter| now + ready_in > waiter.until, ready_in);
    }

    /// Refuses those whose time is over.
    pub(super) fn expire_waiters(&mut self, now: Instant) {
        let is_over = |waiter: &Waiter| waiter.until <= now;
        let late: Vec<String> = self
            .waiters
            .iter()
            .filter(|(_, waiters)| waiters.iter().any(is_over))
            .map(|(name, _)| name.clone())
            .collect();
        for name in late {
            let ready_in = self.ids.get(&name).map(|&id| self.residency.ready_in(id, now));
            self.dismiss(&name, is_over, ready_in.unwrap_or(Duration::from_secs(1)));
        }
    }

    fn dismiss(&mut self, name: &str, is_out: impl Fn(&Waiter) -> bool, ready_in: Duration) {
        let waiters = self.waiters.remove(name).unwrap_or_default();
        let (out, left): (Vec<_>, Vec<_>) = waiters.into_iter().partition(is_out);
        self.waiting -= out.len();
        for waiter in out {
            let _ = waiter.answer.send(Err(coming(name, ready_in)));
        }
        if !left.is_empty() {
            self.waiters.insert(name.to_owned(), left);
        }
    }
}
