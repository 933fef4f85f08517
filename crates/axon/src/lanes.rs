//! Lets the models on one device run in turn: no more at once than it has lanes, each its share, none for longer than
//! the others can wait.
//!
//! A lane is a core, or a device that runs one batch at a time. [`Arbiter`] decides and is pure; `simulation` drives it
//! with virtual time. [`Lanes`] puts it behind a lock for the instances' threads. An instance takes its lane before its
//! batch is formed, so that the batch is formed only when it can start, and gives it back when its run has ended.
//!
//! A model that has the device to itself, with lanes for all of its instances, takes none: one load of an atomic tells.
//! What runs then when another model comes is not counted; that lasts for one run.
//!
//! There is no deadlock. A model's lock may be held when the device's is taken, never the other way round, and never
//! those of two models: who is called is returned as [`Calls`], which are made when no lock is held. A call wakes an
//! instance, and every claim has an idle one behind it; it takes the lane, or finds its work gone and withdraws, which
//! calls the next. A lane comes back when its run ends, when [`Lane`] is dropped, and is not counted once the run is
//! long overdue; who waits looks again then.
//!
//! Invariants: those of [`Arbiter`]; a [`Lane`] is given back once; a [`Seat`] that is dropped leaves no claim.

mod arbiter;
mod demand;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::batcher::{Cap, Class, Outlook, Surroundings};

#[cfg(test)]
pub(crate) use arbiter::planted;
pub use arbiter::{Arbiter, RunId, SeatId, Terms};

/// Wakes an idle instance of a model. Called while no lock is held.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// The lanes of one device, and the models on it.
pub struct Lanes {
    state: Mutex<State>,
    /// As [`Arbiter::is_contended`].
    contended: AtomicBool,
    #[cfg(test)]
    locks: std::sync::atomic::AtomicUsize,
}

struct State {
    arbiter: Arbiter,
    wakers: BTreeMap<SeatId, Waker>,
}

/// Instances to be woken, when no lock is held.
#[must_use = "whoever is called and not woken holds a lane for nothing"]
#[derive(Default)]
pub struct Calls(Vec<Waker>);

impl Calls {
    /// True when there is nobody to wake.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Wakes them.
    pub fn make(self) {
        for wake in self.0 {
            wake();
        }
    }
}

/// What an instance may do.
pub struct Turn {
    /// The lane on which it may run, where it may.
    pub lane: Option<Lane>,
    /// Whom else to wake.
    pub calls: Calls,
    /// When to ask again if nothing else happens.
    pub again: Option<Instant>,
}

/// How a model stands on its device, for people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The lanes of the device.
    pub lanes: usize,
    /// Whether models may have to wait for one another.
    pub is_contended: bool,
    /// The model's part of the device's time against those of the others.
    pub weight: u32,
    /// The part of its instances that it can count on, more than 0 to 1.
    pub share: f64,
    /// The longest run that the others leave it.
    pub cap: Option<Duration>,
}

