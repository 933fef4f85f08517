//! Answers on their way from the instances to the connections.
//!
//! Waking a task from another thread costs a system call. A batch answers many requests at once, so its answers go
//! through one queue: the first wakes one task, which wakes the connections from their own thread, for next to
//! nothing.

use std::sync::{Mutex, PoisonError};

use axon::Result;
use axon::request::InferenceResponse;
use tokio::sync::{Notify, oneshot};

type Answer = (oneshot::Sender<Result<InferenceResponse>>, Result<InferenceResponse>);

/// The queue. Bounded by the requests that are in flight.
#[derive(Default)]
pub(crate) struct Answers {
    queue: Mutex<Vec<Answer>>,
    come: Notify,
}

impl Answers {
    /// Puts an answer in; called on an instance's thread.
    pub fn push(
        &self,
        sender: oneshot::Sender<Result<InferenceResponse>>,
        answer: Result<InferenceResponse>,
    ) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = queue.is_empty();
        queue.push((sender, answer));
        drop(queue);
        if was_empty {
            self.come.notify_one();
        }
    }

    /// Hands answers to whoever waits for them, for ever.
    pub async fn deliver(&self) {
        loop {
            self.come.notified().await;
            let answers = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
            for (sender, answer) in answers {
                // A connection that has gone does not want it any more.
                let _ = sender.send(answer);
            }
        }
    }
}
