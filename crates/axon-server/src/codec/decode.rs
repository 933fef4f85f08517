//! The JSON part of an inference request.

use std::fmt;

use axon::error::{Echo, Error, Result};
use axon::reason::Reason;
use axon::request::{Inputs, NamedTensor};
use bytes::Bytes;
use synapse::{DataType, MAX_RANK, Shape, Tensor};

use super::binary::{self, HEADER, Unread};
use super::check::{self, MAX_TENSORS, OneOfDatatypes};
use super::field::Field;
use super::parameters::{self, InputParameters, RequestParameters, once};
use super::scan::{Kind, Scanner};
use super::shared::{NoRegions, Regions, Resolver, SharedParameters, SharedPart};
use super::{Decoded, ListedOutput, OutputFormat, data};

/// The members of a request that are read; the rest are checked and skipped.
#[derive(Default)]
struct Document {
    id: Option<String>,
    parameters: Option<RequestParameters>,
    inputs: Option<Vec<Input>>,
    outputs: Option<Outputs>,
}

/// The outputs that a request lists.
#[derive(Default)]
struct Outputs {
    names: Vec<String>,
    listed: Vec<ListedOutput>,
    shared: Vec<Option<SharedParameters>>,
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
    /// They are in memory that the caller shares.
    Shared { datatype: DataType, shape: Shape, parameters: SharedParameters },
}

/// What a server lets the bodies of requests do.
#[derive(Clone, Copy)]
pub struct DecodeOptions<'a> {
    /// Takes `NaN`, `Infinity` and `-Infinity` for elements of floating point, which JSON does not; default false.
    pub nan: bool,
    /// Where tensors in shared memory are found; by default none are.
    pub regions: &'a dyn Regions,
    /// The most bytes that the inputs of one request may have in shared memory; default 64 MiB.
    pub shared_limit: u64,
}

impl Default for DecodeOptions<'_> {
    fn default() -> Self {
        Self { nan: false, regions: &NoRegions, shared_limit: 64 << 20 }
    }
}

/// A request body, read but for what it names in shared memory.
#[derive(Debug)]
pub struct Parsed {
    pub(super) decoded: Decoded,
    pub(super) unread: Vec<Unread>,
}

impl Parsed {
    /// The bytes that [`finish`](Self::finish) copies.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        self.unread.iter().map(|unread| unread.input.byte_size()).sum()
    }

    /// Copies the inputs out of shared memory, at memory speed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](axon::ErrorKind) when a region has shrunk, or bytes are not of their type.
    pub fn finish(mut self) -> Result<Decoded> {
        if let Inputs::Named(named) = &mut self.decoded.inputs {
            // In ascending order, so that each comes to its place.
            for Unread { index, name, input } in self.unread {
                named.insert(index, NamedTensor { name, tensor: input.read()? });
            }
        }
        Ok(self.decoded)
    }
}

impl From<Decoded> for Parsed {
    fn from(decoded: Decoded) -> Self {
        Self { decoded, unread: Vec::new() }
    }
}

/// Reads the body of an inference request.
///
/// `header_length` is the length of its JSON part, as [`parse_header_length`](super::parse_header_length) gives
/// it; all of the body is JSON when it is `None`. The tensors behind the JSON part share the body's memory.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] that names the field or the byte; [`ErrorKind::RequestTooLarge`] for too much
/// shared memory, [`ErrorKind::Unimplemented`] where there is none.
pub fn decode(body: Bytes, header_length: Option<usize>, options: &DecodeOptions<'_>) -> Result<Parsed> {
    let length = header_length.unwrap_or(body.len());
    let json = body.get(..length).ok_or_else(|| {
        Field::top(HEADER)
            .invalid(format_args!("expected at most the body's {} bytes, got {length}", body.len()))
    })?;
    if json.is_empty() {
        return Err(Field::BODY.invalid("empty: expected a JSON object, got 0 bytes"));
    }
    let mut scanner = Scanner::new(json, length < body.len()).with_nan(options.nan);
    let document = read_document(&mut scanner)?;
    let parameters = document.parameters.unwrap_or_default();
    let outputs = document.outputs.unwrap_or_default();
    let inputs = document.inputs.ok_or_else(|| {
        let error = Field::top("inputs").invalid("required: expected an array of inputs, got none");
        error.because(Reason::Member("inputs"))
    })?;
    if header_length.is_none() {
        binary::check_no_sections(&inputs)?;
    }
    scanner.finish()?;
    let mut resolver = Resolver::new(options.regions, options.shared_limit);
    let attached = binary::attach(body, length, inputs, &mut resolver)?;
    let shared = resolve_outputs(&mut resolver, outputs.shared)?;
    let decoded = Decoded {
        inputs: Inputs::Named(attached.tensors),
        outputs: outputs.names,
        timeout: parameters.timeout,
        priority: parameters.priority,
        sequence: parameters.sequence,
        parameters: parameters.custom,
        id: document.id,
        format: OutputFormat { binary: parameters.binary_output, listed: outputs.listed, shared },
    };
    Ok(Parsed { decoded, unread: attached.unread })
}

