//! Sends copies of requests to another model, after their answers, and compares what it says.
//!
//! A thread of its own does so. Whoever answers a request hands over what he has and goes on: a copy that finds no place is
//! dropped and counted. A copy is sent only while nobody waits for either of the two models, at the lowest priority, so
//! that it takes what is left over.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use synapse::Tensor;

use super::compare::compare;
use super::counters::{Dropped, ShadowCounters};
use super::declared::Destination;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::Model;
use crate::request::{InferenceRequest, InferenceResponse, Inputs, NamedTensor, Parameter, RESPONSE_CACHE};

/// The most copies that are on their way.
pub const MAX_COPIES: usize = 32;

/// The most bytes that the inputs of copies may take together.
pub const MAX_COPY_BYTES: usize = 256 << 20;

/// The least urgent, of however many levels a model has.
const LEAST: u64 = u64::MAX;

/// Finds a model that is ready.
pub(crate) type Finder = Box<dyn Fn(&Destination) -> Option<Arc<Model>> + Send>;

/// What is on its way, all copies together.
#[derive(Debug, Default)]
struct Load {
    copies: AtomicUsize,
    bytes: AtomicUsize,
}

/// A place among the copies, given back when it is dropped.
struct Place {
    load: Arc<Load>,
    bytes: usize,
}

