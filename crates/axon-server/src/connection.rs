//! One connection: HTTP/1.1 or HTTP/2, whichever its first bytes speak, on a stream whose silence and stalls are timed.
//!
//! A connection's life: first byte → headers → busy → idle → headers → … Each phase but `busy` has a limit; a sweep
//! once a second closes what is over it. Limits kept this way cost a request two stores, not a timer. HTTP/2 carries
//! many requests at once: it is busy while any of them is, and never in `headers`. Over TLS it all begins with first
//! byte → handshake.

mod http2;
mod port;
mod stream;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::threads::Threads;
use crate::tls::{Handshake, Tls};
use crate::trace::Sending;
pub(crate) use port::{Port, Ports};
use stream::{Stream, Timed};

/// What answers the requests of a port.
pub(crate) trait Answer: Clone + Send + Sync + 'static {
    /// The port.
    const PORT: Port;

    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + Unpin + 'static;

    /// What a client is told that does not begin with HTTP/2; `None` when it is served.
    const HTTP2_ONLY: Option<&'static str>;

    /// The most bytes of a request's headers over HTTP/2, as HTTP/2 counts them; more is a plain 431.
    const MAX_HEADER_LIST: u32;

    /// Answers one request.
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// The most bytes of a request's line and headers.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// How long each phase may last.
const FIRST_BYTE: Duration = Duration::from_secs(10);
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(75);
/// Clients of HTTP/2 keep their connection for long and answer pings on it.
const IDLE_HTTP2: Duration = Duration::from_secs(600);
const WRITE_STALL: Duration = Duration::from_secs(30);

const PHASE_FIRST_BYTE: u8 = 0;
const PHASE_HEADERS: u8 = 1;
const PHASE_BUSY: u8 = 2;
const PHASE_IDLE: u8 = 3;
const PHASE_IDLE_HTTP2: u8 = 4;
const PHASE_HANDSHAKE: u8 = 5;

/// The first bytes of a connection are looked at in one read of at most so many.
const FIRST_READ: usize = 1024;

/// The first bytes of HTTP/2, as far as they are no method of HTTP/1.
const HTTP2: &[u8] = b"PRI";

/// What the sweep needs to know of a connection.
struct Activity {
    phase: AtomicU8,
    /// Requests that are being answered.
    open: AtomicU32,
    /// The phase when none is.
    idle: AtomicU8,
    /// Milliseconds from the server's start to the phase's.
    since: AtomicU64,
    /// Milliseconds from the server's start to when writing began to stall; 0 when it does not.
    stalled_since: AtomicU64,
    close: Notify,
    /// The connection has been told to close.
    is_told: AtomicBool,
}

impl Activity {
    /// Tells the connection to close.
    fn close(&self) {
        self.is_told.store(true, Relaxed);
        self.close.notify_one();
    }

    fn enter(&self, phase: u8, now: u64) {
        self.phase.store(phase, Relaxed);
        self.since.store(now, Relaxed);
    }

    fn is_over_its_limit(&self, now: u64) -> bool {
        let over = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        let limit = match self.phase.load(Relaxed) {
            PHASE_FIRST_BYTE => Some(FIRST_BYTE),
            PHASE_HANDSHAKE => Some(HANDSHAKE),
            PHASE_HEADERS => Some(HEADERS),
            PHASE_IDLE => Some(IDLE),
            PHASE_IDLE_HTTP2 => Some(IDLE_HTTP2),
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
    ports: Arc<Ports>,
    /// What they are encrypted with.
    tls: Option<Arc<Tls>>,
    /// Connections refused since the last sweep.
    refused: AtomicU64,
    open: Mutex<(u64, HashMap<u64, Arc<Activity>>)>,
    changed: Notify,
}

impl Connections {
    /// None yet, and never more than `limit`; they are counted in `ports`, and encrypted where `tls` is.
    pub fn new(limit: usize, ports: &Arc<Ports>, tls: Option<&Arc<Tls>>) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            limit,
            ports: Arc::clone(ports),
            tls: tls.cloned(),
            refused: AtomicU64::new(0),
            open: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Counts a connection that could not be accepted.
    pub fn count_error(&self, port: Port) {
        self.ports.fail(port);
    }

    /// Milliseconds since the start, at least 1.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Enters a connection; `None` when the limit is reached.
    fn enter(self: &Arc<Self>, port: Port) -> Option<Entered> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.1.len() >= self.limit {
            self.ports.refuse(port);
            return None;
        }
        self.ports.open(port);
        let activity = Arc::new(Activity {
            phase: AtomicU8::new(PHASE_FIRST_BYTE),
            open: AtomicU32::new(0),
            idle: AtomicU8::new(PHASE_IDLE),
            since: AtomicU64::new(self.now()),
            stalled_since: AtomicU64::new(0),
            close: Notify::new(),
            is_told: AtomicBool::new(false),
        });
        open.0 += 1;
        let id = open.0;
        open.1.insert(id, Arc::clone(&activity));
        Some(Entered { connections: Arc::clone(self), id, port, activity })
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
            activity.close();
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
    port: Port,
    activity: Arc<Activity>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.ports.close(self.port);
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.id);
        self.connections.changed.notify_waiters();
    }
}

