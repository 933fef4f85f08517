//! Runs the sequences of one model: adds what the model wants to know of them, keeps what it leaves for them.
//!
//! A request waits here until its turn has come and goes then to the scheduler like any other, where it may share a
//! batch with requests of other sequences. A thread of its own ends idle sequences and answers late requests.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use half::f16;
use synapse::{DataType, Element, MemoryMut, Shape, Tensor};

use crate::error::{Error, ErrorKind, Result};
use crate::model_config::sequence::{
    ControlInput, ControlKind, FalseTrue, SequenceBatching, SequenceStrategy,
};
use crate::reason::Reason;
use crate::request::{Sequence, SequenceId};
use crate::scheduler::{Accepted, Output, Reply, Scheduler};
use crate::sequence::{NotTaken, Number, SequenceLimits, Sequences, Turn};
use crate::signature::Admitted;

/// A request that waits for its turn.
struct Waiting {
    admitted: Admitted,
    deadline: Instant,
    turn: Arc<Turning>,
    reply: Reply,
}

/// Where a request is that has had its turn, or has been taken back meanwhile.
#[derive(Default)]
struct Turning(Mutex<AfterTurn>);

#[derive(Default)]
enum AfterTurn {
    #[default]
    None,
    /// The scheduler has it.
    Scheduled(Accepted),
    /// Its caller has gone.
    Cancelled,
}

impl Turning {
    fn lock(&self) -> MutexGuard<'_, AfterTurn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that was taken, for whoever may want to take it back.
pub(super) struct Entered {
    id: SequenceId,
    number: Number,
    turn: Arc<Turning>,
}

type State = Sequences<Waiting, Vec<Tensor>>;

/// The sequences of one model.
pub(super) struct Sequencer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    process: u32,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    scheduler: Weak<Scheduler>,
    batching: SequenceBatching,
    /// Dimension 0 of every tensor counts rows.
    is_batched: bool,
    /// The outputs that a client sees; the states follow them.
    outputs: usize,
}

/// How many slots there are.
pub(super) struct Slots {
    pub instances: usize,
    pub max_batch_rows: usize,
    pub max_waiting: usize,
}

impl Sequencer {
    /// Sequences as `batching` says, run by `scheduler`, for a model with so many `outputs` that clients see.
    pub fn start(
        batching: SequenceBatching,
        slots: &Slots,
        is_batched: bool,
        outputs: usize,
        scheduler: &Arc<Scheduler>,
    ) -> Result<Self> {
        let max_live = match &batching.strategy {
            SequenceStrategy::Oldest { max_candidate_sequences: candidates, .. } if *candidates > 0 => {
                usize::try_from(*candidates).unwrap_or(usize::MAX).saturating_mul(slots.instances)
            }
            _ => slots.instances.saturating_mul(slots.max_batch_rows),
        };
        let limits = SequenceLimits {
            // A sequence at the scheduler always finds room in its queue.
            max_live: max_live.clamp(1, slots.max_waiting.max(1)),
            max_waiting: slots.max_waiting,
            max_idle: batching.max_idle,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(Sequences::new(limits)),
            changed: Condvar::new(),
            scheduler: Arc::downgrade(scheduler),
            batching,
            is_batched,
            outputs,
        });
        let watched = Arc::downgrade(&shared);
        let thread = std::thread::Builder::new()
            .name("axon-sequences".to_owned())
            .spawn(move || watch(&watched))
            .map_err(Error::internal)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), process: std::process::id() })
    }

    /// Takes a request; it is answered through `reply`.
    ///
    /// # Errors
    /// When it is refused; `reply` is then not called.
    pub fn submit(
        &self,
        sequence: Option<&Sequence>,
        admitted: Admitted,
        timeout: Duration,
        reply: Reply,
    ) -> Result<Entered> {
        const FIELD: &str = "parameters.sequence_id";
        let Some(sequence) = sequence else {
            return Err(Error::invalid(
                FIELD,
                "required: the model is stateful, expected an id other than 0, got none",
            )
            .because(Reason::NoSequenceId));
        };
        let rows = admitted.inputs.first().and_then(|tensor| tensor.shape().rows()).unwrap_or(1);
        if self.shared.is_batched && rows != 1 {
            return Err(Error::invalid(
                "inputs[0].shape[0]",
                format_args!("expected 1, since a sequence goes row by row, got {rows}"),
            )
            .because(Reason::SequenceRows(sequence.id.clone())));
        }
        let now = Instant::now();
        let deadline = now + timeout;
        let turn = Arc::new(Turning::default());
        let waiting = Waiting { admitted, deadline, turn: Arc::clone(&turn), reply };
        let taken = self.shared.lock().arrive(sequence, waiting, deadline, now);
        let number = taken.map_err(|(reason, _)| match reason {
            NotTaken::NoStart => Error::invalid(
                FIELD,
                "the sequence is not known: expected sequence_start on its first request, got none",
            )
            .because(Reason::SequenceNotStarted(sequence.id.clone())),
            NotTaken::Full => Error::new(
                ErrorKind::Overloaded,
                "the queue is full: as many requests of sequences wait as may",
            )
            .with_retry_after(Duration::from_secs(1))
            .because(Reason::QueueFull),
            NotTaken::Closed => Error::shutting_down(),
        })?;
        Shared::run_turns(&self.shared);
        Ok(Entered { id: sequence.id.clone(), number, turn })
    }

    /// Takes a request back; one that has had its turn leaves its sequence as it was before it.
    pub fn cancel(&self, entered: &Entered) {
        let taken = self.shared.lock().cancel(&entered.id, entered.number);
        if taken.is_some() {
            return;
        }
        let before = std::mem::replace(&mut *entered.turn.lock(), AfterTurn::Cancelled);
        if let (AfterTurn::Scheduled(accepted), Some(scheduler)) = (before, self.shared.scheduler.upgrade()) {
            scheduler.cancel(&accepted);
        }
    }

    /// Takes nothing new and waits until what waits has had its turn, for `limit` at most; answers the rest.
    pub fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.refuse_new();
        while !state.is_quiet() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let left_over = state.close();
        drop(state);
        for waiting in left_over {
            (waiting.reply)(Err(Error::shutting_down()));
        }
    }
}

