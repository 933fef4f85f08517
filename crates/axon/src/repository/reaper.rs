//! Gives back what a model holds once its last lease is gone, on a thread of its own: joining instances and freeing a
//! session takes long, and the last lease may be dropped on an instance's thread or on an event loop.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synapse::Allocated;

use super::table::{Place, Table};
use crate::error::{Error, Result};
use crate::scheduler::Scheduler;

/// The thread. It ends, and has then given everything back, when this value is dropped.
pub(super) struct Reaper {
    pile: Arc<Pile>,
    thread: Option<JoinHandle<()>>,
    /// A forked child has this value but not its thread, and perhaps its lock as another thread held it.
    process: u32,
}

#[derive(Default)]
pub(super) struct Pile {
    state: Mutex<PileState>,
    changed: Condvar,
}

#[derive(Default)]
struct PileState {
    /// One for each loaded model whose last lease is gone, so there are never more than models were loaded.
    remains: VecDeque<Remains>,
    stopping: bool,
    /// The thread takes nothing more.
    ended: bool,
}

/// What is left of a model without leases, and whom to tell when it is gone.
struct Remains {
    scheduler: Arc<Scheduler>,
    table: Weak<Table>,
    place: Place,
}

impl Remains {
    fn give_back(self) {
        let Self { scheduler, table, place } = self;
        scheduler.close(Duration::ZERO);
        drop(scheduler);
        if let Some(table) = table.upgrade() {
            table.has_left(&place);
        }
    }
}

/// Memory that models have left with the allocator. It goes back to the system when nothing has been unloaded for a
/// moment, or when it is much: a model that comes instead may have it, without a page fault for each of its pages.
#[derive(Default)]
struct Freed {
    first: Option<Instant>,
    last: Option<Instant>,
    /// What was free in the allocator's heaps when it was least, since memory went back.
    least: u32,
}

/// How long nothing must have been unloaded.
const QUIET: Duration = Duration::from_millis(250);

/// The most bytes of freed memory that are kept.
const MOST: u32 = 48 << 20;

/// The longest that freed memory is kept.
const LONGEST: Duration = Duration::from_secs(1);

impl Freed {
    fn note(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// Whether more is kept than may be, now that `free` bytes are free in the heaps.
    fn is_much(&mut self, free: u32) -> bool {
        self.least = self.least.min(free);
        free - self.least > MOST
    }

    /// How long it is until it goes back; `None` when there is nothing.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let due = (self.last? + QUIET).min(self.first? + LONGEST);
        Some(due.saturating_duration_since(now))
    }

    fn trim(&mut self) {
        if self.last.is_some() {
            synapse::trim();
        }
        let least = Allocated::now().map_or(0, Allocated::free);
        *self = Self { least, ..Self::default() };
    }
}

impl Pile {
    fn lock(&self) -> MutexGuard<'_, PileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands `remains` to the thread; the caller keeps them when it has ended.
    fn push(&self, remains: Remains) -> Option<Remains> {
        let mut state = self.lock();
        if state.ended {
            return Some(remains);
        }
        state.remains.push_back(remains);
        self.changed.notify_one();
        None
    }

    fn run(&self) {
        let mut state = self.lock();
        let mut freed = Freed::default();
        loop {
            let wait = freed.wait(Instant::now());
            if wait.is_some_and(|wait| wait.is_zero()) || (state.stopping && state.remains.is_empty()) {
                drop(state);
                freed.trim();
                state = self.lock();
            }
            if let Some(remains) = state.remains.pop_front() {
                drop(state);
                remains.give_back();
                freed.note(Instant::now());
                if Allocated::now().is_some_and(|allocated| freed.is_much(allocated.free())) {
                    freed.trim();
                }
                state = self.lock();
            } else if state.stopping {
                state.ended = true;
                return;
            } else if let Some(wait) = freed.wait(Instant::now()) {
                state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Reaper {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind) when it cannot be started.
    pub fn start() -> Result<Self> {
        let pile = Arc::new(Pile::default());
        let thread = {
            let pile = Arc::clone(&pile);
            std::thread::Builder::new().name("axon-unloader".to_owned()).spawn(move || pile.run())
        };
        let thread = Some(thread.map_err(Error::internal)?);
        Ok(Self { pile, thread, process: std::process::id() })
    }

    /// What a model keeps, so that it ends here when its last lease is dropped.
    pub fn departure(&self, table: &Arc<Table>, place: Place, scheduler: &Arc<Scheduler>) -> Departure {
        let remains = Remains { scheduler: Arc::clone(scheduler), table: Arc::downgrade(table), place };
        Departure { pile: Arc::clone(&self.pile), remains: Some(remains), process: self.process }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // Not even detached: the child may have a thread of its own at the same address.
            std::mem::forget(self.thread.take());
            return;
        }
        self.pile.lock().stopping = true;
        self.pile.changed.notify_one();
        // What is given back may own the server, whose thread cannot join itself.
        let thread = self.thread.take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

/// Dropped with a model, which is when its last lease is dropped.
pub(super) struct Departure {
    pile: Arc<Pile>,
    remains: Option<Remains>,
    process: u32,
}

impl Drop for Departure {
    fn drop(&mut self) {
        // In a forked child the scheduler forgets its threads by itself, and the table's lock is not to be touched.
        if self.process != std::process::id() {
            return;
        }
        let refused = self.remains.take().and_then(|remains| self.pile.push(remains));
        if let Some(remains) = refused {
            remains.give_back();
            synapse::trim();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_after_a_quiet_moment_and_at_the_latest_after_a_second() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut freed = Freed::default();
        assert_eq!(freed.wait(start), None);
        freed.note(start);
        assert_eq!(freed.wait(at(100)), Some(Duration::from_millis(150)));
        for moment in [200, 400, 600, 800] {
            freed.note(at(moment));
        }
        assert_eq!(freed.wait(at(800)), Some(Duration::from_millis(200)));
        assert_eq!(freed.wait(at(1100)), Some(Duration::ZERO));
        freed.trim();
        assert_eq!(freed.wait(at(1100)), None);
    }

    #[test]
    fn no_more_than_so_much_is_kept() {
        let mut freed = Freed { least: 100, ..Freed::default() };
        assert!(!freed.is_much(100 + MOST));
        assert!(freed.is_much(101 + MOST));
        assert!(!freed.is_much(50), "a model has taken some of what had gone back");
        assert!(freed.is_much(51 + MOST));
    }
}
