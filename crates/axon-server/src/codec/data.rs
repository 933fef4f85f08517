//! The `data` of an input: arrays in arrays of numbers, booleans or strings, read into one tensor.
//!
//! Any nesting will do that is uniform and whose elements are as many as the shape's. Elements are written once,
//! into memory that is sized by the text that is left at most.

use std::fmt::{self, Write as _};

use axon::error::{Echo, Error, Result};
use axon::reason::Reason;
use half::{bf16, f16};
use synapse::{DataType, Element, Memory, Shape, Tensor, bytes};

use super::field::Field;
use super::number::Scalar;
use super::scan::{Fault, Kind, MAX_DEPTH, Scanner, too_deep};
use super::string::SURROGATE_PAIR;

/// The most indices that a path shows.
const MAX_SHOWN: usize = 8;

/// Reads the array that comes next as the elements of input number `input`.
pub(super) fn read(
    scanner: &mut Scanner<'_>,
    input: usize,
    datatype: DataType,
    shape: Shape,
) -> Result<Tensor> {
    match datatype {
        DataType::Bool => read_values::<bool>(scanner, input, &shape),
        DataType::Uint8 => read_values::<u8>(scanner, input, &shape),
        DataType::Uint16 => read_values::<u16>(scanner, input, &shape),
        DataType::Uint32 => read_values::<u32>(scanner, input, &shape),
        DataType::Uint64 => read_values::<u64>(scanner, input, &shape),
        DataType::Int8 => read_values::<i8>(scanner, input, &shape),
        DataType::Int16 => read_values::<i16>(scanner, input, &shape),
        DataType::Int32 => read_values::<i32>(scanner, input, &shape),
        DataType::Int64 => read_values::<i64>(scanner, input, &shape),
        DataType::Fp16 => read_values::<f16>(scanner, input, &shape),
        DataType::Bf16 => read_values::<bf16>(scanner, input, &shape),
        DataType::Fp32 => read_values::<f32>(scanner, input, &shape),
        DataType::Fp64 => read_values::<f64>(scanner, input, &shape),
        DataType::Bytes => read_strings(scanner, input, shape),
    }
}

fn read_values<T: Value>(scanner: &mut Scanner<'_>, input: usize, shape: &Shape) -> Result<Tensor> {
    let wanted = shape.element_count();
    // An element and its comma take two bytes of text at least: at most four times the text is allocated.
    let capacity = wanted.min(scanner.left() / 2 + 1);
    let mut sink = Values { elements: Vec::<T>::with_capacity(capacity), wanted, excess: 0 };
    walk(scanner, input, &mut sink)?;
    check_count(input, wanted, sink.elements.len() + sink.excess)?;
    Tensor::from_vec(shape, sink.elements).map_err(Error::internal)
}

fn read_strings(scanner: &mut Scanner<'_>, input: usize, shape: Shape) -> Result<Tensor> {
    let wanted = shape.element_count();
    let mut sink = Strings { encoded: Vec::new(), count: 0, wanted };
    walk(scanner, input, &mut sink)?;
    check_count(input, wanted, sink.count)?;
    Tensor::new(DataType::Bytes, shape, Memory::from(sink.encoded)).map_err(Error::internal)
}

fn check_count(input: usize, wanted: usize, got: usize) -> Result<()> {
    if got == wanted {
        return Ok(());
    }
    let reason = if got < wanted { Reason::TooFewElements } else { Reason::TooManyElements };
    let error = Field::input(input, "data").invalid(format_args!("expected {wanted} elements, got {got}"));
    Err(error.because(reason))
}

/// Why an element cannot be read.
#[derive(Clone, Copy)]
pub(super) enum Trouble {
    /// It is not JSON.
    Syntax(Fault),
    /// It is another kind of value.
    Kind,
    /// The text from `start` to `end` is not a value of the type.
    Misfit { start: usize, end: usize },
}

/// Where elements go.
pub(super) trait Sink {
    /// The kind of value that an element is.
    const KIND: Kind;

