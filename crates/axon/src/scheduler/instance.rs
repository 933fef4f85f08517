//! One instance: a thread that pulls batches and runs them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use synapse::{Tensor, concat_rows, split_rows};

use super::{Output, Pending, Shared, expired_after, timer};
use crate::batcher::{Action, Batch};
use crate::error::{Error, Result};
use crate::executor::{Executor, Run};
use crate::metrics::Phases;
use crate::request::Timing;

/// Pulls and runs batches until the scheduler closes.
pub(super) fn run(shared: &Arc<Shared>, mut executor: Box<dyn Executor>) {
    while let Some(batch) = next_batch(shared) {
        let (requests, id) = (batch.requests.len(), batch.id);
        let took = run_batch(shared, executor.as_mut(), batch);
        let mut state = shared.lock();
        state.batcher.finish(id, took, Instant::now());
        state.running -= requests;
        shared.tell_if_quiet(&state);
    }
}

/// Waits for a batch; `None` when the scheduler closes.
fn next_batch(shared: &Arc<Shared>) -> Option<Batch<Pending>> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let Action { expired, shed, batch } = state.batcher.poll(now, true);
        // Counted before the lock is given up, so that a drain never sees a batch neither waiting nor running.
        state.running += batch.as_ref().map_or(0, |batch| batch.requests.len());
        if !(expired.is_empty() && shed.is_empty()) {
            drop(state);
            shared.refuse(expired, shed, now);
            state = shared.lock();
            shared.tell_if_quiet(&state);
        }
        if let Some(batch) = batch {
            timer::arm(shared, &mut state);
            if state.idle > 0 && state.batcher.has_work(now) {
                shared.work.notify_one();
            }
            return Some(batch);
        }
        if state.batcher.has_work(now) {
            continue;
        }
        if state.batcher.is_empty() && shared.closing.load(Ordering::Acquire) {
            return None;
        }
        state.idle += 1;
        // What is kept waiting on purpose is looked at again when it ripens.
        let ripens = state.batcher.next_wake(now).filter(|_| !state.batcher.is_empty());
        state = match ripens {
            Some(at) => {
                let wait = at.saturating_duration_since(now);
                shared.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            }
            None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.idle -= 1;
    }
}

/// Runs a batch and answers its requests. What the run took; `None` when that says nothing of other runs.
fn run_batch(shared: &Shared, executor: &mut dyn Executor, batch: Batch<Pending>) -> Option<Duration> {
    let started = Instant::now();
    let mut took = None;
    let is_slowed = batch.requests.iter().any(|request| !request.delay.is_zero());
    let answers = match run_together(shared, executor, &batch, started) {
        Ok(answers) => {
            // All of what keeps the instance busy but the replies, of which there may be many or few.
            took = (!is_slowed).then(|| started.elapsed());
            answers.into_iter().map(Ok).collect()
        }
        // One request's values may have failed them all: alone, only the culprit gets the error.
        Err(_) if batch.requests.len() > 1 => run_alone(shared, executor, &batch),
        Err(error) => vec![Err(error)],
    };
    for (request, answer) in batch.requests.into_iter().zip(answers) {
        let Pending { inputs, rows, arrived, reply, .. } = request;
        // Before the reply, so that a caller who is answered has its memory back.
        drop(inputs);
        match &answer {
            Ok(output) => {
                let total = arrived.elapsed();
                shared.statistics.add_success(rows, output.timing.queue, output.phases, total);
            }
            Err(_) => shared.statistics.fail.add(arrived.elapsed()),
        }
        reply.send(answer);
    }
    took
}

/// Runs the batch once and splits the outputs back to its requests.
fn run_together(
    shared: &Shared,
    executor: &mut dyn Executor,
    batch: &Batch<Pending>,
    started: Instant,
) -> Result<Vec<Output>> {
    let delay = batch.requests.iter().map(|request| request.delay).max().unwrap_or_default();
    if let [request] = batch.requests.as_slice() {
        return Ok(vec![run_one(shared, executor, request, started)?]);
    }
    let inputs = join_inputs(&batch.requests)?;
    let input = started.elapsed();
    let (outcome, infer) = timed(shared, executor, &Run { inputs: &inputs, delay });
    let joined = Instant::now();
    let parts = outcome.and_then(|outputs| split_outputs(&batch.requests, &outputs));
    let phases = Phases { input, infer, output: joined.elapsed() };
    shared.statistics.add_execution(batch.rows, phases);
    let answers = batch.requests.iter().zip(parts?).map(|(request, tensors)| {
        let queue = started.duration_since(request.arrived);
        Output { tensors, timing: Timing { queue, compute: infer, batch_rows: batch.rows }, phases }
    });
    Ok(answers.collect())
}

/// Runs one request alone.
fn run_one(
    shared: &Shared,
    executor: &mut dyn Executor,
    request: &Pending,
    started: Instant,
) -> Result<Output> {
    let run = Run { inputs: &request.inputs, delay: request.delay };
    let (outcome, infer) = timed(shared, executor, &run);
    let phases = Phases { infer, ..Phases::default() };
    shared.statistics.add_execution(request.rows, phases);
    let queue = started.duration_since(request.arrived);
    Ok(Output {
        tensors: outcome?,
        timing: Timing { queue, compute: infer, batch_rows: request.rows },
        phases,
    })
}

/// For each request its rows of every output. Copies nothing.
fn split_outputs(requests: &[Pending], outputs: &[Tensor]) -> Result<Vec<Vec<Tensor>>> {
    let counts: Vec<usize> = requests.iter().map(|request| request.rows).collect();
    let mut answers: Vec<Vec<Tensor>> = requests.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        let parts = split_rows(output, &counts).map_err(Error::internal)?;
        for (answer, part) in answers.iter_mut().zip(parts) {
            answer.push(part);
        }
    }
    Ok(answers)
}

/// Each input of the batch, the rows of all requests in order. Copies every byte once, into the batch buffer.
fn join_inputs(requests: &[Pending]) -> Result<Vec<Tensor>> {
    let inputs = requests.first().map_or(0, |request| request.inputs.len());
    let join = |index: usize| {
        let parts: Vec<&Tensor> = requests.iter().filter_map(|request| request.inputs.get(index)).collect();
        concat_rows(&parts).map_err(Error::internal)
    };
    (0..inputs).map(join).collect()
}

fn run_alone(shared: &Shared, executor: &mut dyn Executor, batch: &Batch<Pending>) -> Vec<Result<Output>> {
    let run = |request: &Pending| {
        let started = Instant::now();
        if started >= request.deadline {
            return Err(expired_after(started.duration_since(request.arrived)));
        }
        run_one(shared, executor, request, started)
    };
    batch.requests.iter().map(run).collect()
}

/// Runs the model; a panic of the executor is an internal error.
fn timed(shared: &Shared, executor: &mut dyn Executor, run: &Run<'_>) -> (Result<Vec<Tensor>>, Duration) {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| executor.run_for(run)));
    let compute = started.elapsed();
    let outcome = outcome.unwrap_or_else(|panic| {
        shared.statistics.instance_restarts.fetch_add(1, Ordering::Relaxed);
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Error::internal(format_args!("an instance panicked: {text}")))
    });
    (outcome, compute)
}
