//! A scanner over one JSON document: it hands out values where the caller expects them and builds no tree.
//!
//! Nothing here recurses over input. Always: `at` lies on a character boundary of `text` between two calls.
//!
//! **Source:** RFC 8259.

use std::borrow::Cow;
use std::fmt;

use axon::error::{Echo, Error, Result};
use axon::reason::Reason;

use super::field::Field;
use super::number::{self, Number, Special};
use super::string;

/// The most arrays and objects inside each other. **Source:** Triton's limit.
pub(super) const MAX_DEPTH: usize = 100;

/// Where the text stops being JSON, and what would have been.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// The byte, from 0.
    pub at: usize,
    /// What should be there.
    pub expected: &'static str,
}

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
    /// `NaN`, `Infinity` or `-Infinity`, which some writers take for JSON.
    NotJson,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Null => "null",
            Self::NotJson => "NaN or Infinity, which is not JSON",
        })
    }
}

/// What lies behind the end of a scanner's text.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Nothing.
    Body,
    /// A byte that is not UTF-8.
    NotUtf8(u8),
    /// The rest of the body: the header says that the JSON part ends here.
    HeaderLength,
}

/// A position in a JSON document.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    end: End,
    nan: bool,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `json`; `cut` says that the body goes on behind it.
    pub fn new(json: &'a [u8], cut: bool) -> Self {
        let end = if cut { End::HeaderLength } else { End::Body };
        // UTF-16 without a byte order mark is valid UTF-8, with a NUL at every other byte.
        if let Some(nul) = json.iter().take(2).position(|&byte| byte == 0) {
            let text = json.get(..nul).and_then(|start| str::from_utf8(start).ok());
            return Self { text: text.unwrap_or_default(), at: 0, end: End::NotUtf8(0), nan: false };
        }
        let error = match str::from_utf8(json) {
            Ok(text) => return Self { text, at: 0, end, nan: false },
            Err(error) => error,
        };
        let (valid, rest) = json.split_at_checked(error.valid_up_to()).unwrap_or_default();
        let end = match rest.first() {
            Some(_) if cut && error.error_len().is_none() => end,
            Some(&byte) => End::NotUtf8(byte),
            None => end,
        };
        Self { text: str::from_utf8(valid).unwrap_or_default(), at: 0, end, nan: false }
    }

    /// The same scanner, which says that `NaN` and its like may be elements, or not.
    pub fn with_nan(self, nan: bool) -> Self {
        Self { nan, ..self }
    }

    /// Reads the `NaN` or infinity that begins here, where elements may be one.
    pub fn special(&mut self) -> Option<Special> {
        let special =
            self.nan.then(|| Special::ALL.into_iter().find(|one| self.rest().starts_with(one.text())))??;
        self.at += special.text().len();
        Some(special)
    }

    /// The position, in bytes.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Moves to `at`, where a value began before.
    pub fn go_back(&mut self, at: usize) {
        debug_assert!(self.text.is_char_boundary(at));
        self.at = at;
    }

    /// The bytes that are left.
    pub fn left(&self) -> usize {
        self.text.len().saturating_sub(self.at)
    }

    /// The text from `start` to `end`.
    pub fn span(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    /// The text from here on.
    pub fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// The next byte that is not white space, which stays next.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = self.text.as_bytes().get(self.at).copied();
            if !matches!(byte, Some(b' ' | b'\n' | b'\r' | b'\t')) {
                return byte;
            }
            self.at += 1;
        }
    }

    /// Steps over `length` bytes of ASCII that a look ahead has seen.
    #[inline]
    pub fn step(&mut self, length: usize) {
        self.at += length;
    }

    /// The error for a fault in the text.
    pub fn error(&self, fault: Fault) -> Error {
        let Fault { at, expected } = fault;
        self.fault(at, expected).because(Reason::MalformedJson(at))
    }

    fn fault(&self, at: usize, expected: &'static str) -> Error {
        let next = self.text.get(at..).and_then(|rest| rest.chars().next());
        match (next, self.end) {
            (Some(next), _) => Field::BODY.invalid(format_args!(
                "invalid JSON at byte {at}: expected {expected}, got {}",
                Echo(next.encode_utf8(&mut [0; 4]))
            )),
            (None, End::Body) => Field::BODY.invalid(format_args!(
                "invalid JSON at byte {at}: expected {expected}, got the end of the body"
            )),
            (None, End::NotUtf8(byte)) => Field::BODY
                .invalid(format_args!("not UTF-8 at byte {at}: expected {expected}, got the byte {byte:#04x}")),
            (None, End::HeaderLength) => Field::top(super::binary::HEADER).invalid(format_args!(
                "{at} bytes are less than the JSON part: invalid JSON at byte {at}: expected {expected}, got its end"
            )),
        }
    }

    /// The error of finding something else than `expected` here.
    pub fn unexpected(&self, expected: &'static str) -> Error {
        self.error(Fault { at: self.at, expected })
    }

    /// The kind of the next value, by its first bytes.
    pub fn kind(&mut self) -> Result<Kind> {
        match self.loose_kind()? {
            Kind::NotJson => Err(self.unexpected("a value")),
            kind => Ok(kind),
        }
    }

    /// As [`kind`](Self::kind), and [`Kind::NotJson`].
    pub fn loose_kind(&mut self) -> Result<Kind> {
        let first = self.peek();
        let starts = |literal: &str| self.rest().starts_with(literal.as_bytes());
        Ok(match first {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b'-') if starts("-Infinity") => Kind::NotJson,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            Some(b't') if starts("true") => Kind::Boolean,
            Some(b'f') if starts("false") => Kind::Boolean,
            Some(b'n') if starts("null") => Kind::Null,
            Some(b'N') if starts("NaN") => Kind::NotJson,
            Some(b'I') if starts("Infinity") => Kind::NotJson,
            _ => return Err(self.unexpected("a value")),
        })
    }

    /// Checks that the next value is of this kind.
    pub fn expect(&mut self, expected: Kind, field: Field) -> Result<()> {
        let kind = self.kind()?;
        if kind == expected {
            Ok(())
        } else {
            Err(field.invalid(format_args!("expected {expected}, got {kind}")))
        }
    }

    /// Reads an object; `member` reads the value of each key.
    pub fn members(
        &mut self,
        field: Field,
        mut member: impl FnMut(&mut Self, &str) -> Result<()>,
    ) -> Result<()> {
        self.expect(Kind::Object, field)?;
        self.at += 1;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let key = self.key()?;
            member(self, &key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("`,` or `}`")),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Reads an array; `item` reads each value.
    pub fn items(
        &mut self,
        field: Field,
        mut item: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        self.expect(Kind::Array, field)?;
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        for index in 0.. {
            item(self, index)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a key and its colon.
    fn key(&mut self) -> Result<Cow<'a, str>> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key"));
        }
        let key = self.string_here().map_err(|fault| self.error(fault))?;
        if self.peek() != Some(b':') {
            return Err(self.unexpected("`:`"));
        }
        self.at += 1;
        Ok(key)
    }

    /// Reads a string.
    pub fn string(&mut self, field: Field) -> Result<Cow<'a, str>> {
        self.expect(Kind::String, field)?;
        self.string_here().map_err(|fault| self.error(fault))
    }

    /// Reads a boolean.
    pub fn boolean(&mut self, field: Field) -> Result<bool> {
        self.expect(Kind::Boolean, field)?;
        let value = self.peek() == Some(b't');
        self.at += if value { "true".len() } else { "false".len() };
        Ok(value)
    }

    /// Reads a number written without point and exponent.
    pub fn integer(&mut self, field: Field, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
        let expected = || format!("expected integer from {} to {}", range.start(), range.end());
        let kind = self.kind()?;
        if kind != Kind::Number {
            return Err(field.invalid(format_args!("{}, got {kind}", expected())));
        }
        let (number, text) = self.number().map_err(|fault| self.error(fault))?;
        match number.to_u64(text) {
            Some(value) if range.contains(&value) => Ok(value),
            _ => Err(field.invalid(format_args!("{}, got {}", expected(), Echo(text)))),
        }
    }

    /// Reads the number that begins here.
    #[inline]
    pub fn number(&mut self) -> Result<(Number, &'a str), Fault> {
        let start = self.at;
        let number = number::scan(self.text.as_bytes(), start)?;
        self.at = number.end;
        Ok((number, self.span(start, number.end)))
    }

    /// Reads the string whose quote is here.
    pub fn string_here(&mut self) -> Result<Cow<'a, str>, Fault> {
        let (value, end) = string::read(self.text, self.at)?;
        self.at = end;
        Ok(value)
    }

    /// Skips a value of any kind, checking it; `field` is what nesting that is too deep is blamed on.
    ///
    /// `loose` lets `NaN` and its like pass, for a value that is read again later.
    pub fn skip(&mut self, field: Field, loose: bool) -> Result<()> {
        // One bit for each open container, the innermost lowest: 1 for an object. `MAX_DEPTH` fits.
        let (mut objects, mut depth) = (0_u128, 0_usize);
        loop {
            let kind = if loose { self.loose_kind()? } else { self.kind()? };
            match kind {
                Kind::Object | Kind::Array => {
                    if depth == MAX_DEPTH {
                        return Err(too_deep(field));
                    }
                    let object = kind == Kind::Object;
                    (objects, depth) = (objects << 1 | u128::from(object), depth + 1);
                    self.at += 1;
                    match self.peek() {
                        Some(b'}') if object => {}
                        Some(b']') if !object => {}
                        _ if object => {
                            self.key()?;
                            continue;
                        }
                        _ => continue,
                    }
                }
                Kind::String => {
                    self.at = string::skip(self.text, self.at).map_err(|fault| self.error(fault))?;
                }
                Kind::Number => {
                    self.number().map_err(|fault| self.error(fault))?;
                }
                Kind::Boolean | Kind::Null | Kind::NotJson => {
                    let letters = self
                        .rest()
                        .iter()
                        .take_while(|byte| matches!(byte, b'-' | b'A'..=b'Z' | b'a'..=b'z'));
                    self.at += letters.count();
                }
            }
            if self.close(&mut objects, &mut depth)? {
                return Ok(());
            }
        }
    }

    /// After a value: closes what ends here and steps to the next value; true when nothing is open any more.
    fn close(&mut self, objects: &mut u128, depth: &mut usize) -> Result<bool> {
        while *depth > 0 {
            let object = *objects & 1 == 1;
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    if object {
                        self.key()?;
                    }
                    return Ok(false);
                }
                Some(b'}') if object => {}
                Some(b']') if !object => {}
                _ => return Err(self.unexpected(if object { "`,` or `}`" } else { "`,` or `]`" })),
            }
            self.at += 1;
            (*objects, *depth) = (*objects >> 1, *depth - 1);
        }
        Ok(true)
    }

    /// Checks that only white space is left.
    pub fn finish(&mut self) -> Result<()> {
        match (self.peek(), self.end) {
            (None, End::Body | End::HeaderLength) => Ok(()),
            _ => Err(self.unexpected("the end")),
        }
    }
}

/// The error of nesting that is too deep.
pub(super) fn too_deep(field: Field) -> Error {
    let error = field.invalid(format_args!(
        "depth > {MAX_DEPTH}: expected at most {MAX_DEPTH} levels of nesting, got more"
    ));
    let member = field.to_string();
    let member = member.rsplit('.').next().unwrap_or_default().to_owned();
    error.because(Reason::TooDeep(member))
}
