//! What exactly is wrong with a request, for whoever words it otherwise than [`Error`](crate::Error)'s own text.
//!
//! Each variant carries what another wording needs. The wire's table for `--compat triton` is the one user.

use crate::request::SequenceId;

/// What exactly is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The server has never seen the model.
    UnknownModel(String),
    /// The model has no such version.
    UnknownVersion(String, u64),
    /// The version that was asked for is not ready.
    VersionNotReady(String, u64),
    /// No version of the model is ready.
    NoReadyVersion(String),
    /// Some inputs are missing.
    MissingInputs {
        /// How many the model takes.
        expected: usize,
        /// The names that came.
        got: Vec<String>,
        /// The names that did not.
        missing: Vec<String>,
    },
    /// The model has no such input.
    UnknownInput(String),
    /// The model has no such output.
    UnknownOutput(String),
    /// An input came twice.
    DuplicateInput(String),
    /// An output was asked for twice.
    DuplicateOutput(String),
    /// An input has another data type.
    WrongDatatype {
        /// The input.
        input: String,
        /// Its type in the request.
        got: &'static str,
        /// Its type in the model.
        expected: &'static str,
    },
    /// An input has another shape.
    WrongShape {
        /// The input.
        input: String,
        /// The model's shape, as text.
        expected: String,
        /// The request's.
        got: String,
    },
    /// Two inputs have different numbers of rows.
    RowsDiffer(String),
    /// There are more rows than the model takes.
    TooManyRows(usize),
    /// A dimension is negative.
    NegativeDimension {
        /// The input.
        input: String,
        /// The request's shape, as text.
        got: String,
    },
    /// The model is stateful and the request names no sequence.
    NoSequenceId,
    /// The request is its sequence's first and does not say so.
    SequenceNotStarted(SequenceId),
    /// A request of a sequence has other than one row.
    SequenceRows(SequenceId),
    /// The queue is full.
    QueueFull,
    /// The answer would come after the deadline.
    PredictedMiss,
    /// The request's time is over.
    Expired,
    /// The server, or the model, takes nothing new.
    Stopping,
    /// The body is no JSON at this byte.
    MalformedJson(usize),
    /// A member of the JSON is missing or of another type.
    Member(&'static str),
    /// A tensor has fewer elements in JSON than its shape.
    TooFewElements,
    /// A tensor has more elements in JSON than its shape.
    TooManyElements,
    /// The media or content encoding is not spoken.
    UnsupportedEncoding,
    /// A repository verb that the control mode does not allow.
    ControlMode,
    /// A model that is to be loaded is not in the repository.
    LoadUnknown(String),
    /// A model that is to be unloaded is not in the repository.
    UnloadUnknown(String),
    /// A version of a model cannot be loaded.
    LoadFailed(String, u64),
    /// The repository was named, and there is only one.
    RepositoryName,
    /// Shared memory is switched off.
    SharedMemoryOff,
    /// A shared-memory region that is not registered.
    UnknownRegion(String),
    /// A shared-memory region that is registered already.
    RegionExists(String),
    /// A shared-memory region is too small for an output.
    RegionTooSmall {
        /// The output.
        output: String,
        /// What the request gives it.
        got: u64,
        /// What it needs.
        needed: u64,
    },
}
