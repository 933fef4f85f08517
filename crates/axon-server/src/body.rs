//! Bodies: read up to a limit and not slower than a floor, written without a copy.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axon::{Error, ErrorKind, Result};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout_at};

/// The most non-empty chunks of a body that does not say its length: each costs more than its bytes.
/// **Source:** the cap of Triton's own fix for its chunk-by-chunk memory defects.
const MAX_CHUNKS: usize = 65_536;

/// A body may take this long, and longer by one second for each [`SLOWEST`] bytes that came.
pub const GRACE: Duration = Duration::from_secs(5);

/// The slowest rate, in bytes per second.
pub const SLOWEST: u64 = 1024;

/// The first allocation for a body of several frames; it grows with what comes, not with what is declared.
const FIRST_CAPACITY: usize = 64 << 10;

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// [`ErrorKind::RequestTooLarge`]; [`ErrorKind::InvalidRequest`] when it is cut, broken or in too many chunks;
/// [`ErrorKind::Cancelled`] when it comes too slowly.
pub async fn read(mut body: Incoming, limit: usize) -> Result<Bytes> {
    let declared = body.size_hint().exact();
    if let Some(length) = declared.filter(|&length| length > limit as u64) {
        return Err(too_large(length, limit));
    }
    let started = Instant::now();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut chunks = 0;
    loop {
        let received = (first.len() + rest.len()) as u64;
        let deadline = started + GRACE + Duration::from_secs(received / SLOWEST);
        let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = match timeout_at(deadline, next).await {
            Err(_) => return Err(too_slow("body", received)),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        chunks += 1;
        let length = first.len() + rest.len() + data.len();
        if length > limit {
            return Err(too_large(length as u64, limit));
        }
        if declared.is_none() && chunks > MAX_CHUNKS {
            return Err(Error::invalid("body", format_args!("expected at most {MAX_CHUNKS} chunks")));
        }
        if chunks == 1 {
            first = data;
            continue;
        }
        if rest.is_empty() {
            // One frame is kept as it came; a second one begins the copy, at most twice the bytes received.
            rest.reserve((first.len() + data.len()).max(FIRST_CAPACITY));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn too_large(length: u64, limit: usize) -> Error {
    Error::at(
        ErrorKind::RequestTooLarge,
        "body",
        format_args!("{length} > {limit}: expected at most {limit} bytes, got {length}"),
    )
}

/// A body, or a message, that comes too slowly.
pub fn too_slow(field: &'static str, received: u64) -> Error {
    Error::at(
        ErrorKind::Cancelled,
        field,
        format_args!("expected at least {SLOWEST} bytes per second, got {received} bytes so far"),
    )
}

fn broken(error: &hyper::Error) -> Error {
    Error::invalid("body", "the connection ended or broke inside the body").with_source(error)
}

/// A response body of frames that are ready.
#[derive(Debug, Default)]
pub struct Frames {
    frames: VecDeque<Bytes>,
    length: u64,
}

impl Frames {
    /// A body of these frames; empty ones are left out.
    pub fn new(frames: impl IntoIterator<Item = Bytes>) -> Self {
        let frames: VecDeque<Bytes> = frames.into_iter().filter(|frame| !frame.is_empty()).collect();
        let length = frames.iter().map(|frame| frame.len() as u64).sum();
        Self { frames, length }
    }
}

impl IntoIterator for Frames {
    type Item = Bytes;
    type IntoIter = std::collections::vec_deque::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.frames.into_iter()
    }
}

impl<T: Into<Bytes>> From<T> for Frames {
    fn from(bytes: T) -> Self {
        Self::new([bytes.into()])
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.frames.pop_front();
        if let Some(frame) = &frame {
            self.length -= frame.len() as u64;
        }
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