impl Drop for Sequencer {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if self.process != std::process::id() {
            // A forked child has not got the thread.
            std::mem::forget(thread);
            return;
        }
        self.close(Duration::ZERO);
        self.shared.changed.notify_all();
        // It ends by itself when it sees that the sequences are gone; it holds nothing that must be waited for.
        drop(thread);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the requests whose turn has come to the scheduler. Never called with the lock held: a request that the
    /// scheduler refuses comes back at once, and is followed by the next of its sequence here, not deeper in the stack.
    fn run_turns(self: &Arc<Self>) {
        thread_local! {
            static INSIDE: Cell<bool> = const { Cell::new(false) };
        }
        if INSIDE.replace(true) {
            return;
        }
        loop {
            let now = Instant::now();
            let turns = self.lock().turns(now);
            if turns.is_empty() {
                break;
            }
            for turn in turns {
                self.run(turn, now);
            }
        }
        INSIDE.set(false);
        self.changed.notify_all();
    }

    fn run(self: &Arc<Self>, turn: Turn<Waiting, Vec<Tensor>>, now: Instant) {
        let Turn { id, request, start, end, state } = turn;
        let Waiting { mut admitted, deadline, turn, reply } = request;
        let running = Running { shared: Arc::clone(self), id: id.clone(), state: None };
        let extended = self.extend(&mut admitted, &id, (start, end), state);
        let Some(scheduler) = self.scheduler.upgrade() else {
            reply(Err(Error::shutting_down()));
            return;
        };
        if let Err(error) = extended {
            reply(Err(error));
            return;
        }
        // Either the scheduler answers, or it refuses and this thread does.
        let reply = Arc::new(Mutex::new(Some(reply)));
        let take = |reply: &Mutex<Option<Reply>>| reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answer = {
            let reply = Arc::clone(&reply);
            let outputs = self.outputs;
            let mut running = running;
            Box::new(move |answer: Result<Output>| {
                let answer = answer.map(|mut output| {
                    running.state = Some(output.tensors.split_off(outputs.min(output.tensors.len())));
                    output
                });
                // Before the reply, so that a caller who is answered finds the sequence ready for its next request.
                drop(running);
                if let Some(reply) = take(&reply) {
                    reply(answer);
                }
            })
        };
        let timeout = deadline.saturating_duration_since(now);
        match scheduler.submit(admitted, timeout, answer) {
            Ok(accepted) => {
                let mut after = turn.lock();
                // A caller that went while its turn came found nothing at the scheduler yet.
                let has_gone = matches!(*after, AfterTurn::Cancelled);
                if has_gone {
                    drop(after);
                    scheduler.cancel(&accepted);
                } else {
                    *after = AfterTurn::Scheduled(accepted);
                    drop(after);
                }
                scheduler.wake();
            }
            Err(error) => {
                if let Some(reply) = take(&reply) {
                    reply(Err(error));
                }
            }
        }
    }

    /// Adds the controls and the state to what the client sent.
    fn extend(
        &self,
        admitted: &mut Admitted,
        id: &SequenceId,
        (start, end): (bool, bool),
        state: Option<Vec<Tensor>>,
    ) -> Result<()> {
        for control in &self.batching.controls {
            admitted.inputs.push(control_tensor(control, id, (start, end), self.is_batched)?);
        }
        let states = match state {
            Some(states) => states,
            None => self.initial_states()?,
        };
        for state in states {
            // Requests share a batch only where their states have one shape.
            admitted.key.extend_from_slice(state.shape().get(1..).unwrap_or_default());
            admitted.inputs.push(state);
        }
        Ok(())
    }

