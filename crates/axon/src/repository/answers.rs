//! The answers of a loaded version that are kept, where its owner asks for that, and the runs that several wait for.
//!
//! A request is hashed when it has been found to fit its model. It is answered from the cache; or it waits for the run of
//! an identical one that is under way; or it is run and leads those that come meanwhile. Each who waits has his own
//! deadline, and may leave: the run goes on while one is left. A run that fails is its leader's failure alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use synapse::Tensor;

use super::model::{Asked, Model};
use super::ticket::{Place, Ticket};
use crate::error::{Error, ErrorKind, Result};
use crate::reason::Reason;
use crate::request::{CacheUse, InferenceResponse, NamedTensor, Parameter, RESPONSE_CACHE, Timing};
use crate::response_cache::{Failed, Finished, Flights, Key, Left, Member, Owner, ResponseCache};
use crate::scheduler::{Accepted, Alarmed, Output, Timer};

/// The outputs of a question, in the order in which it asks for them.
pub(super) type Kept = Arc<[Tensor]>;

/// The answers that a server keeps.
pub(super) type Responses = ResponseCache<Kept>;

/// What a tensor takes beside its elements: itself, and the allocation that it refers to.
const PLACE: usize = size_of::<Tensor>() + 128;

/// Called once with the answer.
type Respond = Box<dyn FnOnce(Result<InferenceResponse>) + Send>;

/// A request that waits for a run, its own or another's.
struct Waiter {
    lease: Arc<Model>,
    respond: Respond,
    arrived: Instant,
    lookup: Duration,
    /// What it asks, for a run of its own; taken when that begins.
    asked: Option<Asked>,
}

impl Waiter {
    fn answer(self, answer: Result<InferenceResponse>) {
        let Self { respond, lease, .. } = self;
        // A caller's callback that panics must not take the answers of the others with it.
        if catch_unwind(AssertUnwindSafe(|| respond(answer))).is_err() {
            tracing::error!(model = lease.name(), "the callback of a request panicked");
        }
    }
}

#[derive(Default)]
struct State {
    flights: Flights<Waiter, Accepted>,
    /// When the timer looks here next.
    armed: Option<Instant>,
}

/// The answers of one loaded version.
pub(super) struct Answers {
    cache: Arc<Responses>,
    owner: Owner,
    ttl: Option<Duration>,
    /// The most requests that wait for the runs of others, and their bytes; one more is run itself, which the queue bounds.
    max_followers: usize,
    max_follower_bytes: usize,
    state: Mutex<State>,
    timer: Arc<Timer>,
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.cache.close(self.owner);
    }
}

impl Alarmed for Answers {
    fn ring(self: Arc<Self>) {
        let now = Instant::now();
        let mut state = self.lock();
        state.armed.take_if(|armed| *armed <= now);
        let due = state.flights.due(now);
        let left: Vec<_> = due.into_iter().filter_map(|member| state.flights.leave(member)).collect();
        self.arm(&mut state);
        drop(state);
        for Left { waiter, handle, .. } in left {
            stop(&waiter.lease, handle);
            let waited = now.saturating_duration_since(waiter.arrived);
            waiter.lease.scheduler().count_expired(waited);
            waiter.answer(Err(expired_after(waited)));
        }
    }
}

