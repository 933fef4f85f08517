//! `grpc.health.v1.Health`: whether the server serves, asked once or watched. The name of a service is not read.

use std::sync::Arc;
use std::time::Duration;

use axon::Error;
use bytes::Bytes;
use hyper::Response;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::body::{self, GrpcBody, Stream};
use super::{Call, headers, status};
use crate::app::App;
use crate::compat::Context;
use crate::proto::health::HealthCheckResponse;
use crate::proto::health::health_check_response::ServingStatus;
use crate::verbs;

/// How often it is looked whether the models are ready. The end is told at once.
const LOOK: Duration = Duration::from_millis(500);

/// Whether the server serves now.
pub(super) fn check(app: &App) -> HealthCheckResponse {
    let status = if verbs::ready(app).is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

/// Whether the server serves, now and whenever that changes, until it shuts down.
pub(super) fn watch(app: &Arc<App>, call: Call) -> Response<GrpcBody> {
    // One answer waits for a caller that is slow; newer ones replace what it has not been told.
    let (sender, frames) = mpsc::channel(1);
    let headers = headers(&call);
    let task = tokio::spawn(run(Arc::clone(app), call, sender)).abort_handle();
    let mut response = Response::new(GrpcBody::Stream(Stream { frames, task }));
    *response.headers_mut() = headers;
    response
}

async fn run(app: Arc<App>, call: Call, frames: mpsc::Sender<Frame<Bytes>>) {
    let error = tell(&app, &call, &frames).await;
    let trailers = status::failed(app.compat, &error, Context::default());
    // A caller that has gone does not want it any more.
    let _ = frames.send(Frame::trailers(trailers)).await;
}

/// Tells each change, and returns why it ends.
async fn tell(app: &App, call: &Call, frames: &mpsc::Sender<Frame<Bytes>>) -> Error {
    let mut finishing = app.finishing.clone();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        let is_last = *finishing.borrow_and_update();
        let answer = check(app);
        if told != Some(answer.status) {
            told = Some(answer.status);
            let pieces =
                body::encode(&answer, 0).and_then(|message| super::frames(call, message, Vec::new()));
            match pieces {
                Ok(pieces) => {
                    for piece in pieces {
                        if frames.send(Frame::data(piece)).await.is_err() {
                            return Error::shutting_down();
                        }
                    }
                }
                Err(error) => return error,
            }
        }
        if is_last {
            return Error::shutting_down();
        }
        tokio::select! {
            _ = looks.tick() => {}
            _ = finishing.changed() => {}
        }
    }
}