impl Place {
    fn take(load: &Arc<Load>, bytes: usize) -> Option<Self> {
        let copies = load.copies.fetch_add(1, Ordering::AcqRel);
        let taken = load.bytes.fetch_add(bytes, Ordering::AcqRel);
        let place = Self { load: Arc::clone(load), bytes };
        let fits = copies < MAX_COPIES && taken.saturating_add(bytes) <= MAX_COPY_BYTES;
        // One that does not fit is given back here.
        fits.then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.copies.fetch_sub(1, Ordering::AcqRel);
        self.load.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The copy of a request, whose tensors share the request's memory.
pub(super) struct Copied {
    primary: Destination,
    shadow: Destination,
    inputs: Inputs,
    outputs: Vec<String>,
    parameters: Vec<(String, Parameter)>,
    counters: Arc<ShadowCounters>,
    place: Place,
}

impl Copied {
    /// It is not sent.
    pub fn drop_for(self, cause: Dropped) {
        self.counters.drop_one(cause);
    }
}

/// A copy whose request was answered.
struct Answered {
    copied: Copied,
    outputs: Vec<NamedTensor>,
    took: Duration,
}

/// A copy that was answered too.
struct Compared {
    counters: Arc<ShadowCounters>,
    primary: (Vec<NamedTensor>, Duration),
    shadow: (Result<InferenceResponse>, Duration),
    _place: Place,
}

enum Work {
    Send(Box<Answered>),
    Compare(Box<Compared>),
}

/// Sends copies. Its thread ends when it is dropped.
#[derive(Default)]
pub(super) struct Shadows {
    load: Arc<Load>,
    work: Mutex<Option<Arc<SyncSender<Work>>>>,
}

impl Shadows {
    /// Starts the thread, unless it runs.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it cannot be started.
    pub fn start(&self, find: impl FnOnce() -> Finder) -> Result<()> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.is_some() {
            return Ok(());
        }
        // Each copy has one message on its way at most.
        let (sender, receiver) = sync_channel(MAX_COPIES);
        let sender = Arc::new(sender);
        let (back, find) = (Arc::downgrade(&sender), find());
        let run = move || run(&receiver, &back, &find);
        std::thread::Builder::new().name("axon-shadow".to_owned()).spawn(run).map_err(Error::internal)?;
        *work = Some(sender);
        Ok(())
    }

    /// Copies a request that goes to the first of two models, for the second; `None` when there is no place for it.
    pub fn copy(
        &self,
        request: &InferenceRequest,
        (primary, shadow): (Destination, Destination),
        counters: &Arc<ShadowCounters>,
    ) -> Option<Copied> {
        let Some(place) = Place::take(&self.load, request.input_bytes()) else {
            counters.drop_one(Dropped::Full);
            return None;
        };
        Some(Copied {
            primary,
            shadow,
            inputs: kept(&request.inputs),
            outputs: request.outputs.clone(),
            parameters: uncached(&request.parameters),
            counters: Arc::clone(counters),
            place,
        })
    }

    /// Has a copy sent, of a request that was answered and took so long. Never waits.
    pub fn send(&self, copied: Copied, response: &InferenceResponse, took: Duration) {
        let sender = self.work.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answered = Answered { copied, outputs: response.outputs.clone(), took };
        let counters = Arc::clone(&answered.copied.counters);
        let sent = sender.is_some_and(|sender| sender.try_send(Work::Send(Box::new(answered))).is_ok());
        if !sent {
            counters.drop_one(Dropped::Full);
        }
    }
}

fn run(work: &Receiver<Work>, back: &Weak<SyncSender<Work>>, find: &Finder) {
    while let Ok(work) = work.recv() {
        match work {
            Work::Send(answered) => send(*answered, back, find),
            Work::Compare(compared) => tell(*compared),
        }
    }
}

/// Inputs for after the answer, when the caller may write its own memory again.
fn kept(inputs: &Inputs) -> Inputs {
    let own = |tensor: &Tensor| if tensor.memory().is_lent() { tensor.detached() } else { tensor.clone() };
    match inputs {
        Inputs::One(tensor) => Inputs::One(own(tensor)),
        Inputs::Named(named) => Inputs::Named(
            named.iter().map(|one| NamedTensor::new(one.name.as_str(), own(&one.tensor))).collect(),
        ),
    }
}

/// The parameters of a copy: its run is what is compared, and no caller's kept answers make way for it.
fn uncached(parameters: &[(String, Parameter)]) -> Vec<(String, Parameter)> {
    let others = parameters.iter().filter(|(name, _)| name != RESPONSE_CACHE).cloned();
    others.chain([(RESPONSE_CACHE.to_owned(), Parameter::Bool(false))]).collect()
}

/// Asks the shadow, if nobody waits for it or for the model that has answered.
fn send(answered: Answered, back: &Weak<SyncSender<Work>>, find: &Finder) {
    let Answered { copied, outputs, took } = answered;
    let Copied { primary, shadow, inputs, outputs: wanted, parameters, counters, place } = copied;
    let Some(model) = find(&shadow) else { return counters.drop_one(Dropped::NotReady) };
    let is_busy = |model: Arc<Model>| model.waiting() > 0;
    if is_busy(Arc::clone(&model)) || find(&primary).is_some_and(is_busy) {
        return counters.drop_one(Dropped::Busy);
    }
    let request = InferenceRequest {
        outputs: wanted,
        parameters,
        priority: LEAST,
        ..InferenceRequest::new(inputs).with_model(&shadow.model)
    };
    let (since, back, noted) = (Instant::now(), Weak::clone(back), Arc::clone(&counters));
    let reply = move |answer: Result<InferenceResponse>| {
        let shadow = (answer, since.elapsed());
        let compared = Compared { counters: noted, primary: (outputs, took), shadow, _place: place };
        // Nobody wants to know any more when the thread has ended.
        if let Some(back) = back.upgrade() {
            let _ = back.try_send(Work::Compare(Box::new(compared)));
        }
    };
    match model.submit(request, reply) {
        Ok(mut ticket) => ticket.wake(),
        Err(error) => refused(&counters, &error),
    }
}

fn tell(compared: Compared) {
    let Compared { counters, primary: (outputs, primary), shadow: (answer, shadow), _place } = compared;
    match answer {
        Ok(response) => counters.compared(compare(&outputs, &response.outputs), primary, shadow),
        Err(error) => refused(&counters, &error),
    }
}

/// A shadow that has no time is no broken one.
fn refused(counters: &ShadowCounters, error: &Error) {
    match error.kind() {
        ErrorKind::Overloaded | ErrorKind::DeadlineExceeded => counters.drop_one(Dropped::Busy),
        ErrorKind::ModelNotReady | ErrorKind::ShuttingDown | ErrorKind::Cancelled => {
            counters.drop_one(Dropped::NotReady);
        }
        _ => counters.fail(error.message()),
    }
}
