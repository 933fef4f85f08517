//! Runs one model's batches: instance threads that pull from the batcher when they are free.
//!
//! The batcher sits behind a lock that is held for a few lines. A caller pushes and wakes an idle instance; an
//! instance that becomes free pulls the next batch, so that a batch is formed only when it can start. One timer
//! thread, shared by all models of a server, answers requests whose deadline passes while every instance is busy.
//!
//! Answers are given by a callback, so that Tokio, asyncio and blocking callers share one path.
//!
//! Invariants: every accepted request is answered exactly once; nothing starts at or after its deadline or after
//! its caller has gone; a run whose callers have all gone is stopped; threads end when the scheduler is closed or
//! dropped.

mod aside;
mod attendance;
mod instance;
mod lane;
mod load;
mod replan;
mod timer;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synapse::Tensor;

use crate::batcher::{self, Batcher, Refused, Rejected, Waiting};
use crate::config::MAX_TIMEOUT;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::Executor;
use crate::lanes::{Lanes, Seat, Terms};
use crate::metrics::{ModelStatistics, Phases};
use crate::reason::Reason;
use crate::request::Timing;
use crate::signature::{Admitted, BatchKey};

use attendance::{Caller, Runs};
use load::{ArrivalRate, Refusals, curve_rows, predicted_p99};
use replan::Replanning;

pub use crate::batcher::{Class, Learned, Limits, RequestId, Rules};
pub use load::{Load, Refusal};
pub use replan::Replan;
pub(crate) use timer::Alarmed;
pub use timer::Timer;

/// The outputs of one request, in the model's order.
#[derive(Debug)]
pub struct Output {
    /// All outputs of the model.
    pub tensors: Vec<Tensor>,
    /// How it was run.
    pub timing: Timing,
    /// What the parts of its run took.
    pub phases: Phases,
}

/// Called once with the answer, on an instance's or the timer's thread; it must not block.
pub type Reply = Box<dyn FnOnce(Result<Output>) + Send>;

/// A reply that is given even when it is forgotten: dropped unused, it answers with an internal error.
struct ReplyOnce(Option<Reply>);

impl ReplyOnce {
    fn send(mut self, answer: Result<Output>) {
        self.give(answer);
    }

    fn give(&mut self, answer: Result<Output>) {
        if let Some(reply) = self.0.take() {
            // A caller's callback that panics must not take the instance with it.
            if std::panic::catch_unwind(AssertUnwindSafe(|| reply(answer))).is_err() {
                tracing::error!("the callback of a request panicked");
            }
        }
    }

    /// For a request that was never accepted, or whose caller has gone.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for ReplyOnce {
    fn drop(&mut self) {
        self.give(Err(Error::internal("a request was dropped without an answer")));
    }
}

/// An accepted request.
struct Pending {
    inputs: Vec<Tensor>,
    delay: Duration,
    rows: usize,
    arrived: Instant,
    deadline: Instant,
    caller: Arc<Caller>,
    reply: ReplyOnce,
}

/// A request that was accepted, for whoever may want to take it back.
pub struct Accepted {
    id: RequestId,
    caller: Arc<Caller>,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How a model is run.
pub struct SchedulerConfig {
    /// The bounds of its queue and batches, and how it is served; `instances` is set from the executors.
    pub rules: Rules,
    /// Its part of the device's time against those of other models, at least 1.
    pub weight: u32,
    /// Threads of one run, at least 1.
    pub threads: usize,
    /// Asked now and then whether what was learned asks for other batches; `None` keeps them as they are.
    pub replan: Option<Replan>,
}

struct State {
    batcher: Batcher<BatchKey, Pending>,
    /// Instances that wait for work.
    idle: usize,
    /// An instance has work and waits for a lane.
    is_claiming: bool,
    /// Requests taken by instances and not yet answered.
    running: usize,
    /// When the timer looks at this queue next.
    armed: Option<Instant>,
    arrivals: ArrivalRate,
    replanning: Option<Replanning>,
}

struct Shared {
    state: Mutex<State>,
    /// Signals instances: work has come, or the queue was closed.
    work: Condvar,
    /// Signals [`Scheduler::drain`]: nothing waits and nothing runs.
    quiet: Condvar,
    closing: AtomicBool,
    /// What the instances run at present.
    runs: Runs,
    statistics: Arc<ModelStatistics>,
    refusals: Refusals,
    timer: Arc<Timer>,
    seat: Seat,
}

/// What the models of a server have in common.
#[derive(Clone)]
pub struct Host {
    /// Looks at the queues when deadlines pass.
    pub timer: Arc<Timer>,
    /// The device that the models run on.
    pub lanes: Arc<Lanes>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held would be a defect of the batcher; its state is plain data, and a server that
        // goes on answering is worth more than one that fails every caller from then on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever drains when nothing waits and nothing runs.
    fn tell_if_quiet(&self, state: &State) {
        if state.running == 0 && state.batcher.is_empty() {
            self.quiet.notify_all();
        }
    }