impl Answers {
    /// Answers a request from the cache, or has it wait for a run.
    ///
    /// # Errors
    /// As for [`Model::submit`].
    pub fn submit(self: &Arc<Self>, lease: Arc<Model>, mut asked: Asked, respond: Respond) -> Result<Ticket> {
        let arrived = Instant::now();
        own(&mut asked.admitted.inputs);
        let key = self.key(&lease, &asked);
        let class = asked.admitted.class;
        let mut state = self.lock();
        if let Some(running) = state.flights.class(key) {
            let bytes = asked.admitted.inputs.iter().map(|tensor| tensor.memory().len()).sum();
            // Who is more urgent does not wait where the other one waits.
            if class < running || !self.has_room(&state, bytes) {
                drop(state);
                return lease.run(asked, None, respond);
            }
            let deadline = arrived + asked.timeout;
            let lookup = arrived.elapsed();
            let waiter = Waiter { lease: Arc::clone(&lease), respond, arrived, lookup, asked: Some(asked) };
            let joined = state.flights.join(key, class, deadline, bytes, waiter);
            let member = joined.map_err(|_| Error::internal("a run ended while it was joined"))?;
            self.arm(&mut state);
            return Ok(Ticket::new(Arc::clone(&lease), Place::Flight(member)));
        }
        // Under the lock: a run that ends keeps its answer before it gives up its flight.
        if let Some(kept) = self.cache.get(key, arrived) {
            drop(state);
            let lookup = arrived.elapsed();
            self.cache.count_hit(lookup);
            lease.statistics().add_hit(lookup);
            lease.statistics().success.add(lookup);
            let timing = Timing { cache: CacheUse::Hit, ..Timing::default() };
            respond(Ok(lease.answer(asked.wanted.as_deref(), kept.iter().cloned(), timing)));
            return Ok(Ticket::new(lease, Place::Answered));
        }
        let lookup = arrived.elapsed();
        let waiter = Waiter { lease: Arc::clone(&lease), respond, arrived, lookup, asked: None };
        let (run, member) = state.flights.begin(key, class, waiter);
        drop(state);
        self.count_miss(&lease, lookup);
        if let Err(error) = self.run(&lease, (key, run), asked) {
            // Who came meanwhile is not failed by it. Its own caller hears of it from here.
            if let Some((_, next)) = self.lead_on((key, run)) {
                self.run_next(key, next);
            }
            return Err(error);
        }
        Ok(Ticket::new(lease, Place::Flight(member)))
    }

    /// Takes a request back whose caller has gone.
    pub fn cancel(&self, member: Member) {
        let left = self.lock().flights.leave(member);
        let Some(Left { waiter, was_leader, was_last, handle }) = left else { return };
        let (scheduler, waited) = (waiter.lease.scheduler(), waiter.arrived.elapsed());
        match (was_leader, was_last) {
            // The scheduler counts it, unless the run has ended meanwhile.
            (true, true) => stop(&waiter.lease, handle),
            // It is counted with its run. Nobody but the leader would have woken an instance for that.
            (true, false) => scheduler.wake(),
            (false, _) => {
                scheduler.count_left(waited);
                stop(&waiter.lease, handle);
            }
        }
    }

    /// Drops what is kept, and keeps nothing from now on.
    pub fn forget(&self) {
        self.cache.close(self.owner);
    }

    /// How many wait for the run of another one.
    pub fn followers(&self) -> usize {
        self.lock().flights.followers().0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, state: &State, bytes: usize) -> bool {
        let (followers, weight) = state.flights.followers();
        followers < self.max_followers && weight.saturating_add(bytes) <= self.max_follower_bytes
    }

    fn arm(self: &Arc<Self>, state: &mut State) {
        let Some(deadline) = state.flights.next_deadline() else { return };
        if state.armed.is_none_or(|armed| deadline < armed) {
            state.armed = Some(deadline);
            let answers: Arc<dyn Alarmed> = Arc::<Self>::clone(self);
            self.timer.wake_at(deadline, Arc::downgrade(&answers));
        }
    }

    /// What a request asks, hashed: the inputs in the model's order, which stands for their names, and the outputs in the
    /// request's. The owner stands for model, version and load.
    fn key(&self, lease: &Model, asked: &Asked) -> Key {
        let mut hasher = self.cache.hasher(self.owner);
        if let Some(wanted) = &asked.wanted {
            hasher.number(wanted.len() as u64);
            for &output in wanted {
                hasher.number(output as u64);
            }
        } else {
            let outputs = lease.signature().outputs.len() as u64;
            hasher.number(outputs);
            for output in 0..outputs {
                hasher.number(output);
            }
        }
        hasher.number(asked.admitted.inputs.len() as u64);
        for tensor in &asked.admitted.inputs {
            hasher.number(tensor.datatype() as u64);
            hasher.number(tensor.shape().len() as u64);
            for &size in tensor.shape().iter() {
                hasher.number(size as u64);
            }
            hasher.bytes(tensor.memory());
        }
        hasher.finish()
    }

    fn count_miss(&self, lease: &Model, lookup: Duration) {
        self.cache.count_miss(lookup);
        lease.statistics().add_miss(lookup);
    }

