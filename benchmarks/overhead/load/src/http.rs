//! Callers over HTTP/1.1, as cheap as may be: the server shares the cores.
//!
//! One thread, one epoll, request bytes made once, one write and one read for most requests. Of an answer only the
//! status and the length are looked at.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::window::{self, Clock, Recorder, Result, Window};

/// How long nothing may come before the run is given up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The first size of a connection's buffer; a larger answer makes it grow.
const BUFFER: usize = 16 << 10;

const MAX_HEADERS: usize = 32;

/// Asks with the bodies in the files `bodies`, one after the other.
pub fn serve_windows(address: SocketAddr, path: &str, bodies: &[PathBuf], headers: &[String]) -> Result<()> {
    let requests = requests(address, path, bodies, headers)?;
    window::serve(|window| measure(address, &requests, window))
}

/// A request for each body, as it is sent.
pub fn requests(
    address: SocketAddr,
    path: &str,
    bodies: &[PathBuf],
    headers: &[String],
) -> Result<Vec<Vec<u8>>> {
    bodies.iter().map(|body| request(address, path, body, headers)).collect()
}

/// The bytes of a request with the body in the file `body`.
fn request(address: SocketAddr, path: &str, body: &Path, headers: &[String]) -> Result<Vec<u8>> {
    let body = std::fs::read(body).map_err(|error| format!("{}: {error}", body.display()))?;
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    Ok([request.into_bytes(), body].concat())
}

fn measure(address: SocketAddr, requests: &[Vec<u8>], window: &Window) -> Result<Recorder> {
    let mut poll = Poll::new()?;
    let mut connections = connect(address, &poll, window.callers)?;
    let clock = Clock::start(window);
    let mut recorder = Recorder::new(clock);
    let mut asking = connections.len();
    let mut next = requests.iter().cycle();
    // The request of each connection.
    let mut current = Vec::with_capacity(connections.len());
    for connection in &mut connections {
        let request = next.next().ok_or("no body was given")?;
        connection.ask(Instant::now(), request)?;
        current.push(request);
    }
    let mut events = Events::with_capacity(window.callers.max(1));
    while asking > 0 {
        poll.poll(&mut events, Some(PATIENCE))?;
        if events.is_empty() {
            return Err(format!("{asking} of {} requests were not answered", window.callers).into());
        }
        for event in &events {
            let index = event.token().0;
            let connection = connections.get_mut(index).ok_or("an event of no connection")?;
            connection.send(current[index])?;
            let Some(status) = connection.receive()? else { continue };
            let now = Instant::now();
            if status == 200 {
                recorder.answered(connection.asked, now);
            } else {
                recorder.failed(|| format!("status {status}: {}", connection.answer()));
            }
            if clock.is_over(now) {
                asking -= 1;
            } else if let Some(request) = next.next() {
                current[index] = request;
                connection.ask(now, request)?;
            }
        }
    }
    Ok(recorder)
}

/// So many connections, whose tokens are their places.
pub fn connect(address: SocketAddr, poll: &Poll, count: usize) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    for index in 0..count {
        // Connected while it blocks: a connection that is refused fails here, with the reason.
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        connections.push(Connection::new(stream));
    }
    Ok(connections)
}

/// One caller's connection. Edges of epoll suffice: with one request in flight nothing is left to read after a whole
/// answer.
pub struct Connection {
    stream: TcpStream,
    /// When the request under way was asked, or was to be.
    pub asked: Instant,
    /// Bytes of the request that were written.
    sent: usize,
    /// The answer so far is `buffer[..received]`.
    buffer: Vec<u8>,
    received: usize,
    /// Once its head has come: the status and the length of the whole answer.
    head: Option<(u16, usize)>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let buffer = vec![0; BUFFER];
        Self { stream, asked: Instant::now(), sent: 0, buffer, received: 0, head: None }
    }

    /// Begins to ask; whoever calls sees to it that nothing is under way.
    pub fn ask(&mut self, now: Instant, request: &[u8]) -> Result<()> {
        (self.asked, self.sent, self.received, self.head) = (now, 0, 0, None);
        self.send(request)
    }

    /// Writes what the socket takes of the rest of the request.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        while let Some(rest) = request.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what has come; the status when the answer is whole.
    pub fn receive(&mut self) -> Result<Option<u16>> {
        loop {
            match self.stream.read(&mut self.buffer[self.received..]) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(count) => self.received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            if self.head.is_none() {
                self.head = parse_head(&self.buffer[..self.received])?;
            }
            match self.head {
                Some((status, length)) if self.received == length => return Ok(Some(status)),
                Some((_, length)) if self.received > length => return Err("more than one answer".into()),
                Some((_, length)) if self.buffer.len() < length => self.buffer.resize(length, 0),
                None if self.received == self.buffer.len() => return Err("the head is too long".into()),
                _ => {}
            }
        }
    }

    /// The answer as text.
    pub fn answer(&self) -> String {
        String::from_utf8_lossy(&self.buffer[..self.received]).into_owned()
    }
}

/// The status and the length of the whole answer; `None` while its head is not whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.ok_or("an answer without a status")?;
    let mut lengths =
        response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().ok_or("an answer without a Content-Length")?;
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    Ok(Some((status, head + length)))
}
