//! What a model's instances and callers ask of the device that other models use too.
//!
//! Called with the model's lock held; what is returned is called when it is not. A model alone on its device asks for
//! nothing.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{BatchKey, Pending, Shared, State};
use crate::batcher::{Class, Surroundings, Waiting};
use crate::lanes::{Calls, Lane, Turn, Waker};

/// What an instance does next.
pub(super) struct Decision {
    /// The lane that it runs on, where lanes are counted.
    pub lane: Option<Lane>,
    /// Whether a batch may be formed.
    pub may_run: bool,
    /// Other models' instances that may run now.
    pub calls: Calls,
    /// When to ask again if nothing else happens.
    pub again: Option<Instant>,
}

/// Gives back the lane `ended`, and asks for one where the instance has something to run.
pub(super) fn ask(shared: &Shared, state: &mut State, ended: Option<Lane>, now: Instant) -> Decision {
    let is_contended = shared.seat.is_contended();
    if !is_contended && ended.is_none() && !state.is_claiming {
        return Decision { lane: None, may_run: true, calls: Calls::default(), again: None };
    }
    let outlook = if is_contended { state.batcher.outlook(now) } else { None };
    let Turn { lane, calls, again } = shared.seat.turn(ended, outlook, now);
    state.is_claiming = outlook.is_some() && lane.is_none();
    Decision { may_run: lane.is_some() || !is_contended, lane, calls, again }
}

/// Wakes an idle instance for what waits, once it may run.
pub(super) fn wake(shared: &Shared, state: &mut State, now: Instant) -> Calls {
    let outlook = if shared.seat.is_contended() { state.batcher.outlook(now) } else { None };
    if outlook.is_none() {
        // A lane is not needed, or nothing is ripe: the instance sees to that.
        shared.work.notify_one();
        return Calls::default();
    }
    let (is_called, calls) = shared.seat.claim(outlook, now);
    // The first to claim has an instance ask for itself too, which then waits no longer than a run may be overdue.
    if is_called || !state.is_claiming {
        shared.work.notify_one();
    }
    state.is_claiming = true;
    calls
}

/// Wakes an idle instance of a model that is called.
pub(super) fn waker(shared: &Weak<Shared>) -> Waker {
    let shared = Weak::clone(shared);
    Arc::new(move || {
        if let Some(shared) = shared.upgrade() {
            // An instance that has just claimed holds the lock until it waits: it does not miss the call.
            drop(shared.lock());
            shared.work.notify_one();
        }
    })
}

/// What a request asks of the device.
pub(super) struct Asked(Option<(Class, Duration, f64)>);

/// Tells the batcher what it may count on for a request that comes.
pub(super) fn look_around(
    shared: &Shared,
    state: &mut State,
    request: &Waiting<BatchKey, Pending>,
    now: Instant,
) -> Asked {
    let batcher = &mut state.batcher;
    if !shared.seat.is_contended() {
        batcher.surround(Surroundings::default());
        return Asked(None);
    }
    let Waiting { class, rows, deadline, .. } = *request;
    let run = batcher.estimator_of(&request.key).bound(rows, now);
    let latest = deadline.checked_sub(run).unwrap_or(now);
    batcher.surround(shared.seat.surroundings(class, latest, now));
    let seconds = batcher.work_of_row() * rows as f64;
    Asked(Some((class, deadline.saturating_duration_since(now), seconds)))
}

impl Asked {
    /// The request was accepted.
    pub(super) fn accepted(self, shared: &Shared, now: Instant) {
        if let Some((class, limit, seconds)) = self.0 {
            shared.seat.heard(class, limit, seconds, now);
        }
    }
}
