//! Who waits for a run, so that a run for nobody is stopped.
//!
//! Waits → in a run → in another run, when that one failed → gone. A caller may go at any point; the last one to leave
//! a run stops it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::stop::StopSignal;

/// The caller of one request.
#[derive(Default)]
pub(super) struct Caller(Mutex<Standing>);

#[derive(Default)]
enum Standing {
    #[default]
    Waits,
    In(Arc<Attendance>),
    Gone,
}

impl Caller {
    /// Does not wait any more.
    pub fn leave(&self) {
        let before = std::mem::replace(&mut *self.lock(), Standing::Gone);
        if let Standing::In(run) = before {
            run.leave();
        }
    }

    /// True from [`Caller::leave`] on.
    pub fn has_left(&self) -> bool {
        matches!(*self.lock(), Standing::Gone)
    }

    /// Waits for `run` from now on; false when the caller has left.
    pub fn join(&self, run: &Arc<Attendance>) -> bool {
        let mut standing = self.lock();
        if matches!(*standing, Standing::Gone) {
            return false;
        }
        run.waiting.fetch_add(1, Ordering::AcqRel);
        *standing = Standing::In(Arc::clone(run));
        true
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run and how many wait for it.
pub(super) struct Attendance {
    waiting: AtomicUsize,
    pub stop: StopSignal,
}

impl Attendance {
    /// The instance itself waits until all callers have joined, so that the run is not stopped by the first of them.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { waiting: AtomicUsize::new(1), stop: StopSignal::default() })
    }

    /// One less waits; the last one stops the run.
    pub fn leave(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop.trip();
        }
    }
}

/// What the instances of a scheduler run at present.
pub(super) struct Runs(Mutex<Present>);

struct Present {
    /// By instance.
    runs: Vec<Option<Arc<Attendance>>>,
    is_stopped: bool,
}

impl Runs {
    /// For so many instances, none of which runs.
    pub fn new(instances: usize) -> Self {
        let runs = std::iter::repeat_with(|| None).take(instances).collect();
        Self(Mutex::new(Present { runs, is_stopped: false }))
    }

    /// What `instance` runs from now on.
    pub fn set(&self, instance: usize, run: Option<&Arc<Attendance>>) {
        let mut present = self.lock();
        if let (true, Some(run)) = (present.is_stopped, run) {
            run.stop.trip();
        }
        if let Some(slot) = present.runs.get_mut(instance) {
            *slot = run.map(Arc::clone);
        }
    }

    /// How many instances run something.
    pub fn count(&self) -> usize {
        self.lock().runs.iter().flatten().count()
    }

    /// Stops what runs, and whatever begins later.
    pub fn stop(&self) {
        let mut present = self.lock();
        present.is_stopped = true;
        for run in present.runs.iter().flatten() {
            run.stop.trip();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