    /// Takes the element that begins where the scanner is.
    fn take(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Trouble>;

    /// The data type, and what its values are; for a [`Trouble::Misfit`].
    fn expected(&self) -> String;
}

/// Elements of one size, counted past `wanted` but not kept.
pub(super) struct Values<T> {
    pub elements: Vec<T>,
    wanted: usize,
    excess: usize,
}

impl<T> Values<T> {
    /// As many as come.
    pub fn of_any_count() -> Self {
        Self { elements: Vec::new(), wanted: usize::MAX, excess: 0 }
    }
}

/// An element of a fixed size.
pub(super) trait Value: Element {
    const KIND: Kind;

    fn read(scanner: &mut Scanner<'_>) -> Result<Self, Trouble>;

    fn expected() -> String;
}

impl<T: Scalar> Value for T {
    const KIND: Kind = Kind::Number;

    #[inline]
    fn read(scanner: &mut Scanner<'_>) -> Result<Self, Trouble> {
        let start = scanner.at();
        if !matches!(scanner.rest().first(), Some(b'-' | b'0'..=b'9')) {
            return read_special(scanner).ok_or(Trouble::Kind);
        }
        let (number, text) = match scanner.number() {
            Ok(number) => number,
            Err(fault) => return read_special(scanner).ok_or(Trouble::Syntax(fault)),
        };
        T::from_number(&number, text).ok_or(Trouble::Misfit { start, end: number.end })
    }

    fn expected() -> String {
        T::expected()
    }
}

/// Reads what is no number to JSON, where the server and the type allow it.
#[cold]
fn read_special<T: Scalar>(scanner: &mut Scanner<'_>) -> Option<T> {
    scanner.special().and_then(T::from_special)
}

impl Value for bool {
    const KIND: Kind = Kind::Boolean;

    #[inline]
    fn read(scanner: &mut Scanner<'_>) -> Result<Self, Trouble> {
        let value = scanner.rest().starts_with(b"true");
        if !value && !scanner.rest().starts_with(b"false") {
            return Err(Trouble::Kind);
        }
        scanner.step(if value { "true".len() } else { "false".len() });
        Ok(value)
    }

    fn expected() -> String {
        "expected true or false".to_owned()
    }
}

impl<T: Value> Sink for Values<T> {
    const KIND: Kind = T::KIND;

    #[inline]
    fn take(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Trouble> {
        let element = T::read(scanner)?;
        if self.elements.len() < self.wanted {
            self.elements.push(element);
        } else {
            self.excess += 1;
        }
        Ok(())
    }

    fn expected(&self) -> String {
        format!("out of range for {}: {}", T::DATATYPE, T::expected())
    }
}

/// Elements of a BYTES tensor in its encoding; counted past `wanted` but not kept.
pub(super) struct Strings {
    pub encoded: Vec<u8>,
    pub count: usize,
    wanted: usize,
}

impl Strings {
    /// As many as come.
    pub fn of_any_count() -> Self {
        Self { encoded: Vec::new(), count: 0, wanted: usize::MAX }
    }
}

impl Sink for Strings {
    const KIND: Kind = Kind::String;