    fn initial_states(&self) -> Result<Vec<Tensor>> {
        let states = self.batching.states.iter();
        states.map(|state| zeros(state.datatype, &state.initial_dims, self.is_batched)).collect()
    }
}

/// A request that is at the scheduler; however it leaves, its sequence goes on.
struct Running {
    shared: Arc<Shared>,
    id: SequenceId,
    state: Option<Vec<Tensor>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().answered(&self.id, self.state.take(), Instant::now());
        Shared::run_turns(&self.shared);
    }
}

/// Ends idle sequences and answers late requests, until the sequencer is gone.
fn watch(sequences: &Weak<Shared>) {
    /// How often it looks whether the sequencer is still there when nothing changes by itself.
    const LOOK: Duration = Duration::from_millis(500);
    while let Some(shared) = sequences.upgrade() {
        let now = Instant::now();
        let expired = shared.lock().expired(now);
        for waiting in expired {
            let error =
                Error::new(ErrorKind::DeadlineExceeded, "the request waited its whole timeout for its turn");
            (waiting.reply)(Err(error.because(Reason::Expired)));
        }
        Shared::run_turns(&shared);
        let state = shared.lock();
        let next = state.next_change().map(|next| next.saturating_duration_since(Instant::now()));
        let wait = next.unwrap_or(LOOK).clamp(Duration::from_millis(1), LOOK);
        drop(shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner));
    }
}

/// One element for one row.
fn control_tensor(
    control: &ControlInput,
    id: &SequenceId,
    (start, end): (bool, bool),
    is_batched: bool,
) -> Result<Tensor> {
    let shape: &[usize] = if is_batched { &[1, 1] } else { &[1] };
    let value = match control.kind {
        ControlKind::Start => start,
        ControlKind::Ready => true,
        ControlKind::End => end,
        ControlKind::CorrelationId => return id_tensor(control.datatype, id, shape),
    };
    let tensor = match control.values {
        Some(FalseTrue::Int32(no, yes)) => element(shape, if value { yes } else { no }),
        Some(FalseTrue::Fp32(no, yes)) => element(shape, if value { yes } else { no }),
        Some(FalseTrue::Bool(no, yes)) => element(shape, if value { yes } else { no }),
        None => return Err(Error::internal("a control input has no values")),
    };
    tensor.map_err(Error::internal)
}

fn element<T: Element>(shape: &[usize], value: T) -> Result<Tensor, synapse::TensorError> {
    Tensor::from_vec(shape, vec![value])
}

fn id_tensor(datatype: DataType, id: &SequenceId, shape: &[usize]) -> Result<Tensor> {
    const FIELD: &str = "parameters.sequence_id";
    let number = match (id, datatype) {
        (SequenceId::Text(text), DataType::Bytes) => {
            return Tensor::from_elements(shape, &[text.as_bytes()]).map_err(Error::internal);
        }
        (SequenceId::Number(number), DataType::Bytes) => {
            return Tensor::from_elements(shape, &[number.to_string().as_bytes()]).map_err(Error::internal);
        }
        (SequenceId::Text(_), _) => {
            return Err(Error::invalid(
                FIELD,
                format_args!("expected a number, which the model takes as {datatype}, got a text"),
            ));
        }
        (SequenceId::Number(number), _) => *number,
    };
    let large = || {
        Error::invalid(FIELD, format_args!("{number} is out of range for {datatype}, which the model takes"))
    };
    let tensor = match datatype {
        DataType::Uint64 => element(shape, number),
        DataType::Int64 => element(shape, i64::try_from(number).map_err(|_| large())?),
        DataType::Uint32 => element(shape, u32::try_from(number).map_err(|_| large())?),
        DataType::Int32 => element(shape, i32::try_from(number).map_err(|_| large())?),
        _ => return Err(Error::internal("an id is of no type that was checked")),
    };
    tensor.map_err(Error::internal)
}

fn zeros(datatype: DataType, dims: &[usize], is_batched: bool) -> Result<Tensor> {
    let mut sizes = dims.to_vec();
    if is_batched {
        sizes.insert(0, 1);
    }
    let shape = Shape::new(&sizes).map_err(Error::internal)?;
    if datatype == DataType::Bytes {
        return Tensor::from_elements(&sizes, &vec![b""; shape.element_count()]).map_err(Error::internal);
    }
    let width = datatype.size().unwrap_or(size_of::<f16>());
    let bytes =
        shape.element_count().checked_mul(width).ok_or_else(|| Error::internal("a state is too large"))?;
    Tensor::new(datatype, shape, MemoryMut::zeroed(bytes).freeze()).map_err(Error::internal)
}
