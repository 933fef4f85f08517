//! What a connection reads and writes: its socket, encrypted or not, whose silence and stalls are timed.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::http2::FloodGuard;
use super::{Entered, PHASE_FIRST_BYTE, PHASE_HEADERS, PHASE_IDLE};

/// A connection's bytes.
///
/// One type for both, and not two copies of all that is made from it: to tell them apart costs a comparison where a call of
/// the system follows, and a plain socket needs no memory of its own for it.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls the same of whichever stream it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(&mut *self, inner => Pin::new(inner).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(&mut *self, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(&mut *self, inner => Pin::new(inner).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut *self, inner => Pin::new(inner).poll_shutdown(context))
    }
}

/// A stream that notes when it was last read and whether writing stalls.
pub(super) struct Timed<'a> {
    pub stream: Stream,
    /// What was read to find out the protocol, and is not yet read again.
    pub first: Bytes,
    pub entered: &'a Entered,
    pub guard: Option<FloodGuard>,
}

impl Timed<'_> {
    /// Notes that bytes were taken, or not. Over TLS they are only encrypted by that, and go when they are flushed.
    fn took<T>(&self, outcome: Poll<T>) -> Poll<T> {
        match self.stream {
            Stream::Tls(_) if outcome.is_ready() => outcome,
            _ => self.wrote(outcome),
        }
    }

    fn wrote<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let Entered { connections, activity, .. } = self.entered;
        if outcome.is_pending() {
            if activity.stalled_since.load(Relaxed) == 0 {
                activity.stalled_since.store(connections.now(), Relaxed);
            }
            return outcome;
        }
        if activity.stalled_since.load(Relaxed) != 0 {
            activity.stalled_since.store(0, Relaxed);
            // A slow reader of a long answer is not idle.
            activity.since.store(connections.now(), Relaxed);
        }
        outcome
    }
}

impl AsyncRead for Timed<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.first.has_remaining() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        }
        let Entered { connections, activity, .. } = self.entered;
        if let Some(guard) = &mut self.guard {
            if guard.floods(buffer.filled().get(before..).unwrap_or_default(), connections.now()) {
                activity.close();
            }
            return Poll::Ready(Ok(()));
        }
        if matches!(activity.phase.load(Relaxed), PHASE_FIRST_BYTE | PHASE_IDLE) {
            activity.enter(PHASE_HEADERS, connections.now());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Timed<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.took(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.took(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        match self.stream {
            // A socket keeps nothing back.
            Stream::Plain(_) => outcome,
            // Here a write ends when it is encrypted, and what the peer does not read shows when it is flushed.
            Stream::Tls(_) => self.wrote(outcome),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
