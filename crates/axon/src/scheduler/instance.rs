//! One instance: a thread that pulls batches and runs them.
//!
//! A batch that fails is run again in halves, until only the requests that fail alone are left with an error. A batch of
//! n requests is run at most 2n - 1 times: a half is run once, and there are no more halves than that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use synapse::{Tensor, concat_rows, split_rows};

use super::attendance::Attendance;
use super::lane::{Decision, ask};
use super::{Output, Pending, Refusal, Shared, expired_after, lane, replan, timer};
use crate::batcher::{Action, Batch};
use crate::error::{Error, Result};
use crate::executor::{Executor, Run};
use crate::lanes::Lane;
use crate::metrics::{Phases, SlowRequest};
use crate::request::{BatchRun, Timing};

/// Counts the runs of this process, so that each has an id of its own.
static RUNS: AtomicU64 = AtomicU64::new(0);

/// Pulls and runs batches until the scheduler closes.
pub(super) fn run(shared: &Arc<Shared>, index: usize, executor: Box<dyn Executor>) {
    let mut instance = Instance { shared, index, executor };
    let mut lane = None;
    while let Some((batch, taken)) = next_batch(shared, lane.take()) {
        lane = taken;
        let (requests, id) = (batch.requests.len(), batch.id);
        // The executor's panics are caught where it is called. One of our own fails the batch, whose replies answer when
        // they are dropped, and not the instance.
        let began = Instant::now();
        let is_usual =
            catch_unwind(AssertUnwindSafe(|| instance.run_batch(batch.requests))).unwrap_or_else(|_| {
                shared.statistics.instance_restarts.fetch_add(1, Ordering::Relaxed);
                tracing::error!("an instance panicked outside of its model; the hook has logged it");
                false
            });
        // All that kept the instance busy, the answers included.
        let took = is_usual.then(|| began.elapsed());
        shared.runs.set(index, None);
        let mut state = shared.lock();
        let now = Instant::now();
        state.batcher.finish(id, took, now);
        if shared.answers.is_some() {
            // What is held has deadlines too.
            timer::arm(shared, &mut state);
        }
        replan::consider(&mut state, now);
        state.running -= requests;
        shared.tell_if_quiet(&state);
    }
}

/// A thread's executor.
struct Instance<'a> {
    shared: &'a Shared,
    index: usize,
    executor: Box<dyn Executor>,
}

/// Requests that are run together.
struct Group {
    requests: Vec<Pending>,
    /// A larger group with this one in it has failed, and what else was in it has not: this one fails too.
    fails: bool,
    /// Its sibling is the next group: when this one does not fail, that one does.
    is_first_half: bool,
}

