//! Goes through a model file message by message, with a list for a stack: how deep it nests is the file's choice.
//!
//! **Source:** onnx.proto3, field numbers of `ModelProto`, `GraphProto`, `NodeProto`, `AttributeProto`, `FunctionProto`,
//! `TensorProto` and `SparseTensorProto`.

use std::collections::BTreeSet;
use std::io::{Read, Seek};
use std::path::Path;

use super::inlined::{Bodies, Callee};
use super::reader::{Field, Problem, Reader};
use super::tensor::{Sparse, Tensor};
use super::value::{ValueInfo, default_opset};
use super::{ModelFile, SERVABLE, element_type_name, refused};
use crate::error::{Echo, Error, ErrorKind};

/// The most messages inside each other. **Source:** the limit of the protocol buffers library that ONNX Runtime reads with.
const MAX_DEPTH: usize = 100;

/// The longest name inside a graph, in bytes. Exporters join the names of nested modules, which makes hundreds.
const MAX_INNER_NAME: u64 = 4096;

/// The longest name of an input or output of the model, in bytes. **Source:** as `session` has it.
const MAX_NAME: usize = 256;

/// The longest description of an input or output, in bytes.
const MAX_VALUE_INFO: u64 = 1 << 20;

#[derive(Default)]
struct Graph {
    /// Not inside a node.
    is_main: bool,
    nodes: usize,
    /// Inputs and outputs, and whether it is an input.
    infos: Vec<(bool, ValueInfo)>,
    initializers: BTreeSet<Vec<u8>>,
}

#[derive(Default)]
struct Node {
    index: usize,
    operator: Callee,
}

#[derive(Default)]
struct Attribute {
    node: usize,
    name: Vec<u8>,
    /// It has its one tensor or graph; a second would be merged into the first unseen.
    is_full: bool,
}

enum Kind {
    Model { has_graph: bool },
    Graph(Graph),
    Node(Node),
    Attribute(Attribute),
    Function { name: Callee, nodes: usize },
    Tensor(Tensor),
    Sparse(Sparse),
}

/// A message that is being read, up to byte `end`.
struct Frame {
    end: u64,
    kind: Kind,
}

/// A way through one file.
pub(super) struct Walk<'a> {
    folder: Option<&'a Path>,
    stack: Vec<Frame>,
    bodies: Bodies,
    outline: ModelFile,
    has_graph: bool,
}

impl<'a> Walk<'a> {
    pub fn new(size: u64, folder: Option<&'a Path>) -> Self {
        let outline = ModelFile { size, ..ModelFile::default() };
        let stack = vec![Frame { end: size, kind: Kind::Model { has_graph: false } }];
        Self { folder, stack, bodies: Bodies::default(), outline, has_graph: false }
    }

    /// Reads all of it.
    pub fn run<R: Read + Seek>(mut self, reader: &mut Reader<R>) -> Result<ModelFile, Problem> {
        while let Some(mut frame) = self.stack.pop() {
            if reader.position >= frame.end {
                self.close(frame.kind)?;
                continue;
            }
            let field = reader.field(frame.end)?;
            let inner = self.step(&mut frame.kind, reader, field)?;
            self.stack.push(frame);
            if let Some(kind) = inner {
                let end = reader.position + field.length.unwrap_or(0);
                self.stack.push(Frame { end, kind });
            }
            if self.stack.len() > MAX_DEPTH {
                return Err(refused(
                    "graph",
                    format_args!("expected at most {MAX_DEPTH} messages inside each other, got more"),
                ));
            }
        }
        if !self.has_graph {
            return Err(Problem::Refused(Error::new(
                ErrorKind::InvalidModel,
                "not an ONNX protobuf: no graph",
            )));
        }
        self.outline.nodes = self.bodies.count()?;
        Ok(self.outline)
    }

    /// Takes a field of a message; returns the message that it holds, which is read next.
    fn step<R: Read + Seek>(
        &mut self,
        kind: &mut Kind,
        reader: &mut Reader<R>,
        field: Field,
    ) -> Result<Option<Kind>, Problem> {
        match kind {
            Kind::Model { has_graph } => {
                let inner = self.step_model(reader, field, *has_graph)?;
                *has_graph |= matches!(inner, Some(Kind::Graph(_)));
                return Ok(inner);
            }
            Kind::Graph(graph) => return graph.step(reader, field),
            Kind::Node(node) => return node.step(reader, field),
            Kind::Attribute(attribute) => return attribute.step(reader, field),
            Kind::Function { name, nodes } => return step_function(name, nodes, reader, field),
            Kind::Tensor(tensor) => tensor.step(reader, field)?,
            Kind::Sparse(sparse) => match (field.number, field.length) {
                (1 | 2, Some(_)) => return Ok(Some(Kind::Tensor(Tensor::default()))),
                (3, _) => sparse.step(reader, field)?,
                (_, length) => reader.skip(length.unwrap_or(0))?,
            },
        }
        Ok(None)
    }

