//! The three `parameters` objects: of the request, of an input, of an output.

use std::time::Duration;

use axon::error::{Echo, Result};
use axon::reason::Reason;
use axon::request::{Parameter, Sequence, SequenceId};

use super::ListedOutput;
use super::check;
use super::field::Field;
use super::number::Scalar;
use super::scan::{Kind, Scanner};
use super::shared::{self, SharedParameters};

/// The most keys of one object.
pub(super) const MAX_KEYS: usize = 64;

/// The longest `sequence_id` that is a string, in bytes. **Source:** Triton's limit.
pub(super) const MAX_SEQUENCE_ID: usize = 128;

/// The most bytes of the names and texts of all custom parameters: they wait in the queue with the request.
const MAX_TEXT: usize = 64 << 10;

/// What the request's own parameters say that this server acts on.
#[derive(Debug, Default)]
pub(super) struct RequestParameters {
    /// How long the caller waits.
    pub timeout: Option<Duration>,
    /// Outputs that are not listed come in binary.
    pub binary_output: bool,
    /// 1 is the most urgent; 0 leaves it to the model.
    pub priority: u64,
    /// The sequence that the request belongs to.
    pub sequence: Option<Sequence>,
    /// The parameters that are the caller's own, in its order.
    pub custom: Vec<(String, Parameter)>,
}

/// What an input's parameters say.
#[derive(Debug, Default)]
pub(super) struct InputParameters {
    /// The bytes of the tensor behind the JSON part.
    pub binary_size: Option<u64>,
    /// Where the tensor lies in memory that the caller shares.
    pub shared: SharedParameters,
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
    let mut custom = Custom::default();
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
                return Err(check::reserved(field, key));
            }
            _ => custom.read(scanner, field, key)?,
        }
        Ok(())
    })?;
    if start == Some(true) && sequence_id == Some(None) {
        return Err(sequence_id_field.invalid("expected an id other than 0 with sequence_start, got 0"));
    }
    let (start, end) = (start.unwrap_or(false), end.unwrap_or(false));
    Ok(RequestParameters {
        timeout: timeout.filter(|&timeout| timeout > 0).map(Duration::from_micros),
        binary_output: binary_output.unwrap_or(false),
        priority: priority.unwrap_or_default(),
        sequence: sequence_id.flatten().map(|id| Sequence { id, start, end }),
        custom: custom.parameters,
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
        read_shared(scanner, &mut parameters.shared, key, |member| Field::input(index, member))
    })?;
    Ok(parameters)
}

/// The path of an input's `binary_data_size`.
pub(super) const BINARY_DATA_SIZE: &str = "parameters.binary_data_size";

/// Reads the parameters of output number `index`.
pub(super) fn output(
    scanner: &mut Scanner<'_>,
    index: usize,
) -> Result<(ListedOutput, Option<SharedParameters>)> {
    let field = Field::output(index, "parameters");
    let (mut binary, mut classification) = (None, None);
    let mut shared = SharedParameters::default();
    object(scanner, field, |scanner, key| {
        match key {
            "binary_data" => boolean(scanner, &mut binary, Field::output(index, "parameters.binary_data"))?,
            "classification" => {
                let field = Field::output(index, super::classify::CLASSIFICATION);
                once(classification.as_ref(), field)?;
                classification = Some(scanner.integer(field, 1..=0x7fff_ffff)?);
            }
            _ => read_shared(scanner, &mut shared, key, |member| Field::output(index, member))?,
        }
        Ok(())
    })?;
    let binary = binary.unwrap_or(false);
    let clash = [(binary, "binary_data"), (classification.is_some(), "classification")];
    if let (true, Some((_, other))) = (shared.is_given(), clash.iter().find(|(given, _)| *given)) {
        return Err(Field::output(index, "")
            .invalid(format_args!("expected one of shared_memory_region and {other}, got both"))
            .because(Reason::RegionAnd(other)));
    }
    let classification = classification.and_then(|count| usize::try_from(count).ok());
    Ok((ListedOutput { binary, classification }, shared.is_given().then_some(shared)))
}

