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

    /// Leaves it to the caller to have an instance woken, once for all that came together.
    pub fn leave_wake(&mut self) -> Wake {
        self.is_woken = true;
        Wake(Arc::clone(&self.model))
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
    /// Unless its wake was left to the caller ([`Ticket::leave_wake`]), other tasks that are ready queue their requests
    /// first: what has come together runs together.
    ///
    /// # Errors
    /// What the answer says; [`ErrorKind::Internal`](crate::ErrorKind) when the sender was dropped.
    pub async fn finish(
        self,
        answer: oneshot::Receiver<Result<InferenceResponse>>,
    ) -> Result<InferenceResponse> {
        let mut guard = CancelOnDrop(Some(self));
        if guard.0.as_ref().is_some_and(|ticket| !ticket.is_woken) {
            yield_once().await;
            if let Some(ticket) = &mut guard.0 {
                ticket.wake();
            }
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

/// A wake that a caller owes an instance.
#[must_use = "a request that was queued waits for it"]
pub struct Wake(Arc<Model>);

impl Wake {
    /// Wakes an instance.
    pub fn wake(self) {
        self.0.scheduler().wake();
    }

    /// Whether another wakes an instance of the same version.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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
