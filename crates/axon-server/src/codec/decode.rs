//! The JSON part of an inference request.

use std::fmt;

use axon::error::{Echo, Error, ErrorKind, Result};
use axon::request::{Inputs, NamedTensor};
use bytes::Bytes;
use synapse::{DataType, MAX_RANK, Shape, Tensor};

use super::binary::{self, HEADER};
use super::field::Field;
use super::parameters::{
    self, InputParameters, NO_SHARED_MEMORY, RequestParameters, SHARED_MEMORY_REGION, once,
};
use super::scan::{Kind, Scanner};
use super::{Decoded, ListedOutput, OutputFormat, data};

/// The most inputs, and the most outputs, of one request.
const MAX_TENSORS: usize = 1024;

/// The longest name of a tensor, in bytes.
const MAX_NAME: usize = 1024;

/// The longest id, in bytes.
const MAX_ID: usize = 256;

/// The members of a request that are read; the rest are checked and skipped.
#[derive(Default)]
struct Document {
    id: Option<String>,
    parameters: Option<RequestParameters>,
    inputs: Option<Vec<Input>>,
    outputs: Option<(Vec<String>, Vec<ListedOutput>)>,
}

/// One input, as its JSON describes it.
pub(super) struct Input {
    pub name: String,
    pub source: Source,
}

/// Where an input's elements are.
pub(super) enum Source {
    /// They came in the JSON part.
    Data(Tensor),
    /// They are `size` bytes behind the JSON part.
    Binary { datatype: DataType, shape: Shape, size: u64 },
}

/// Reads the body of an inference request.
///
/// `header_length` is the length of its JSON part, as [`parse_header_length`](super::parse_header_length) gives
/// it; all of the body is JSON when it is `None`. The tensors behind the JSON part share the body's memory.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] that names the field or the byte; [`ErrorKind::Unimplemented`] for shared memory.
pub fn decode(body: Bytes, header_length: Option<usize>) -> Result<Decoded> {
    let length = header_length.unwrap_or(body.len());
    let json = body.get(..length).ok_or_else(|| {
        Field::top(HEADER)
            .invalid(format_args!("expected at most the body's {} bytes, got {length}", body.len()))
    })?;
    if json.is_empty() {
        return Err(Field::BODY.invalid("empty: expected a JSON object, got 0 bytes"));
    }
    let mut scanner = Scanner::new(json, length < body.len());
    let document = read_document(&mut scanner)?;
    let parameters = document.parameters.unwrap_or_default();
    let (outputs, listed) = document.outputs.unwrap_or_default();
    let inputs = document
        .inputs
        .ok_or_else(|| Field::top("inputs").invalid("required: expected an array of inputs, got none"))?;
    if header_length.is_none() {
        binary::check_no_sections(&inputs)?;
    }
    scanner.finish()?;
    let inputs: Vec<NamedTensor> = binary::attach(body, length, inputs)?;
    Ok(Decoded {
        inputs: Inputs::Named(inputs),
        outputs,
        timeout: parameters.timeout,
        priority: parameters.priority,
        sequence: parameters.sequence,
        parameters: parameters.custom,
        id: document.id,
        format: OutputFormat { binary: parameters.binary_output, listed },
    })
}

fn read_document(scanner: &mut Scanner<'_>) -> Result<Document> {
    match scanner.kind()? {
        Kind::Object => {}
        kind => {
            let at = scanner.at();
            return Err(Field::BODY.invalid(format_args!("expected a JSON object at byte {at}, got {kind}")));
        }
    }
    let mut document = Document::default();
    scanner.members(Field::BODY, |scanner, key| {
        match key {
            "id" => {
                once(document.id.as_ref(), Field::top("id"))?;
                document.id = Some(read_id(scanner)?);
            }
            "parameters" => {
                once(document.parameters.as_ref(), Field::top("parameters"))?;
                document.parameters = Some(parameters::request(scanner)?);
            }
            "inputs" => {
                once(document.inputs.as_ref(), Field::top("inputs"))?;
                document.inputs = Some(read_inputs(scanner)?);
            }
            "outputs" => {
                once(document.outputs.as_ref(), Field::top("outputs"))?;
                document.outputs = Some(read_outputs(scanner)?);
            }
            _ => scanner.skip(Field::BODY, false)?,
        }
        Ok(())
    })?;
    // An empty id is no id, as in Triton.
    document.id = document.id.filter(|id| !id.is_empty());
    Ok(document)
}

