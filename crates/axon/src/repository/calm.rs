//! Loads that give way to requests: read, tried and measured at low priority, while what serves afterwards has its own.
//!
//! A thread of Linux inherits the priority of whoever starts it and cannot raise it again without a privilege. So the
//! load runs on a thread of its own, and has the pools of sessions that run on several threads made by the thread that
//! waits for it; the instances are started by that one too.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::error::{Error, Result};
use crate::onnx::{Session, SessionOptions};

/// How a session is made.
type LoadSession = fn(&Path, SessionOptions) -> Result<Arc<Session>>;

/// How nice a load is; 19 is the most. It gets a tenth of a core that others want.
const NICENESS: i32 = 10;

thread_local! {
    /// Whether loads of this thread give way.
    static IS_CALM: Cell<bool> = const { Cell::new(false) };
    /// On the thread of a calm load: who makes pools.
    static POOLS: RefCell<Option<Sender<Pool>>> = const { RefCell::new(None) };
}

/// A session with a pool of threads that is to be made.
struct Pool {
    load: LoadSession,
    path: PathBuf,
    options: SessionOptions,
    made: Sender<Result<Arc<Session>>>,
}

/// Does `work`, whose loads give way to requests.
pub(super) fn give_way<T>(work: impl FnOnce() -> T) -> T {
    /// Back to what was, also when the work panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IS_CALM.set(self.0);
        }
    }
    let _before = Before(IS_CALM.replace(true));
    work()
}

/// Runs a load, at low priority where loads of this thread give way.
///
/// # Errors
/// What the load says; [`ErrorKind::Internal`](crate::ErrorKind) when it panicked or a thread cannot be started.
pub(super) fn calmly<T: Send>(load: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if !IS_CALM.get() {
        return load();
    }
    let (pools, wanted): (_, Receiver<Pool>) = channel();
    thread::scope(|scope| {
        let run = move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!("a load runs at the priority of requests: {error}");
            }
            POOLS.set(Some(pools));
            let loaded = load();
            // The waiting thread goes on.
            POOLS.set(None);
            loaded
        };
        let thread = thread::Builder::new().name("axon-load".to_owned()).spawn_scoped(scope, run);
        let thread = thread.map_err(Error::internal)?;
        // Ends when the load has ended, or its thread.
        for Pool { load, path, options, made } in wanted {
            // Nobody waits when the load has panicked.
            let _ = made.send(load(&path, options));
        }
        thread.join().unwrap_or_else(|_| Err(Error::internal("a load panicked")))
    })
}

/// Makes a session by `load`; one that runs on several threads is made at the priority of requests.
///
/// # Errors
/// As for `load`.
pub(super) fn session(load: LoadSession, path: &Path, options: SessionOptions) -> Result<Arc<Session>> {
    let pools = POOLS.with_borrow(Clone::clone);
    let Some(pools) = pools.filter(|_| options.threads > 1) else { return load(path, options) };
    let (made, session) = channel();
    pools.send(Pool { load, path: path.to_owned(), options, made }).map_err(Error::internal)?;
    session.recv().map_err(Error::internal)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[test]
    fn a_load_gives_way_and_whoever_waits_for_it_does_not() {
        let before = niceness();
        assert_eq!(calmly(|| Ok(niceness())).unwrap(), before, "nobody said that it should");
        let within = give_way(|| calmly(|| Ok(niceness()))).unwrap();
        // Other tests may run at any priority; more than 19 there is not.
        assert_eq!(within, NICENESS.max(before).min(19));
        assert_eq!(niceness(), before);
        assert!(!IS_CALM.get());
    }

    #[test]
    fn a_load_that_panics_is_an_error() {
        let outcome: Result<()> = give_way(|| calmly(|| panic!("planted")));
        assert_eq!(outcome.unwrap_err().kind(), crate::ErrorKind::Internal);
    }
}
