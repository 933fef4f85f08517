//! Who may change which model when: one change of a model at a time, few loads at once, a bounded crowd that waits.
//!
//! A load that comes while the same load of the same model is under way does nothing itself and gets that one's answer.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::source::Stamps;
use crate::error::{Echo, Error, ErrorKind, Result};

/// The most models that are loaded at once. A load measures how fast its model runs, so more would disturb each
/// other; with one, a model on a slow disk would hold up all others.
pub(super) const PARALLEL_LOADS: usize = 2;

/// The most calls that wait, for their turn or for the answer of the same load; one more is refused.
pub(super) const MAX_WAITING: usize = 128;

/// What is done to a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is loaded from the repository. Two that are equal are the same load.
    Load {
        /// Used instead of the repository's configuration.
        config: Option<String>,
        /// The files as the caller found them: one who has changed a file does not get the answer of a load that may
        /// have read it before. `None` when they are too many, and is then the same as nothing.
        seen: Option<Stamps>,
    },
    /// It is loaded from files that came with the call; never the same as another.
    LoadFiles,
    /// It is unloaded.
    Unload,
}

impl Change {
    fn is_load(&self) -> bool {
        !matches!(self, Self::Unload)
    }

    fn is_same_load(&self, other: &Self) -> bool {
        matches!(self, Self::Load { seen: Some(_), .. }) && self == other
    }
}

/// A change that is under way or about to be.
struct Flight {
    change: Change,
    /// Set once, when it has left the list.
    answer: OnceLock<Result<()>>,
}

#[derive(Default)]
struct State {
    /// By model.
    flights: BTreeMap<String, Arc<Flight>>,
    /// Of these, the loads that have begun.
    loading: usize,
    waiting: usize,
    closed: bool,
}

/// The changes of one server's models.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

impl Turns {
    /// Does `work` as the one change of model `name`, or waits for the answer of the same load. Blocks.
    ///
    /// # Errors
    /// What the work says; [`ErrorKind::Overloaded`] when too many wait, [`ErrorKind::ShuttingDown`] once closed.
    pub fn take(&self, name: &str, change: Change, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let flight = {
            let mut state = self.lock();
            loop {
                if state.closed {
                    return Err(Error::shutting_down());
                }
                match state.flights.get(name) {
                    None => break,
                    Some(flight) if flight.change.is_same_load(&change) => {
                        let flight = Arc::clone(flight);
                        return self.join(state, name, &flight);
                    }
                    Some(_) => state = self.wait(state, name)?,
                }
            }
            let flight = Arc::new(Flight { change, answer: OnceLock::new() });
            state.flights.insert(name.to_owned(), Arc::clone(&flight));
            flight
        };
        let answer = self.in_a_slot(&flight.change, name, work);
        let mut state = self.lock();
        state.flights.remove(name);
        let _ = flight.answer.set(answer.clone());
        drop(state);
        self.changed.notify_all();
        answer
    }

