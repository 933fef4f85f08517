//! The thread that reads the GPUs, while somebody looks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Reading;

/// How often is read.
const EVERY: Duration = Duration::from_secs(1);

/// So long after a look the thread goes on to read: scrapers come every minute at least.
const ATTENTION: Duration = Duration::from_secs(70);

/// A reading that is older is not told: the driver hangs.
const STALE: Duration = Duration::from_secs(10);

/// Reads in the background, and keeps the last reading.
pub(super) struct Sampler {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    last: Option<(Instant, Vec<Reading>)>,
    looked: Option<Instant>,
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the next reading is due; false when there is to be none any more.
    fn wait(&self, read: Option<Instant>) -> bool {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return false;
            }
            let is_watched = state.looked.is_some_and(|looked| looked.elapsed() < ATTENTION);
            let left = read.map_or(Duration::ZERO, |read| EVERY.saturating_sub(read.elapsed()));
            state = match (is_watched, left) {
                (true, Duration::ZERO) => return true,
                (true, left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                (false, _) => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Sampler {
    /// Starts to read by what `open` returns, in a thread that ends when this is dropped, or at once where there is
    /// nothing to read. Nobody waits for it: the driver may never answer. `None` when there can be no thread.
    pub fn start<R: FnMut() -> Vec<Reading>>(
        open: impl FnOnce() -> Option<R> + Send + 'static,
    ) -> Option<Self> {
        let shared = Arc::<Shared>::default();
        let ours = Arc::clone(&shared);
        let run = move || {
            let Some(mut read) = open() else { return };
            let mut last = None;
            while ours.wait(last) {
                let readings = read();
                let now = Instant::now();
                last = Some(now);
                ours.lock().last = Some((now, readings));
            }
        };
        match std::thread::Builder::new().name("axon-gpu".to_owned()).spawn(run) {
            Ok(_) => Some(Self { shared }),
            Err(error) => {
                tracing::debug!("GPUs are not told of: {error}");
                None
            }
        }
    }

    /// What was last read.
    pub fn look(&self) -> Vec<Reading> {
        let mut state = self.shared.lock();
        state.looked = Some(Instant::now());
        let last = state.last.as_ref().filter(|(read, _)| read.elapsed() < STALE);
        let readings = last.map(|(_, readings)| readings.clone()).unwrap_or_default();
        drop(state);
        self.shared.changed.notify_one();
        readings
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn without_a_library_the_thread_ends_and_nothing_is_told() {
        let (ended, has_ended) = mpsc::channel::<()>();
        let none = move || {
            drop(ended);
            None::<fn() -> Vec<Reading>>
        };
        let sampler = Sampler::start(none).unwrap();
        assert_eq!(has_ended.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
        assert_eq!(sampler.look(), []);
        let deadline = Instant::now() + PATIENCE;
        while Arc::strong_count(&sampler.shared) > 1 {
            assert!(Instant::now() < deadline, "the thread goes on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_reads_only_when_somebody_looks_and_ends_with_its_owner() {
        let (reads, read) = mpsc::channel();
        let source = move || {
            Some(move || {
                reads.send(()).unwrap();
                vec![Reading { index: 7, ..Reading::default() }]
            })
        };
        let sampler = Sampler::start(source).unwrap();
        assert_eq!(read.try_recv(), Err(mpsc::TryRecvError::Empty));
        let began = Instant::now();
        let deadline = began + PATIENCE;
        let seen = loop {
            let seen = sampler.look();
            if !seen.is_empty() {
                break seen;
            }
            assert!(Instant::now() < deadline, "nothing was read");
            std::thread::yield_now();
        };
        assert_eq!(seen[0].index, 7);
        read.recv().unwrap();
        // However often somebody looks, there is one reading in a second.
        (0..10_000).for_each(|_| drop(sampler.look()));
        let more = read.try_iter().count() as u64;
        assert!(more <= began.elapsed().as_secs(), "{more}");
        drop(sampler);
        while let Ok(()) = read.recv_timeout(PATIENCE) {}
        assert_eq!(read.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