    /// Queues the run of a flight.
    fn run(self: &Arc<Self>, lease: &Arc<Model>, flight: (Key, u64), asked: Asked) -> Result<()> {
        let Asked { admitted, wanted, doubt, timeout } = asked;
        let (answers, model, begun) = (Arc::clone(self), Arc::clone(lease), Instant::now());
        let reply = Box::new(move |answer: Result<Output>| match answer {
            Ok(output) => answers.finish(&model, flight, (wanted.as_deref(), begun), output),
            Err(error) => {
                let is_doubted = error.kind() == ErrorKind::ExecutionFailed;
                let error = doubt.filter(|_| is_doubted).unwrap_or(error);
                answers.pass_on(&model, flight, (error, begun));
            }
        });
        let accepted = lease.scheduler().submit(admitted, timeout, reply)?;
        let unwanted = self.lock().flights.started(flight.0, flight.1, accepted).err();
        stop(lease, unwanted);
        Ok(())
    }

    /// Keeps the answer of a run and gives it to all who wait for it.
    fn finish(
        &self,
        lease: &Model,
        (key, run): (Key, u64),
        (wanted, begun): (Option<&[usize]>, Instant),
        output: Output,
    ) {
        let Output { tensors, timing, .. } = output;
        let tensors = match wanted {
            Some(wanted) => wanted.iter().filter_map(|&index| tensors.get(index).cloned()).collect(),
            None => tensors,
        };
        let kept = self.keep(lease, key, &tensors);
        let Some(Finished { leader, followers }) = self.lock().flights.finish(key, run) else { return };
        let statistics = lease.statistics();
        // The scheduler has counted one answer: the leader's, or else the first follower's.
        let mut is_counted = false;
        if let Some(leader) = leader {
            is_counted = true;
            let timing = Timing { cache: CacheUse::Miss, ..timing };
            leader.answer(Ok(lease.answer(wanted, tensors.iter().cloned(), timing)));
        } else {
            statistics.fail.add(begun.elapsed());
            statistics.cancel.add(begun.elapsed());
        }
        let shared = kept.as_deref().unwrap_or(&tensors);
        for follower in followers {
            let queue = follower.arrived.elapsed();
            self.cache.count_hit(follower.lookup);
            statistics.add_hit(follower.lookup);
            if std::mem::replace(&mut is_counted, true) {
                statistics.success.add(queue);
            }
            let timing = Timing { queue, cache: CacheUse::Hit, ..Timing::default() };
            follower.answer(Ok(lease.answer(wanted, shared.iter().cloned(), timing)));
        }
    }

    /// Keeps an answer: copies each byte once, so that no batch is kept for the sake of one of its rows.
    fn keep(&self, lease: &Model, key: Key, tensors: &[Tensor]) -> Option<Kept> {
        let begun = Instant::now();
        let bytes = tensors.iter().map(|tensor| tensor.memory().len() + PLACE).sum();
        if !self.cache.may_keep(bytes) {
            return None;
        }
        let kept: Kept = tensors.iter().map(Tensor::detached).collect();
        let expires = self.ttl.and_then(|ttl| begun.checked_add(ttl));
        let is_kept = self.cache.insert(self.owner, key, (Arc::clone(&kept), bytes), expires, begun);
        let took = begun.elapsed();
        self.cache.count_insertion(took);
        lease.statistics().cache_miss.lengthen(took);
        is_kept.then_some(kept)
    }

    /// Tells the leader that its run has failed, which the scheduler has counted, and has the next one lead.
    fn pass_on(self: &Arc<Self>, lease: &Model, flight: (Key, u64), (error, begun): (Error, Instant)) {
        let Some((leader, next)) = self.lead_on(flight) else { return };
        match leader {
            Some(leader) => leader.answer(Err(error)),
            None => lease.statistics().cancel.add(begun.elapsed()),
        }
        self.run_next(flight.0, next);
    }

    /// Runs the question of who leads now; who is refused at arrival is told so, and the one after it leads.
    fn run_next(self: &Arc<Self>, key: Key, mut next: Option<Next>) {
        while let Some(Next { asked, lease, run }) = next {
            match self.run(&lease, (key, run), asked) {
                Ok(()) => return lease.scheduler().wake(),
                Err(error) => {
                    let Some((leader, after)) = self.lead_on((key, run)) else { return };
                    if let Some(leader) = leader {
                        leader.answer(Err(error));
                    }
                    next = after;
                }
            }
        }
    }