/// Reads a parameter of a tensor that has to do with shared memory, or skips another one.
fn read_shared(
    scanner: &mut Scanner<'_>,
    shared: &mut SharedParameters,
    key: &str,
    field: impl Fn(&'static str) -> Field,
) -> Result<()> {
    match key {
        "shared_memory_region" => {
            let field = field(shared::REGION);
            once(shared.region.as_ref(), field)?;
            shared.region = Some(scanner.string(field)?.into_owned());
            Ok(())
        }
        "shared_memory_byte_size" => integer(scanner, &mut shared.byte_size, field(shared::BYTE_SIZE)),
        "shared_memory_offset" => integer(scanner, &mut shared.offset, field(shared::OFFSET)),
        _ => {
            check_scalar(scanner, field("parameters"), key)?;
            scanner.skip(field("parameters"), false)
        }
    }
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

/// Checks the kind of a parameter that is not the protocol's own.
fn check_scalar(scanner: &mut Scanner<'_>, field: Field, key: &str) -> Result<Kind> {
    match scanner.kind()? {
        kind @ (Kind::String | Kind::Number | Kind::Boolean) => Ok(kind),
        kind => {
            Err(field
                .invalid(format_args!("expected string, number or boolean for {}, got {kind}", Echo(key))))
        }
    }
}

/// The parameters of a request that are the caller's own.
#[derive(Default)]
struct Custom {
    parameters: Vec<(String, Parameter)>,
    /// The bytes of their names and texts.
    text: usize,
}

impl Custom {
    /// Reads the value of `key`.
    fn read(&mut self, scanner: &mut Scanner<'_>, field: Field, key: &str) -> Result<()> {
        if self.parameters.iter().any(|(name, _)| name == key) {
            return Err(
                field.invalid(format_args!("duplicate key: expected {} once, got it twice", Echo(key)))
            );
        }
        self.count(field, key.len())?;
        let value = match check_scalar(scanner, field, key)? {
            Kind::String => {
                let text = scanner.string(field)?;
                self.count(field, text.len())?;
                Parameter::String(text.into_owned())
            }
            Kind::Boolean => Parameter::Bool(scanner.boolean(field)?),
            _ => read_number(scanner, field, key)?,
        };
        self.parameters.push((key.to_owned(), value));
        Ok(())
    }

    fn count(&mut self, field: Field, more: usize) -> Result<()> {
        self.text = self.text.saturating_add(more);
        if self.text <= MAX_TEXT {
            return Ok(());
        }
        let text = self.text;
        Err(field.invalid(format_args!("expected at most {MAX_TEXT} bytes of names and texts, got {text}")))
    }
}

/// Reads a number as the narrowest kind of parameter that holds it.
fn read_number(scanner: &mut Scanner<'_>, field: Field, key: &str) -> Result<Parameter> {
    let (number, text) = scanner.number().map_err(|fault| scanner.error(fault))?;
    if let Some(value) = i64::from_number(&number, text) {
        return Ok(Parameter::Int(value));
    }
    if let Some(value) = u64::from_number(&number, text) {
        return Ok(Parameter::Uint(value));
    }
    f64::from_number(&number, text).map(Parameter::Double).ok_or_else(|| {
        let (key, expected) = (Echo(key), f64::expected());
        field.invalid(format_args!("out of range: {expected} for {key}, got {}", Echo(text)))
    })
}

/// Reads the id of a sequence; 0 and an empty one are none.
fn read_sequence_id(scanner: &mut Scanner<'_>, field: Field) -> Result<Option<SequenceId>> {
    if scanner.kind()? != Kind::String {
        let id = scanner.integer(field, 0..=u64::MAX)?;
        return Ok((id > 0).then_some(SequenceId::Number(id)));
    }
    let id = scanner.string(field)?;
    let length = id.len();
    if length > MAX_SEQUENCE_ID {
        return Err(field
            .invalid(format_args!(
                "expected an integer or a string of at most {MAX_SEQUENCE_ID} bytes, got {length} bytes"
            ))
            .because(Reason::SequenceIdLength));
    }
    Ok((length > 0).then(|| SequenceId::Text(id.into_owned())))
}