    fn step_model<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
        field: Field,
        has_graph: bool,
    ) -> Result<Option<Kind>, Problem> {
        let Some(length) = field.length else { return Ok(None) };
        match field.number {
            7 if has_graph => return Err(refused("graph", "expected one graph, got two")),
            7 => {
                self.has_graph = true;
                return Ok(Some(Kind::Graph(Graph { is_main: true, ..Graph::default() })));
            }
            25 => return Ok(Some(Kind::Function { name: Callee::default(), nodes: 0 })),
            8 => {
                if let Some(opset) = default_opset(&reader.bytes(length)?) {
                    self.outline.opset = opset;
                }
            }
            2 => {
                let bytes = reader.bytes(length)?;
                self.outline.producer = String::from_utf8_lossy(&bytes).chars().take(64).collect();
            }
            _ => reader.skip(length)?,
        }
        Ok(None)
    }

    /// A message has ended.
    fn close(&mut self, kind: Kind) -> Result<(), Problem> {
        match kind {
            Kind::Graph(graph) if graph.is_main => {
                self.bodies.end_graph();
                self.outline.dynamic_rows = graph.check()?;
            }
            Kind::Graph(_) | Kind::Model { .. } | Kind::Attribute(_) => {}
            Kind::Node(node) => self.bodies.node(node.operator)?,
            Kind::Function { name, .. } => self.bodies.end_function(name)?,
            Kind::Tensor(tensor) => {
                let place = self.place(&tensor.name);
                let checked = tensor.check(self.folder, &place)?;
                self.outline.initializer_bytes = self.outline.initializer_bytes.saturating_add(checked.bytes);
                self.outline.external.extend(checked.file);
                match self.stack.last_mut().map(|frame| &mut frame.kind) {
                    Some(Kind::Graph(graph)) => {
                        graph.initializers.insert(tensor.name);
                    }
                    Some(Kind::Sparse(sparse)) => sparse.enter(tensor),
                    _ => {}
                }
            }
            Kind::Sparse(sparse) => sparse.check(&self.place(&sparse.name))?,
        }
        Ok(())
    }

    /// Where a tensor of this name is, for a message.
    fn place(&self, name: &[u8]) -> String {
        let mut around = self.stack.iter().rev().map(|frame| &frame.kind);
        match around.find(|kind| !matches!(kind, Kind::Sparse(_))) {
            Some(Kind::Attribute(attribute)) => attribute.place(),
            _ => format!("initializer {}", Echo(&String::from_utf8_lossy(name))),
        }
    }
}

/// Reads a name inside a graph.
fn name<R: Read + Seek>(
    reader: &mut Reader<R>,
    length: u64,
    place: impl Fn() -> String,
) -> Result<Vec<u8>, Problem> {
    if length > MAX_INNER_NAME {
        return Err(refused(
            &place(),
            format_args!("expected a name of at most {MAX_INNER_NAME} bytes, got {length}"),
        ));
    }
    let bytes = reader.bytes(length)?;
    let is_printable = std::str::from_utf8(&bytes).is_ok_and(|name| !name.chars().any(char::is_control));
    if is_printable {
        return Ok(bytes);
    }
    let name = String::from_utf8_lossy(&bytes);
    Err(refused(&place(), format_args!("expected a printable name in UTF-8, got {}", Echo(&name))))
}

