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
mod refused;
mod replan;
mod reply;
mod timer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use synapse::Tensor;

use crate::batcher::{self, Batcher, Refused, Rejected, Waiting};
use crate::config::MAX_TIMEOUT;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::lanes::{Lanes, Seat, Terms};
use crate::metrics::{ModelStatistics, Phases};
use crate::reason::Reason;
use crate::request::Timing;
use crate::signature::{Admitted, BatchKey};

use attendance::{Caller, Runs};
use load::{ArrivalRate, Refusals, curve_rows};
use refused::{expired_after, missed, rejection, too_many_held};
use replan::Replanning;
use reply::{Answers, ReplyOnce};

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
    /// Its place in the order of answers, where they have one.
    turn: Option<u64>,
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
    refusals: Arc<Refusals>,
    /// Where answers leave in the order in which their requests were accepted.
    answers: Option<Arc<Answers>>,
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

    /// The reply of a request that arrives, with its place where answers have one. Called with the lock held.
    fn in_order(
        &self,
        reply: Reply,
        caller: &Arc<Caller>,
        deadline: Instant,
    ) -> Result<(Option<u64>, ReplyOnce)> {
        let Some(answers) = &self.answers else { return Ok((None, ReplyOnce::new(reply, None))) };
        let Some(turn) = answers.open(caller, deadline) else {
            self.refusals.add(Refusal::QueueFull);
            self.statistics.fail.add(Duration::ZERO);
            return Err(too_many_held(answers.most_held()));
        };
        Ok((Some(turn.number()), ReplyOnce::new(reply, Some(turn))))
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
        let refusals = Arc::new(Refusals::default());
        let most_held = state.batcher.rules().limits.max_queue_size.get();
        let is_ordered = state.batcher.rules().preserve_order;
        let answers = is_ordered.then(|| Answers::new(Arc::clone(&refusals), most_held));
        let shared = Arc::new_cyclic(|shared| Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            quiet: Condvar::new(),
            closing: AtomicBool::new(false),
            runs: Runs::new(executors.len()),
            statistics,
            refusals,
            answers,
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
        let Admitted { inputs, rows, key, class, delay, lingers, .. } = admitted;
        let bytes = inputs.iter().map(|tensor| tensor.memory().len()).sum();
        let deadline = now + timeout.min(MAX_TIMEOUT);
        let lingers = lingers.min(MAX_TIMEOUT);
        let caller = Arc::new(Caller::default());
        let accepted = Arc::clone(&caller);
        let mut state = self.shared.lock();
        state.arrivals.add(rows, now);
        let (turn, reply) = self.shared.in_order(reply, &caller, deadline + lingers)?;
        let pending =
            Pending { inputs, delay, rows, arrived: now, deadline: deadline + lingers, caller, reply };
        let waiting = Waiting { key, class, rows, bytes, deadline, lingers, request: pending };
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
                Ok(Accepted { id, caller: accepted, turn })
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
            forecast: (batcher.estimator().clone(), batcher.demand(arrivals, state.arrivals.request_rows())),
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
            if let (Some(answers), Some(turn)) = (&self.shared.answers, accepted.turn) {
                answers.leave(turn);
            }
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
