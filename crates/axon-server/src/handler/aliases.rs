//! The verbs of aliases.

use axon::{Error, Result};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Response};

use super::{document, plain_body};
use crate::aliases;
pub(super) use crate::aliases::route;
use crate::app::App;
use crate::body::Frames;
use crate::present::Present;
use crate::route::Route;

/// Answers what is asked of all aliases or of one.
pub(super) async fn answer(
    app: &App,
    route: &Route<'_>,
    (head, present): (&Parts, Present<'_>),
    incoming: Incoming,
) -> Result<Response<Frames>> {
    let is_look = matches!(head.method, Method::GET | Method::HEAD);
    if is_look {
        return match route {
            Route::Alias(name) => document(&aliases::one(app, name)?),
            _ => document(&aliases::all(app)),
        };
    }
    let body = plain_body(app, present, incoming).await?;
    let told = match route {
        Route::Aliases => aliases::reread(app).await?,
        Route::Alias(name) if head.method == Method::DELETE => aliases::remove(app, name)?,
        Route::Alias(name) => aliases::set(app, name, &body).await?,
        _ => return Err(Error::internal("it is no route of aliases")),
    };
    document(&told)
}
