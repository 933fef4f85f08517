//! One thread that looks at a queue when its earliest deadline passes.
//!
//! An instance that becomes free expires what is late by itself; the timer is for queues whose instances are all
//! busy. A queue arms it with its earliest deadline only when that is earlier than what is armed already, so that
//! with equal timeouts a thousand requests arm it once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Shared, State};
use crate::error::{Error, Result};

/// Wakes queues at their deadlines. One for each server; its thread ends when it is dropped.
pub struct Timer {
    alarms: Arc<Alarms>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// A forked child has this value but not its thread.
    process: u32,
}

struct Alarms {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Default)]
struct AlarmState {
    /// One entry for each time that a queue's earliest deadline became earlier; it stays until that time, 300 s at most.
    heap: BinaryHeap<Alarm>,
    stopped: bool,
}

struct Alarm(Reverse<Instant>, Weak<dyn Alarmed>);

/// What is told that its moment has come.
pub(crate) trait Alarmed: Send + Sync {
    /// Answers what is due and arms its next moment.
    fn ring(self: Arc<Self>);
}

impl Alarmed for Shared {
    fn ring(self: Arc<Self>) {
        ring(&self);
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl Timer {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind) when it cannot be started.
    pub fn start() -> Result<Arc<Self>> {
        let alarms = Arc::new(Alarms { state: Mutex::default(), changed: Condvar::new() });
        let thread = {
            let alarms = Arc::clone(&alarms);
            std::thread::Builder::new().name("axon-timer".to_owned()).spawn(move || wait(&alarms))
        };
        let thread = thread.map_err(Error::internal)?;
        Ok(Arc::new(Self { alarms, thread: Mutex::new(Some(thread)), process: std::process::id() }))
    }

    /// Tells `queue` at `at`, if it is still there.
    pub(crate) fn wake_at(&self, at: Instant, queue: Weak<dyn Alarmed>) {
        let mut state = self.alarms.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = state.heap.peek().is_none_or(|alarm| at < alarm.0.0);
        state.heap.push(Alarm(Reverse(at), queue));
        drop(state);
        if earliest {
            self.alarms.changed.notify_one();
        }
    }

    /// How many alarms are set.
    #[cfg(test)]
    pub(super) fn alarms(&self) -> usize {
        self.alarms.state.lock().unwrap_or_else(PoisonError::into_inner).heap.len()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // Not even detached: the child may have a thread of its own at the same address.
            std::mem::forget(self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            return;
        }
        self.alarms.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.alarms.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last queue may be dropped by the timer's own thread, which cannot join itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn wait(alarms: &Alarms) {
    let mut state = alarms.state.lock().unwrap_or_else(PoisonError::into_inner);
    while !state.stopped {
        let now = Instant::now();
        let Some(next) = state.heap.peek().map(|alarm| alarm.0.0) else {
            state = alarms.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        if next > now {
            let wait = next - now;
            state = alarms.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let queue = state.heap.pop().and_then(|alarm| alarm.1.upgrade());
        drop(state);
        if let Some(queue) = queue {
            queue.ring();
        }
        state = alarms.state.lock().unwrap_or_else(PoisonError::into_inner);
    }
}

/// Answers what has expired and arms the next deadline.
pub(super) fn ring(shared: &Arc<Shared>) {
    let now = Instant::now();
    let mut state = shared.lock();
    // A later moment that is armed stays so: armed again with every alarm before it, it would fill the heap.
    state.armed.take_if(|armed| *armed <= now);
    let action = state.batcher.poll(now, false);
    arm(shared, &mut state);
    shared.tell_if_quiet(&state);
    drop(state);
    shared.refuse(action.expired, action.shed, now);
}

/// Arms the timer with the earliest deadline of a queue that has to wait.
pub(super) fn arm(shared: &Arc<Shared>, state: &mut State) {
    let Some(deadline) = state.batcher.next_wake(Instant::now()) else { return };
    if state.armed.is_none_or(|armed| deadline < armed) {
        state.armed = Some(deadline);
        let queue: Arc<dyn Alarmed> = Arc::<Shared>::clone(shared);
        shared.timer.wake_at(deadline, Arc::downgrade(&queue));
    }
}
