//! What is answered under `--compat triton` where it differs from Axon's own: names, codes and texts.
//!
//! One table, [`triton`]; what it does not list is answered as always. **Source:** Triton's server and core at release
//! 2.73 and what their own tests assert.

use std::fmt;
use std::str::FromStr;

use axon::reason::{Payload, Reason};
use axon::request::SequenceId;
use axon::{Error, ErrorKind};

/// Whose habits are followed where the protocol leaves them open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// Axon's own.
    #[default]
    Native,
    /// Triton's, odd ones included.
    Triton,
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Triton => "triton",
        })
    }
}

impl FromStr for Compat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "native" => Ok(Self::Native),
            "triton" => Ok(Self::Triton),
            _ => Err(format!("expected `native` or `triton`, got `{}`", name.escape_debug())),
        }
    }
}

impl Compat {
    /// The server's name in its metadata.
    #[must_use]
    pub const fn server_name(self) -> &'static str {
        match self {
            Self::Native => "axon",
            Self::Triton => "triton",
        }
    }

    /// Whether a verb that failed so is answered as if it had gone well.
    #[must_use]
    pub fn forgives(self, error: &Error) -> bool {
        self == Self::Triton && matches!(error.reason(), Some(Reason::UnloadUnknown(_)))
    }

    /// The server's version in its metadata. **Source:** the release of Triton that was captured.
    #[must_use]
    pub const fn server_version(self) -> &'static str {
        match self {
            Self::Native => env!("CARGO_PKG_VERSION"),
            Self::Triton => "2.73.0",
        }
    }
}

/// What a request is about, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The model.
    pub model: &'a str,
    /// The request's id.
    pub id: Option<&'a str>,
}

/// What a client is told instead of Axon's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The status of HTTP.
    pub http: u16,
    /// The status of gRPC.
    pub grpc: u32,
    /// The text.
    pub text: String,
    /// The text over HTTP, where it is another.
    pub over_http: Option<&'static str>,
}

/// `INVALID_ARG` of Triton, and what else its codes become.
const INVALID: (u16, u32) = (400, 3);
const NOT_FOUND: (u16, u32) = (404, 5);
const EXISTS: (u16, u32) = (400, 6);
const UNSUPPORTED: (u16, u32) = (501, 12);
const INTERNAL: (u16, u32) = (500, 13);
const UNAVAILABLE: (u16, u32) = (503, 14);

/// What follows a wrong shape where the server owns the first dimension.
const SHAPE_NOTE: &str = " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to \
     be prepended to each input shape. If you want to specify the full shape including the batch dim in your input \
     dims config, try setting max_batch_size to zero. See the model configuration docs for more info on max_batch_size.";

/// What is said over HTTP of a dimension below 0.
const NEGATIVE_OVER_HTTP: &str =
    "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer";