impl Graph {
    /// `node` 1, `initializer` 5, `input` 11, `output` 12, `sparse_initializer` 15.
    fn step<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
        field: Field,
    ) -> Result<Option<Kind>, Problem> {
        let Some(length) = field.length else { return Ok(None) };
        match field.number {
            1 => {
                let index = self.nodes;
                self.nodes += 1;
                return Ok(Some(Kind::Node(Node { index, ..Node::default() })));
            }
            5 => return Ok(Some(Kind::Tensor(Tensor::default()))),
            15 => return Ok(Some(Kind::Sparse(Sparse::default()))),
            11 | 12 if self.is_main => {
                let is_input = field.number == 11;
                let index = self.infos.iter().filter(|(input, _)| *input == is_input).count();
                let place = format!("{}[{index}]", side(is_input));
                if length > MAX_VALUE_INFO {
                    return Err(refused(
                        &format!("{place}.name"),
                        format_args!(
                            "expected a name of at most {MAX_NAME} bytes, got a description of {length}"
                        ),
                    ));
                }
                let info = ValueInfo::read(&reader.bytes(length)?);
                info.check_name(&place, MAX_NAME)?;
                self.infos.push((is_input, info));
            }
            _ => reader.skip(length)?,
        }
        Ok(None)
    }

    /// Checks what the model takes and gives; true when rows are not fixed.
    fn check(&self) -> Result<bool, Problem> {
        let mut dynamic_rows = false;
        for (is_input, info) in &self.infos {
            // Old files list initializers among the inputs; they are not inputs of a request.
            if *is_input && self.initializers.contains(&info.name) {
                continue;
            }
            if let Some(element) = info.element.filter(|element| !SERVABLE.contains(element)) {
                let name = String::from_utf8_lossy(&info.name).into_owned();
                return Err(refused(
                    &format!("{} {}", side(*is_input), Echo(&name)),
                    format_args!("element type {} has no name in the protocol", element_type_name(element)),
                ));
            }
            dynamic_rows |= info.dynamic_rows;
        }
        Ok(dynamic_rows)
    }
}

fn side(is_input: bool) -> &'static str {
    if is_input { "input" } else { "output" }
}

impl Node {
    /// `input` 1, `output` 2, `name` 3, `op_type` 4, `attribute` 5, `domain` 7, `overload` 8.
    fn step<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
        field: Field,
    ) -> Result<Option<Kind>, Problem> {
        let Some(length) = field.length else { return Ok(None) };
        let index = self.index;
        match field.number {
            number @ 1..=3 => {
                let key = match number {
                    1 => "input",
                    2 => "output",
                    _ => "name",
                };
                name(reader, length, || format!("node[{index}].{key}"))?;
            }
            4 => self.operator.1 = name(reader, length, || format!("node[{index}].op_type"))?,
            7 => self.operator.0 = domain(name(reader, length, || format!("node[{index}].domain"))?),
            8 => self.operator.2 = name(reader, length, || format!("node[{index}].overload"))?,
            5 => return Ok(Some(Kind::Attribute(Attribute { node: index, ..Attribute::default() }))),
            _ => reader.skip(length)?,
        }
        Ok(None)
    }
}

impl Attribute {
    fn place(&self) -> String {
        format!("node[{}].attribute {}", self.node, Echo(&String::from_utf8_lossy(&self.name)))
    }

    /// `name` 1, `t` 5, `g` 6, `tensors` 10, `graphs` 11, `sparse_tensor` 22, `sparse_tensors` 23.
    fn step<R: Read + Seek>(
        &mut self,
        reader: &mut Reader<R>,
        field: Field,
    ) -> Result<Option<Kind>, Problem> {
        let Some(length) = field.length else { return Ok(None) };
        if matches!(field.number, 5 | 6 | 22) && std::mem::replace(&mut self.is_full, true) {
            return Err(refused(&self.place(), "expected one value, got two"));
        }
        match field.number {
            1 => self.name = name(reader, length, || format!("node[{}].attribute", self.node))?,
            5 | 10 => return Ok(Some(Kind::Tensor(Tensor::default()))),
            6 | 11 => return Ok(Some(Kind::Graph(Graph::default()))),
            22 | 23 => return Ok(Some(Kind::Sparse(Sparse::default()))),
            _ => reader.skip(length)?,
        }
        Ok(None)
    }
}

/// `name` 1, `node` 7, `domain` 10, `attribute_proto` 11, `overload` 13.
fn step_function<R: Read + Seek>(
    function: &mut Callee,
    nodes: &mut usize,
    reader: &mut Reader<R>,
    field: Field,
) -> Result<Option<Kind>, Problem> {
    let Some(length) = field.length else { return Ok(None) };
    match field.number {
        1 => function.1 = name(reader, length, || "functions.name".to_owned())?,
        10 => function.0 = domain(name(reader, length, || "functions.domain".to_owned())?),
        13 => function.2 = name(reader, length, || "functions.overload".to_owned())?,
        7 => {
            let index = *nodes;
            *nodes += 1;
            return Ok(Some(Kind::Node(Node { index, ..Node::default() })));
        }
        11 => return Ok(Some(Kind::Attribute(Attribute::default()))),
        _ => reader.skip(length)?,
    }
    Ok(None)
}

/// The default domain has two names.
fn domain(name: Vec<u8>) -> Vec<u8> {
    if name == b"ai.onnx" { Vec::new() } else { name }
}
