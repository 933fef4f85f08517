//! HTTP/2: its settings, and a guard against peers that flood a connection with frames that cost them nothing.

use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// What a peer may send of one request before it is read: a large tensor in some round trips.
///
/// A stream of small questions must be stopped by this window, not by h2's budget for small frames, which is half of
/// the connection's window and closes it: a frame of 29 bytes, the least question there is, costs 7.8 times its length.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same for all requests of a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The longest frame that is received: a tensor in few pieces.
const MAX_FRAME: u32 = 1 << 20;

/// The most requests of one connection at once.
const MAX_STREAMS: u32 = 256;

/// The most requests that a peer may take back, and may break, before its connection is closed.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 64;

/// The most bytes of answers that wait to be written, for each request.
const MAX_SEND: usize = 1 << 20;

/// A peer that is silent for so long is asked whether it lives, and has so long to say so.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How HTTP/2 is spoken, with at most so many bytes of headers in a request.
pub(super) fn builder(max_header_list: u32) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .max_send_buf_size(MAX_SEND)
        .max_header_list_size(max_header_list)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// The most frames in a second that carry nothing: pings, settings, empty data, continuations and the like. A client
/// that sends a request in each of 10,000 streams a second sends about three for each.
const MAX_EMPTY_FRAMES: u32 = 50_000;

/// The length of a frame's head.
const HEAD: usize = 9;

/// The length of what a client says before its first frame.
const PREFACE: usize = 24;

/// The bit of a stream's number that means nothing.
const RESERVED: u32 = 1 << 31;

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Counts the frames of a connection that carry nothing.
///
/// **Source:** RFC 9113, sections 4.1 and 10.5.
pub(super) struct FloodGuard {
    /// Bytes to pass over before the next head.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    /// The newest stream.
    latest: u32,
    /// Frames that carried nothing since `since`, in milliseconds of the server's life.
    empty: u32,
    since: u64,
}

impl FloodGuard {
    pub const fn new(now: u64) -> Self {
        Self { skip: PREFACE, head: [0; HEAD], filled: 0, latest: 0, empty: 0, since: now }
    }

    /// Reads on; true when the peer floods the connection.
    pub fn floods(&mut self, mut bytes: &[u8], now: u64) -> bool {
        if now.saturating_sub(self.since) >= 1000 {
            (self.empty, self.since) = (0, now);
        }
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return self.empty > MAX_EMPTY_FRAMES;
            }
            let taken = (HEAD - self.filled).min(bytes.len());
            if let (Some(head), Some(part)) =
                (self.head.get_mut(self.filled..self.filled + taken), bytes.get(..taken))
            {
                head.copy_from_slice(part);
            }
            self.filled += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.filled == HEAD {
                self.filled = 0;
                let [a, b, c, kind, _flags, stream @ ..] = self.head;
                let stream = u32::from_be_bytes(stream) & !RESERVED;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                // Headers that open nothing are trailers, of which a request needs none.
                let carries = match kind {
                    DATA => self.skip > 0,
                    HEADERS => stream > self.latest,
                    _ => false,
                };
                if kind == HEADERS {
                    self.latest = self.latest.max(stream);
                }
                self.empty += u32::from(!carries);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), &vec![0; payload]].concat()
    }

    #[test]
    fn frames_that_carry_something_are_no_flood_however_they_are_cut() {
        let one = |id: u32| [frame(HEADERS, id, 30), frame(DATA, id, 5), frame(DATA, id, 100)].concat();
        let all = (0..1000).flat_map(|index| one(2 * index + 1));
        let bytes: Vec<u8> = [0; PREFACE].into_iter().chain(all).collect();
        for step in [1, 7, 9, 64, 1000] {
            let mut guard = FloodGuard::new(0);
            assert!(!bytes.chunks(step).any(|chunk| guard.floods(chunk, 1)));
            assert_eq!(guard.empty, 0);
        }
    }

    #[test]
    fn frames_that_carry_nothing_are_counted_by_the_second() {
        for kind in [DATA, HEADERS, 4, 6, 8, 9] {
            let payload = if kind == DATA { 0 } else { 8 };
            let mut guard = FloodGuard::new(0);
            assert!(!guard.floods(&[0; PREFACE], 0));
            let flood = frame(kind, 0, payload).repeat(MAX_EMPTY_FRAMES as usize);
            assert!(!guard.floods(&flood, 1));
            assert!(!guard.floods(&flood, 1001));
            assert!(guard.floods(&frame(kind, 0, payload), 1500));
        }
    }
}
