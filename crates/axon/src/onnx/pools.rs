//! Sessions that run on several threads, made by another thread than the one that asks for them.
//!
//! Threads of Linux inherit the priority of whoever starts them: a load at low priority has the pools of its sessions made
//! by a thread that has the server's.

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// Who makes pools for this thread, if another does.
    static MAKER: RefCell<Option<Sender<Job>>> = const { RefCell::new(None) };
}

/// The end that asks: given to the thread whose pools another makes.
pub struct PoolsElsewhere(Sender<Job>);

/// The end that makes.
pub struct PoolMaker(Receiver<Job>);

/// Both ends.
#[must_use]
pub fn pools_elsewhere() -> (PoolsElsewhere, PoolMaker) {
    let (sender, receiver) = channel();
    (PoolsElsewhere(sender), PoolMaker(receiver))
}

impl PoolsElsewhere {
    /// Does `work` on this thread, whose pools the other end makes meanwhile.
    pub fn during<T>(self, work: impl FnOnce() -> T) -> T {
        /// The other end goes on, also when the work panics.
        struct Over;
        impl Drop for Over {
            fn drop(&mut self) {
                MAKER.set(None);
            }
        }
        MAKER.set(Some(self.0));
        let _over = Over;
        work()
    }
}

impl PoolMaker {
    /// Makes pools on this thread until the other end needs none any more.
    pub fn serve(self) {
        for job in self.0 {
            job();
        }
    }
}

/// Makes a session of `threads` threads, where its pool is to be made.
pub(super) fn make<T: Send + 'static>(
    threads: usize,
    make: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let maker = if threads > 1 { MAKER.with_borrow(Clone::clone) } else { None };
    let Some(maker) = maker else { return make() };
    let (sender, session) = channel();
    // Whoever asked may have panicked.
    let job = move || drop(sender.send(make()));
    maker.send(Box::new(job)).map_err(Error::internal)?;
    session.recv().map_err(Error::internal)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_made_by_the_other_end_and_a_lone_thread_by_this_one() {
        let here = std::thread::current().id();
        let (elsewhere, maker) = pools_elsewhere();
        let asking = std::thread::spawn(move || {
            let own = std::thread::current().id();
            let made = |threads| make(threads, || Ok(std::thread::current().id())).unwrap();
            elsewhere.during(|| (made(1) == own, made(2)))
        });
        maker.serve();
        assert_eq!(asking.join().unwrap(), (true, here));
        assert_eq!(make(2, || Ok(std::thread::current().id())).unwrap(), here, "nobody else was named");
    }
}
