//! Callers over gRPC, and the floor under them: tonic with messages that nobody decodes.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, client};

use crate::window::{self, Clock, Recorder, Result, Window};

const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";

/// The longest message; the servers under test take as much.
const MAX_MESSAGE: usize = 64 << 20;

/// The window of a stream and of a connection, as the server under test has them.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Messages as they are.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> std::result::Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> std::result::Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// Asks with the message in the file `body`.
pub fn serve_windows(address: SocketAddr, body: &Path, connections: usize) -> Result<()> {
    let body = Bytes::from(std::fs::read(body).map_err(|error| format!("{}: {error}", body.display()))?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let channels: Vec<Channel> = runtime.block_on(async {
        let mut channels = Vec::new();
        for _ in 0..connections.max(1) {
            channels.push(endpoint.connect().await?);
        }
        Ok::<_, tonic::transport::Error>(channels)
    })?;
    window::serve(|window| runtime.block_on(measure(&channels, &body, window)))
}

async fn measure(channels: &[Channel], body: &Bytes, window: &Window) -> Result<Recorder> {
    let clock = Clock::start(window);
    let callers: Vec<_> = (0..window.callers)
        .zip(channels.iter().cycle())
        .map(|(_, channel)| tokio::spawn(call(channel.clone(), body.clone(), clock)))
        .collect();
    let mut all = Recorder::new(clock);
    for caller in callers {
        all.merge(caller.await??);
    }
    Ok(all)
}

async fn call(channel: Channel, body: Bytes, clock: Clock) -> Result<Recorder> {
    let mut recorder = Recorder::new(clock);
    let mut client = client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    loop {
        let asked = Instant::now();
        client.ready().await?;
        let path = PathAndQuery::from_static(METHOD);
        let answer = client.unary(Request::new(body.clone()), path, Raw).await;
        let now = Instant::now();
        match answer {
            Ok(_) => recorder.answered(asked, now),
            Err(status) => recorder.failed(|| status.to_string()),
        }
        if clock.is_over(now) {
            return Ok(recorder);
        }
    }
}

static ANSWER: OnceLock<Bytes> = OnceLock::new();

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<std::result::Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(ANSWER.get().cloned().unwrap_or_default())))
    }
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async {
            let mut grpc = Grpc::new(Raw).apply_max_message_size_config(Some(MAX_MESSAGE), Some(MAX_MESSAGE));
            Ok(grpc.unary(Self, request).await)
        })
    }
}

/// Answers every call with the message in the file `answer`, on a free port of the loopback address, until the process
/// is ended. One thread, as `axon-server` has on two cores.
pub fn echo(answer: &Path) -> Result<()> {
    let answer =
        Bytes::from(std::fs::read(answer).map_err(|error| format!("{}: {error}", answer.display()))?);
    ANSWER.set(answer).map_err(|_| "the answer is set once")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(std::io::stdout(), "echo ready at http://{}", listener.local_addr()?)?;
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(1 << 20)
            .add_service(Echo)
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    })
}
