//! The threads that move bytes.
//!
//! Each has a runtime of its own, and a connection stays on the thread that it was given to: its requests, their answers
//! and their wakes never cross to another, which would cost more than moving the bytes of a small tensor. The thread that
//! serves is the first of them; it also accepts, and gives each connection to the thread that has the fewest.

use std::cell::OnceCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use axon::config::granted_cores;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::answers::Answers;
use crate::wakes::Wakes;

/// The most threads.
const MOST: usize = 16;

/// How long what is left may take at the end.
const END_LIMIT: Duration = Duration::from_secs(1);

thread_local! {
    static OWN: OnceCell<Arc<Desk>> = const { OnceCell::new() };
}

/// Where a thread's answers come in and its wakes go out.
#[derive(Default)]
pub(crate) struct Desk {
    pub answers: Answers,
    pub wakes: Wakes,
}

impl Desk {
    /// The desk of this thread; `first` on the one that serves.
    pub fn of_this_thread(first: &Arc<Self>) -> Arc<Self> {
        OWN.with(|own| Arc::clone(own.get().unwrap_or(first)))
    }

    /// Hands on what comes in, for ever.
    pub async fn attend(&self) {
        tokio::join!(self.answers.deliver(), self.wakes.deliver());
    }
}

/// How many threads move bytes: few, as the models need the rest of the cores. **Source:** `docs/decisions/0015`.
fn count() -> usize {
    match granted_cores().get() {
        1 | 2 => 1,
        cores => (cores / 4).clamp(2, MOST),
    }
}

/// A runtime for the thread that begins it.
///
/// # Errors
/// What the system says.
pub(crate) fn runtime() -> io::Result<Runtime> {
    // Long texts are read and written on its other threads, no more at once than there are cores.
    let blocking = granted_cores().get() + 1;
    Builder::new_current_thread().thread_name("axon-io").max_blocking_threads(blocking).enable_all().build()
}

/// One of the threads.
struct Hand {
    handle: Handle,
    /// Its connections.
    open: Arc<AtomicUsize>,
    /// Ends it when it is dropped; the first has none.
    end: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Hand {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let run = move || {
            let desk = Arc::new(Desk::default());
            let _ = OWN.with(|own| own.set(Arc::clone(&desk)));
            runtime.block_on(async {
                tokio::select! {
                    () = desk.attend() => {}
                    _ = ended => {}
                }
            });
            runtime.shutdown_timeout(END_LIMIT);
        };
        let thread = std::thread::Builder::new().name(format!("axon-io-{number}")).spawn(run)?;
        Ok(Self { handle, open: Arc::default(), end: Some((end, thread)) })
    }
}

/// The threads; they end when this is dropped.
pub(crate) struct Threads(Vec<Hand>);

impl Threads {
    /// Starts what is missing beside the calling one.
    ///
    /// # Errors
    /// What the system says.
    pub fn start() -> io::Result<Self> {
        let first = Hand { handle: Handle::current(), open: Arc::default(), end: None };
        let others = (1..count()).map(Hand::start);
        std::iter::once(Ok(first)).chain(others).collect::<io::Result<_>>().map(Self)
    }

    /// Gives a connection to the thread that has the fewest; `serve` is told whether that is another than the first.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, serve: impl FnOnce(bool) -> F) {
        let Some(hand) = self.0.iter().min_by_key(|hand| hand.open.load(Relaxed)) else { return };
        hand.open.fetch_add(1, Relaxed);
        let (leave, connection) = (Leave(Arc::clone(&hand.open)), serve(hand.end.is_some()));
        hand.handle.spawn(async move {
            let _leave = leave;
            connection.await;
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for (end, thread) in self.0.drain(..).filter_map(|hand| hand.end) {
            // One that has panicked has ended already, and its hook has logged it.
            let _ = end.send(());
            let _ = thread.join();
        }
    }
}

/// A connection that is open until this is dropped.
struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use tokio::sync::Barrier;

    use super::*;

    #[test]
    fn connections_are_spread_evenly_and_stay_where_they_are() {
        const EACH: usize = 3;
        runtime().unwrap().block_on(async {
            let threads = Threads::start().unwrap();
            let (first, all) = (Arc::new(Desk::default()), EACH * count());
            let (met, seen) = (Arc::new(Barrier::new(all + 1)), Arc::new(Mutex::new(Vec::new())));
            for _ in 0..all {
                let (met, seen, first) = (Arc::clone(&met), Arc::clone(&seen), Arc::clone(&first));
                threads.spawn(|_| async move {
                    let place = || {
                        let desk = Desk::of_this_thread(&first);
                        (std::thread::current().id(), Arc::as_ptr(&desk).addr())
                    };
                    let before = place();
                    met.wait().await;
                    seen.lock().unwrap().push((before, place()));
                    met.wait().await;
                });
            }
            met.wait().await;
            met.wait().await;
            let mut counts = HashMap::new();
            for (before, place) in seen.lock().unwrap().drain(..) {
                assert_eq!(before, place);
                *counts.entry(place).or_insert(0) += 1;
            }
            assert_eq!(counts.into_values().collect::<Vec<_>>(), vec![EACH; count()]);
        });
    }
}
