//! Loads that give way to requests: read, tried and measured at low priority, while what serves afterwards has its own.
//!
//! A thread of Linux inherits the priority of whoever starts it and cannot raise it again without a privilege. So the
//! load runs on a thread of its own, and has the pools of sessions that run on several threads made by the thread that
//! waits for it; the instances are started by that one too.

use std::cell::Cell;
use std::thread;

use crate::error::{Error, Result};
use crate::onnx::pools_elsewhere;

/// How nice a load is; 19 is the most. It gets a tenth of a core that others want.
const NICENESS: i32 = 10;

thread_local! {
    /// Whether loads of this thread give way.
    static IS_CALM: Cell<bool> = const { Cell::new(false) };
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
    let (pools, maker) = pools_elsewhere();
    thread::scope(|scope| {
        let run = move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                tracing::debug!("a load runs at the priority of requests: {error}");
            }
            pools.during(load)
        };
        let thread = thread::Builder::new().name("axon-load".to_owned()).spawn_scoped(scope, run);
        let thread = thread.map_err(Error::internal)?;
        maker.serve();
        thread.join().unwrap_or_else(|_| Err(Error::internal("a load panicked")))
    })
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
