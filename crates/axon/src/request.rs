//! One client's question and its answer.

use std::time::{Duration, Instant};

use synapse::Tensor;

/// A tensor under the name that the model gives it.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// The name in the model's graph.
    pub name: String,
    /// The values.
    pub tensor: Tensor,
}

impl NamedTensor {
    /// `tensor` under `name`.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Self {
        Self { name: name.into(), tensor }
    }
}

fn bytes_of(named: &[NamedTensor]) -> usize {
    named.iter().map(|named| named.tensor.memory().len()).sum()
}

/// The tensors of a request.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// The tensor of a model that has one input.
    One(Tensor),
    /// Tensors by name, in any order.
    Named(Vec<NamedTensor>),
}

impl From<Tensor> for Inputs {
    fn from(tensor: Tensor) -> Self {
        Self::One(tensor)
    }
}

impl From<&Tensor> for Inputs {
    fn from(tensor: &Tensor) -> Self {
        Self::One(tensor.clone())
    }
}

impl From<Vec<NamedTensor>> for Inputs {
    fn from(named: Vec<NamedTensor>) -> Self {
        Self::Named(named)
    }
}

impl<N: Into<String>, const LENGTH: usize> From<[(N, Tensor); LENGTH]> for Inputs {
    fn from(named: [(N, Tensor); LENGTH]) -> Self {
        Self::Named(named.into_iter().map(|(name, tensor)| NamedTensor::new(name, tensor)).collect())
    }
}

/// A parameter of a request that the server hands on as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer that is not negative.
    Uint(u64),
    /// Any other number.
    Double(f64),
    /// A text.
    String(String),
}

/// Names a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SequenceId {
    /// A number other than 0.
    Number(u64),
    /// A text of 1 to 128 bytes.
    Text(String),
}

/// The place of a request in a sequence of requests to a stateful model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The sequence.
    pub id: SequenceId,
    /// Its first request.
    pub start: bool,
    /// Its last request.
    pub end: bool,
}

/// A question to a model.
#[derive(Clone, Debug)]
pub struct InferenceRequest {
    /// The model's name; empty for the only model of the server.
    pub model: String,
    /// The version; `None` for the newest that is ready.
    pub version: Option<u64>,
    /// The inputs.
    pub inputs: Inputs,
    /// The outputs wanted, by name; empty for all.
    pub outputs: Vec<String>,
    /// How long the caller waits; `None` for the server's request timeout.
    pub timeout: Option<Duration>,
    /// 1 is the most urgent; 0 leaves it to the model.
    pub priority: u64,
    /// The sequence that it belongs to.
    pub sequence: Option<Sequence>,
    /// What else the caller says, by name; in the caller's order, each name once.
    pub parameters: Vec<(String, Parameter)>,
}

impl InferenceRequest {
    /// A question to the only model of the server, for all its outputs.
    pub fn new(inputs: impl Into<Inputs>) -> Self {
        Self {
            model: String::new(),
            version: None,
            inputs: inputs.into(),
            outputs: Vec::new(),
            timeout: None,
            priority: 0,
            sequence: None,
            parameters: Vec::new(),
        }
    }

    /// The bytes of its inputs.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        match &self.inputs {
            Inputs::One(tensor) => tensor.memory().len(),
            Inputs::Named(named) => bytes_of(named),
        }
    }

    /// The same question to `model`.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.model = model.into();
        self
    }
}

impl From<Tensor> for InferenceRequest {
    fn from(tensor: Tensor) -> Self {
        Self::new(tensor)
    }
}

impl From<&Tensor> for InferenceRequest {
    fn from(tensor: &Tensor) -> Self {
        Self::new(tensor)
    }
}

impl<N: Into<String>, const LENGTH: usize> From<[(N, Tensor); LENGTH]> for InferenceRequest {
    fn from(inputs: [(N, Tensor); LENGTH]) -> Self {
        Self::new(inputs)
    }
}

/// A model's answer.
#[derive(Clone, Debug)]
pub struct InferenceResponse {
    /// The model that answered.
    pub model: String,
    /// Its version.
    pub version: u64,
    /// The outputs, in the order asked for, else in the model's.
    pub outputs: Vec<NamedTensor>,
    /// How it was run.
    pub timing: Timing,
}

impl InferenceResponse {
    /// The bytes of its outputs.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        bytes_of(&self.outputs)
    }

    /// The output called `name`.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Tensor> {
        self.outputs.iter().find(|output| output.name == name).map(|output| &output.tensor)
    }
}

/// How a request was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// What it waited, before all else, for its model to be loaded; zero where that was there.
    pub load: Duration,
    /// From its arrival at the queue to the start of its batch.
    pub queue: Duration,
    /// The run of its batch.
    pub compute: Duration,
    /// The rows of its batch, neighbours' included.
    pub batch_rows: usize,
    /// The run that it shared; `None` for an answer that took no run.
    pub run: Option<BatchRun>,
    /// What the response cache had to do with it.
    pub cache: CacheUse,
}

/// What the response cache had to do with an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// Nothing.
    #[default]
    None,
    /// The request was run, and its answer may have been kept.
    Miss,
    /// It took no run of its own: the answer was kept, or another request's run gave it.
    Hit,
}

/// One run of a batch, as each of its requests is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRun {
    /// No other run of this process has the same.
    pub id: u64,
    /// The requests that shared it.
    pub requests: usize,
    /// When an instance took them.
    pub started: Instant,
    /// Joining their inputs, from then on; the model runs next, for [`Timing::compute`].
    pub input: Duration,
    /// Splitting the outputs, after the model ran.
    pub output: Duration,
}