/// What Triton tells for an error.
#[must_use]
pub fn triton(error: &Error, context: Context<'_>) -> Told {
    let told = |(http, grpc): (u16, u32), text: String| Told { http, grpc, text, over_http: None };
    let Some(reason) = error.reason() else { return by_kind(error) };
    let model = Name(context.model);
    if let Some(text) = about_request(reason, model) {
        let id = context.id.unwrap_or("<id_unknown>");
        return told(INVALID, format!("[request id: {}] {text}", Name(id)));
    }
    match reason {
        Reason::UnknownModel(name) => {
            told(INVALID, format!("Request for unknown model: '{}' is not found", Name(name)))
        }
        Reason::UnknownVersion(name, version) => told(
            NOT_FOUND,
            format!("Request for unknown model: '{}' version {version} is not found", Name(name)),
        ),
        Reason::NoReadyVersion(name) => {
            told(NOT_FOUND, format!("Request for unknown model: '{}' has no available versions", Name(name)))
        }
        Reason::VersionNotReady(name, version) => told(
            UNAVAILABLE,
            format!("Request for unknown model: '{}' version {version} is not at ready state", Name(name)),
        ),
        Reason::QueueFull | Reason::PredictedMiss | Reason::Displaced => {
            told(UNAVAILABLE, "Exceeds maximum queue size".to_owned())
        }
        Reason::Expired => told(UNAVAILABLE, "Request timeout expired".to_owned()),
        Reason::Stopping => told(
            UNAVAILABLE,
            "Server is stopping, scheduler for model has stopped accepting new inference requests".to_owned(),
        ),
        Reason::NegativeDimension { input, got } => Told {
            http: INTERNAL.0,
            grpc: INVALID.1,
            text: format!(
                "All input dimensions should be specified for input '{}' for model '{model}', got {got}",
                Name(input)
            ),
            over_http: Some(NEGATIVE_OVER_HTTP),
        },
        Reason::LoadParameter(name, datatype) => Told {
            http: INTERNAL.0,
            grpc: INVALID.1,
            text: format!("unrecognized load parameter '{}' with type {datatype}.", Name(name)),
            over_http: Some("unexpected error on creating Triton parameter"),
        },
        Reason::MalformedJson(at) => {
            told(INTERNAL, format!("failed to parse the request JSON buffer: {} at {at}", error.message()))
        }
        Reason::Member(member) => told(INTERNAL, format!("Unable to parse '{member}': {}", error.message())),
        Reason::TooFewElements => {
            told(INTERNAL, "Failed to parse 'data' field: shape does not match true shape".to_owned())
        }
        Reason::TooManyElements => told(
            INTERNAL,
            "Unable to parse 'data': Shape does not match true shape of 'data' field".to_owned(),
        ),
        Reason::UnsupportedEncoding => told(UNSUPPORTED, "Unsupported compression type".to_owned()),
        Reason::ControlMode => {
            told(UNAVAILABLE, "explicit model load / unload is not allowed if polling is enabled".to_owned())
        }
        Reason::LoadUnknown(name) => {
            told(INTERNAL, format!("failed to load '{}', failed to poll from model repository", Name(name)))
        }
        Reason::LoadFailed(name, version) => told(
            INVALID,
            format!(
                "load failed for model '{}': version {version} is at UNAVAILABLE state: {};",
                Name(name),
                error.message()
            ),
        ),
        Reason::RepositoryName => {
            told(UNSUPPORTED, "'repository_name' specification is not supported".to_owned())
        }
        Reason::SharedMemoryOff => told(
            UNSUPPORTED,
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
                .to_owned(),
        ),
        Reason::UnknownRegion(name) => {
            told(NOT_FOUND, format!("Unable to find shared memory region: '{}'", Name(name)))
        }
        Reason::RegionExists(name) => {
            told(EXISTS, format!("shared memory region '{}' already in manager", Name(name)))
        }
        Reason::RegionTooSmall { output, got, needed } => told(
            INTERNAL,
            format!(
                "shared memory size specified with the request for output '{}' ({got} bytes) should be at least \
                 {needed} bytes to hold the results",
                Name(output)
            ),
        ),
        _ => about_wire(reason, model).map_or_else(|| by_kind(error), |(codes, text)| told(codes, text)),
    }
}

