//! Response bodies of gRPC: messages, then trailers that say how the call ended.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use hyper::header::HeaderMap;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::wire::PREFIX;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A body of gRPC.
pub(crate) enum GrpcBody {
    /// What is ready, then the trailers.
    Ready(VecDeque<Bytes>, Option<HeaderMap>),
    /// What comes from the task of a stream.
    Stream(Stream),
    /// What reflection answers.
    Reflection(tonic::body::Body),
}

/// The answers of a stream on their way. Dropping it ends the stream's task and what it waits for.
pub(crate) struct Stream {
    pub frames: mpsc::Receiver<Frame<Bytes>>,
    pub task: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GrpcBody {
    /// How a unary call ends that did not fail at once.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Ready(_, trailers) => trailers.as_ref(),
            Self::Stream(_) | Self::Reflection(_) => None,
        }
    }
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Ready(frames, trailers) => {
                let frame = frames.pop_front().map(Frame::data);
                Poll::Ready(frame.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Stream(stream) => Poll::Ready(ready!(stream.frames.poll_recv(context)).map(Ok)),
            Self::Reflection(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ready(frames, trailers) => frames.is_empty() && trailers.is_none(),
            Self::Stream(_) => false,
            Self::Reflection(body) => body.is_end_stream(),
        }
    }
}

/// A message in front of whose first byte there is room for its prefix.
pub(super) fn encode(message: &impl Message, room: usize) -> axon::Result<BytesMut> {
    let mut encoded = BytesMut::with_capacity(PREFIX + message.encoded_len() + room);
    encoded.extend_from_slice(&[0; PREFIX]);
    message.encode(&mut encoded).map_err(axon::Error::internal)?;
    Ok(encoded)
}

/// One message as the wire has it: `head`, whose prefix is filled in, then `tail`. What is `copied` bytes or less in all
/// becomes one piece; larger ones go as they lie in memory.
pub(super) fn frames(mut head: BytesMut, tail: Vec<Bytes>, copied: usize) -> VecDeque<Bytes> {
    let length = head.len() - PREFIX + tail.iter().map(Bytes::len).sum::<usize>();
    // A message longer than the prefix can say would have been refused by the limits of memory long before.
    let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(place) = head.get_mut(1..PREFIX) {
        place.copy_from_slice(&prefix);
    }
    if length > copied {
        return std::iter::once(head.freeze()).chain(tail).collect();
    }
    for piece in &tail {
        head.extend_from_slice(piece);
    }
    VecDeque::from([head.freeze()])
}