    /// Counts a request whose caller has gone, and answers nothing.
    fn forget(&self, request: Pending) {
        self.refusals.add(Refusal::Cancelled);
        let waited = request.arrived.elapsed();
        self.statistics.fail.add(waited);
        self.statistics.cancel.add(waited);
        request.reply.forget();
    }

    /// Answers what will not be run.
    fn refuse(&self, expired: Vec<Pending>, shed: Vec<Pending>, now: Instant) {
        self.fail(expired, Refusal::Expired, now, expired_after);
        self.fail(shed, Refusal::PredictedMiss, now, |waited| {
            let wait = format!("given up after {} ms in the queue", waited.as_millis());
            missed(format_args!("{wait}: it could not be answered in time any more"), waited)
        });
    }

    fn fail(
        &self,
        requests: Vec<Pending>,
        refusal: Refusal,
        now: Instant,
        error: impl Fn(Duration) -> Error,
    ) {
        if !requests.is_empty() {
            self.lock().arrivals.refuse(refusal, now);
        }
        for Pending { inputs, arrived, reply, .. } in requests {
            drop(inputs);
            self.refusals.add(refusal);
            let waited = now.duration_since(arrived);
            self.statistics.fail.add(waited);
            reply.send(Err(error(waited)));
        }
    }
}

/// A request that could not be answered in time, or whose place a more urgent one has taken.
fn missed(why: std::fmt::Arguments<'_>, wait: Duration) -> Error {
    Error::new(ErrorKind::Overloaded, format!("the model is overloaded: {why}"))
        .with_retry_after(retry_after(wait))
        .because(Reason::PredictedMiss)
}

/// When to try again: about when what waits now is done.
fn retry_after(wait: Duration) -> Duration {
    wait.clamp(Duration::from_millis(100), Duration::from_secs(10))
}

fn expired_after(waited: Duration) -> Error {
    Error::new(
        ErrorKind::DeadlineExceeded,
        format!("the request waited {} ms, its whole timeout, and was not run", waited.as_millis()),
    )
    .because(Reason::Expired)
}

fn rejection(reason: Rejected, batcher: &Batcher<BatchKey, Pending>) -> Error {
    let limits = &batcher.rules().limits;
    let waiting = batcher.len();
    let full = |bound: &str| {
        let message = format!("the queue is full: {waiting} requests wait, {bound}");
        Error::new(ErrorKind::Overloaded, message)
            .with_retry_after(retry_after(batcher.backlog()))
            .because(Reason::QueueFull)
    };
    match reason {
        Rejected::QueueFull => full(&format!("max_queue_size is {}", limits.max_queue_size)),
        Rejected::QueueBytesFull => {
            full(&format!("their inputs reach max_queue_bytes {}", limits.max_queue_bytes))
        }
        Rejected::PredictedMiss { wait } => missed(
            format_args!(
                "an answer would take about {} ms, longer than the request may wait",
                wait.as_millis()
            ),
            batcher.backlog(),
        ),
        Rejected::TooShort { run } => Error::new(
            ErrorKind::DeadlineExceeded,
            format!(
                "the timeout is shorter than a run, which takes about {} ms; it was not run",
                run.as_millis()
            ),
        )
        .because(Reason::Expired),
        Rejected::Expired => Error::new(ErrorKind::DeadlineExceeded, "the request's timeout is over already")
            .because(Reason::Expired),
        Rejected::Closed => Error::shutting_down(),
    }
}

/// One model's queue and instances.
pub struct Scheduler {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// A forked child has this value but not its threads, and perhaps its lock as another thread held it.
    process: u32,
}

impl Scheduler {
    /// Starts one thread for each executor, named after the model.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when a thread cannot be started.
    pub fn start(
        name: &str,
        config: SchedulerConfig,
        executors: Vec<Box<dyn Executor>>,
        statistics: Arc<ModelStatistics>,
        host: &Host,
    ) -> Result<Self> {
        let instances = executors.len().max(1);
        let terms = Terms { weight: config.weight, instances, width: config.threads };
        let state = State {
            batcher: Batcher::new(Rules { instances, ..config.rules }),
            idle: 0,
            is_claiming: false,
            running: 0,
            armed: None,
            arrivals: ArrivalRate::new(Instant::now()),
            replanning: config.replan.map(|replan| Replanning::new(replan, Instant::now())),
        };
        let shared = Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            quiet: Condvar::new(),
            closing: AtomicBool::new(false),
            runs: Runs::new(executors.len()),
            statistics,
            refusals: Refusals::default(),
            timer: Arc::clone(&host.timer),
            seat: host.lanes.join(terms, lane::waker(shared)),
        });
        let scheduler = Self {
            shared: Arc::clone(&shared),
            threads: Mutex::new(Vec::new()),
            process: std::process::id(),
        };
        for (index, executor) in executors.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            // The kernel cuts thread names to 15 bytes.
            let thread = std::thread::Builder::new()
                .name(format!("ax{index}-{name}"))
                .spawn(move || instance::run(&shared, index, executor))
                .map_err(Error::internal)?;
            scheduler.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(scheduler)
    }

    /// Queues a request that waits for `timeout` at most. Call [`Scheduler::wake`] after it; an event loop does so
    /// once it has queued what else has come meanwhile, so that requests that came together run together.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] when the queue is full, [`ErrorKind::ShuttingDown`] after [`Scheduler::close`];
    /// `reply` is then never called.
    pub fn submit(&self, admitted: Admitted, timeout: Duration, reply: Reply) -> Result<Accepted> {
        let now = Instant::now();
        let Admitted { inputs, rows, key, class, delay, .. } = admitted;
        let bytes = inputs.iter().map(|tensor| tensor.memory().len()).sum();
        let deadline = now + timeout.min(MAX_TIMEOUT);
        let (caller, reply) = (Arc::new(Caller::default()), ReplyOnce(Some(reply)));
        let accepted = Arc::clone(&caller);
        let pending = Pending { inputs, delay, rows, arrived: now, deadline, caller, reply };
        let waiting = Waiting { key, class, rows, bytes, deadline, request: pending };
        let mut state = self.shared.lock();
        state.arrivals.add(rows, now);
        let asked = lane::look_around(&self.shared, &mut state, &waiting, now);
        match state.batcher.push(waiting, now) {
            Ok(batcher::Accepted { id, displaced }) => {
                asked.accepted(&self.shared, now);
                if state.idle == 0 || state.is_claiming {
                    timer::arm(&self.shared, &mut state);
                }
                drop(state);
                self.shared.fail(displaced, Refusal::Displaced, now, |waited| {
                    missed(format_args!("a more urgent request took its place in the queue"), waited)
                        .because(Reason::Displaced)
                });
                Ok(Accepted { id, caller: accepted })
            }
            Err(Refused { reason, request: pending }) => {
                let error = rejection(reason, &state.batcher);
                let refusal = match reason {
                    Rejected::QueueFull | Rejected::QueueBytesFull => Some(Refusal::QueueFull),
                    Rejected::PredictedMiss { .. } => Some(Refusal::PredictedMiss),
                    Rejected::TooShort { .. } | Rejected::Expired => Some(Refusal::Expired),
                    Rejected::Closed => None,
                };
                if let Some(refusal) = refusal {
                    state.arrivals.refuse(refusal, now);
                    self.shared.refusals.add(refusal);
                }
                drop(state);
                pending.reply.forget();
                self.shared.statistics.fail.add(Duration::ZERO);
                Err(error)
            }
        }
    }

    /// What is known of the load, and what has been learned of the model's runs.
    #[must_use]
    pub fn load(&self) -> Load {
        let now = Instant::now();
        let state = self.shared.lock();
        let (batcher, arrivals) = (&state.batcher, state.arrivals.read(now));
        let rows = batcher.rules().limits.max_batch_rows.get();
        let (learned, capacity) = (batcher.estimator().learned(), batcher.capacity());
        Load {
            full_batch: batcher.estimator().predict(rows),
            max_batch_rows: rows,
            curve: curve_rows(rows).map(|rows| (rows, batcher.estimator().predict(rows))).collect(),
            instances: batcher.rules().instances,
            busy_instances: self.shared.runs.count(),
            arrivals,
            capacity,
            waiting: batcher.len(),
            waiting_bytes: batcher.bytes(),
            running: state.running,
            predicted_p99: predicted_p99(&learned, arrivals, capacity, rows),
            learned,
            standing: self.shared.seat.standing(now),
            refusals: self.shared.refusals.read(),
            refusing: state.arrivals.refusing(now),
        }
    }

    /// Wakes an idle instance when requests wait.
    pub fn wake(&self) {
        let mut state = self.shared.lock();
        if state.idle > 0 && !state.batcher.is_empty() {
            let calls = lane::wake(&self.shared, &mut state, Instant::now());
            drop(state);
            calls.make();
        }
    }

    /// Takes a request back because its caller has gone: out of the queue, or out of its batch, whose run is stopped when
    /// nobody else waits for it. Its reply is never called; does nothing when it has been.
    pub fn cancel(&self, accepted: &Accepted) {
        let mut state = self.shared.lock();
        let Some(pending) = state.batcher.cancel(accepted.id) else {
            drop(state);
            // An instance has it: it leaves the request out where it comes upon it next.
            accepted.caller.leave();
            return;
        };
        self.shared.tell_if_quiet(&state);
        drop(state);
        self.shared.forget(pending);
    }

    /// The requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().batcher.len()
    }

    /// Refuses new requests and waits until the accepted ones are answered; after `limit` those that still wait
    /// are answered with [`ErrorKind::ShuttingDown`]. True when nothing was left.
    pub fn drain(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit.min(MAX_TIMEOUT);
        let mut state = self.shared.lock();
        state.batcher.refuse_new();
        self.shared.work.notify_all();
        while !(state.batcher.is_empty() && state.running == 0) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.quiet.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let left_over = state.batcher.close();
        let drained = left_over.is_empty() && state.running == 0;
        drop(state);
        for Pending { reply, arrived, .. } in left_over {
            self.shared.statistics.fail.add(arrived.elapsed());
            reply.send(Err(Error::shutting_down()));
        }
        drained
    }

    /// Drains for `limit` at most, stops what still runs then, and joins the instances. A run that cannot be stopped, as
    /// inside a kernel, is waited for.
    pub fn close(&self, limit: Duration) {
        if self.process != std::process::id() {
            return;
        }
        self.drain(limit);
        self.shared.runs.stop();
        self.shared.closing.store(true, Ordering::Release);
        drop(self.shared.lock());
        self.shared.work.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // The last lease on a model may be dropped by a reply, on the instance's own thread, which ends by itself.
            if thread.thread().id() == std::thread::current().id() {
                continue;
            }
            // An instance catches the panics of its executor; one that ended by another has been logged by its hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.close(Duration::ZERO);
        } else {
            // Not even detached: the child may have a thread of its own at the same address.
            let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(std::mem::take(threads));
        }
    }
}

#[cfg(test)]
mod tests;
