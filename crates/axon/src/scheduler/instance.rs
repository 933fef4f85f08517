//! One instance: a thread that pulls batches and runs them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use synapse::{Tensor, concat_rows, split_rows};

use super::{Output, Pending, Shared, expired_after, timer};
use crate::batcher::{Action, Batch};
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::request::Timing;

/// Pulls and runs batches until the scheduler closes.
pub(super) fn run(shared: &Arc<Shared>, mut executor: Box<dyn Executor>) {
    while let Some(batch) = next_batch(shared) {
        let requests = batch.requests.len();
        run_batch(shared, executor.as_mut(), batch);
        let mut state = shared.lock();
        state.running -= requests;
        shared.tell_if_quiet(&state);
    }
}

/// Waits for a batch; `None` when the scheduler closes.
fn next_batch(shared: &Arc<Shared>) -> Option<Batch<Pending>> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let Action { expired, batch } = state.batcher.poll(now, true);
        // Counted before the lock is given up, so that a drain never sees a batch neither waiting nor running.
        state.running += batch.as_ref().map_or(0, |batch| batch.requests.len());
        if !expired.is_empty() {
            drop(state);
            shared.answer_expired(expired, now);
            state = shared.lock();
            shared.tell_if_quiet(&state);
        }
        if let Some(batch) = batch {
            timer::arm(shared, &mut state);
            if state.idle > 0 && !state.batcher.is_empty() {
                shared.work.notify_one();
            }
            return Some(batch);
        }
        if !state.batcher.is_empty() {
            continue;
        }
        if shared.closing.load(Ordering::Acquire) {
            return None;
        }
        state.idle += 1;
        state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
    }
}

fn run_batch(shared: &Shared, executor: &mut dyn Executor, batch: Batch<Pending>) {
    let started = Instant::now();
    let answers = match run_together(shared, executor, &batch, started) {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
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
                shared.statistics.queue.add(output.timing.queue);
                shared.statistics.compute.add(output.timing.compute);
                shared.statistics.inference_count.fetch_add(rows as u64, Ordering::Relaxed);
                shared.statistics.success.add(arrived.elapsed());
            }
            Err(_) => shared.statistics.fail.add(arrived.elapsed()),
        }
        reply.send(answer);
    }
}

/// Runs the batch once and splits the outputs back to its requests.
fn run_together(
    shared: &Shared,
    executor: &mut dyn Executor,
    batch: &Batch<Pending>,
    started: Instant,
) -> Result<Vec<Output>> {
    let timing = |request: &Pending, compute: Duration| Timing {
        queue: started.duration_since(request.arrived),
        compute,
        batch_rows: batch.rows,
    };
    if let [request] = batch.requests.as_slice() {
        let (tensors, compute) = timed(shared, executor, &request.inputs, batch.rows)?;
        return Ok(vec![Output { tensors, timing: timing(request, compute) }]);
    }
    let inputs = join_inputs(&batch.requests)?;
    let (outputs, compute) = timed(shared, executor, &inputs, batch.rows)?;
    let counts: Vec<usize> = batch.requests.iter().map(|request| request.rows).collect();
    let mut answers: Vec<Output> = batch
        .requests
        .iter()
        .map(|request| Output {
            tensors: Vec::with_capacity(outputs.len()),
            timing: timing(request, compute),
        })
        .collect();
    for output in &outputs {
        let parts = split_rows(output, &counts).map_err(Error::internal)?;
        for (answer, part) in answers.iter_mut().zip(parts) {
            answer.tensors.push(part);
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
        let (tensors, compute) = timed(shared, executor, &request.inputs, request.rows)?;
        let queue = started.duration_since(request.arrived);
        Ok(Output { tensors, timing: Timing { queue, compute, batch_rows: request.rows } })
    };
    batch.requests.iter().map(run).collect()
}

/// Runs the model and counts the run; a panic of the executor is an internal error.
fn timed(
    shared: &Shared,
    executor: &mut dyn Executor,
    inputs: &[Tensor],
    rows: usize,
) -> Result<(Vec<Tensor>, Duration)> {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| executor.run(inputs)));
    let compute = started.elapsed();
    shared.statistics.add_execution(rows, compute);
    match outcome {
        Ok(outputs) => Ok((outputs?, compute)),
        Err(panic) => {
            shared.statistics.instance_restarts.fetch_add(1, Ordering::Relaxed);
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Error::internal(format_args!("an instance panicked: {text}")))
        }
    }
}