impl Instance<'_> {
    /// Runs a batch, in halves while it fails, and answers each request once. True when its time says something of
    /// other runs of so many rows: all were run, once, and none asked for a delay.
    fn run_batch(&mut self, requests: Vec<Pending>) -> bool {
        let count = requests.len();
        let is_slowed = requests.iter().any(|request| !request.delay.is_zero());
        let mut is_usual = false;
        let mut groups = vec![Group { requests, fails: false, is_first_half: false }];
        while let Some(group) = groups.pop() {
            let all = group.requests.len();
            if group.fails && all > 1 {
                halve(group.requests, &mut groups);
                continue;
            }
            let (attendance, requests) = self.attend(group.requests);
            // Who has left or come too late may have been to blame.
            let is_whole = requests.len() == all;
            match self.run_group(&attendance, requests) {
                Outcome::Failed(requests) => halve(requests, &mut groups),
                Outcome::Answered if all == count && is_whole => is_usual = !is_slowed,
                Outcome::Answered if group.is_first_half && is_whole => {
                    if let Some(sibling) = groups.last_mut() {
                        sibling.fails = true;
                    }
                }
                Outcome::Answered | Outcome::Refused => {}
            }
        }
        is_usual
    }

    /// Those who still wait, and the run that they wait for from now on.
    fn attend(&self, requests: Vec<Pending>) -> (Arc<Attendance>, Vec<Pending>) {
        let attendance = Attendance::new();
        let now = Instant::now();
        let mut expired = Vec::new();
        let mut waiting = Vec::with_capacity(requests.len());
        for request in requests {
            if now >= request.deadline && !request.caller.has_left() {
                expired.push(request);
            } else if request.caller.join(&attendance) {
                waiting.push(request);
            } else {
                self.shared.forget(request);
            }
        }
        self.shared.fail(expired, Refusal::Expired, now, expired_after);
        attendance.leave();
        self.shared.runs.set(self.index, Some(&attendance));
        (attendance, waiting)
    }

    /// Runs a group once and answers it, unless it may be halved.
    fn run_group(&mut self, attendance: &Attendance, requests: Vec<Pending>) -> Outcome {
        if requests.is_empty() {
            return Outcome::Refused;
        }
        let ran = if attendance.stop.is_tripped() {
            Err(Error::stopped())
        } else {
            self.run_together(attendance, &requests)
        };
        let error = match ran {
            Ok(ran) => {
                self.answer(requests, ran);
                return Outcome::Answered;
            }
            // Whoever waits for it all the same hears why it was stopped.
            Err(_) if attendance.stop.is_tripped() => Error::shutting_down(),
            Err(_) if requests.len() > 1 => return Outcome::Failed(requests),
            Err(error) => error,
        };
        for request in requests {
            self.refuse(request, error.clone());
        }
        Outcome::Refused
    }

    /// Runs the requests together; the outputs are those of each request.
    fn run_together(&mut self, attendance: &Attendance, requests: &[Pending]) -> Result<Ran> {
        let started = Instant::now();
        let rows = requests.iter().map(|request| request.rows).sum();
        let delay = requests.iter().map(|request| request.delay).max().unwrap_or_default();
        let joined;
        let (inputs, input) = if let [request] = requests {
            (request.inputs.as_slice(), Duration::ZERO)
        } else {
            joined = join_inputs(requests)?;
            (joined.as_slice(), started.elapsed())
        };
        let (outcome, infer) = self.timed(&Run { inputs, delay, stop: &attendance.stop });
        let ended = Instant::now();
        let outputs = outcome.and_then(|outputs| split_outputs(requests, outputs));
        let phases = Phases { input, infer, output: ended.elapsed() };
        self.shared.statistics.add_execution(rows, phases);
        let id = RUNS.fetch_add(1, Ordering::Relaxed);
        let run = BatchRun { id, requests: requests.len(), started, input, output: phases.output };
        let timing = Timing { compute: infer, batch_rows: rows, run: Some(run), ..Timing::default() };
        let outputs = outputs.map_err(|error| error.with_timing(timing))?;
        Ok(Ran { outputs, timing, phases, started })
    }

    /// Answers each request that somebody waits for with its part of each output.
    fn answer(&self, requests: Vec<Pending>, ran: Ran) {
        let Ran { mut outputs, timing, phases, started } = ran;
        for mut request in requests {
            let tensors = outputs.iter_mut().filter_map(Iterator::next).collect();
            // Before the reply, so that a caller who is answered has its memory back.
            drop(std::mem::take(&mut request.inputs));
            if request.caller.has_left() {
                self.shared.forget(request);
                continue;
            }
            let queue = started.duration_since(request.arrived);
            let now = Instant::now();
            if now > request.deadline {
                self.shared.refusals.add(Refusal::Late);
            }
            let total = now.duration_since(request.arrived);
            self.shared.statistics.add_success(request.rows, queue, phases, total);
            let (rows, batch_rows) = (request.rows, timing.batch_rows);
            let ended = SlowRequest { ended: now, total, queue, phases, rows, batch_rows };
            self.shared.statistics.slowest.offer(ended);
            request.reply.send(Ok(Output { tensors, timing: Timing { queue, ..timing }, phases }));
        }
    }

    /// Answers a request with an error, if somebody waits for it.
    fn refuse(&self, mut request: Pending, error: Error) {
        drop(std::mem::take(&mut request.inputs));
        if request.caller.has_left() {
            self.shared.forget(request);
            return;
        }
        self.shared.statistics.fail.add(request.arrived.elapsed());
        let timing = error.timing().copied().map(|timing| Timing {
            queue: timing.run.map_or(timing.queue, |run| run.started.duration_since(request.arrived)),
            ..timing
        });
        let error = match timing {
            Some(timing) => error.with_timing(timing),
            None => error,
        };
        request.reply.send(Err(error));
    }

    /// Runs the model; a panic of the executor is an internal error.
    fn timed(&mut self, run: &Run<'_>) -> (Result<Vec<Tensor>>, Duration) {
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.executor.run_for(run)));
        let compute = started.elapsed();
        let outcome = outcome.unwrap_or_else(|panic| {
            self.shared.statistics.instance_restarts.fetch_add(1, Ordering::Relaxed);
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Error::internal(format_args!("an instance panicked: {text}")))
        });
        (outcome, compute)
    }
}

