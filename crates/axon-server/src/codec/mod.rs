//! The bodies of inference requests and responses: bytes in, values out.
//!
//! Reads the protocol's JSON with its binary tensor extension straight into tensors, without a tree of values in
//! between, and writes the answer. It knows no model: names, types and shapes are compared with a signature
//! elsewhere. No I/O of its own: memory that callers share is behind [`Regions`].
//!
//! Always: no input makes it panic or recurse; memory grows with the bytes received, not with the shapes
//! declared; an error names the field, what was expected and what came.
//!
//! **Source:** Open Inference Protocol, "Inference"; Triton's extensions "binary tensor data", "classification",
//! "parameters", "shared memory".

mod accept;
mod binary;
mod check;
mod classify;
mod content;
mod data;
mod decode;
mod encode;
mod field;
mod generate;
mod message;
mod number;
mod parameters;
mod scan;
mod shared;
mod string;
#[cfg(test)]
mod tests;
mod typed;

use std::time::Duration;

use axon::request::{InferenceResponse, Inputs, NamedTensor, Parameter, Sequence};

pub use accept::{Encoding, compress, negotiate};
pub use binary::{decode_raw, parse_header_length};
pub(crate) use check::id as check_id;
pub use classify::Labels;
pub use content::{decode_compressed, decode_content};
pub use decode::{DecodeOptions, Parsed, decode};
pub use encode::{Encoded, encode};
pub use generate::{Generated, decode_generate, encode_generate, event};
pub use message::{decode_message, encode_message};
pub use shared::{
    NoRegion, Region, Regions, Resolver, SharedInput, SharedParameters, SharedPart, write_outputs,
};

/// A request body, read.
#[derive(Debug)]
pub struct Decoded {
    /// The tensors, in the request's order.
    pub inputs: Inputs,
    /// The outputs wanted, by name; empty for all.
    pub outputs: Vec<String>,
    /// How long the caller waits; `None` when it does not say, or says 0.
    pub timeout: Option<Duration>,
    /// 1 is the most urgent; 0 leaves it to the model.
    pub priority: u64,
    /// The sequence that the request belongs to.
    pub sequence: Option<Sequence>,
    /// The parameters that are the caller's own, in its order, each name once.
    pub parameters: Vec<(String, Parameter)>,
    /// The caller's name for the request, which its answer repeats; never empty.
    pub id: Option<String>,
    /// How the outputs are to be written.
    pub format: OutputFormat,
}

/// How a caller wants outputs written; the default is JSON for all.
#[derive(Clone, Debug, Default)]
pub struct OutputFormat {
    /// Binary for outputs that the request does not list: `binary_data_output`.
    binary: bool,
    /// The outputs that the request lists, in its order, which is the response's.
    listed: Vec<ListedOutput>,
    /// Where in shared memory those go that the request lists, in its order.
    shared: Vec<Option<SharedPart>>,
}

impl OutputFormat {
    /// The bytes of a response's tensors that are to be written as text.
    #[must_use]
    pub fn text_bytes(&self, response: &InferenceResponse) -> usize {
        bytes_of(response, |index| {
            let listed = self.of(index);
            (!listed.binary || listed.classification.is_some()) && self.shared(index).is_none()
        })
    }

    /// The bytes of a response's tensors that are to be copied to shared memory.
    #[must_use]
    pub fn shared_bytes(&self, response: &InferenceResponse) -> usize {
        bytes_of(response, |index| self.shared(index).is_some())
    }

    /// True when an output is wanted as its best classes.
    #[must_use]
    pub fn classifies(&self) -> bool {
        self.listed.iter().any(|output| output.classification.is_some())
    }

    /// Where in shared memory the output at `index` in the response goes.
    fn shared(&self, index: usize) -> Option<&SharedPart> {
        self.shared.get(index).and_then(Option::as_ref)
    }

    /// The format of the output at `index` in the response.
    fn of(&self, index: usize) -> ListedOutput {
        let unlisted = ListedOutput { binary: self.binary, classification: None };
        self.listed.get(index).copied().unwrap_or(unlisted)
    }
}

/// The bytes of the outputs of a response whose index is `wanted`.
fn bytes_of(response: &InferenceResponse, wanted: impl Fn(usize) -> bool) -> usize {
    let bytes = |(index, output): (usize, &NamedTensor)| {
        if wanted(index) { output.tensor.memory().len() } else { 0 }
    };
    response.outputs.iter().enumerate().map(bytes).sum()
}

/// How one output is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ListedOutput {
    /// After the JSON part instead of in it.
    binary: bool,
    /// So many best classes instead of the values; at least 1.
    classification: Option<usize>,
}
