//! The framing of gRPC: messages out of a request's body, the headers that say how to read them.
//!
//! A message is one byte that says whether it is compressed, four bytes of length, and that many bytes. Its length is
//! checked before anything is kept for it, and memory grows with the bytes received.
//!
//! **Source:** the gRPC project's "gRPC over HTTP2".

use std::pin::Pin;
use std::time::Duration;

use axon::error::Echo;
use axon::{Error, ErrorKind, Result};
use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use tokio::time::{Instant, timeout_at};

use crate::body::{GRACE, SLOWEST, too_slow};
use crate::codec::{self, Encoding};

/// Compressed messages of more bytes than this are read on another thread: they do not say how long they become.
const INLINE_COMPRESSED: usize = 4 << 10;

/// The most bytes of a call's metadata, as HTTP/2 counts them.
const MAX_METADATA: usize = 16 << 10;

/// The bytes before each message.
pub(super) const PREFIX: usize = 5;

pub(super) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Reads `grpc-encoding`; `None` for none and for `identity`.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(Encoding::Gzip)),
        Some(b"deflate") => Ok(Some(Encoding::Deflate)),
        Some(other) => Err(Error::at(
            ErrorKind::Unimplemented,
            "grpc-encoding",
            format_args!("expected identity, gzip or deflate, got {}", Echo(&String::from_utf8_lossy(other))),
        )),
    }
}

/// True when a caller takes answers in its own encoding: unless it lists others.
pub(super) fn is_accepted(headers: &HeaderMap, encoding: Encoding) -> bool {
    let mut listed = headers.get_all(ACCEPT_ENCODING).iter().peekable();
    let name = encoding.name().as_bytes();
    listed.peek().is_none()
        || listed
            .any(|value| value.as_bytes().split(|&byte| byte == b',').any(|one| one.trim_ascii() == name))
}

/// Reads `grpc-timeout`: at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    parse_timeout(value.as_bytes()).map(Some).ok_or_else(|| {
        let got = String::from_utf8_lossy(value.as_bytes());
        Error::invalid(
            "grpc-timeout",
            format_args!("expected 1 to 8 digits and one of H, M, S, m, u, n, got {}", Echo(&got)),
        )
    })
}

fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// True for a request that claims to be gRPC with protobuf messages.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let protobuf = match content.strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest.starts_with(b";") || rest.starts_with(b"+proto"),
        None => false,
    };
    protobuf && headers.get(TE).is_some_and(|value| value.as_bytes() == b"trailers")
}

/// Checks that metadata is not too much, and base64 where it claims to be binary.
pub(super) fn check_metadata(headers: &HeaderMap) -> Result<()> {
    use base64::Engine as _;
    use base64::engine::general_purpose::GeneralPurpose;
    use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    // As HTTP/2 counts it.
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    let total: usize = headers.iter().map(size).sum();
    if total > MAX_METADATA {
        let largest = headers.iter().max_by_key(|&header| size(header)).map_or("", |(name, _)| name.as_str());
        return Err(Error::at(
            ErrorKind::UriTooLong,
            "metadata",
            format_args!("expected at most {MAX_METADATA} bytes, got {total}, the most in {}", Echo(largest)),
        ));
    }
    for (name, value) in headers {
        if !name.as_str().ends_with("-bin") {
            continue;
        }
        // Several values may be joined by commas.
        for part in value.as_bytes().split(|&byte| byte == b',') {
            if LENIENT.decode(part.trim_ascii()).is_err() {
                return Err(Error::invalid(
                    "metadata",
                    format_args!("expected base64 in {}, got something else", Echo(name.as_str())),
                ));
            }
        }
    }
    Ok(())
}

/// The messages of a request's body.
pub(super) struct Messages {
    incoming: Incoming,
    /// What came and is not yet read, as it came.
    whole: Bytes,
    /// A message that came in several pieces; `whole` is empty while it grows.
    partial: BytesMut,
    encoding: Option<Encoding>,
    limit: usize,
}

impl Messages {
    /// Messages of at most `limit` bytes each, as sent and decompressed.
    pub fn new(incoming: Incoming, encoding: Option<Encoding>, limit: usize) -> Self {
        Self { incoming, whole: Bytes::new(), partial: BytesMut::new(), encoding, limit }
    }

