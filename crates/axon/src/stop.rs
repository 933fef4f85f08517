//! Stops a run that nobody waits for any more.
//!
//! Whoever knows that trips the signal; whoever runs waits on it, watches it, or leaves word how its run is ended. A
//! signal is for one run: once tripped it stays so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type End = Box<dyn Fn() + Send>;

/// Whether a run is to stop.
#[derive(Default)]
pub struct StopSignal {
    is_tripped: AtomicBool,
    /// How the present run is ended.
    end: Mutex<Option<End>>,
    changed: Condvar,
}

impl StopSignal {
    /// Stops the run that is under way, and any that begins later.
    pub fn trip(&self) {
        let end = self.lock();
        self.is_tripped.store(true, Ordering::Release);
        // Under the lock: a run that is over has taken its word back before it frees what the word is about.
        if let Some(end) = &*end {
            end();
        }
        self.changed.notify_all();
    }

    /// True from [`StopSignal::trip`] on.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.is_tripped.load(Ordering::Acquire)
    }

    /// Waits for `duration`, less when the signal is tripped; true when it is.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        let waiting = |_: &mut Option<End>| !self.is_tripped();
        drop(self.changed.wait_timeout_while(self.lock(), duration, waiting));
        self.is_tripped()
    }

    /// Runs `run`; when the signal is tripped meanwhile, or was before, `end` is called, at once and from any thread.
    pub fn watch<T>(&self, end: impl Fn() + Send + 'static, run: impl FnOnce() -> T) -> T {
        {
            let mut slot = self.lock();
            if self.is_tripped() {
                end();
            }
            *slot = Some(Box::new(end));
        }
        let _watched = Watched(self);
        run()
    }

    fn lock(&self) -> MutexGuard<'_, Option<End>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes back how a run is ended, also when it panics.
struct Watched<'a>(&'a StopSignal);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn whoever_waits_is_woken() {
        let signal = Arc::new(StopSignal::default());
        assert!(!signal.wait(Duration::ZERO));
        let waiting = {
            let signal = Arc::clone(&signal);
            std::thread::spawn(move || signal.wait(Duration::from_secs(600)))
        };
        signal.trip();
        assert!(waiting.join().unwrap());
        assert!(signal.wait(Duration::from_secs(600)), "what is tripped stays so");
    }

    #[test]
    fn a_run_is_ended_when_it_is_tripped_while_it_runs_or_was_before() {
        let (ended, endings) = channel();
        let signal = StopSignal::default();
        let end = |ended: &std::sync::mpsc::Sender<()>| {
            let ended = ended.clone();
            move || ended.send(()).unwrap()
        };
        signal.watch(end(&ended), || ());
        signal.watch(end(&ended), || signal.trip());
        assert_eq!(endings.try_iter().count(), 1, "a run that is over is not ended");
        signal.watch(end(&ended), || assert_eq!(endings.try_iter().count(), 1));
        signal.trip();
        assert_eq!(endings.try_iter().count(), 0);
    }
}
