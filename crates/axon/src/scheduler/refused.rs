//! What a request is told that is not run, or whose answer may not leave.

use std::time::Duration;

use super::Pending;
use crate::batcher::{Batcher, Rejected};
use crate::error::{Error, ErrorKind};
use crate::reason::Reason;
use crate::signature::BatchKey;

/// A request that could not be answered in time, or whose place a more urgent one has taken.
pub(super) fn missed(why: std::fmt::Arguments<'_>, wait: Duration) -> Error {
    Error::new(ErrorKind::Overloaded, format!("the model is overloaded: {why}"))
        .with_retry_after(retry_after(wait))
        .because(Reason::PredictedMiss)
}

/// When to try again: about when what waits now is done.
fn retry_after(wait: Duration) -> Duration {
    wait.clamp(Duration::from_millis(100), Duration::from_secs(10))
}

pub(super) fn expired_after(waited: Duration) -> Error {
    Error::new(
        ErrorKind::DeadlineExceeded,
        format!("the request waited {} ms, its whole timeout, and was not run", waited.as_millis()),
    )
    .because(Reason::Expired)
}

pub(super) fn rejection(reason: Rejected, batcher: &Batcher<BatchKey, Pending>) -> Error {
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

/// Why a request is refused while as many answers are held as may.
pub(super) fn too_many_held(most: usize) -> Error {
    let why = format!("{most} answers wait for an earlier one, as `preserve_ordering` asks");
    Error::new(ErrorKind::Overloaded, format!("the queue is full: {why}"))
        .with_retry_after(Duration::from_millis(100))
        .because(Reason::QueueFull)
}

pub(super) fn held_too_long() -> Error {
    let message = "the request was run, and an earlier one was not answered before its timeout, as `preserve_ordering` asks";
    Error::new(ErrorKind::DeadlineExceeded, message).because(Reason::Expired)
}