pub(super) fn read_id(scanner: &mut Scanner<'_>) -> Result<String> {
    let field = Field::top("id");
    let id = scanner.string(field)?;
    if id.len() > MAX_ID {
        let length = id.len();
        return Err(field.invalid(format_args!("expected a string of at most {MAX_ID} bytes, got {length}")));
    }
    if id.chars().any(|character| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')) {
        return Err(field.invalid(format_args!("expected printable characters, got {}", Echo(&id))));
    }
    Ok(id.into_owned())
}

fn read_inputs(scanner: &mut Scanner<'_>) -> Result<Vec<Input>> {
    let field = Field::top("inputs");
    let mut inputs = Vec::new();
    scanner.items(field, |scanner, index| {
        if index == MAX_TENSORS {
            return Err(field.invalid(format_args!("expected at most {MAX_TENSORS} inputs, got more")));
        }
        inputs.push(read_input(scanner, index)?);
        Ok(())
    })?;
    Ok(inputs)
}

/// The elements of an input, or where they begin when its type and shape are not known yet.
enum Data {
    Tensor(Tensor),
    Later(usize),
}

/// The members of an input that are read.
#[derive(Default)]
struct InputMembers {
    name: Option<String>,
    datatype: Option<DataType>,
    shape: Option<Shape>,
    parameters: Option<InputParameters>,
    data: Option<Data>,
}

fn read_input(scanner: &mut Scanner<'_>, index: usize) -> Result<Input> {
    let mut members = InputMembers::default();
    scanner.members(Field::input(index, ""), |scanner, key| members.read(scanner, index, key))?;
    members.finish(scanner, index)
}

impl InputMembers {
    /// Reads the value of `key`.
    fn read(&mut self, scanner: &mut Scanner<'_>, index: usize, key: &str) -> Result<()> {
        let field = |member| Field::input(index, member);
        match key {
            "name" => {
                once(self.name.as_ref(), field("name"))?;
                self.name = Some(read_name(scanner, field("name"))?);
            }
            "datatype" => {
                once(self.datatype.as_ref(), field("datatype"))?;
                self.datatype = Some(read_datatype(scanner, field("datatype"))?);
            }
            "shape" => {
                once(self.shape.as_ref(), field("shape"))?;
                self.shape = Some(read_shape(scanner, field("shape"))?);
            }
            "parameters" => {
                once(self.parameters.as_ref(), field("parameters"))?;
                self.parameters = Some(parameters::input(scanner, index)?);
            }
            "data" => {
                once(self.data.as_ref(), field("data"))?;
                self.data = Some(self.read_data(scanner, index)?);
            }
            _ => scanner.skip(field(""), false)?,
        }
        Ok(())
    }

    /// Reads the elements when it is known what they are, else steps over them.
    fn read_data(&self, scanner: &mut Scanner<'_>, index: usize) -> Result<Data> {
        if let (Some(datatype), Some(shape)) = (self.datatype, &self.shape) {
            return Ok(Data::Tensor(data::read(scanner, index, datatype, shape.clone())?));
        }
        scanner.peek();
        let start = scanner.at();
        scanner.skip(Field::input(index, "data"), true)?;
        Ok(Data::Later(start))
    }

    /// Checks that what is required has come; `scanner` is one of the same document.
    fn finish(self, scanner: &Scanner<'_>, index: usize) -> Result<Input> {
        let field = |member| Field::input(index, member);
        let none = |member, expected: &dyn fmt::Display| {
            field(member).invalid(format_args!("required: expected {expected}, got none"))
        };
        let name = self.name.ok_or_else(|| none("name", &"the name of a model input"))?;
        let datatype = self.datatype.ok_or_else(|| none("datatype", &OneOfDatatypes))?;
        let shape = self.shape.ok_or_else(|| none("shape", &"an array of integers"))?;
        let size = check_source(index, self.data.is_some(), &self.parameters.unwrap_or_default())?;
        let source = match (self.data, size) {
            (Some(Data::Tensor(tensor)), _) => Source::Data(tensor),
            (Some(Data::Later(start)), _) => {
                let mut scanner = scanner.clone();
                scanner.go_back(start);
                Source::Data(data::read(&mut scanner, index, datatype, shape)?)
            }
            (None, size) => Source::Binary { datatype, shape, size: size.unwrap_or_default() },
        };
        Ok(Input { name, source })
    }
}