    /// Takes the leader of a run that has failed out of its flight, and makes the first follower the next.
    fn lead_on(&self, (key, run): (Key, u64)) -> Option<(Option<Waiter>, Option<Next>)> {
        let prepare = |waiter: &mut Waiter, deadline: Instant| {
            let timeout = deadline.saturating_duration_since(Instant::now());
            let asked = waiter.asked.take().map(|asked| Asked { timeout, ..asked });
            (asked, Arc::clone(&waiter.lease), waiter.lookup)
        };
        let Failed { leader, next } = self.lock().flights.fail(key, run, prepare)?;
        let next = next.and_then(|((asked, lease, lookup), run)| {
            self.count_miss(&lease, lookup);
            Some(Next { asked: asked?, lease, run })
        });
        Some((leader, next))
    }
}

/// Who leads a flight whose run has failed.
struct Next {
    asked: Asked,
    lease: Arc<Model>,
    run: u64,
}

impl Model {
    /// Keeps answers in `cache`, where its configuration asks for that.
    pub(super) fn keep_answers(&mut self, cache: &Arc<Responses>, timer: &Arc<Timer>) {
        let Some(wish) = self.configuration().response_cache() else { return };
        let (model, version) = (self.name(), self.version());
        if cache.is_off() {
            tracing::warn!(
                model,
                version,
                "response_cache: nothing is kept, the server's cache has no bytes"
            );
            return;
        }
        if self.findings().deterministic == Some(false) {
            tracing::warn!(
                model,
                version,
                "response_cache: the model gives another answer each time; the first one is kept"
            );
        }
        let config = self.config();
        let answers = Answers {
            owner: cache.open(),
            cache: Arc::clone(cache),
            ttl: wish.ttl,
            max_followers: config.max_queue_size.get(),
            max_follower_bytes: config.max_queue_bytes,
            state: Mutex::default(),
            timer: Arc::clone(timer),
        };
        self.set_answers(Arc::new(answers));
    }

    /// How many requests wait for the run of an identical one; `None` where its answers are not kept.
    #[must_use]
    pub fn followers(&self) -> Option<usize> {
        self.answers().map(|answers| answers.followers())
    }

    /// The outputs under their names.
    fn answer(
        &self,
        wanted: Option<&[usize]>,
        tensors: impl Iterator<Item = Tensor>,
        timing: Timing,
    ) -> InferenceResponse {
        let specs = &self.signature().outputs;
        let named = tensors.enumerate().filter_map(|(position, tensor)| {
            let index = wanted.map_or(Some(position), |wanted| wanted.get(position).copied())?;
            Some(NamedTensor::new(specs.get(index)?.name.as_str(), tensor))
        });
        InferenceResponse {
            model: self.name().to_owned(),
            version: self.version(),
            outputs: named.collect(),
            timing,
        }
    }
}

/// Whether a request is to be run itself: its answer is neither taken from the cache nor kept.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] for another value than `true` and `false`.
pub(super) fn bypasses(parameters: &[(String, Parameter)]) -> Result<bool> {
    match parameters.iter().find(|(key, _)| key == RESPONSE_CACHE) {
        None => Ok(false),
        Some((_, Parameter::Bool(is_wanted))) => Ok(!is_wanted),
        Some((_, other)) => Err(Error::invalid(
            format!("parameters.{RESPONSE_CACHE}"),
            format_args!("expected true or false, got {other:?}"),
        )),
    }
}

/// Copies inputs that the caller's own program may write again, whole, before they are hashed: an answer to something
/// else must not be kept under their key.
fn own(inputs: &mut [Tensor]) {
    for tensor in inputs.iter_mut().filter(|tensor| tensor.memory().is_lent()) {
        *tensor = tensor.detached();
    }
}

/// Stops a run that nobody waits for.
fn stop(lease: &Model, handle: Option<Accepted>) {
    if let Some(accepted) = handle {
        lease.scheduler().cancel(&accepted);
    }
}

fn expired_after(waited: Duration) -> Error {
    let message = format!(
        "the request waited {} ms, its whole timeout, for the answer to an identical one",
        waited.as_millis()
    );
    Error::new(ErrorKind::DeadlineExceeded, message).because(Reason::Expired)
}