/// Finds where outputs are to be written, before anything runs for them.
fn resolve_outputs(
    resolver: &mut Resolver<'_>,
    shared: Vec<Option<SharedParameters>>,
) -> Result<Vec<Option<SharedPart>>> {
    let outputs = shared.into_iter().enumerate();
    outputs
        .map(|(index, shared)| shared.map(|parameters| resolver.output(index, parameters)).transpose())
        .collect()
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
    let id = scanner.string(Field::top("id"))?;
    check::id(&id)?;
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
                self.datatype = Some(read_datatype(scanner, field("datatype"), self.name.as_deref())?);
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
        let none = |member: &'static str, expected: &dyn fmt::Display| {
            let error = field(member).invalid(format_args!("required: expected {expected}, got none"));
            error.because(Reason::Member(member))
        };
        let name = self.name.ok_or_else(|| none("name", &"the name of a model input"))?;
        let datatype = self.datatype.ok_or_else(|| none("datatype", &OneOfDatatypes))?;
        let shape = self.shape.ok_or_else(|| none("shape", &"an array of integers"))?;
        let InputParameters { binary_size, shared } = self.parameters.unwrap_or_default();
        check_source(index, self.data.is_some(), binary_size.is_some(), shared.is_given())?;
        let source = match (self.data, binary_size) {
            (Some(Data::Tensor(tensor)), _) => Source::Data(tensor),
            (Some(Data::Later(start)), _) => {
                let mut scanner = scanner.clone();
                scanner.go_back(start);
                Source::Data(data::read(&mut scanner, index, datatype, shape)?)
            }
            (None, Some(size)) => Source::Binary { datatype, shape, size },
            (None, None) => Source::Shared { datatype, shape, parameters: shared },
        };
        Ok(Input { name, source })
    }
}

/// Checks that an input says once where its elements are.
fn check_source(index: usize, data: bool, binary: bool, shared: bool) -> Result<()> {
    let sources = [(data, "data"), (binary, "binary_data_size"), (shared, "shared_memory_region")];
    let given: Vec<_> = sources.iter().filter(|(given, _)| *given).map(|&(_, name)| name).collect();
    if given.len() == 1 {
        return Ok(());
    }
    let got = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
    let problem =
        format_args!("expected exactly one of data, binary_data_size, shared_memory_region, got {got}");
    Err(Field::input(index, "").invalid(problem).because(Reason::DataSources(given)))
}

fn read_name(scanner: &mut Scanner<'_>, field: Field) -> Result<String> {
    let name = scanner.string(field)?;
    check::name(&name, field)?;
    Ok(name.into_owned())
}

fn read_datatype(scanner: &mut Scanner<'_>, field: Field, input: Option<&str>) -> Result<DataType> {
    match scanner.kind()? {
        Kind::String => {}
        kind => return Err(field.invalid(format_args!("expected {OneOfDatatypes}, got {kind}"))),
    }
    let name = scanner.string(field)?;
    check::datatype(&name, field, input)
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
        )
        .because(Reason::Member("shape")));
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

fn read_outputs(scanner: &mut Scanner<'_>) -> Result<Outputs> {
    let mut outputs = Outputs::default();
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
        let (listed, shared) = format.unwrap_or_default();
        outputs.names.push(name.ok_or_else(required)?);
        outputs.listed.push(listed);
        outputs.shared.push(shared);
        Ok(())
    })?;
    Ok(outputs)
}