    fn in_a_slot(&self, change: &Change, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if change.is_load() {
            let mut state = self.lock();
            while state.loading >= PARALLEL_LOADS && !state.closed {
                state = self.wait(state, name)?;
            }
            if state.closed {
                return Err(Error::shutting_down());
            }
            state.loading += 1;
        }
        let answer = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Error::internal("the load or unload of a model panicked; the hook has logged it"))
        });
        if change.is_load() {
            self.lock().loading -= 1;
        }
        answer
    }

    fn join<'a>(&'a self, mut state: MutexGuard<'a, State>, name: &str, flight: &Flight) -> Result<()> {
        loop {
            if let Some(answer) = flight.answer.get() {
                return answer.clone();
            }
            state = self.wait(state, name)?;
        }
    }

    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, name: &str) -> Result<MutexGuard<'a, State>> {
        if state.waiting >= MAX_WAITING {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "model {}: {MAX_WAITING} loads and unloads wait already, which is the most",
                    Echo(name)
                ),
            )
            .with_retry_after(Duration::from_secs(1)));
        }
        state.waiting += 1;
        let mut state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        Ok(state)
    }

    /// Refuses what has not begun.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until nothing is under way, for `limit` at most; false when something still is.
    pub fn wait_for_none(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while !state.flights.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The calls that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    fn load() -> Change {
        Change::Load { config: None, seen: Some(Stamps::new()) }
    }

    /// A change of `name` that has begun and ends with what is sent.
    fn begin(turns: &Arc<Turns>, name: &'static str, change: Change) -> Sender<Result<()>> {
        let (begun, has_begun) = channel();
        let (end, ends): (_, Receiver<Result<()>>) = channel();
        let turns = Arc::clone(turns);
        std::thread::spawn(move || {
            turns.take(name, change, || {
                begun.send(()).unwrap();
                ends.recv().unwrap()
            })
        });
        has_begun.recv().unwrap();
        end
    }

    fn wait_for(turns: &Turns, condition: impl Fn(&State) -> bool) {
        while !condition(&turns.lock()) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn fifty_calls_for_one_load_are_one_load_with_one_answer() {
        let turns = Arc::new(Turns::default());
        let end = begin(&turns, "m", load());
        let loads = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let (turns, loads) = (Arc::clone(&turns), Arc::clone(&loads));
                std::thread::spawn(move || {
                    turns.take("m", load(), || {
                        loads.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    })
                })
            })
            .collect();
        wait_for(&turns, |state| state.waiting == 50);
        end.send(Err(Error::new(ErrorKind::InvalidModel, "broken"))).unwrap();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap_err().message(), "broken");
        }
        assert_eq!(loads.load(Ordering::Relaxed), 0);
        assert!(turns.take("m", load(), || Ok(())).is_ok(), "the next load is a load again");
    }

    #[test]
    fn loads_of_files_that_nobody_has_compared_are_not_the_same() {
        let turns = Arc::new(Turns::default());
        let untold = || Change::Load { config: None, seen: None };
        let end = begin(&turns, "m", untold());
        let second = {
            let turns = Arc::clone(&turns);
            std::thread::spawn(move || turns.take("m", untold(), || Ok(())))
        };
        wait_for(&turns, |state| state.waiting == 1);
        end.send(Err(Error::new(ErrorKind::InvalidModel, "broken"))).unwrap();
        assert!(second.join().unwrap().is_ok(), "it has its own answer");
    }

    #[test]
    fn changes_of_one_model_take_turns_and_another_model_does_not_wait() {
        let turns = Arc::new(Turns::default());
        let end = begin(&turns, "m", load());
        let others = [
            Change::Unload,
            Change::LoadFiles,
            Change::Load { config: Some("{}".to_owned()), seen: Some(Stamps::new()) },
        ]
        .map(|change| {
            let turns = Arc::clone(&turns);
            std::thread::spawn(move || turns.take("m", change, || Ok(())))
        });
        wait_for(&turns, |state| state.waiting == 3);
        assert!(turns.take("other", load(), || Ok(())).is_ok());
        end.send(Ok(())).unwrap();
        for other in others {
            assert!(other.join().unwrap().is_ok());
        }
        assert!(turns.wait_for_none(Duration::ZERO));
    }

    #[test]
    fn no_more_models_are_loaded_at_once_than_the_bound() {
        let turns = Arc::new(Turns::default());
        let [first, second] = ["a", "b"].map(|name| begin(&turns, name, load()));
        assert_eq!(PARALLEL_LOADS, 2);
        let third = {
            let turns = Arc::clone(&turns);
            std::thread::spawn(move || turns.take("c", load(), || Ok(())))
        };
        wait_for(&turns, |state| state.waiting == 1 && state.flights.contains_key("c") && state.loading == 2);
        assert!(turns.take("d", Change::Unload, || Ok(())).is_ok(), "an unload needs no slot");
        first.send(Ok(())).unwrap();
        assert!(third.join().unwrap().is_ok());
        second.send(Ok(())).unwrap();
    }

    #[test]
    fn the_crowd_that_waits_is_bounded() {
        let turns = Arc::new(Turns::default());
        let end = begin(&turns, "m", load());
        let waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| {
                let turns = Arc::clone(&turns);
                std::thread::spawn(move || turns.take("m", load(), || Ok(())))
            })
            .collect();
        wait_for(&turns, |state| state.waiting == MAX_WAITING);
        for change in [load(), Change::Unload] {
            let refused = turns.take("m", change, || Ok(())).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Overloaded);
            assert!(refused.retry_after().is_some());
        }
        end.send(Ok(())).unwrap();
        assert!(waiting.into_iter().all(|caller| caller.join().unwrap().is_ok()));
    }

    #[test]
    fn a_change_that_panics_answers_all_and_leaves_the_way_free() {
        let turns = Arc::new(Turns::default());
        let (begun, has_begun) = channel();
        let (end, ends) = channel::<()>();
        let panicking = {
            let turns = Arc::clone(&turns);
            std::thread::spawn(move || {
                turns.take("m", load(), || {
                    begun.send(()).unwrap();
                    ends.recv().unwrap();
                    panic!("planted")
                })
            })
        };
        has_begun.recv().unwrap();
        let joined = {
            let turns = Arc::clone(&turns);
            std::thread::spawn(move || turns.take("m", load(), || Ok(())))
        };
        wait_for(&turns, |state| state.waiting == 1);
        end.send(()).unwrap();
        for caller in [panicking, joined] {
            assert_eq!(caller.join().unwrap().unwrap_err().kind(), ErrorKind::Internal);
        }
        assert!(turns.take("m", load(), || Ok(())).is_ok());
    }

    #[test]
    fn closing_refuses_what_has_not_begun() {
        let turns = Arc::new(Turns::default());
        let [first, second] = ["a", "b"].map(|name| begin(&turns, name, load()));
        let waiting = ["a", "c"].map(|name| {
            let turns = Arc::clone(&turns);
            std::thread::spawn(move || turns.take(name, Change::LoadFiles, || Ok(())))
        });
        wait_for(&turns, |state| state.waiting == 2);
        turns.close();
        for caller in waiting {
            assert_eq!(caller.join().unwrap().unwrap_err().kind(), ErrorKind::ShuttingDown);
        }
        assert!(!turns.wait_for_none(Duration::ZERO));
        for end in [first, second] {
            end.send(Ok(())).unwrap();
        }
        assert!(turns.wait_for_none(Duration::from_secs(300)));
    }
}
