//! The bodies of the generate extension: flat objects of values by name, and events of a stream.
//!
//! A member that is named like an input of the model is that input, any other one is a parameter of the request.
//! So the model's signature is needed to read a body; that the tensors fit it is still checked elsewhere.
//!
//! Always, as in the rest of the codec: no input makes it panic or recurse, and memory grows with the bytes received.
//!
//! **Source:** Triton's extension "generate".

mod parameters;
#[cfg(test)]
mod tests;
mod values;

use std::time::Duration;

use axon::error::{Echo, Error, Result, echo_names};
use axon::request::{InferenceResponse, NamedTensor, Parameter, Sequence};
use axon::signature::TensorSpec;
use synapse::Tensor;

use super::decode::read_id;
use super::encode::write_data;
use super::field::Field;
use super::parameters::once;
use super::scan::{Kind, Scanner};
use super::string;

use parameters::Parameters;

/// A body of the generate extension, read.
#[derive(Debug)]
pub struct Generated {
    /// One tensor for each input of the model, in the model's order.
    pub inputs: Vec<NamedTensor>,
    /// The caller's name for the request, which its answer repeats; never empty.
    pub id: Option<String>,
    /// How long the caller waits; `None` when it does not say, or says 0.
    pub timeout: Option<Duration>,
    /// 1 is the most urgent; 0 leaves it to the model.
    pub priority: u64,
    /// The sequence that it belongs to.
    pub sequence: Option<Sequence>,
    /// What else the caller says, in its order, each name once.
    pub parameters: Vec<(String, Parameter)>,
}

/// Reads the body of a generate request to a model whose inputs are `inputs`; an empty body is an empty object.
///
/// A value is one element or a flat array of them. Elements fill the input's fixed dimensions; the innermost dynamic
/// one takes as many as are left, and other dynamic ones are 1. So is the first where `batched` says that it counts
/// rows. The members of an object called `parameters` count as if they stood outside.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) that names the member or the byte, or the inputs that are missing.
pub fn decode_generate(body: &[u8], inputs: &[TensorSpec], batched: bool) -> Result<Generated> {
    let mut members = Members::new(inputs, batched);
    if !body.is_empty() {
        members.read_body(&mut Scanner::new(body, false))?;
    }
    members.finish()
}

/// The members that have been read.
struct Members<'a> {
    specs: &'a [TensorSpec],
    batched: bool,
    tensors: Vec<Option<Tensor>>,
    id: Option<String>,
    parameters: Parameters,
}

impl<'a> Members<'a> {
    fn new(specs: &'a [TensorSpec], batched: bool) -> Self {
        let tensors = specs.iter().map(|_| None).collect();
        Self { specs, batched, tensors, id: None, parameters: Parameters::default() }
    }

    fn read_body(&mut self, scanner: &mut Scanner<'_>) -> Result<()> {
        let kind = scanner.kind()?;
        if kind != Kind::Object {
            let at = scanner.at();
            return Err(Field::BODY.invalid(format_args!("expected a JSON object at byte {at}, got {kind}")));
        }
        let mut nested = None;
        scanner.members(Field::BODY, |scanner, key| {
            const PARAMETERS: Field = Field::top("parameters");
            if key != "parameters" || self.find(key).is_some() {
                return self.read(scanner, key);
            }
            once(nested.as_ref(), PARAMETERS)?;
            nested = Some(());
            scanner.members(PARAMETERS, |scanner, key| self.read(scanner, key))
        })?;
        scanner.finish()
    }

    /// The place of the input called `name`.
    fn find(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|spec| spec.name == name)
    }

    /// Reads the value of `key`.
    fn read(&mut self, scanner: &mut Scanner<'_>, key: &str) -> Result<()> {
        let index = self.find(key);
        let spec = index.and_then(|index| self.specs.get(index));
        if let (Some(spec), Some(slot)) = (spec, index.and_then(|index| self.tensors.get_mut(index))) {
            if slot.is_some() {
                return Err(twice(key));
            }
            *slot = Some(values::read(scanner, spec, self.batched)?);
            return Ok(());
        }
        if key == "id" {
            once(self.id.as_ref(), Field::top("id"))?;
            self.id = Some(read_id(scanner)?);
            return Ok(());
        }
        self.parameters.read(scanner, key)
    }

    fn finish(self) -> Result<Generated> {
        let missing = self.specs.iter().zip(&self.tensors).filter(|(_, tensor)| tensor.is_none());
        let missing: Vec<&str> = missing.map(|(spec, _)| spec.name.as_str()).collect();
        if let Some(first) = missing.first() {
            let all = echo_names(self.specs.iter().map(|spec| spec.name.as_str()));
            let missing = echo_names(missing.iter().copied());
            return Err(Error::invalid(
                path(first),
                format_args!("required: expected a value for each of {all}, got none for {missing}"),
            ));
        }
        let named = |(spec, tensor): (&TensorSpec, Option<Tensor>)| {
            tensor.map(|tensor| NamedTensor::new(spec.name.clone(), tensor))
        };
        let known = self.parameters.finish()?;
        Ok(Generated {
            inputs: self.specs.iter().zip(self.tensors).filter_map(named).collect(),
            // An empty id is no id, as in an infer request.
            id: self.id.filter(|id| !id.is_empty()),
            timeout: known.timeout,
            priority: known.priority,
            sequence: known.sequence,
            parameters: known.custom,
        })
    }
}

/// A member's name as an error's field: escaped and cut, because a model or a caller chose it.
fn path(name: &str) -> String {
    Echo(name).to_string().trim_matches('`').to_owned()
}

/// The error of a member that comes again.
fn twice(name: &str) -> Error {
    Error::invalid(path(name), "duplicate key: expected it once, got it twice")
}

/// Writes a response as one flat object: an output of one element is that element, any other one a flat array.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) for a value that JSON has no words for.
pub fn encode_generate(response: &InferenceResponse, id: Option<&str>) -> Result<Vec<u8>> {
    let mut json = vec![b'{'];
    let version = response.version.to_string();
    let head = [("model_name", Some(response.model.as_str())), ("model_version", Some(&version)), ("id", id)];
    for (name, value) in head {
        // A model's own output goes before: a key must not come twice.
        if let (Some(value), None) = (value, response.output(name)) {
            write_key(&mut json, name);
            string::write(&mut json, value);
        }
    }
    for (index, NamedTensor { name, tensor }) in response.outputs.iter().enumerate() {
        write_key(&mut json, name);
        let is_scalar = tensor.shape().element_count() == 1;
        if !is_scalar {
            json.push(b'[');
        }
        write_data(&mut json, index, tensor).map_err(|_| unwritable(name))?;
        if !is_scalar {
            json.push(b']');
        }
    }
    json.push(b'}');
    Ok(json)
}

/// Writes a member's name and its colon, and a comma before any but the first.
fn write_key(json: &mut Vec<u8>, name: &str) {
    if json.len() > 1 {
        json.push(b',');
    }
    string::write(json, name);
    json.push(b':');
}

#[cold]
fn unwritable(name: &str) -> Error {
    Error::invalid(
        path(name),
        "expected finite numbers or UTF-8, got a value that cannot be written in JSON\nhint: ask infer for this \
         output, with binary_data true",
    )
}

/// One event of a stream: `json`, which has no line breaks, as its data.
///
/// **Source:** WHATWG HTML, "Server-sent events".
#[must_use]
pub fn event(json: &[u8]) -> Vec<u8> {
    debug_assert!(!json.contains(&b'\n'), "a line break would end the data");
    [b"data: ", json, b"\n\n"].concat()
}
