//! One connection: HTTP/1.1 on a stream whose silence and stalls are timed.
//!
//! A connection's life: first byte → headers → busy → idle → headers → … Each phase but `busy` has a limit; a sweep
//! once a second closes what is over it. Limits kept this way cost a request two stores, not a timer.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::handler::{App, handle};

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// The most bytes of a request's line and headers.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// How long each phase may last.
const FIRST_BYTE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(75);
const WRITE_STALL: Duration = Duration::from_secs(30);

const PHASE_FIRST_BYTE: u8 = 0;
const PHASE_HEADERS: u8 = 1;
const PHASE_BUSY: u8 = 2;
const PHASE_IDLE: u8 = 3;

/// What the sweep needs to know of a connection.
struct Activity {
    phase: AtomicU8,
    /// Milliseconds from the server's start to the phase's.
    since: AtomicU64,
    /// Milliseconds from the server's start to when writing began to stall; 0 when it does not.
    stalled_since: AtomicU64,
    close: Notify,
}

impl Activity {
    fn enter(&self, phase: u8, now: u64) {
        self.phase.store(phase, Relaxed);
        self.since.store(now, Relaxed);
    }

    fn is_over_its_limit(&self, now: u64) -> bool {
        let over = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        let limit = match self.phase.load(Relaxed) {
            PHASE_FIRST_BYTE => Some(FIRST_BYTE),
            PHASE_HEADERS => Some(HEADERS),
            PHASE_IDLE => Some(IDLE),
            _ => None,
        };
        let stalled_since = self.stalled_since.load(Relaxed);
        // While an answer is being read slowly, only the stall counts.
        if stalled_since > 0 {
            return over(stalled_since, WRITE_STALL);
        }
        limit.is_some_and(|limit| over(self.since.load(Relaxed), limit))
    }
}

/// The open connections of a server.
pub(crate) struct Connections {
    started: Instant,
    limit: usize,
    /// Connections refused since the last sweep.
    refused: AtomicU64,
    open: Mutex<(u64, HashMap<u64, Arc<Activity>>)>,
    changed: Notify,
}

impl Connections {
    /// None yet, and never more than `limit`.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            limit,
            refused: AtomicU64::new(0),
            open: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Milliseconds since the start, at least 1.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Enters a connection; `None` when the limit is reached.
    fn enter(self: &Arc<Self>) -> Option<Entered> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.1.len() >= self.limit {
            return None;
        }
        let activity = Arc::new(Activity {
            phase: AtomicU8::new(PHASE_FIRST_BYTE),
            since: AtomicU64::new(self.now()),
            stalled_since: AtomicU64::new(0),
            close: Notify::new(),
        });
        open.0 += 1;
        let id = open.0;
        open.1.insert(id, Arc::clone(&activity));
        Some(Entered { connections: Arc::clone(self), id, activity })
    }

    /// Closes what is over its limit.
    pub fn sweep(&self) {
        let refused = self.refused.swap(0, Relaxed);
        if refused > 0 {
            tracing::warn!(limit = self.limit, refused, "refused connections: the limit is reached");
        }
        let now = self.now();
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for activity in open.1.values().filter(|activity| activity.is_over_its_limit(now)) {
            activity.close.notify_one();
        }
    }

    /// Waits until every connection has been closed.
    pub async fn wait_for_none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.open.lock().unwrap_or_else(PoisonError::into_inner).1.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

struct Entered {
    connections: Arc<Connections>,
    id: u64,
    activity: Arc<Activity>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.id);
        self.connections.changed.notify_waiters();
    }
}

/// Serves a connection in a task of its own, until it closes or is told to finish; refuses it over the limit.
pub(crate) fn spawn(
    app: &Arc<App>,
    connections: &Arc<Connections>,
    stream: TcpStream,
    finish: watch::Receiver<bool>,
) {
    let Some(entered) = connections.enter() else {
        connections.refused.fetch_add(1, Relaxed);
        return;
    };
    tokio::spawn(run(Arc::clone(app), entered, stream, finish));
}

async fn run(app: Arc<App>, entered: Entered, stream: TcpStream, mut finish: watch::Receiver<bool>) {
    // Answers are written whole; waiting to fill a segment would only add 40 ms.
    let _ = stream.set_nodelay(true);
    let (connections, activity) = (Arc::clone(&entered.connections), Arc::clone(&entered.activity));
    let service = service_fn(|request| {
        let (app, connections, activity) =
            (Arc::clone(&app), Arc::clone(&connections), Arc::clone(&activity));
        async move {
            activity.enter(PHASE_BUSY, connections.now());
            let response = handle(app, request).await;
            activity.enter(PHASE_IDLE, connections.now());
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let io = TokioIo::new(Timed { stream, entered: &entered });
    let connection = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .header_read_timeout(None)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let mut finishing = *finish.borrow_and_update();
    if finishing {
        connection.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            biased;
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!("a connection ended: {}", error.to_string().escape_debug());
                }
                return;
            }
            () = activity.close.notified() => {
                tracing::debug!("closed a connection that was silent or stalled for too long");
                return;
            }
            changed = finish.changed(), if !finishing => {
                finishing = true;
                if changed.is_ok() {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// A stream that notes when it was last read and whether writing stalls.
struct Timed<'a> {
    stream: TcpStream,
    entered: &'a Entered,
}

impl Timed<'_> {
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
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let Entered { connections, activity, .. } = self.entered;
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
        self.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
