//! The members of a generate request that are no inputs.

use std::time::Duration;

use axon::error::{Echo, Error, Result};
use axon::request::{Parameter, Sequence, SequenceId};

use super::{path, twice};
use crate::codec::field::Field;
use crate::codec::number::Scalar as _;
use crate::codec::parameters::{MAX_KEYS, MAX_SEQUENCE_ID, once};
use crate::codec::scan::{Kind, Scanner};

const SEQUENCE_ID: Field = Field::top("sequence_id");

/// What has been read.
#[derive(Default)]
pub(super) struct Parameters {
    timeout: Option<u64>,
    priority: Option<u64>,
    sequence_id: Option<SequenceName>,
    sequence_start: Option<bool>,
    sequence_end: Option<bool>,
    binary_data_output: Option<bool>,
    custom: Vec<(String, Parameter)>,
    count: usize,
}

/// What names a sequence.
enum SequenceName {
    /// 0 or empty: no sequence.
    None,
    Some(SequenceId),
}

/// What they say together.
pub(super) struct Known {
    pub timeout: Option<Duration>,
    pub priority: u64,
    pub sequence: Option<Sequence>,
    pub custom: Vec<(String, Parameter)>,
}

impl Parameters {
    /// Reads the value of `key`.
    pub fn read(&mut self, scanner: &mut Scanner<'_>, key: &str) -> Result<()> {
        self.count += 1;
        if self.count > MAX_KEYS {
            return Err(Field::top("parameters")
                .invalid(format_args!("expected at most {MAX_KEYS} besides the inputs, got more")));
        }
        match key {
            "timeout" => integer(scanner, &mut self.timeout, Field::top("timeout")),
            "priority" => integer(scanner, &mut self.priority, Field::top("priority")),
            "sequence_id" => {
                once(self.sequence_id.as_ref(), SEQUENCE_ID)?;
                self.sequence_id = Some(read_sequence_id(scanner)?);
                Ok(())
            }
            "sequence_start" => boolean(scanner, &mut self.sequence_start, Field::top("sequence_start")),
            "sequence_end" => boolean(scanner, &mut self.sequence_end, Field::top("sequence_end")),
            // The answer is text, whatever it says.
            "binary_data_output" => {
                boolean(scanner, &mut self.binary_data_output, Field::top("binary_data_output"))
            }
            _ => self.read_custom(scanner, key),
        }
    }

    fn read_custom(&mut self, scanner: &mut Scanner<'_>, key: &str) -> Result<()> {
        if key.starts_with("triton_") {
            return Err(Error::invalid(
                path(key),
                "expected no key that begins with `triton_`, which is reserved, got one",
            ));
        }
        // At most `MAX_KEYS`, which are faster searched than hashed.
        if self.custom.iter().any(|(name, _)| name == key) {
            return Err(twice(key));
        }
        let value = read_parameter(scanner, key)?;
        self.custom.push((key.to_owned(), value));
        Ok(())
    }

    /// What they say together.
    pub fn finish(self) -> Result<Known> {
        let (start, end) = (self.sequence_start.unwrap_or(false), self.sequence_end.unwrap_or(false));
        let sequence = match self.sequence_id {
            Some(SequenceName::Some(id)) => Some(Sequence { id, start, end }),
            Some(SequenceName::None) if start => {
                return Err(SEQUENCE_ID.invalid("expected an id other than 0 with sequence_start, got 0"));
            }
            _ => None,
        };
        Ok(Known {
            timeout: self.timeout.filter(|&timeout| timeout > 0).map(Duration::from_micros),
            priority: self.priority.unwrap_or(0),
            sequence,
            custom: self.custom,
        })
    }
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

fn read_sequence_id(scanner: &mut Scanner<'_>) -> Result<SequenceName> {
    let id = if scanner.kind()? == Kind::String {
        let text = scanner.string(SEQUENCE_ID)?;
        if text.len() > MAX_SEQUENCE_ID {
            return Err(SEQUENCE_ID.invalid(format_args!(
                "expected an integer or a string of at most {MAX_SEQUENCE_ID} bytes, got {} bytes",
                text.len()
            )));
        }
        (!text.is_empty()).then(|| SequenceId::Text(text.into_owned()))
    } else {
        let number = scanner.integer(SEQUENCE_ID, 0..=u64::MAX)?;
        (number > 0).then_some(SequenceId::Number(number))
    };
    Ok(id.map_or(SequenceName::None, SequenceName::Some))
}

/// Reads a parameter that is handed on as it came.
fn read_parameter(scanner: &mut Scanner<'_>, key: &str) -> Result<Parameter> {
    Ok(match scanner.kind()? {
        Kind::String => Parameter::String(scanner.string(Field::BODY)?.into_owned()),
        Kind::Boolean => Parameter::Bool(scanner.boolean(Field::BODY)?),
        Kind::Number => read_number(scanner, key)?,
        kind => {
            return Err(Error::invalid(
                path(key),
                format_args!("expected string, number or boolean for what is no input, got {kind}"),
            ));
        }
    })
}

fn read_number(scanner: &mut Scanner<'_>, key: &str) -> Result<Parameter> {
    let (number, text) = scanner.number().map_err(|fault| scanner.error(fault))?;
    let value = i64::from_number(&number, text)
        .map(Parameter::Int)
        .or_else(|| u64::from_number(&number, text).map(Parameter::Uint))
        .or_else(|| f64::from_number(&number, text).map(Parameter::Double));
    value.ok_or_else(|| {
        Error::invalid(path(key), format_args!("out of range: {}, got {}", f64::expected(), Echo(text)))
    })
}
