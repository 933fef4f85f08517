//! Content encodings of a response body: which one the caller wants, and the bytes in it.
//!
//! **Source:** RFC 9110, section 12.5.3; RFC 1950 (zlib), RFC 1952 (gzip). As in Triton, `*` means nothing, and
//! what is not named is not sent: a response without an acceptable encoding goes out as it is.

use std::io;

use axon::error::{Error, Result};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// The fastest: the cores that compress are the cores that run the models.
const LEVEL: Compression = Compression::fast();

/// A content encoding that a response can be sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A zlib stream, which HTTP calls `deflate`.
    Deflate,
    /// A gzip stream.
    Gzip,
}

impl Encoding {
    /// The name, as `Content-Encoding` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
        }
    }
}

/// The encoding that a caller likes best, by the values of its `Accept-Encoding` headers; `None` to send the body as
/// it is.
///
/// The highest weight wins, the first of equal ones; no weight is 1. What has the weight 0, a weight that is none, or
/// an unknown name does not count.
pub fn negotiate<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Encoding> {
    let (mut best, mut best_weight) = (None, 0.0);
    for one in values.into_iter().flat_map(|value| value.split(|&byte| byte == b',')) {
        let Some((encoding, weight)) = str::from_utf8(one).ok().and_then(parse) else { continue };
        if weight > best_weight {
            (best, best_weight) = (encoding, weight);
        }
    }
    best
}

/// Reads an encoding and its weight, as `gzip;q=0.5`; the encoding is `None` for `identity`.
fn parse(text: &str) -> Option<(Option<Encoding>, f32)> {
    let (name, weight) = match text.split_once(';') {
        None => (text, 1.0),
        Some((name, parameter)) => (name, parse_weight(parameter)?),
    };
    let name = name.trim();
    let known = [None, Some(Encoding::Deflate), Some(Encoding::Gzip)];
    let encoding = known
        .into_iter()
        .find(|encoding| name.eq_ignore_ascii_case(encoding.map_or("identity", Encoding::name)))?;
    Some((encoding, weight))
}

/// Reads a weight from 0 to 1, as `q=0.5`.
fn parse_weight(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    let value = value.trim();
    // Rust reads more than digits and a point: `inf`, `1e-3`, `+1`.
    let plain = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let weight = value.parse().ok().filter(|weight| plain && (0.0..=1.0).contains(weight))?;
    name.trim().eq_ignore_ascii_case("q").then_some(weight)
}

/// Compresses `chunks`, one after the other, into one stream.
///
/// The chunks are read where they lie; memory grows with what comes out.
///
/// # Errors
/// [`ErrorKind::Internal`](axon::ErrorKind): a stream into memory has no reason to break.
pub fn compress<C: AsRef<[u8]>>(chunks: impl IntoIterator<Item = C>, encoding: Encoding) -> Result<Vec<u8>> {
    let compressed = match encoding {
        Encoding::Deflate => write_all(ZlibEncoder::new(Vec::new(), LEVEL), chunks, ZlibEncoder::finish),
        Encoding::Gzip => write_all(GzEncoder::new(Vec::new(), LEVEL), chunks, GzEncoder::finish),
    };
    compressed.map_err(Error::internal)
}

fn write_all<C: AsRef<[u8]>, W: io::Write>(
    mut encoder: W,
    chunks: impl IntoIterator<Item = C>,
    finish: impl FnOnce(W) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    for chunk in chunks {
        encoder.write_all(chunk.as_ref())?;
    }
    finish(encoder)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::codec::decode_content;

    #[test]
    fn the_encoding_of_the_highest_weight_is_taken() {
        let check = |headers: &[&str], expected| {
            let chosen = negotiate(headers.iter().map(|header| header.as_bytes()));
            assert_eq!(chosen, expected, "{headers:?}");
        };
        let (deflate, gzip) = (Some(Encoding::Deflate), Some(Encoding::Gzip));
        check(&[], None);
        check(&[""], None);
        check(&["gzip"], gzip);
        check(&["deflate"], deflate);
        check(&["identity"], None);
        check(&["GZip"], gzip);
        // The first of equal ones, in one header or in several.
        check(&["gzip, deflate"], gzip);
        check(&["deflate,gzip"], deflate);
        check(&["identity, gzip"], None);
        check(&["deflate", "gzip"], deflate);
        // By weight.
        check(&["gzip;q=0.5, deflate"], deflate);
        check(&["gzip;q=0.5,deflate;q=0.25"], gzip);
        check(&["gzip;q=0.5", "deflate;q=0.75"], deflate);
        check(&["gzip ; Q = 0.1 ,\tdeflate ; q=0.2"], deflate);
        check(&["identity;q=0.5, gzip;q=1.0"], gzip);
        check(&["gzip;q=0.001"], gzip);
        // What does not count.
        check(&["gzip;q=0, deflate;q=0.000"], None);
        check(&["identity;q=0"], None);
        check(&["*"], None);
        check(&["*;q=1, gzip;q=0.1"], gzip);
        check(&["br, zstd;q=0.9, gzip;q=0.1"], gzip);
        check(&["gzipped, x-gzip"], None);
        check(&[",,gzip,,"], gzip);
        for weight in
            ["q=", "q", "q=x", "q=-1", "q=1.1", "q=2", "q=inf", "q=nan", "q=1e-1", "q=+1", "p=1", "q=."]
        {
            check(&[&format!("gzip;{weight}, deflate;q=0.1")], deflate);
        }
        check(&["gzip;level=1;q=0.5, deflate;q=0.1"], deflate);
        assert_eq!(negotiate([&b"\xff, gzip"[..]]), gzip);
    }

    #[test]
    fn what_is_compressed_reads_back() {
        let noise: Vec<u8> =
            (0_u32..100_000).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let zeros = vec![0; 1 << 20];
        let cases: [&[&[u8]]; 5] =
            [&[], &[b""], &[b"{}"], &[b"{\"a\":", b"", b"1}", &noise], &[&noise, &zeros, &noise]];
        for chunks in cases {
            for encoding in [Encoding::Deflate, Encoding::Gzip] {
                let compressed = compress(chunks, encoding).unwrap();
                let decoded = decode_content(Bytes::from(compressed), encoding.name(), 4 << 20).unwrap();
                assert_eq!(decoded, chunks.concat());
            }
        }
    }

    #[test]
    fn compressing_makes_text_smaller() {
        let text = br#"{"name":"a","datatype":"FP32","shape":[4],"data":[0.1,0.2,0.3,0.4]}"#.repeat(100);
        for encoding in [Encoding::Deflate, Encoding::Gzip] {
            assert!(compress([&text], encoding).unwrap().len() < text.len() / 20);
        }
    }
}
