//! An accepted request, for whoever waits for it or takes it back.

use std::sync::Arc;
use std::task::Poll;

use tokio::sync::oneshot;

use super::model::Model;
use super::sequencer::Entered;
use crate::error::{Error, Result};
use crate::request::InferenceResponse;
use crate::response_cache::Member;
use crate::scheduler::Accepted;

/// Where an accepted request waits.
pub(super) enum Place {
    /// For an instance.
    Queue(Accepted),
    /// For its turn in its sequence.
    Sequence(Entered),
    /// For the run of a question, which others may wait for too.
    Flight(Member),
    /// It has its answer.
    Answered,
}

/// An accepted request.
#[must_use = "wake, finish or cancel it"]
pub struct Ticket {
    model: Arc<Model>,
    place: Place,
    /// Whether an instance has been told; one that is dropped untold tells it.
    is_woken: bool,
}

impl Ticket {
    /// For a request to `model` that was just queued.
    pub(super) fn new(model: Arc<Model>, place: Place) -> Self {
        Self { model, place, is_woken: false }
    }

    /// Wakes an instance for the request, and for what was queued with it.
    pub fn wake(&mut self) {
        self.is_woken = true;
        if !matches!(self.place, Place::Answered) {
            self.model.scheduler().wake();
        }
    }

    /// Takes the request back; its reply is dropped. One that waits is never run. A run that nobody else waits for is
    /// stopped, between two nodes of the model's graph. Does nothing when it has been answered.
    pub fn cancel(mut self) {
        self.is_woken = true;
        match &self.place {
            Place::Queue(accepted) => self.model.scheduler().cancel(accepted),
            Place::Flight(member) => {
                if let Some(answers) = self.model.answers() {
                    answers.cancel(*member);
                }
            }
            Place::Answered => {}
            Place::Sequence(entered) => {
                if let Some(sequencer) = self.model.sequencer() {
                    sequencer.cancel(entered);
                }
            }
        }
    }

    /// Has the request run and waits for the answer that its reply sends. Dropping the future cancels the request.
    ///
    /// Other tasks that are ready queue their requests first: what has come together runs together.
    ///
    /// # Errors
    /// What the answer says; [`ErrorKind::Internal`](crate::ErrorKind) when the sender was dropped.
    pub async fn finish(
        self,
        answer: oneshot::Receiver<Result<InferenceResponse>>,
    ) -> Result<InferenceResponse> {
        let mut guard = CancelOnDrop(Some(self));
        yield_once().await;
        if let Some(ticket) = &mut guard.0 {
            ticket.wake();
        }
        let answer = answer.await;
        guard.0 = None;
        answer.map_err(Error::internal)?
    }
}

/// A request that was queued is run, also when its ticket is dropped unused.
impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_woken {
            self.wake();
        }
    }
}

struct CancelOnDrop(Option<Ticket>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.cancel();
        }
    }
}

/// Lets every other task that is ready run first.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