/// What Triton says of bytes, contents and settings before its core has seen them.
fn about_wire(reason: &Reason, model: Name<'_>) -> Option<((u16, u32), String)> {
    let text = match reason {
        Reason::Payload { input, problem } => about_payload(Name(input), problem, model)?,
        Reason::BytesLeftOver => format!("unexpected additional input data for model '{model}'"),
        Reason::NoHeaderLength => "must specify valid 'Infer-Header-Content-Length' in request header and \
                                   'binary_data_size' when passing inputs in binary data format"
            .to_owned(),
        Reason::HeaderLength { body, got: Some(got) } => {
            format!("inference header size should be in range (0, {body}), got: {got}")
        }
        Reason::HeaderLength { got: None, .. } => {
            "Unable to parse Inference-Header-Content-Length, expected an integer".to_owned()
        }
        Reason::DataSources(given) => format!(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', \
             'shared_memory_region' in 'parameters'. But {}",
            sources(given)
        ),
        Reason::TooDeep(member) => {
            format!("Unable to parse '{member}': JSON nesting depth exceeds maximum allowed limit (100)")
        }
        Reason::Datatype { input: Some(input) } => format!("invalid datatype for input {}", Name(input)),
        Reason::RegionOffset(name) => format!("Invalid offset for shared memory region: '{}'", Name(name)),
        Reason::RegionRange(name) => {
            format!("Invalid offset + byte size for shared memory region: '{}'", Name(name))
        }
        Reason::RegionAnd(other) => format!("Output can't set both 'shared_memory_region' and '{other}'"),
        Reason::SequenceIdLength => "string correlation ID cannot be longer than 128 characters".to_owned(),
        Reason::NoModelName => "Model name cannot be empty. Please enter a valid name to deploy.".to_owned(),
        Reason::IndexReady => "Invalid value for 'ready': expected a boolean".to_owned(),
        Reason::StatisticsOf(name) => format!("requested model '{}' is not available", Name(name)),
        Reason::StatisticsOfVersion(name) => {
            format!("requested model version is not available for model '{}'", Name(name))
        }
        Reason::VersionText(text) => version(text),
        Reason::ReservedParameter => {
            "parameter keys starting with 'triton_' are reserved for Triton usage and should \
                                      not be specified."
                .to_owned()
        }
        Reason::TraceUnknown(name) => format!("Request for unknown model : {}", Name(name)),
        Reason::TraceOff => "Expect only one trace level 'OFF' is specified".to_owned(),
        Reason::TraceValue(key, got) => format!("Unable to parse '{key}', got: {}", Name(got)),
        Reason::FileSetting(what) => {
            let text = format!("{what} file location can not be updated through network protocol");
            return Some((UNSUPPORTED, text));
        }
        Reason::LogFormat(got) => {
            return Some((UNAVAILABLE, format!("invalid argument for --log_format, got: {}", Name(got))));
        }
        _ => return None,
    };
    Some((INVALID, text))
}

/// What Triton says of an input's payload before its core has seen it.
fn about_payload(input: Name<'_>, problem: &Payload, model: Name<'_>) -> Option<String> {
    Some(match problem {
        Payload::Missing(bytes) => format!(
            "unexpected size for input '{input}', expecting {bytes} additional bytes for model '{model}'"
        ),
        Payload::Twice => format!(
            "contents field must not be specified when using raw_input_contents for '{input}' for model '{model}'"
        ),
        Payload::Nothing => {
            format!("unable to find data for input tensor '{input}' for model '{model}' in request.")
        }
        Payload::Contents { got, expected } => format!(
            "unexpected explicit tensor data for input tensor '{input}' for model '{model}' of type '{got}', expected \
             datatype '{expected}'"
        ),
        Payload::Size { .. } | Payload::LengthCut(_) | Payload::Elements { .. } => return None,
    })
}

/// What Triton's core says of an input's payload.
fn about_bytes(input: Name<'_>, problem: &Payload, model: Name<'_>) -> Option<String> {
    Some(match problem {
        Payload::Size { expected, got } => format!(
            "input byte size mismatch for input '{input}' for model '{model}'. Expected {expected}, got {got}"
        ),
        Payload::LengthCut(left) => format!(
            "incomplete string length indicator for inference input '{input}' for model '{model}', expecting 4 bytes \
             but only {left} bytes available. Please make sure the string length indicator is in one buffer."
        ),
        Payload::Elements { expected, got } if got > expected => format!(
            "unexpected number of string elements {got} for inference input '{input}' for model '{model}', expecting \
             {expected}"
        ),
        Payload::Elements { expected, got } => format!(
            "expected {expected} string elements for inference input '{input}' for model '{model}', got {got}"
        ),
        _ => return None,
    })
}

