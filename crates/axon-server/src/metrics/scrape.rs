//! Answers scrapes, on the port for metrics and on the one for HTTP.
//!
//! One scrape is written at a time, whatever comes: those that come while it is written share the next one. Each sees
//! what was counted before it came. None is written on a thread that moves bytes: no request waits for it.

use std::sync::Arc;
use std::time::Instant;

use axon::{Error, ErrorKind, Result};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, VARY};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Mutex;

use super::family::Family;
use super::gpu::Gpus;
use super::negotiate::{Form, negotiate};
use super::process::Utilization;
use super::{collect, protobuf, text};
use crate::app::{App, off_the_wire};
use crate::body::Frames;
use crate::connection::{Answer, Port};

/// The scrapes of a server.
#[derive(Default)]
pub(crate) struct Scrapes {
    /// By form. Whoever waits for it shares what is written next.
    last: [Mutex<Option<Written>>; Form::ALL.len()],
    /// The machine's, as Triton tells it.
    pub(super) utilization: Utilization,
    pub(super) gpus: Gpus,
}

struct Written {
    /// When its counters began to be read.
    began: Instant,
    body: Bytes,
}

/// What the server tells of itself, in the form that the scraper asks for.
///
/// # Errors
/// [`ErrorKind::NotFound`] where metrics are off.
pub(crate) async fn answer(app: &Arc<App>, headers: &HeaderMap) -> Result<Response<Frames>> {
    if !app.counts() {
        return Err(Error::at(ErrorKind::NotFound, "path", "the server was started with `--metrics off`"));
    }
    let form = negotiate(headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes));
    let asked = Instant::now();
    let mut last = app.scrapes.last[form as usize].lock().await;
    let body = match &*last {
        Some(written) if written.began >= asked => written.body.clone(),
        _ => {
            let began = Instant::now();
            let server = Arc::clone(app);
            // On another thread, however few models there are: the system is asked too, which takes longer the more
            // connections are open.
            let body = off_the_wire(true, move || {
                let views = collect::views(&server);
                let aliases = server.server.aliases();
                Ok(write(&collect::families(&server, &views, &aliases), form))
            })
            .await?;
            last.insert(Written { began, body }).body.clone()
        }
    };
    drop(last);
    let mut response = Response::new(Frames::from(body));
    response.headers_mut().insert(CONTENT_TYPE, form.content_type());
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

fn write(families: &[Family<'_>], form: Form) -> Bytes {
    match form {
        Form::Text | Form::OpenMetrics => text::write(families, form).into(),
        Form::Protobuf => protobuf::write(families).into(),
    }
}

/// Answers the requests of the port for metrics.
#[derive(Clone)]
pub(crate) struct Scrape(pub Arc<App>);

impl Answer for Scrape {
    type Body = Frames;

    const PORT: Port = Port::Metrics;

    const HTTP2_ONLY: Option<&'static str> = None;

    const MAX_HEADER_LIST: u32 = 16 << 10;

    async fn answer(self, request: Request<Incoming>) -> Response<Frames> {
        let refused = |status: StatusCode, text: &'static str| {
            let mut response = Response::new(Frames::from(text));
            *response.status_mut() = status;
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response
        };
        if request.uri().path() != "/metrics" {
            return refused(StatusCode::NOT_FOUND, "this port has /metrics alone\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "expected GET or HEAD\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let answered = answer(&self.0, request.headers()).await;
        answered.unwrap_or_else(|error| {
            tracing::error!(cause = error.cause(), "a scrape failed: {error}");
            refused(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
        })
    }
}