    /// The only message of a unary call.
    pub async fn only(&mut self) -> Result<Bytes> {
        let deadline = Some(Instant::now() + GRACE);
        let empty = || Error::invalid("request", "empty: expected one message, got none");
        let message = self.read(deadline).await?.ok_or_else(empty)?;
        match self.read(deadline).await? {
            None => Ok(message),
            Some(_) => Err(Error::invalid("request", "expected one message, got several")),
        }
    }

    /// The next message of a stream, however long it takes to begin; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.read(None).await
    }

    /// `first` is when the message must have begun.
    async fn read(&mut self, first: Option<Instant>) -> Result<Option<Bytes>> {
        let mut started = None;
        loop {
            if let Some((is_compressed, message)) = self.split()? {
                return self.decompress(is_compressed, message).await.map(Some);
            }
            let received = self.whole.len() + self.partial.len();
            let deadline = if received == 0 {
                first
            } else {
                let started = *started.get_or_insert_with(Instant::now);
                Some(started + GRACE + Duration::from_secs(received as u64 / SLOWEST))
            };
            match self.frame(deadline, received).await? {
                Some(data) => self.append(data),
                None if received == 0 => return Ok(None),
                None => {
                    return Err(Error::invalid(
                        "message",
                        format_args!(
                            "expected the rest of it, got {received} bytes: the request ended inside it"
                        ),
                    ));
                }
            }
        }
    }

    async fn frame(&mut self, deadline: Option<Instant>, received: usize) -> Result<Option<Bytes>> {
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut self.incoming).poll_frame(context));
            let frame = match deadline {
                Some(deadline) => {
                    timeout_at(deadline, next).await.map_err(|_| too_slow("message", received as u64))?
                }
                None => next.await,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Error::new(ErrorKind::Cancelled, "the call was cancelled or broke")
                        .with_source(error));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn append(&mut self, data: Bytes) {
        if self.whole.is_empty() && self.partial.is_empty() {
            // The common case: a message in one piece is not copied.
            self.whole = data;
            return;
        }
        // Copies a message that comes in pieces, at most twice the bytes received.
        let whole = std::mem::take(&mut self.whole);
        self.partial.extend_from_slice(&whole);
        self.partial.extend_from_slice(&data);
    }

    /// Takes a message that is complete, with its flag.
    fn split(&mut self) -> Result<Option<(bool, Bytes)>> {
        let received = if self.partial.is_empty() { &self.whole[..] } else { &self.partial[..] };
        let Some((prefix, rest)) = received.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if flag > 1 {
            return Err(Error::invalid(
                "message",
                format_args!("expected a compression flag of 0 or 1, got {flag}"),
            ));
        }
        // What counts lengths in 32 bits with a sign, as most of gRPC does, never sends so much: it is no length.
        if length > i32::MAX as usize {
            return Err(Error::invalid(
                "message",
                format_args!("expected a length of at most {}, got {length}", self.limit),
            ));
        }
        if length > self.limit {
            return Err(Error::at(
                ErrorKind::RequestTooLarge,
                "message",
                format_args!("{length} > {}: expected at most {} bytes", self.limit, self.limit),
            ));
        }
        if flag == 1 && self.encoding.is_none() {
            return Err(Error::at(
                ErrorKind::Unimplemented,
                "grpc-encoding",
                "expected gzip or deflate with a compressed message, got none",
            ));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let mut message = if self.partial.is_empty() {
            self.whole.split_to(PREFIX + length)
        } else {
            let message = self.partial.split_to(PREFIX + length).freeze();
            self.whole = std::mem::take(&mut self.partial).freeze();
            message
        };
        message.advance(PREFIX);
        Ok(Some((flag == 1, message)))
    }

    async fn decompress(&self, is_compressed: bool, message: Bytes) -> Result<Bytes> {
        let Some(encoding) = self.encoding.filter(|_| is_compressed) else { return Ok(message) };
        let (is_long, limit) = (message.len() > INLINE_COMPRESSED, self.limit);
        crate::app::off_the_wire(is_long, move || codec::decode_compressed(message, encoding.name(), limit))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let check = |text: &str, expected| assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
        check("0n", Some(Duration::ZERO));
        check("1n", Some(Duration::from_nanos(1)));
        check("20u", Some(Duration::from_micros(20)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        // B-65
        for wrong in ["-1S", "99999999999H", "5X", "S", "", "5", "1.5S", "5 S"] {
            check(wrong, None);
        }
    }
}