/// What Triton's core says of a request that does not fit its model; it puts the request's id in front.
fn about_request(reason: &Reason, model: Name<'_>) -> Option<String> {
    Some(match reason {
        Reason::MissingInputs { expected, got, missing } => format!(
            "expected {expected} inputs but got {} inputs for model '{model}'. Got input(s) [{}], but missing required \
             input(s) [{}]. Please provide all required input(s).",
            got.len(),
            quoted(got),
            quoted(missing)
        ),
        Reason::UnknownInput(name) => {
            format!("unexpected inference input '{}' for model '{model}'", Name(name))
        }
        Reason::UnknownOutput(name) => {
            format!("unexpected inference output '{}' for model '{model}'", Name(name))
        }
        Reason::DuplicateInput(name) => format!("input '{}' already exists in request", Name(name)),
        Reason::DuplicateOutput(name) => format!("output '{}' already exists in request", Name(name)),
        Reason::WrongDatatype { input, got, expected } => format!(
            "inference input '{}' data-type is '{got}', but model '{model}' expects '{expected}'",
            Name(input)
        ),
        Reason::WrongShape { input, expected, got } if got == "[]" && expected.starts_with("[-1") => {
            format!("input '{}' has no shape but model requires batch dimension for '{model}'", Name(input))
        }
        Reason::WrongShape { input, expected, got } => format!(
            "unexpected shape for input '{}' for model '{model}'. Expected {expected}, got {got}.{}",
            Name(input),
            if expected.starts_with("[-1") { SHAPE_NOTE } else { "" }
        ),
        Reason::RowsDiffer(input) => {
            format!("input '{}' batch size does not match other inputs for '{model}'", Name(input))
        }
        Reason::TooManyRows(most) => {
            format!("inference request batch-size must be <= {most} for '{model}'")
        }
        Reason::NoSequenceId => format!(
            "inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
        ),
        Reason::SequenceNotStarted(id) => format!(
            "inference request for sequence {} to model '{model}' must specify the START flag on the first request of \
             the sequence",
            sequence(id)
        ),
        Reason::SequenceRows(id) => format!(
            "inference request for sequence {} to model '{model}' must specify batch-size 1 due to requirements of \
             sequence batcher",
            sequence(id)
        ),
        Reason::Payload { input, problem } => return about_bytes(Name(input), problem, model),
        _ => return None,
    })
}

/// What Triton says of a version that is no number above 0.
fn version(text: &str) -> String {
    let should = "version should be an integral value > 0";
    if text.parse::<i64>().is_ok() {
        return format!("invalid model version specified '{}' , {should}", Name(text));
    }
    let details = format!("(details: stol), {should}");
    format!("failed to get model version from specified version string '{}' {details}", Name(text))
}

/// How many of the members are given that say where an input's elements are.
fn sources(given: &[&str]) -> String {
    match given {
        [first, second, ..] => format!("both '{first}' and '{second}' are set"),
        _ => "no field is set".to_owned(),
    }
}

fn sequence(id: &SequenceId) -> String {
    match id {
        SequenceId::Number(number) => number.to_string(),
        SequenceId::Text(text) => Name(text).to_string(),
    }
}

/// Where the reason is not listed: Triton's codes for the kind, and Axon's text.
fn by_kind(error: &Error) -> Told {
    let (http, grpc) = match error.kind() {
        ErrorKind::NotFound => return fixed(404, 5, "Not Found"),
        ErrorKind::MethodNotAllowed => return fixed(405, 12, "Method Not Allowed"),
        ErrorKind::ModelNotFound => NOT_FOUND,
        ErrorKind::ModelNotReady
        | ErrorKind::ShuttingDown
        | ErrorKind::Overloaded
        | ErrorKind::DeadlineExceeded => UNAVAILABLE,
        ErrorKind::Unimplemented => UNSUPPORTED,
        ErrorKind::ExecutionFailed | ErrorKind::Internal => INTERNAL,
        ErrorKind::Cancelled => (400, 1),
        _ => INVALID,
    };
    Told { http, grpc, text: error.message().to_owned(), over_http: None }
}

fn fixed(http: u16, grpc: u32, text: &str) -> Told {
    Told { http, grpc, text: text.to_owned(), over_http: None }
}

fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().take(8).map(|name| format!("'{}'", Name(name))).collect();
    quoted.join(",")
}

/// A caller's text within quotes: control characters escaped, at most 64 bytes of it.
#[derive(Clone, Copy)]
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for character in self.0.chars() {
            written += character.len_utf8();
            if written > axon::error::ECHO_LIMIT {
                return f.write_str("…");
            }
            if character.is_control() {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
