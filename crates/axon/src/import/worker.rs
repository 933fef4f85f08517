//! Imports models in the background, one after the other, when no model is being loaded.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The most models that wait to be imported; one more is not, until its next load.
const MAX_WAITING: usize = 1024;

/// A model to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub model: PathBuf,
    pub key: String,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Wanted>,
    /// Keys that have been tried, so that what fails is not tried at every load.
    tried: BTreeSet<String>,
    last_load: Option<Instant>,
    is_busy: bool,
    is_over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that imports; it ends when this is dropped.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// A thread that calls `import` for each model that is wanted, when none has been loaded for `quiet`. `import` is
    /// given what says whether to stop.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        quiet: Duration,
        import: impl Fn(&Wanted, &dyn Fn() -> bool) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let run = {
            let shared = Arc::clone(&shared);
            move || {
                while let Some(wanted) = next(&shared, quiet) {
                    import(&wanted, &|| shared.lock().is_over);
                    shared.lock().is_busy = false;
                    shared.changed.notify_all();
                }
            }
        };
        let thread = std::thread::Builder::new().name("axon-import".to_owned()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Notes that a model is being loaded now.
    pub fn hold_off(&self) {
        self.shared.lock().last_load = Some(Instant::now());
    }

    /// Has a model imported, unless that has been tried.
    pub fn want(&self, wanted: Wanted) {
        let mut state = self.shared.lock();
        if state.waiting.len() < MAX_WAITING && state.tried.insert(wanted.key.clone()) {
            state.waiting.push_back(wanted);
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// Begins nothing more, and has what is under way stop.
    pub fn stop(&self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }

    /// Waits until nothing is left to import, for `limit` at most; false when something still is.
    pub fn wait(&self, limit: Duration) -> bool {
        let busy = |state: &mut State| state.is_busy || !state.waiting.is_empty();
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), limit, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// The next model, when it is time; `None` when it is over.
fn next(shared: &Shared, quiet: Duration) -> Option<Wanted> {
    let mut state = shared.lock();
    loop {
        if state.is_over {
            return None;
        }
        let left = state.last_load.map_or(Duration::ZERO, |last| quiet.saturating_sub(last.elapsed()));
        if state.waiting.is_empty() {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        } else if !left.is_zero() {
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        } else {
            state.is_busy = true;
            return state.waiting.pop_front();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was its own.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn wanted(key: &str) -> Wanted {
        Wanted { model: PathBuf::from("m.onnx"), key: key.to_owned() }
    }

    #[test]
    fn a_model_is_tried_once_and_when_no_other_is_loaded() {
        let (sender, imported) = channel();
        let quiet = Duration::from_millis(50);
        let import = move |wanted: &Wanted, _: &dyn Fn() -> bool| {
            sender.send((wanted.key.clone(), Instant::now())).unwrap();
        };
        let worker = Worker::start(quiet, import).unwrap();
        worker.hold_off();
        let held_off = Instant::now();
        for key in ["a", "b", "a"] {
            worker.want(wanted(key));
        }
        assert!(worker.wait(Duration::from_secs(20)));
        worker.want(wanted("b"));
        drop(worker);
        let imported: Vec<_> = imported.iter().collect();
        assert_eq!(imported.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(imported.iter().all(|(_, at)| at.duration_since(held_off) >= quiet / 2));
    }

    #[test]
    fn an_import_that_is_under_way_is_told_to_stop() {
        let (sender, begun) = channel();
        let import = move |_: &Wanted, is_over: &dyn Fn() -> bool| {
            sender.send(()).unwrap();
            while !is_over() {
                std::thread::yield_now();
            }
        };
        let worker = Worker::start(Duration::ZERO, import).unwrap();
        worker.want(wanted("a"));
        worker.want(wanted("b"));
        begun.recv().unwrap();
        drop(worker);
        assert!(begun.recv().is_err(), "the next was not begun");
    }
}