/// A request that is being answered; the connection is busy until the last of them, and its answer, is dropped.
struct Open {
    connections: Arc<Connections>,
    activity: Arc<Activity>,
}

impl Open {
    fn new(connections: &Arc<Connections>, activity: &Arc<Activity>) -> Self {
        if activity.open.fetch_add(1, Relaxed) == 0 {
            // As long as it takes: its beginning does not matter.
            activity.phase.store(PHASE_BUSY, Relaxed);
        }
        Self { connections: Arc::clone(connections), activity: Arc::clone(activity) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.activity.open.fetch_sub(1, Relaxed) == 1 {
            self.activity.enter(self.activity.idle.load(Relaxed), self.connections.now());
        }
    }
}

/// A response body whose request is open until it has been written.
struct Answering<B> {
    body: B,
    _open: Open,
    _span: Option<Sending>,
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves a connection in a task of its own, on a thread that it stays on, until it closes or is told to finish; refuses it
/// over the limit.
pub(crate) fn spawn<A: Answer>(
    answer: &A,
    (connections, threads): (&Arc<Connections>, &Threads),
    stream: TcpStream,
    finish: watch::Receiver<bool>,
) {
    let Some(entered) = connections.enter(A::PORT) else {
        connections.refused.fetch_add(1, Relaxed);
        return;
    };
    let answer = answer.clone();
    threads.spawn(|moves| async move {
        let stream = if moves { stream.into_std().and_then(TcpStream::from_std) } else { Ok(stream) };
        match stream {
            Ok(stream) => run(answer, entered, stream, finish).await,
            Err(error) => tracing::warn!("a connection was lost: {error}"),
        }
    });
}

/// What comes next in the life of a connection.
enum Next<T> {
    Ended(T),
    Close,
    Finish,
}

/// Drives a connection until it ends, is told to close, or has finished what it began.
///
/// What is told from outside is looked for at first, and then only when there is news: the task's waker stays what it
/// was, so it need not be handed over again with every request.
macro_rules! drive {
    ($connection:expr, $activity:expr, $finish:expr) => {{
        let (mut connection, news) = (std::pin::pin!($connection), $finish.clone());
        let mut closing = std::pin::pin!($activity.close.notified());
        let mut finishing = *$finish.borrow_and_update();
        if finishing {
            connection.as_mut().graceful_shutdown();
        }
        loop {
            // Tokio would have a task that has done much already come again without handing over its waker.
            let mut changing = std::pin::pin!(tokio::task::unconstrained($finish.changed()));
            let mut is_waiting = false;
            let next = std::future::poll_fn(|context| {
                if let Poll::Ready(outcome) = connection.as_mut().poll(context) {
                    return Poll::Ready(Next::Ended(outcome));
                }
                let has_news = $activity.is_told.load(Relaxed) || news.has_changed().unwrap_or(true);
                if is_waiting && !has_news {
                    return Poll::Pending;
                }
                is_waiting = true;
                if closing.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Next::Close);
                }
                if !finishing && changing.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Next::Finish);
                }
                Poll::Pending
            })
            .await;
            match next {
                Next::Ended(Ok(())) => return,
                Next::Ended(Err(error)) => {
                    tracing::debug!("a connection ended: {}", error.to_string().escape_debug());
                    return;
                }
                Next::Close => {
                    tracing::debug!("closed a connection that was silent, stalled or flooding");
                    return;
                }
                Next::Finish => {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }};
}

async fn run<A: Answer>(answer: A, entered: Entered, stream: TcpStream, mut finish: watch::Receiver<bool>) {
    // Answers are written whole; waiting to fill a segment would only add 40 ms.
    let _ = stream.set_nodelay(true);
    let (connections, activity) = (Arc::clone(&entered.connections), Arc::clone(&entered.activity));
    let mut stream = match &connections.tls {
        None => Stream::Plain(stream),
        // On the heap, so that a plain connection needs no room for what a handshake does.
        Some(tls) => match Box::pin(secured(tls, &entered, stream, &mut finish)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let first = tokio::select! {
        first = first_bytes(&mut stream) => first,
        () = activity.close.notified() => None,
        _ = finish.wait_for(|finish| *finish) => None,
    };
    let Some(first) = first else { return };
    let is_http2 = first.starts_with(HTTP2);
    if let (false, Some(refusal)) = (is_http2, A::HTTP2_ONLY) {
        // Whoever does not read it is gone already.
        let _ = stream.write_all(refusal.as_bytes()).await;
        return;
    }
    let (idle, phase) =
        if is_http2 { (PHASE_IDLE_HTTP2, PHASE_IDLE_HTTP2) } else { (PHASE_IDLE, PHASE_HEADERS) };
    activity.idle.store(idle, Relaxed);
    activity.enter(phase, connections.now());
    let service = service_fn(|request| {
        let (answer, open) = (answer.clone(), Open::new(&connections, &activity));
        async move {
            let mut response = answer.answer(request).await;
            let span = response.extensions_mut().remove::<Sending>();
            Ok::<_, std::convert::Infallible>(response.map(|body| Answering {
                body,
                _open: open,
                _span: span,
            }))
        }
    });
    let guard = is_http2.then(|| http2::FloodGuard::new(connections.now()));
    let io = TokioIo::new(Timed { stream, first, entered: &entered, guard });
    if is_http2 {
        drive!(http2::builder(A::MAX_HEADER_LIST).serve_connection(io, service), activity, finish);
    }
    let http1 = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .header_read_timeout(None)
        .serve_connection(io, service);
    drive!(http1, activity, finish);
}

/// Makes the handshake; `None` when the connection ended before.
async fn secured(
    tls: &Tls,
    entered: &Entered,
    stream: TcpStream,
    finish: &mut watch::Receiver<bool>,
) -> Option<Stream> {
    let Entered { connections, port, activity, .. } = entered;
    let began = || activity.enter(PHASE_HANDSHAKE, connections.now());
    tokio::select! {
        stream = tls.accept(*port, stream, began) => {
            activity.enter(PHASE_FIRST_BYTE, connections.now());
            Some(Stream::Tls(Box::new(stream?)))
        }
        () = activity.close.notified() => {
            tls.count(Handshake::Timeout);
            tracing::debug!(port = port.name(), "closed a connection whose TLS handshake took too long");
            None
        }
        _ = finish.wait_for(|finish| *finish) => None,
    }
}

/// Reads until it is known which protocol is spoken; `None` when the connection ended before.
async fn first_bytes(stream: &mut Stream) -> Option<Bytes> {
    let mut first = [0; FIRST_READ];
    let mut length = 0;
    loop {
        let read = stream.read(first.get_mut(length..)?).await.ok()?;
        length += read;
        let first = first.get(..length)?;
        let known = HTTP2.get(..length.min(HTTP2.len()))?;
        if read == 0 && length == 0 {
            return None;
        }
        if read == 0 || !first.starts_with(known) || length >= HTTP2.len() {
            return Some(Bytes::copy_from_slice(first));
        }
    }
}