impl Lanes {
    /// Of a device with `lanes` lanes; without them, `least`, and never fewer than one model alone uses.
    #[must_use]
    pub fn new(lanes: Option<NonZeroUsize>, least: NonZeroUsize) -> Arc<Self> {
        let arbiter = Arbiter::new(lanes.map(NonZeroUsize::get), least.get());
        Arc::new(Self {
            state: Mutex::new(State { arbiter, wakers: BTreeMap::new() }),
            contended: AtomicBool::new(false),
            #[cfg(test)]
            locks: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// A model comes to the device, until what is returned is dropped.
    #[must_use]
    pub fn join(self: &Arc<Self>, terms: Terms, wake: Waker) -> Seat {
        let mut state = self.lock();
        let id = state.arbiter.join(terms);
        state.wakers.insert(id, wake);
        self.contended.store(state.arbiter.is_contended(), Ordering::Release);
        Seat { lanes: Arc::clone(self), id, weight: terms.weight }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        #[cfg(test)]
        self.locks.fetch_add(1, Ordering::Relaxed);
        // Plain data, as the batcher's: going on is worth more than failing every model.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the device's lock was taken.
    #[cfg(test)]
    pub(crate) fn locks(&self) -> usize {
        self.locks.load(Ordering::Relaxed)
    }
}

impl State {
    /// Calls whoever may run now; `true` with it when `seat` is among them.
    fn call(&mut self, seat: Option<SeatId>, now: Instant) -> (bool, Calls) {
        let called = self.arbiter.call(now);
        let is_called = seat.is_some_and(|seat| called.contains(&seat));
        let others = called.into_iter().filter(|&other| Some(other) != seat);
        let calls = others.filter_map(|other| self.wakers.get(&other).map(Arc::clone)).collect();
        (is_called, Calls(calls))
    }
}

/// A model on the device. Dropped, it is gone.
pub struct Seat {
    lanes: Arc<Lanes>,
    id: SeatId,
    weight: u32,
}

impl Seat {
    /// True when the model has to ask before it runs.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.lanes.contended.load(Ordering::Acquire)
    }

    /// An instance is idle and would run `outlook`, after its run on `ended`; `None` when it has nothing to run.
    pub fn turn(&self, ended: Option<Lane>, outlook: Option<Outlook>, now: Instant) -> Turn {
        let mut state = self.lanes.lock();
        if let Some(run) = ended.and_then(Lane::into_run) {
            state.arbiter.finish(run, now);
        }
        state.arbiter.claim(self.id, outlook, now);
        let (_, calls) = state.call(Some(self.id), now);
        let class = outlook.map_or(1, |outlook| outlook.class);
        let lane = state.arbiter.take(self.id, now).map(|run| Lane {
            lanes: Arc::clone(&self.lanes),
            run: Some(run),
            cap: Cap { class, run: state.arbiter.cap(self.id, class, now) },
        });
        Turn { lane, calls, again: state.arbiter.next_wake(now) }
    }

    /// An idle instance would run `outlook`; true when one of this model's is to be woken.
    pub fn claim(&self, outlook: Option<Outlook>, now: Instant) -> (bool, Calls) {
        let mut state = self.lanes.lock();
        state.arbiter.claim(self.id, outlook, now);
        state.call(Some(self.id), now)
    }

    /// What the model may count on for a request of `class` that must start at `latest`.
    #[must_use]
    pub fn surroundings(&self, class: Class, latest: Instant, now: Instant) -> Surroundings {
        self.lanes.lock().arbiter.surroundings(self.id, class, latest, now)
    }

    /// A request was accepted that is to be answered within `limit` and takes `seconds` of a lane.
    pub fn heard(&self, class: Class, limit: Duration, seconds: f64, now: Instant) {
        self.lanes.lock().arbiter.heard(self.id, class, (limit, seconds), now);
    }

    /// How the model stands at `now`, for requests of the most urgent class.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        let state = self.lanes.lock();
        let arbiter = &state.arbiter;
        let is_contended = arbiter.is_contended();
        Standing {
            lanes: arbiter.lanes(),
            is_contended,
            weight: self.weight,
            share: if is_contended { arbiter.share(self.id, now) } else { 1.0 },
            cap: arbiter.cap(self.id, 1, now),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.lanes.lock();
        state.arbiter.leave(self.id);
        state.wakers.remove(&self.id);
        self.lanes.contended.store(state.arbiter.is_contended(), Ordering::Release);
        let (_, calls) = state.call(None, Instant::now());
        drop(state);
        calls.make();
    }
}

/// A lane that is held for a run. Dropped while no lock is held, it is given back.
pub struct Lane {
    lanes: Arc<Lanes>,
    run: Option<RunId>,
    cap: Cap,
}

impl Lane {
    /// How long the run may take.
    #[must_use]
    pub fn cap(&self) -> Cap {
        self.cap
    }

    /// Its run, for whoever gives it back.
    fn into_run(mut self) -> Option<RunId> {
        self.run.take()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let Some(run) = self.run.take() else { return };
        let now = Instant::now();
        let mut state = self.lanes.lock();
        state.arbiter.finish(run, now);
        let (_, calls) = state.call(None, now);
        drop(state);
        calls.make();
    }
}
