//! One exchange with a collector after the other, over a connection that is kept: HTTP/1.1, or gRPC.
//!
//! **Source:** OpenTelemetry, "OTLP Specification 1": which answers mean that trying again may help.

use std::fmt::Display;
use std::pin::Pin;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, TE, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpStream;

use super::destination::{Destination, Protocol};
use crate::body::Frames;
use crate::proto::otlp::ExportResponse;

/// The most bytes of an answer; it says how many spans were not taken, and why.
const MAX_ANSWER: usize = 64 << 10;

/// The bytes before a message of gRPC.
const PREFIX: usize = 5;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("axon/", env!("CARGO_PKG_VERSION")));

/// Why spans were not taken.
#[derive(Debug)]
pub(super) struct Failure {
    pub problem: String,
    /// Whether, and how long from now, trying again may help.
    pub retry: Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    Never,
    Soon,
    After(Duration),
}

impl Failure {
    fn passing(problem: impl Display) -> Self {
        Self { problem: problem.to_string(), retry: Retry::Soon }
    }
}

enum Connection {
    Http(http1::SendRequest<Frames>),
    Grpc(http2::SendRequest<Frames>),
}

/// The connection to a collector; made anew after it broke.
pub(super) struct Client {
    destination: Destination,
    connection: Option<Connection>,
}

impl Client {
    pub fn new(destination: Destination) -> Self {
        Self { destination, connection: None }
    }

    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Sends an encoded request; returns how many of its spans the collector refused.
    pub async fn send(&mut self, message: Bytes) -> Result<u64, Failure> {
        let limit = self.destination.timeout;
        let outcome = tokio::time::timeout(limit, self.exchange(message)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(Failure::passing(format_args!("no answer in {limit:?}"))));
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    async fn exchange(&mut self, message: Bytes) -> Result<u64, Failure> {
        let kept = match self.connection.take() {
            // A collector may have closed what was silent for long.
            Some(Connection::Http(mut sender)) => {
                sender.ready().await.ok().map(|()| Connection::Http(sender))
            }
            Some(Connection::Grpc(mut sender)) => {
                sender.ready().await.ok().map(|()| Connection::Grpc(sender))
            }
            None => None,
        };
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = self.request(message)?;
        let response = match &mut connection {
            Connection::Http(sender) => sender.send_request(request).await,
            Connection::Grpc(sender) => sender.send_request(request).await,
        };
        let response = response.map_err(Failure::passing)?;
        let outcome = match self.destination.protocol {
            Protocol::Http => http_outcome(response).await,
            Protocol::Grpc => grpc_outcome(response).await,
        };
        self.connection = Some(connection);
        outcome
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let Destination { host, port, .. } = &self.destination;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(Failure::passing)?;
        // Requests are written whole.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(stream);
        // A connection's task ends with the connection; what broke it is told by the request that is under way.
        Ok(match self.destination.protocol {
            Protocol::Http => {
                let (sender, connection) = http1::handshake(io).await.map_err(Failure::passing)?;
                tokio::spawn(async move { drop(connection.await) });
                Connection::Http(sender)
            }
            Protocol::Grpc => {
                let shaken = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = shaken.map_err(Failure::passing)?;
                tokio::spawn(async move { drop(connection.await) });
                Connection::Grpc(sender)
            }
        })
    }

    fn request(&self, message: Bytes) -> Result<Request<Frames>, Failure> {
        let Destination { protocol, authority, path, headers, .. } = &self.destination;
        let wrong = |problem: &dyn Display| Failure { problem: problem.to_string(), retry: Retry::Never };
        let (uri, content_type, body) = match protocol {
            Protocol::Http => {
                (path.parse(), HeaderValue::from_static("application/x-protobuf"), Frames::from(message))
            }
            Protocol::Grpc => {
                let mut prefix = BytesMut::with_capacity(PREFIX);
                prefix.put_u8(0);
                prefix.put_u32(u32::try_from(message.len()).map_err(|error| wrong(&error))?);
                let uri =
                    Uri::builder().scheme("http").authority(authority.as_str()).path_and_query(path.as_str());
                let uri = uri.build().map_err(|error| wrong(&error))?;
                (
                    Ok(uri),
                    HeaderValue::from_static("application/grpc"),
                    Frames::new([prefix.freeze(), message]),
                )
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.map_err(|error| wrong(&error))?;
        let named = request.headers_mut();
        named.extend(headers.clone());
        named.insert(CONTENT_TYPE, content_type);
        named.insert(USER_AGENT, AGENT);
        match protocol {
            Protocol::Http => named.insert(HOST, authority.parse().map_err(|error| wrong(&error))?),
            Protocol::Grpc => named.insert(TE, HeaderValue::from_static("trailers")),
        };
        Ok(request)
    }
}

async fn http_outcome(response: Response<Incoming>) -> Result<u64, Failure> {
    let (head, body) = response.into_parts();
    let (answer, _) = collect(body).await?;
    if head.status.is_success() {
        return rejected(answer);
    }
    let wait = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry = match head.status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            wait.map_or(Retry::Soon, |seconds| Retry::After(Duration::from_secs(seconds)))
        }
        _ => Retry::Never,
    };
    Err(Failure { problem: format!("it answered {}", head.status), retry })
}

async fn grpc_outcome(response: Response<Incoming>) -> Result<u64, Failure> {
    let (head, body) = response.into_parts();
    let (answer, trailers) = collect(body).await?;
    let status = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse::<u32>().ok();
    // A call that fails at once has its status among the headers.
    match trailers.as_ref().and_then(status).or_else(|| status(&head.headers)) {
        Some(0) => rejected(answer.get(PREFIX..).map(|answer| answer.to_vec().into()).unwrap_or_default()),
        Some(code) => {
            let retry = if matches!(code, 1 | 4 | 10 | 11 | 14 | 15) { Retry::Soon } else { Retry::Never };
            Err(Failure { problem: format!("it answered with gRPC's status {code}"), retry })
        }
        None => Err(Failure {
            problem: format!("it answered {} and no status of gRPC", head.status),
            retry: Retry::Never,
        }),
    }
}

/// How many spans the collector says that it has not taken.
fn rejected(answer: Bytes) -> Result<u64, Failure> {
    let answer = ExportResponse::decode(answer)
        .map_err(|error| Failure { problem: format!("its answer is none: {error}"), retry: Retry::Never })?;
    let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
    Ok(u64::try_from(rejected).unwrap_or_default())
}

/// A whole answer, up to its limit, and its trailers.
async fn collect(mut body: Incoming) -> Result<(Bytes, Option<HeaderMap>), Failure> {
    let (mut answer, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.map_err(Failure::passing)?.into_data() {
            Ok(data) if answer.len() + data.len() <= MAX_ANSWER => answer.extend_from_slice(&data),
            Ok(_) => {
                return Err(Failure { problem: "its answer is too long".to_owned(), retry: Retry::Never });
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((answer.freeze(), trailers))
}
