//! What holds for the parts of a request, whichever form it comes in.

use std::fmt;

use axon::error::{Echo, Error, Result};
use axon::reason::Reason;
use synapse::DataType;

use super::field::Field;

/// The most inputs, and the most outputs, of one request.
pub(super) const MAX_TENSORS: usize = 1024;

/// The longest name of a tensor, in bytes.
const MAX_NAME: usize = 1024;

/// The longest id, in bytes.
const MAX_ID: usize = 256;

/// Checks an id: printable and not long.
pub(crate) fn id(id: &str) -> Result<()> {
    let field = Field::top("id");
    if id.len() > MAX_ID {
        let length = id.len();
        return Err(field.invalid(format_args!("expected a string of at most {MAX_ID} bytes, got {length}")));
    }
    if id.chars().any(|character| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')) {
        return Err(field.invalid(format_args!("expected printable characters, got {}", Echo(id))));
    }
    Ok(())
}

/// The error of a parameter whose key is reserved.
pub(super) fn reserved(field: Field, key: &str) -> Error {
    let problem =
        format_args!("expected no key that begins with `triton_`, which is reserved, got {}", Echo(key));
    field.invalid(problem).because(Reason::ReservedParameter)
}

/// Checks the name of a tensor.
pub(super) fn name(name: &str, field: Field) -> Result<()> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(field.invalid(format_args!("expected a string of 1 to {MAX_NAME} bytes, got {} bytes", name.len())))
}

/// Reads the name of a data type, of `input` where that is known.
pub(super) fn datatype(name: &str, field: Field, input: Option<&str>) -> Result<DataType> {
    name.parse().map_err(|_| {
        let error = field.invalid(format_args!("expected {OneOfDatatypes}, got {}", Echo(name)));
        error.because(Reason::Datatype { input: input.map(ToOwned::to_owned) })
    })
}

/// The names of all data types, for a message.
pub(super) struct OneOfDatatypes;

impl fmt::Display for OneOfDatatypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}", DataType::ALL.map(DataType::name).join(", "))
    }
}