    fn take(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Trouble> {
        let start = scanner.at();
        if scanner.rest().first() != Some(&b'"') {
            return Err(Trouble::Kind);
        }
        let element = scanner.string_here().map_err(Trouble::Syntax)?;
        if u32::try_from(element.len()).is_err() {
            return Err(Trouble::Misfit { start, end: scanner.at() });
        }
        if self.count < self.wanted {
            // Copies the element once; an escaped one twice.
            bytes::push(&mut self.encoded, element.as_bytes());
        }
        self.count += 1;
        Ok(())
    }

    fn expected(&self) -> String {
        format!("out of range for BYTES: expected at most {} bytes", u32::MAX)
    }
}

/// The arrays at one depth.
#[derive(Default)]
struct Level {
    /// How long they are, once the first has ended.
    length: Option<usize>,
    /// The elements so far of the one that is open.
    count: usize,
}

/// The arrays that are open, and what those before them looked like.
struct Nesting {
    input: usize,
    levels: Vec<Level>,
    depth: usize,
}

/// Reads uniformly nested arrays into `sink`.
fn walk<S: Sink>(scanner: &mut Scanner<'_>, input: usize, sink: &mut S) -> Result<()> {
    let field = Field::input(input, "data");
    match scanner.loose_kind()? {
        Kind::Array => {}
        kind => return Err(field.invalid(format_args!("expected array, got {kind}"))),
    }
    let mut nesting = Nesting { input, levels: Vec::new(), depth: 0 };
    let mut any = false;
    loop {
        if scanner.peek() == Some(b'[') {
            if nesting.depth == MAX_DEPTH {
                return Err(too_deep(field));
            }
            if any && nesting.depth == nesting.levels.len() {
                return Err(nesting.invalid(format_args!("expected {}, got array", S::KIND)));
            }
            scanner.step(1);
            nesting.open();
            if scanner.peek() != Some(b']') {
                continue;
            }
        } else {
            if nesting.depth < nesting.levels.len() {
                let kind = scanner.loose_kind()?;
                return Err(nesting.invalid(format_args!("expected array, got {kind}")));
            }
            any = true;
            take_run(scanner, &mut nesting, sink)?;
        }
        // Here an array ends, or a comma follows one that has.
        while scanner.peek() == Some(b']') {
            scanner.step(1);
            nesting.close()?;
            if nesting.depth == 0 {
                return Ok(());
            }
        }
        if scanner.peek() != Some(b',') {
            return Err(scanner.unexpected("`,` or `]`"));
        }
        scanner.step(1);
    }
}

/// Reads the elements of the innermost array up to its end.
fn take_run<S: Sink>(scanner: &mut Scanner<'_>, nesting: &mut Nesting, sink: &mut S) -> Result<()> {
    let mut count = 0;
    loop {
        let start = scanner.at();
        if let Err(trouble) = sink.take(scanner) {
            nesting.set_count(count);
            scanner.go_back(start);
            return Err(explain(scanner, sink, trouble, |problem| nesting.invalid(problem)));
        }
        count += 1;
        if scanner.peek() != Some(b',') {
            break;
        }
        scanner.step(1);
        scanner.peek();
    }
    nesting.set_count(count);
    if scanner.peek() == Some(b']') { Ok(()) } else { Err(scanner.unexpected("`,` or `]`")) }
}

/// The error for an element that cannot be read; the scanner is where it begins, and `invalid` names that place.
#[cold]
pub(super) fn explain<S: Sink>(
    scanner: &mut Scanner<'_>,
    sink: &S,
    trouble: Trouble,
    invalid: impl Fn(fmt::Arguments<'_>) -> Error,
) -> Error {
    let kind = match scanner.loose_kind() {
        Ok(kind) => kind,
        Err(error) => return error,
    };
    if kind != S::KIND {
        return invalid(format_args!("expected {}, got {kind}", S::KIND));
    }
    match trouble {
        Trouble::Kind => invalid(format_args!("expected {}, got {kind}", S::KIND)),
        Trouble::Misfit { start, end } => {
            invalid(format_args!("{}, got {}", sink.expected(), Echo(scanner.span(start, end))))
        }
        Trouble::Syntax(Fault { at, expected: SURROGATE_PAIR }) => invalid(format_args!(
            "not UTF-8: expected {SURROGATE_PAIR}, got half of one at byte {at} of the body"
        )),
        Trouble::Syntax(fault) => scanner.error(fault),
    }
}

impl Nesting {
    fn open(&mut self) {
        if self.depth == self.levels.len() {
            self.levels.push(Level::default());
        }
        self.depth += 1;
        self.set_count(0);
    }

    fn close(&mut self) -> Result<()> {
        self.depth = self.depth.saturating_sub(1);
        let Some(level) = self.levels.get_mut(self.depth) else { return Ok(()) };
        let count = level.count;
        let expected = *level.length.get_or_insert(count);
        if count != expected {
            return Err(self.invalid(format_args!(
                "length {count}, expected {expected} as in the first array of this depth, got {count}"
            )));
        }
        if let Some(outer) = self.innermost() {
            outer.count += 1;
        }
        Ok(())
    }

    /// The innermost array that is open.
    fn innermost(&mut self) -> Option<&mut Level> {
        self.depth.checked_sub(1).and_then(|index| self.levels.get_mut(index))
    }

    fn set_count(&mut self, count: usize) {
        if let Some(level) = self.innermost() {
            level.count = count;
        }
    }

    /// The request is wrong at the value that is being read.
    fn invalid(&self, problem: impl fmt::Display) -> Error {
        let mut path = Field::input(self.input, "data").to_string();
        for level in self.levels.iter().take(self.depth.min(MAX_SHOWN)) {
            let _ = write!(path, "[{}]", level.count);
        }
        Error::invalid(path, problem)
    }
}
