//! Has an imported model answer before its weights are packed, and packs them meanwhile.
//!
//! unpacked → packed: each instance goes over by itself, between two runs, so that a run is of one session whole. The
//! sessions are made at low priority by a thread that ends before the last instance does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use synapse::Tensor;

use super::calm::{calmly, give_way};
use crate::error::Result;
use crate::executor::{Executor, Run};
use crate::import::Quick;
use crate::onnx::{Session, SessionOptions};
use crate::probe::try_once;

/// Runs what it has until its successor comes.
pub(super) struct Succeeded<E> {
    current: E,
    successor: Option<Receiver<E>>,
    /// Whoever drops the last of it waits for the thread that makes successors.
    packing: Option<Arc<Packing>>,
}

impl<E> Succeeded<E> {
    fn current(&mut self) -> &mut E {
        match self.successor.as_ref().map(Receiver::try_recv) {
            Some(Ok(successor)) => {
                self.current = successor;
                self.stay();
            }
            // It could not be made, which was said.
            Some(Err(TryRecvError::Disconnected)) => self.stay(),
            Some(Err(TryRecvError::Empty)) | None => {}
        }
        &mut self.current
    }

    fn stay(&mut self) {
        self.successor = None;
        self.packing = None;
    }
}

impl<E: Executor> Executor for Succeeded<E> {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.current().run(inputs)
    }

    fn run_for(&mut self, run: &Run<'_>) -> Result<Vec<Tensor>> {
        self.current().run_for(run)
    }
}

/// The thread that makes successors; it has ended when this value is dropped.
pub(super) struct Packing {
    thread: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl Drop for Packing {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that packs weights panicked");
        }
    }
}

/// Executors that run `sessions` until those are there that `quick` makes with packed weights, one for each where runs
/// have several threads. Where no thread can be had, they stay as they are.
pub(super) fn succeed(
    name: &str,
    sessions: Vec<Arc<Session>>,
    quick: Quick,
    options: SessionOptions,
) -> Vec<Succeeded<Arc<Session>>> {
    let (senders, receivers): (Vec<_>, Vec<_>) = sessions.iter().map(|_| channel()).unzip();
    let is_over = Arc::new(AtomicBool::new(false));
    let (model, over) = (name.to_owned(), Arc::clone(&is_over));
    let run = move || match pack(&senders, &quick, options, &over) {
        Ok(()) => tracing::info!(model, "its weights are packed"),
        Err(error) => {
            tracing::warn!(
                model,
                cause = error.cause(),
                "it stays slower, its weights are not packed: {error}"
            );
        }
    };
    let thread = std::thread::Builder::new().name("axon-packer".to_owned()).spawn(run);
    if let Err(error) = &thread {
        tracing::warn!(model = name, "it stays slower, its weights are not packed: {error}");
    }
    let packing = Arc::new(Packing { thread: thread.ok(), is_over });
    let pairs = sessions.into_iter().zip(receivers);
    let succeeded = |(current, successor)| Succeeded {
        current,
        successor: Some(successor),
        packing: Some(Arc::clone(&packing)),
    };
    pairs.map(succeeded).collect()
}

fn pack(
    senders: &[Sender<Arc<Session>>],
    quick: &Quick,
    options: SessionOptions,
    is_over: &AtomicBool,
) -> Result<()> {
    let mut last: Option<Arc<Session>> = None;
    for sender in senders {
        // Instances of one thread share a session.
        let shared = last.take().filter(|_| options.threads == 1);
        let session = match shared {
            Some(session) => session,
            None if is_over.load(Ordering::Relaxed) => return Ok(()),
            None => give_way(|| calmly(|| warm(quick, options)))?,
        };
        last = Some(Arc::clone(&session));
        // Whoever was to have it may be gone.
        let _ = sender.send(session);
    }
    Ok(())
}

/// A session that has run once, so that its pages are there.
fn warm(quick: &Quick, options: SessionOptions) -> Result<Arc<Session>> {
    let session = quick.packed(options)?;
    try_once(session.signature(), &mut Arc::clone(&session))?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with its number.
    struct Numbered(f32);

    impl Executor for Numbered {
        fn run(&mut self, _: &[Tensor]) -> Result<Vec<Tensor>> {
            Ok(vec![Tensor::from_vec(&[1], vec![self.0]).unwrap()])
        }
    }

    fn answer(executor: &mut impl Executor) -> f32 {
        executor.run(&[]).unwrap()[0].as_slice::<f32>().unwrap()[0]
    }

    fn first(packing: Packing) -> (Succeeded<Numbered>, Sender<Numbered>) {
        let (sender, receiver) = channel();
        let packing = Some(Arc::new(packing));
        (Succeeded { current: Numbered(1.0), successor: Some(receiver), packing }, sender)
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "small whole numbers are exact")]
    fn the_first_runs_until_its_successor_is_there() {
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut executor, sender) = first(Packing { thread: None, is_over: Arc::clone(&is_over) });
        assert_eq!([answer(&mut executor), answer(&mut executor)], [1.0, 1.0]);
        sender.send(Numbered(2.0)).unwrap();
        assert_eq!([answer(&mut executor), answer(&mut executor)], [2.0, 2.0]);
        assert!(is_over.load(Ordering::Relaxed), "nothing is left to be made");
        assert!(sender.send(Numbered(3.0)).is_err());
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "small whole numbers are exact")]
    fn without_a_successor_the_first_stays() {
        let (mut executor, sender) = first(Packing { thread: None, is_over: Arc::default() });
        drop(sender);
        assert_eq!([answer(&mut executor), answer(&mut executor)], [1.0, 1.0]);
    }

    #[test]
    fn an_executor_that_goes_ends_the_thread() {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            ended.store(true, Ordering::Relaxed);
        });
        let (executor, _sender) = first(Packing { thread: Some(thread), is_over });
        drop(executor);
        assert!(has_ended.load(Ordering::Relaxed));
    }
}