/// Checks that an input says once where its elements are; returns their size where they are binary.
fn check_source(index: usize, data: bool, parameters: &InputParameters) -> Result<Option<u64>> {
    let InputParameters { binary_size, shared_memory } = *parameters;
    let sources = [
        (data, "data"),
        (binary_size.is_some(), "binary_data_size"),
        (shared_memory, "shared_memory_region"),
    ];
    let given: Vec<_> = sources.iter().filter(|(given, _)| *given).map(|&(_, name)| name).collect();
    if given.len() != 1 {
        let got = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        return Err(Field::input(index, "").invalid(format_args!(
            "expected exactly one of data, binary_data_size, shared_memory_region, got {got}"
        )));
    }
    if shared_memory {
        return Err(
            Field::input(index, SHARED_MEMORY_REGION).error(ErrorKind::Unimplemented, NO_SHARED_MEMORY)
        );
    }
    Ok(binary_size)
}

fn read_name(scanner: &mut Scanner<'_>, field: Field) -> Result<String> {
    let name = scanner.string(field)?;
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(name.into_owned());
    }
    Err(field.invalid(format_args!("expected a string of 1 to {MAX_NAME} bytes, got {} bytes", name.len())))
}

/// The names of all data types, for a message.
struct OneOfDatatypes;

impl fmt::Display for OneOfDatatypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}", DataType::ALL.map(DataType::name).join(", "))
    }
}

fn read_datatype(scanner: &mut Scanner<'_>, field: Field) -> Result<DataType> {
    match scanner.kind()? {
        Kind::String => {}
        kind => return Err(field.invalid(format_args!("expected {OneOfDatatypes}, got {kind}"))),
    }
    let name = scanner.string(field)?;
    name.parse().map_err(|_| field.invalid(format_args!("expected {OneOfDatatypes}, got {}", Echo(&name))))
}

fn read_shape(scanner: &mut Scanner<'_>, field: Field) -> Result<Shape> {
    let (mut dimensions, mut rank) = ([0; MAX_RANK], 0);
    scanner.items(field, |scanner, axis| {
        let dimension = read_dimension(scanner, field, axis)?;
        if let Some(slot) = dimensions.get_mut(axis) {
            *slot = dimension;
        }
        rank = axis + 1;
        Ok(())
    })?;
    let dimensions = dimensions.get(..rank).ok_or_else(|| {
        field.invalid(format_args!("rank: expected at most {MAX_RANK} dimensions, got {rank}"))
    })?;
    Shape::new(dimensions).map_err(|_| overflow(field, format_args!("{dimensions:?}")))
}

fn read_dimension(scanner: &mut Scanner<'_>, field: Field, axis: usize) -> Result<usize> {
    let wrong = |got: fmt::Arguments<'_>| {
        field.invalid(format_args!("expected integers of at least 0, got {got} as dimension {axis}"))
    };
    match scanner.kind()? {
        Kind::Number => {}
        kind => return Err(wrong(format_args!("{kind}"))),
    }
    let (number, text) = scanner.number().map_err(|fault| scanner.error(fault))?;
    if number.is_negative() {
        return Err(Error::invalid(
            format!("{field}[{axis}]"),
            format_args!("negative: expected an integer of at least 0, got {}", Echo(text)),
        ));
    }
    if !number.is_integral() {
        return Err(wrong(format_args!("{}", Echo(text))));
    }
    let dimension = number.to_u64(text).and_then(|dimension| usize::try_from(dimension).ok());
    dimension.ok_or_else(|| overflow(field, format_args!("{} as dimension {axis}", Echo(text))))
}

fn overflow(field: Field, got: fmt::Arguments<'_>) -> Error {
    field
        .invalid(format_args!("element count overflows: expected at most {} elements, got {got}", isize::MAX))
}

fn read_outputs(scanner: &mut Scanner<'_>) -> Result<(Vec<String>, Vec<ListedOutput>)> {
    let (mut names, mut listed) = (Vec::new(), Vec::new());
    scanner.items(Field::top("outputs"), |scanner, index| {
        let field = |member| Field::output(index, member);
        if index == MAX_TENSORS {
            return Err(
                field("name").invalid(format_args!("expected at most {MAX_TENSORS} outputs, got more"))
            );
        }
        let (mut name, mut format) = (None, None);
        scanner.members(field(""), |scanner, key| {
            match key {
                "name" => {
                    once(name.as_ref(), field("name"))?;
                    name = Some(read_name(scanner, field("name"))?);
                }
                "parameters" => {
                    once(format.as_ref(), field("parameters"))?;
                    format = Some(parameters::output(scanner, index)?);
                }
                _ => scanner.skip(field(""), false)?,
            }
            Ok(())
        })?;
        let required = || field("name").invalid("required: expected the name of a model output, got none");
        names.push(name.ok_or_else(required)?);
        listed.push(format.unwrap_or_default());
        Ok(())
    })?;
    Ok((names, listed))
}