/// How the run of a group ended.
enum Outcome {
    /// Each has its answer.
    Answered,
    /// Each has an error, or there was nobody left.
    Refused,
    /// One of them is to blame.
    Failed(Vec<Pending>),
}

/// What a run gave.
struct Ran {
    /// For each output the parts of the requests, in their order.
    outputs: Vec<std::vec::IntoIter<Tensor>>,
    /// Of the run; each request has waited for itself.
    timing: Timing,
    phases: Phases,
    started: Instant,
}

/// Puts the two halves of a group that failed on the stack, the first on top.
fn halve(mut requests: Vec<Pending>, groups: &mut Vec<Group>) {
    let second = requests.split_off(requests.len() / 2);
    groups.push(Group { requests: second, fails: false, is_first_half: false });
    groups.push(Group { requests, fails: false, is_first_half: true });
}

/// For each output the rows of each request. Copies nothing.
fn split_outputs(requests: &[Pending], outputs: Vec<Tensor>) -> Result<Vec<std::vec::IntoIter<Tensor>>> {
    if requests.len() == 1 {
        // Whatever its shape: a model that is not batched may answer with any number of rows.
        return Ok(outputs.into_iter().map(|output| vec![output].into_iter()).collect());
    }
    let counts: Vec<usize> = requests.iter().map(|request| request.rows).collect();
    let split = |output: &Tensor| Ok(split_rows(output, &counts).map_err(Error::internal)?.into_iter());
    outputs.iter().map(split).collect()
}

/// Gives back the lane of the run before and waits for a batch, and a lane where one is needed; `None` when the
/// scheduler closes.
fn next_batch(shared: &Arc<Shared>, mut ended: Option<Lane>) -> Option<(Batch<Pending>, Option<Lane>)> {
    let mut state = shared.lock();
    loop {
        let now = Instant::now();
        let Decision { lane, may_run, calls, again } = ask(shared, &mut state, ended.take(), now);
        let Action { expired, shed, batch, .. } = match &lane {
            Some(lane) => state.batcher.poll_within(lane.cap(), now),
            None => state.batcher.poll(now, may_run),
        };
        // Counted before the lock is given up, so that a drain never sees a batch neither waiting nor running.
        state.running += batch.as_ref().map_or(0, |batch| batch.requests.len());
        let has_given_up_lock = !(expired.is_empty() && shed.is_empty() && calls.is_empty());
        if has_given_up_lock {
            drop(state);
            calls.make();
            shared.refuse(expired, shed, now);
            state = shared.lock();
            shared.tell_if_quiet(&state);
        }
        if let Some(batch) = batch {
            timer::arm(shared, &mut state);
            if state.idle > 0 && state.batcher.has_work(now) {
                let calls = lane::wake(shared, &mut state, now);
                drop(state);
                calls.make();
            }
            return Some((batch, lane));
        }
        // A lane that is not needed after all goes back with the next question. While the lock was given up this instance
        // may have been called, and not have heard it.
        ended = lane;
        if has_given_up_lock || ended.is_some() || may_run && state.batcher.has_work(now) {
            continue;
        }
        if state.batcher.is_empty() && shared.closing.load(Ordering::Acquire) {
            return None;
        }
        state.idle += 1;
        // What is kept waiting on purpose is looked at again when it ripens, and what waits for a lane when one is overdue.
        let ripens = state.batcher.next_wake(now).filter(|_| !state.batcher.is_empty());
        state = match ripens.into_iter().chain(again).min() {
            Some(at) => {
                let wait = at.saturating_duration_since(now);
                shared.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
            }
            None => shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.idle -= 1;
    }
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
