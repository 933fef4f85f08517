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
    /// The version is no number.
    VersionText(String),
    /// Statistics are asked of a model that is not there, or not ready.
    StatisticsOf(String),
    /// Statistics are asked of a version that is not there, or not ready.
    StatisticsOfVersion(String),
    /// The sequence's name is too long.
    SequenceIdLength,
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
    /// A more urgent request took its place in the queue.
    Displaced,
    /// The request's time is over.
    Expired,
    /// The server, or the model, takes nothing new.
    Stopping,
    /// The body is no JSON at this byte.
    MalformedJson(usize),
    /// A member of the JSON is missing or of another type.
    Member(&'static str),
    /// The JSON nests too deep within this member.
    TooDeep(String),
    /// An input says with none, or with several, of these members where its elements are.
    DataSources(Vec<&'static str>),
    /// An input's data type is none.
    Datatype {
        /// The input, where it has been named before.
        input: Option<String>,
    },
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
    /// The bytes or contents of an input do not fit it.
    Payload {
        /// The input.
        input: String,
        /// What is wrong.
        problem: Payload,
    },
    /// There are bytes behind the last binary input.
    BytesLeftOver,
    /// A binary input came without the header that says where the text ends.
    NoHeaderLength,
    /// The header that says where the text ends says more than the body has.
    HeaderLength {
        /// The bytes of the body.
        body: usize,
        /// What the header says; `None` for no whole number.
        got: Option<usize>,
    },
    /// A parameter's name is reserved.
    ReservedParameter,
    /// A trace setting is to be changed of a model that is not there.
    TraceUnknown(String),
    /// The file of the traces, or of the log, is to be changed.
    FileSetting(&'static str),
    /// A trace level stands beside `OFF`.
    TraceOff,
    /// A trace setting has a wrong value.
    TraceValue(&'static str, String),
    /// The format of the log is unknown.
    LogFormat(String),
    /// A load has a parameter that means nothing, of this type.
    LoadParameter(String, &'static str),
    /// The name of a model is empty.
    NoModelName,
    /// Whether only ready models are wanted is no boolean.
    IndexReady,
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
    /// An offset lies outside a shared-memory region.
    RegionOffset(String),
    /// A shared-memory region ends before what is to be in it does.
    RegionRange(String),
    /// An output is to be in shared memory and something else.
    RegionAnd(&'static str),
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

/// What is wrong with the bytes or contents of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Their number of bytes is another.
    Size {
        /// The bytes of the type and shape.
        expected: u64,
        /// Those that came.
        got: u64,
    },
    /// So many bytes of the body are missing.
    Missing(u64),
    /// The length of a string is cut after so many bytes.
    LengthCut(usize),
    /// Their number of strings is another.
    Elements {
        /// The elements of the shape.
        expected: usize,
        /// Those that came.
        got: usize,
    },
    /// Typed contents came beside raw ones.
    Twice,
    /// There are none.
    Nothing,
    /// Typed contents are of another type.
    Contents {
        /// The type whose contents came.
        got: &'static str,
        /// The input's.
        expected: &'static str,
    },
}
