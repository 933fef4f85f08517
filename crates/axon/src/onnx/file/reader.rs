//! Reads protocol buffers field by field, from a file or from memory, without keeping what is skipped.

use std::io::{BufReader, Cursor, Read, Seek};

use crate::error::Error;

/// The largest nested message, string or bytes that is read rather than skipped: a `ValueInfoProto` with 32 named
/// dimensions is a few kilobytes.
const MAX_MESSAGE: u64 = 1 << 20;

/// Why a file is refused.
pub(super) enum Problem {
    /// What is at this byte is no protocol buffer.
    Encoding(u64),
    /// It is one, and says what no model may.
    Refused(Error),
}

/// A field's number, and its length when it is a nested message, string or bytes.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub number: u64,
    pub length: Option<u64>,
    /// The number of a field without a length; 0 for one of 4 or 8 bytes.
    pub value: u64,
    /// The bytes of a field without a length: 4 or 8, or 0 for one of varying length.
    pub fixed: u64,
}

/// A place in the bytes.
pub(super) struct Reader<R> {
    input: BufReader<R>,
    pub position: u64,
}

impl<R: Read + Seek> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(64 << 10, input), position: 0 }
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        let mut byte = [0];
        self.input.read_exact(&mut byte).map_err(|_| Problem::Encoding(self.position))?;
        self.position += 1;
        Ok(byte[0])
    }

    pub fn varint(&mut self) -> Result<u64, Problem> {
        let start = self.position;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Problem::Encoding(start))
    }

    /// The next field of a message that ends at `end`; the value of a nested one is left to be read or skipped.
    pub fn field(&mut self, end: u64) -> Result<Field, Problem> {
        let start = self.position;
        let tag = self.varint()?;
        let mut field = Field { number: tag >> 3, length: None, value: 0, fixed: 0 };
        match tag & 7 {
            0 => field.value = self.varint()?,
            1 => field.fixed = 8,
            2 => field.length = Some(self.varint()?),
            5 => field.fixed = 4,
            _ => return Err(Problem::Encoding(start)),
        }
        self.skip(field.fixed)?;
        let field_end = self.position.checked_add(field.length.unwrap_or(0));
        if field.number == 0 || field_end.is_none_or(|field_end| field_end > end) {
            return Err(Problem::Encoding(start));
        }
        Ok(field)
    }

    pub fn skip(&mut self, length: u64) -> Result<(), Problem> {
        let problem = Problem::Encoding(self.position);
        let Ok(offset) = i64::try_from(length) else { return Err(problem) };
        self.input.seek_relative(offset).map_err(|_| problem)?;
        self.position += length;
        Ok(())
    }

    pub fn bytes(&mut self, length: u64) -> Result<Vec<u8>, Problem> {
        let start = self.position;
        let Some(size) = usize::try_from(length).ok().filter(|_| length <= MAX_MESSAGE) else {
            return Err(Problem::Encoding(start));
        };
        let mut bytes = vec![0; size];
        self.input.read_exact(&mut bytes).map_err(|_| Problem::Encoding(start))?;
        self.position += length;
        Ok(bytes)
    }

    /// The numbers of varying length in the next `length` bytes: each ends at a byte below 128.
    pub fn count_varints(&mut self, length: u64) -> Result<u64, Problem> {
        let mut chunk = [0; 4096];
        let (mut left, mut count) = (length, 0);
        while left > 0 {
            let size = left.min(chunk.len() as u64);
            let part = chunk.get_mut(..usize::try_from(size).unwrap_or(0)).unwrap_or_default();
            self.input.read_exact(part).map_err(|_| Problem::Encoding(self.position))?;
            count += part.iter().filter(|&&byte| byte < 0x80).count() as u64;
            self.position += size;
            left -= size;
        }
        Ok(count)
    }
}

/// The fields of a message in memory as number, value and bytes; ends at the first that is broken, which ONNX Runtime
/// then refuses.
pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = (u64, u64, &[u8])> {
    let mut input = Cursor::new(bytes);
    let end = bytes.len() as u64;
    std::iter::from_fn(move || {
        if input.position() >= end {
            return None;
        }
        let tag = varint(&mut input)?;
        let (value, length) = match tag & 7 {
            0 => (varint(&mut input)?, 0),
            1 => (0, 8),
            2 => (0, varint(&mut input)?),
            5 => (0, 4),
            _ => return None,
        };
        let start = usize::try_from(input.position()).ok()?;
        let stop = input.position().checked_add(length)?;
        input.set_position(stop);
        let inside = bytes.get(start..usize::try_from(stop).ok()?)?;
        Some((tag >> 3, value, if tag & 7 == 2 { inside } else { &[] }))
    })
}

fn varint(input: &mut Cursor<&[u8]>) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte).ok()?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The last field of this number, as protocol buffers have it of a field that may come once.
pub(super) fn nested(bytes: &[u8], number: u64) -> Option<&[u8]> {
    fields(bytes).filter(|&(found, _, _)| found == number).last().map(|(_, _, bytes)| bytes)
}
