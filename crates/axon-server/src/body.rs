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

/// The first allocation for a body of several frames that does not say its length.
const FIRST_CAPACITY: usize = 64 << 10;

/// Room is made for so many times what has come, as far as the body says that it goes on: most bodies are copied once,
/// and whoever declares much and sends little is given little.
const AHEAD: usize = 16;

/// Tensors that begin at a multiple of this can be used where they lie, whatever their elements.
const ALIGNMENT: usize = 16;

/// Reads a whole body of at most `limit` bytes. One that has to be copied together is laid out so that what begins at
/// `aligned` lies where a tensor may.
///
/// # Errors
/// [`ErrorKind::RequestTooLarge`]; [`ErrorKind::InvalidRequest`] when it is cut, broken or in too many chunks;
/// [`ErrorKind::Cancelled`] when it comes too slowly.
pub async fn read(mut body: Incoming, limit: usize, aligned: usize) -> Result<Bytes> {
    let declared = body.size_hint().exact();
    if let Some(length) = declared.filter(|&length| length > limit as u64) {
        return Err(too_large(length, limit));
    }
    let started = Instant::now();
    let mut whole = Whole::new(aligned, declared.and_then(|length| usize::try_from(length).ok()));
    let mut chunks = 0;
    loop {
        let received = whole.len() as u64;
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
        let length = whole.len() + data.len();
        if length > limit {
            return Err(too_large(length as u64, limit));
        }
        if declared.is_none() && chunks > MAX_CHUNKS {
            return Err(Error::invalid("body", format_args!("expected at most {MAX_CHUNKS} chunks")));
        }
        whole.push(data);
    }
    Ok(whole.finish())
}

/// A body that is put together from its frames. A lone frame stays as it came.
struct Whole {
    first: Bytes,
    /// Begins with `padding` bytes that are not the body's.
    rest: BytesMut,
    padding: usize,
    declared: Option<usize>,
}

impl Whole {
    fn new(aligned: usize, declared: Option<usize>) -> Self {
        let padding = (ALIGNMENT - aligned % ALIGNMENT) % ALIGNMENT;
        Self { first: Bytes::new(), rest: BytesMut::new(), padding, declared }
    }

    fn len(&self) -> usize {
        if self.rest.is_empty() { self.first.len() } else { self.rest.len() - self.padding }
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve(self.padding + self.first.len() + self.room(data.len()));
            self.rest.resize(self.padding, 0);
            let first = std::mem::take(&mut self.first);
            self.rest.extend_from_slice(&first);
        } else if self.rest.capacity() - self.rest.len() < data.len() {
            self.rest.reserve(self.room(data.len()));
        }
        self.rest.extend_from_slice(&data);
    }

    /// For how many more bytes there should be room, of which `next` have come.
    fn room(&self, next: usize) -> usize {
        let received = self.len() + next;
        match self.declared {
            Some(declared) => {
                declared.saturating_sub(self.len()).min(received.saturating_mul(AHEAD)).max(next)
            }
            None => next.max(FIRST_CAPACITY),
        }
    }

    fn finish(mut self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let _ = self.rest.split_to(self.padding);
        self.rest.freeze()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts `sizes` together where `aligned` is to be aligned, and returns the body and the most room that was made.
    fn put_together(sizes: &[usize], aligned: usize, declared: Option<usize>) -> (Bytes, usize) {
        let mut whole = Whole::new(aligned, declared);
        let mut room = 0;
        let mut bytes = (0..=u8::MAX).cycle();
        for &size in sizes {
            whole.push(bytes.by_ref().take(size).collect());
            room = room.max(whole.rest.capacity());
        }
        (whole.finish(), room)
    }

    #[test]
    fn a_body_of_frames_is_theirs_in_order_and_its_tensors_are_aligned() {
        for aligned in [0, 1, 15, 16, 63] {
            for sizes in [vec![70], vec![70, 1], vec![1, 70, 5000, 3], vec![64; 4000]] {
                let all = sizes.iter().sum();
                for declared in [None, Some(all)] {
                    let (body, _) = put_together(&sizes, aligned, declared);
                    let expected: Vec<u8> = (0..=u8::MAX).cycle().take(all).collect();
                    assert_eq!(body, expected, "{sizes:?}");
                    let address = body.get(aligned..).unwrap().as_ptr().addr();
                    assert!(sizes.len() == 1 || address.is_multiple_of(8), "{aligned} of {sizes:?}");
                }
            }
        }
    }

    #[test]
    fn a_body_that_declares_much_and_sends_little_is_given_little() {
        let (_, room) = put_together(&[1000, 1000], 0, Some(64 << 20));
        assert!(room <= 64 << 10, "{room}");
        let (_, room) = put_together(&[8 << 10, 8 << 10, 400 << 10, 184 << 10], 0, Some(600 << 10));
        assert!(room <= 600 << 10, "no more than the body: {room}");
    }
}
