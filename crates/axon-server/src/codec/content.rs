//! Content encodings of a request body: gzip and deflate.
//!
//! Always: a stream that is cut, broken or followed by something is an error, and memory grows with what has
//! been decoded, up to a limit and a ratio.
//!
//! **Source:** RFC 9110, section 8.4.1; RFC 1950 (zlib), RFC 1952 (gzip).

use axon::error::{Echo, Error, ErrorKind, Result};
use axon::reason::Reason;
use bytes::Bytes;
use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::field::Field;

/// The most bytes that one byte may become, once there are more than [`FREE`].
const MAX_RATIO: usize = 100;

/// Decoded bytes whose ratio does not matter.
const FREE: usize = 1 << 20;

/// The smallest and the largest step by which memory grows.
const STEP: std::ops::RangeInclusive<usize> = 8 << 10..=1 << 20;

/// The length of gzip's checksum and length, at its end.
const TRAILER: usize = 8;

/// Where a stream is broken, and what should be there.
type Broken = (usize, &'static str);

/// Why a stream cannot be decoded.
enum Trouble {
    Broken(Broken),
    TooLarge,
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Decodes a body whose `Content-Encoding` is `encoding`, in lower case, to at most `limit` bytes.
///
/// # Errors
/// [`ErrorKind::UnsupportedMedia`] for an encoding other than `gzip` and `deflate`;
/// [`ErrorKind::InvalidRequest`] for a stream that is broken, cut or followed by anything;
/// [`ErrorKind::RequestTooLarge`] past `limit`, and past 1 MiB for more than 100 bytes from one.
pub fn decode_content(body: Bytes, encoding: &str, limit: usize) -> Result<Bytes> {
    decode_at([Field::top("Content-Encoding"), Field::BODY], body, encoding, limit)
}

/// Decodes a message of gRPC, as [`decode_content`] does a body; errors are at `message`.
///
/// # Errors
/// Those of [`decode_content`].
pub fn decode_compressed(message: Bytes, encoding: &str, limit: usize) -> Result<Bytes> {
    decode_at([Field::top("message"); 2], message, encoding, limit)
}

/// Decodes a body; errors name the first place when it is broken, and the second when it is too large.
#[expect(clippy::needless_pass_by_value, reason = "the body is used up, whatever comes of it")]
fn decode_at(places: [Field; 2], body: Bytes, encoding: &str, limit: usize) -> Result<Bytes> {
    let [broken, large] = places;
    let most = limit.min(body.len().saturating_mul(MAX_RATIO).max(FREE));
    let decoded = match encoding {
        "gzip" => gunzip(&body, most),
        "deflate" => inflate(&body, 0, true, most).and_then(|(decoded, end)| {
            check_end(&body, end)?;
            Ok(decoded)
        }),
        _ => {
            return Err(broken
                .error(
                    ErrorKind::UnsupportedMedia,
                    format_args!("expected one of gzip, deflate, got {}", Echo(encoding)),
                )
                .because(Reason::UnsupportedEncoding));
        }
    };
    match decoded {
        Ok(decoded) => Ok(decoded.into()),
        Err(Trouble::Broken((at, expected))) => {
            let got = if at < body.len() { "something else" } else { "the end of the body" };
            Err(broken
                .invalid(format_args!("invalid {encoding} at byte {at}: expected {expected}, got {got}")))
        }
        Err(Trouble::TooLarge) => Err(too_large(large, most, limit)),
    }
}

fn too_large(place: Field, most: usize, limit: usize) -> Error {
    let what = if most == limit {
        format!("decoded size > {limit}: expected at most {limit} bytes, got more")
    } else {
        format!(
            "ratio > {MAX_RATIO}: expected at most {MAX_RATIO} decoded bytes for each byte sent, got more"
        )
    };
    place.error(ErrorKind::RequestTooLarge, what)
}

fn gunzip(body: &[u8], most: usize) -> Result<Vec<u8>, Trouble> {
    let start = gzip_header(body)?;
    let (decoded, end) = inflate(body, start, false, most)?;
    let trailer = body.get(end..).and_then(|rest| rest.first_chunk::<TRAILER>());
    let Some([c0, c1, c2, c3, l0, l1, l2, l3]) = trailer.copied() else {
        return Err((body.len(), "the checksum and the length").into());
    };
    let mut checksum = Crc::new();
    checksum.update(&decoded);
    if checksum.sum() != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err((end, "the checksum of the decoded bytes").into());
    }
    if decoded.len() as u64 & u64::from(u32::MAX) != u64::from(u32::from_le_bytes([l0, l1, l2, l3])) {
        return Err((end + TRAILER / 2, "the length of the decoded bytes").into());
    }
    check_end(body, end + TRAILER)?;
    Ok(decoded)
}

/// The length of gzip's header.
fn gzip_header(body: &[u8]) -> Result<usize, Broken> {
    const HEADER_CHECKSUM: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    const RESERVED: u8 = 0b111 << 5;
    let byte = |at: usize| body.get(at).copied();
    for (at, magic) in [0x1f, 0x8b, 8].into_iter().enumerate() {
        if byte(at) != Some(magic) {
            return Err((at, "the header of a gzip stream"));
        }
    }
    let flags = byte(3).filter(|flags| flags & RESERVED == 0).ok_or((3, "flags"))?;
    let mut at = 10;
    if flags & EXTRA != 0 {
        let length = byte(at).zip(byte(at + 1)).ok_or((body.len(), "an extra field"))?;
        at += 2 + usize::from(u16::from_le_bytes([length.0, length.1]));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let rest = body.get(at..).unwrap_or_default();
            let end = rest.iter().position(|&byte| byte == 0).ok_or((body.len(), "the end of a name"))?;
            at += end + 1;
        }
    }
    if flags & HEADER_CHECKSUM != 0 {
        at += 2;
    }
    if at <= body.len() { Ok(at) } else { Err((body.len(), "the rest of the header")) }
}

/// Decodes the stream that begins at `start` to at most `most` bytes; returns them and where the stream ends.
fn inflate(body: &[u8], start: usize, zlib: bool, most: usize) -> Result<(Vec<u8>, usize), Trouble> {
    let mut stream = Decompress::new(zlib);
    let mut decoded = Vec::new();
    let mut at = start;
    loop {
        if decoded.len() == decoded.capacity() {
            // One byte more than is allowed, to see that there is one.
            let room = (most - decoded.len()).saturating_add(1);
            decoded.reserve_exact(decoded.len().clamp(*STEP.start(), *STEP.end()).min(room));
        }
        let (consumed, produced) = (stream.total_in(), decoded.len());
        let input = body.get(at..).unwrap_or_default();
        let status = stream.decompress_vec(input, &mut decoded, FlushDecompress::None);
        at += usize::try_from(stream.total_in() - consumed).unwrap_or_default();
        if decoded.len() > most {
            return Err(Trouble::TooLarge);
        }
        match status {
            Ok(Status::StreamEnd) => return Ok((decoded, at)),
            Ok(Status::Ok | Status::BufError) => {
                let stuck = stream.total_in() == consumed && decoded.len() == produced;
                if stuck && decoded.len() < decoded.capacity() {
                    return Err((at, "the rest of the stream").into());
                }
            }
            Err(_) => return Err((at, "a deflate stream").into()),
        }
    }
}

fn check_end(body: &[u8], end: usize) -> Result<(), Broken> {
    if end == body.len() { Ok(()) } else { Err((end, "the end of the body")) }
}
