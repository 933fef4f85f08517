//! Tries splits on the model itself.

use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use synapse::{Tensor, concat_rows};

use super::{Split, Trial};
use crate::error::Result;
use crate::executor::Executor;

/// What the copies of a model's weights that a split needs may take.
const MAX_COPIES: u64 = 1 << 30;

/// What it costs to have one more session of a model.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How long the first one took.
    pub duration: Duration,
    /// Bytes of the model.
    pub bytes: u64,
}

/// Runs the model on the inputs that the probe found, on this machine's clock.
pub struct Lab<'a, E> {
    /// Makes a session with a number of threads a run.
    load: Box<dyn FnMut(usize) -> Result<E> + 'a>,
    cost: Load,
    sample: &'a [Tensor],
    started: Instant,
    benches: Vec<(Split, Vec<E>)>,
}

impl<'a, E: Executor + Clone> Lab<'a, E> {
    /// A lab that has `session`, which runs on one thread and took `cost`, and makes more by `load`. `sample` is what
    /// the model is run on: a row, or what it takes instead.
    pub fn new(
        session: E,
        cost: Load,
        sample: &'a [Tensor],
        load: impl FnMut(usize) -> Result<E> + 'a,
    ) -> Self {
        let only = Split { instances: 1, threads: 1 };
        let benches = vec![(only, vec![session])];
        Self { load: Box::new(load), cost, sample, started: Instant::now(), benches }
    }

    /// The executors of a split, one for each instance: they share a session where runs have one thread, and have one
    /// each otherwise, as a session's threads are a pool that its runs would fight for.
    ///
    /// # Errors
    /// When a session that was not tried cannot be loaded.
    pub fn into_executors(mut self, split: Split) -> Result<Vec<E>> {
        if let Some(index) = self.benches.iter().position(|(bench, _)| *bench == split) {
            return Ok(self.benches.swap_remove(index).1);
        }
        self.make(split)
    }

    fn make(&mut self, split: Split) -> Result<Vec<E>> {
        if split.threads > 1 {
            return (0..split.instances).map(|_| (self.load)(split.threads)).collect();
        }
        let shared = self.benches.iter().find(|(bench, _)| bench.threads == 1);
        match shared.and_then(|(_, executors)| executors.first()) {
            Some(session) => Ok(vec![session.clone(); split.instances]),
            None => Ok(vec![(self.load)(1)?; split.instances]),
        }
    }

    fn bench(&mut self, split: Split) -> Option<&mut Vec<E>> {
        if !self.benches.iter().any(|(bench, _)| *bench == split) {
            // Only the split of one thread a run is tried without being opened; it costs no load.
            let executors = (split.threads == 1).then(|| self.make(split).ok()).flatten()?;
            self.benches.push((split, executors));
        }
        self.benches.iter_mut().find(|(bench, _)| *bench == split).map(|(_, executors)| executors)
    }

    /// A batch of `rows`: the sample's rows over and over.
    fn inputs(&self, rows: usize) -> Option<Vec<Tensor>> {
        let has = self.sample.first().and_then(|tensor| tensor.shape().rows()).unwrap_or(1).max(1);
        if rows <= has {
            return Some(self.sample.to_vec());
        }
        let join = |tensor: &Tensor| concat_rows(&vec![tensor; rows / has]).ok();
        self.sample.iter().map(join).collect()
    }
}

impl<E: Executor + Clone> Trial for Lab<'_, E> {
    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn opening(&self, split: Split) -> Option<Duration> {
        let loads = u32::try_from(split.instances).unwrap_or(u32::MAX);
        let fits = self.cost.bytes.saturating_mul(loads.into()) <= MAX_COPIES || loads == 1;
        fits.then(|| self.cost.duration.saturating_mul(loads))
    }

    fn open(&mut self, split: Split, rows: usize) -> bool {
        let Ok(executors) = self.make(split) else { return false };
        self.benches.push((split, executors));
        self.together(split, rows, 1).is_some()
    }

    fn alone(&mut self, split: Split, rows: usize, runs: usize) -> Option<Duration> {
        let inputs = self.inputs(rows)?;
        let executor = self.bench(split)?.first_mut()?;
        let mut fastest: Option<Duration> = None;
        for _ in 0..runs {
            let started = Instant::now();
            executor.run(&inputs).ok()?;
            let duration = started.elapsed();
            fastest = Some(fastest.map_or(duration, |fastest| fastest.min(duration)));
        }
        fastest
    }

    fn together(&mut self, split: Split, rows: usize, runs: usize) -> Option<Duration> {
        let inputs = self.inputs(rows)?;
        let executors = self.bench(split)?;
        // Closed until all threads are there. Not a barrier: where one cannot be had, the others would wait for ever.
        let gate = RwLock::new(());
        thread::scope(|scope| {
            let closed = gate.write().unwrap_or_else(PoisonError::into_inner);
            let (gate, inputs) = (&gate, &inputs);
            let mut threads = Vec::with_capacity(executors.len());
            for executor in executors.iter_mut() {
                let work = move || {
                    drop(gate.read());
                    (0..runs).all(|_| executor.run(inputs).is_ok())
                };
                let builder = thread::Builder::new().name("axon-plan".to_owned());
                threads.push(builder.spawn_scoped(scope, work).ok()?);
            }
            let started = Instant::now();
            drop(closed);
            let mut all = true;
            for thread in threads {
                all &= thread.join().unwrap_or(false);
            }
            all.then(|| started.elapsed())
        })
    }
}
