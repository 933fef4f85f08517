//! What is known of an imported model, for its user and for `axon cache ls`.

use serde::{Deserialize, Serialize};

/// How a model was imported, or why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The name of its file.
    pub model: String,
    /// Bytes of its file and of the files beside it.
    pub model_bytes: u64,
    /// The version of ONNX Runtime.
    pub runtime: String,
    /// Why it is left as it is; `None` when it was imported.
    pub left_alone: Option<String>,
    /// What was measured while it was imported; `None` when it is left as it is.
    pub measured: Option<Measured>,
}

/// Times of one session of one thread, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Of making the session from the model as it is, which writes the imported one as well.
    pub import_ms: f64,
    /// Of making a session from the imported model.
    pub load_ms: f64,
    /// Of its first run.
    pub first_run_ms: f64,
    /// Of the fastest run by rows, as the samples have them.
    pub run_ms: Vec<(usize, f64)>,
    /// Runs whose answers were compared with the model's as it is, and were the same bit for bit.
    pub compared: usize,
}
