//! The encoding of BYTES tensors: for each element a little-endian `u32` length, then that many bytes.
//!
//! **Source:** Open Inference Protocol, binary tensor data extension. A BYTES tensor keeps this encoding in
//! memory too, so that it enters and leaves the wire without a copy.

use std::fmt;

/// Bytes of the length before each element.
pub const PREFIX: usize = size_of::<u32>();

/// Why bytes are not an encoded BYTES tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BytesError {
    /// Element `index` has `left` of the four bytes of its length.
    PrefixCut {
        /// The element, from 0.
        index: usize,
        /// The bytes that are there.
        left: usize,
    },
    /// Element `index` says that it has `length` bytes where `left` are left.
    ElementCut {
        /// The element, from 0.
        index: usize,
        /// What its prefix says.
        length: usize,
        /// The bytes that are there.
        left: usize,
    },
    /// `got` elements where the shape has `expected`.
    Count {
        /// The shape's element count.
        expected: usize,
        /// The elements that are there.
        got: usize,
    },
}

impl fmt::Display for BytesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrefixCut { index, left } => {
                write!(f, "element {index}: expected a {PREFIX} byte length, got {left} bytes")
            }
            Self::ElementCut { index, length, left } => {
                write!(f, "element {index}: length {length} is more than the {left} bytes left")
            }
            Self::Count { expected, got } => write!(f, "expected {expected} elements, got {got}"),
        }
    }
}

impl std::error::Error for BytesError {}

/// The elements of an encoded tensor; ends early with an error where the encoding is broken.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    index: usize,
}

/// Reads the elements of `encoded`.
#[must_use]
pub fn elements(encoded: &[u8]) -> Elements<'_> {
    Elements { rest: encoded, index: 0 }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], BytesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (index, rest) = (self.index, std::mem::take(&mut self.rest));
        self.index += 1;
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else {
            return Some(Err(BytesError::PrefixCut { index, left: rest.len() }));
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        let Some((element, rest)) = rest.split_at_checked(length) else {
            return Some(Err(BytesError::ElementCut { index, length, left: rest.len() }));
        };
        self.rest = rest;
        Some(Ok(element))
    }
}

/// Checks that `encoded` holds exactly `expected` elements. Stops at the first fault; allocates nothing.
pub fn validate(encoded: &[u8], expected: usize) -> Result<(), BytesError> {
    let mut got = 0;
    for element in elements(encoded) {
        element?;
        got += 1;
    }
    if got == expected { Ok(()) } else { Err(BytesError::Count { expected, got }) }
}

/// Appends one element to `encoded`.
///
/// # Panics
/// When the element is longer than `u32::MAX` bytes, which no request limit lets through.
pub fn push(encoded: &mut Vec<u8>, element: &[u8]) {
    let length = u32::try_from(element.len()).expect("an element is bounded by the request limit");
    encoded.extend_from_slice(&length.to_le_bytes());
    encoded.extend_from_slice(element);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_any_bytes_read_back() {
        let elements_in: [&[u8]; 4] = [b"", b"plain", b"nul\0 and \xff\xfe", &[0; 300]];
        let mut encoded = Vec::new();
        for element in elements_in {
            push(&mut encoded, element);
        }
        let elements_out: Result<Vec<_>, _> = elements(&encoded).collect();
        assert_eq!(elements_out.unwrap(), elements_in);
        assert_eq!(validate(&encoded, 4), Ok(()));
        assert_eq!(validate(&encoded, 3), Err(BytesError::Count { expected: 3, got: 4 }));
    }

    #[test]
    fn a_broken_encoding_is_named_by_its_element() {
        let check = |encoded: &[u8], expected| assert_eq!(validate(encoded, 1), Err(expected));
        check(&[0xff; 4], BytesError::ElementCut { index: 0, length: 0xffff_ffff, left: 0 });
        check(&[1, 0], BytesError::PrefixCut { index: 0, left: 2 });
        check(&[0, 0, 0, 0, 9], BytesError::PrefixCut { index: 1, left: 1 });
        check(&[], BytesError::Count { expected: 1, got: 0 });
    }
}
