//! The three `parameters` objects: of the request, of an input, of an output.

use std::time::Duration;

use axon::error::{Echo, ErrorKind, Result};

use super::ListedOutput;
use super::field::Field;
use super::scan::{Kind, Scanner};

/// The most keys of one object.
pub(super) const MAX_KEYS: usize = 64;

/// The longest `sequence_id` that is a string, in bytes. **Source:** Triton's limit.
pub(super) const MAX_SEQUENCE_ID: usize = 128;

/// What the request's own parameters say that this server acts on.
#[derive(Debug, Default)]
pub(super) struct RequestParameters {
    /// How long the caller waits.
    pub timeout: Option<Duration>,
    pub priority: u64,
    pub sequence: Option<axon::request::Sequence>,
    pub custom: Vec<(String, axon::request::Parameter)>,
    /// Outputs that are not listed come in binary.
    pub binary_output: bool,
}

/// What an input's parameters say.
#[derive(Debug, Default)]
pub(super) struct InputParameters {
    /// The bytes of the tensor behind the JSON part.
    pub binary_size: Option<u64>,
    /// The tensor lies in memory that the caller shares.
    pub shared_memory: bool,
}

/// Fails when the key has come before.
pub(super) fn once<T>(slot: Option<&T>, field: Field) -> Result<()> {
    match slot {
        None => Ok(()),
        Some(_) => Err(field.invalid("duplicate key: expected it once, got it twice")),
    }
}

/// Reads the request's own parameters.
pub(super) fn request(scanner: &mut Scanner<'_>) -> Result<RequestParameters> {
    let field = Field::top("parameters");
    let sequence_id_field = Field::top("parameters.sequence_id");
    let (mut sequence_id, mut start, mut end, mut priority) = (None, None, None, None);
    let (mut timeout, mut binary_output) = (None, None);
    object(scanner, field, |scanner, key| {
        match key {
            "sequence_id" => {
                once(sequence_id.as_ref(), sequence_id_field)?;
                sequence_id = Some(read_sequence_id(scanner, sequence_id_field)?);
            }
            "sequence_start" => boolean(scanner, &mut start, Field::top("parameters.sequence_start"))?,
            "sequence_end" => boolean(scanner, &mut end, Field::top("parameters.sequence_end"))?,
            "priority" => integer(scanner, &mut priority, Field::top("parameters.priority"))?,
            "timeout" => integer(scanner, &mut timeout, Field::top("parameters.timeout"))?,
            "binary_data_output" => {
                boolean(scanner, &mut binary_output, Field::top("parameters.binary_data_output"))?;
            }
            _ if key.starts_with("triton_") => {
                return Err(field.invalid(format_args!(
                    "expected no key that begins with `triton_`, which is reserved, got {}",
                    Echo(key)
                )));
            }
            _ => scalar(scanner, field, key)?,
        }
        Ok(())
    })?;
    if start == Some(true) && sequence_id == Some(SequenceId::None) {
        return Err(sequence_id_field.invalid("expected an id other than 0 with sequence_start, got 0"));
    }
    let timeout = timeout.filter(|&timeout| timeout > 0).map(Duration::from_micros);
    Ok(RequestParameters {
        timeout,
        binary_output: binary_output.unwrap_or(false),
        ..RequestParameters::default()
    })
}

/// Reads the parameters of input number `index`.
pub(super) fn input(scanner: &mut Scanner<'_>, index: usize) -> Result<InputParameters> {
    let field = Field::input(index, "parameters");
    let mut parameters = InputParameters::default();
    object(scanner, field, |scanner, key| {
        if key == "binary_data_size" {
            return integer(scanner, &mut parameters.binary_size, Field::input(index, BINARY_DATA_SIZE));
        }
        parameters.shared_memory |= key.starts_with("shared_memory_");
        scalar(scanner, field, key)
    })?;
    Ok(parameters)
}

/// The path of an input's `binary_data_size`.
pub(super) const BINARY_DATA_SIZE: &str = "parameters.binary_data_size";

/// The path of what no tensor can use here.
pub(super) const SHARED_MEMORY_REGION: &str = "parameters.shared_memory_region";

/// What a caller is told who names shared memory.
pub(super) const NO_SHARED_MEMORY: &str =
    "shared memory is not available on this server: expected JSON or binary data, got a shared memory region";

/// Reads the parameters of output number `index`.
pub(super) fn output(scanner: &mut Scanner<'_>, index: usize) -> Result<ListedOutput> {
    let field = Field::output(index, "parameters");
    let (mut binary, mut classification, mut shared_memory) = (None, None, false);
    object(scanner, field, |scanner, key| {
        match key {
            "binary_data" => boolean(scanner, &mut binary, Field::output(index, "parameters.binary_data"))?,
            "classification" => {
                let field = Field::output(index, super::classify::CLASSIFICATION);
                once(classification.as_ref(), field)?;
                classification = Some(scanner.integer(field, 1..=0x7fff_ffff)?);
            }
            _ => {
                shared_memory |= key.starts_with("shared_memory_");
                scalar(scanner, field, key)?;
            }
        }
        Ok(())
    })?;
    if shared_memory {
        return Err(
            Field::output(index, SHARED_MEMORY_REGION).error(ErrorKind::Unimplemented, NO_SHARED_MEMORY)
        );
    }
    let classification = classification.and_then(|count| usize::try_from(count).ok());
    Ok(ListedOutput { binary: binary.unwrap_or(false), classification })
}

/// Reads an object of at most [`MAX_KEYS`] keys.
fn object(
    scanner: &mut Scanner<'_>,
    field: Field,
    mut member: impl FnMut(&mut Scanner<'_>, &str) -> Result<()>,
) -> Result<()> {
    let mut count = 0;
    scanner.members(field, |scanner, key| {
        count += 1;
        if count > MAX_KEYS {
            return Err(field.invalid(format_args!("expected at most {MAX_KEYS} keys, got more")));
        }
        member(scanner, key)
    })
}

fn boolean(scanner: &mut Scanner<'_>, slot: &mut Option<bool>, field: Field) -> Result<()> {
    once(slot.as_ref(), field)?;
    *slot = Some(scanner.boolean(field)?);
    Ok(())
}

fn integer(scanner: &mut Scanner<'_>, slot: &mut Option<u64>, field: Field) -> Result<()> {
    once(slot.as_ref(), field)?;
    *slot = Some(scanner.integer(field, 0..=u64::MAX)?);
    Ok(())
}

/// Skips a parameter that this server does not know.
fn scalar(scanner: &mut Scanner<'_>, field: Field, key: &str) -> Result<()> {
    match scanner.kind()? {
        Kind::String | Kind::Number | Kind::Boolean => scanner.skip(field, false),
        kind => {
            Err(field
                .invalid(format_args!("expected string, number or boolean for {}, got {kind}", Echo(key))))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SequenceId {
    /// 0 or empty: no sequence.
    None,
    Some,
}

fn read_sequence_id(scanner: &mut Scanner<'_>, field: Field) -> Result<SequenceId> {
    let none = if scanner.kind()? == Kind::String {
        let length = scanner.string(field)?.len();
        if length > MAX_SEQUENCE_ID {
            return Err(field.invalid(format_args!(
                "expected an integer or a string of at most {MAX_SEQUENCE_ID} bytes, got {length} bytes"
            )));
        }
        length == 0
    } else {
        scanner.integer(field, 0..=u64::MAX)? == 0
    };
    Ok(if none { SequenceId::None } else { SequenceId::Some })
}
