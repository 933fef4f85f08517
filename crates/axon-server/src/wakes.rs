//! Instances that are to be woken once what has come together is queued.
//!
//! Requests that came together run together if their instance is woken after the last of them. One task sees to that
//! for all: it is woken by the first, and runs when the connections that were ready before it have queued theirs.

use std::sync::{Mutex, PoisonError};

use axon::repository::Wake;
use tokio::sync::Notify;

/// The wakes that are due. Bounded by the versions that are loaded.
#[derive(Default)]
pub(crate) struct Wakes {
    due: Mutex<Vec<Wake>>,
    come: Notify,
}

impl Wakes {
    /// Has an instance woken soon.
    pub fn push(&self, wake: Wake) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.iter().any(|other| other.is_of(&wake)) {
            return;
        }
        let was_empty = due.is_empty();
        due.push(wake);
        drop(due);
        if was_empty {
            self.come.notify_one();
        }
    }

    /// Wakes instances, for ever.
    pub async fn deliver(&self) {
        loop {
            self.come.notified().await;
            // The connections that are ready too queue their requests first.
            tokio::task::yield_now().await;
            let due = std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner));
            due.into_iter().for_each(Wake::wake);
        }
    }
}
