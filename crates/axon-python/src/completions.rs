//! Answers on their way to an asyncio event loop.
//!
//! The loop watches one descriptor. An instance's thread puts its answer into the queue and, when the queue was
//! empty, writes one byte: it never takes the GIL, and a burst of answers wakes the loop once.

use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use axon::request::InferenceResponse;
use axon::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::errors::to_native;
use crate::tensors::{outputs, release_buffers};

/// The queue of one event loop. Bounded by the requests that are in flight.
pub struct Queue {
    answers: Mutex<Vec<(u64, Result<InferenceResponse>)>>,
    wake: PipeWriter,
}

impl Queue {
    /// Puts an answer in and wakes the loop when it was empty.
    pub fn push(&self, token: u64, answer: Result<InferenceResponse>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = answers.is_empty();
        answers.push((token, answer));
        drop(answers);
        if was_empty {
            // The other end is closed only when the event loop has gone, and with it whoever waited.
            let _ = (&self.wake).write_all(&[1]);
        }
    }
}

/// The answers of one event loop.
#[pyclass(frozen, module = "axon._axon")]
pub struct Completions {
    pub queue: Arc<Queue>,
    woken: PipeReader,
}

#[pymethods]
impl Completions {
    #[new]
    fn new() -> PyResult<Self> {
        let (woken, wake) = pipe()?;
        Ok(Self { queue: Arc::new(Queue { answers: Mutex::default(), wake }), woken })
    }

    /// The descriptor to watch for reading.
    fn fileno(&self) -> i32 {
        self.woken.as_raw_fd()
    }

    /// Takes what has come, after the descriptor became readable: a list of (token, outputs, error), of which one of
    /// the last two is None.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        // One byte was written for each time the queue became non-empty.
        (&self.woken).read_exact(&mut [0])?;
        let answers = std::mem::take(&mut *self.queue.answers.lock().unwrap_or_else(PoisonError::into_inner));
        let list = PyList::empty(py);
        for (token, answer) in answers {
            match answer {
                Ok(response) => match outputs(py, response) {
                    Ok(outputs) => list.append((token, outputs, py.None()))?,
                    // One answer that cannot be converted (no memory) must not take the others with it.
                    Err(error) => list.append((token, py.None(), to_native(&Error::internal(error))))?,
                },
                Err(error) => list.append((token, py.None(), to_native(&error)))?,
            }
        }
        release_buffers(py);
        Ok(list)
    }
}
