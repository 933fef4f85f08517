//! The wire of the Axon inference server: the Open Inference Protocol over HTTP, and the Python-free binary.
//!
//! `codec` is pure: bytes in, values out. `handler` holds one body for each verb. The listener and the shutdown
//! signal are arguments, and every limit and timer of a connection is the server's own (`connection`).

pub mod access;
mod admin;
mod aliases;
pub mod announce;
mod answers;
mod app;
mod body;
pub mod codec;
pub mod compat;
mod connection;
pub mod dashboard;
mod explain;
mod grpc;
mod handler;
mod health;
mod history;
mod host;
pub mod load_check;
mod loading;
pub mod logging;
pub mod metrics;
pub mod openapi;
mod origin;
mod overview;
pub mod page;
mod present;
pub mod proto;
mod residency;
pub mod route;
mod serve;
mod settings;
pub mod shared_memory;
pub mod signals;
mod size;
mod spread;
pub mod status;
mod threads;
mod timing;
pub mod tls;
pub mod trace;
mod verbs;
mod wakes;

pub use residency::Keep;
pub use size::{size, size_or_none};

pub use serve::{
    Addresses, BODY_LIMIT, Listeners, MAX_REQUEST_BYTES, ServeError, ServeOptions, WireOptions, bind, serve,
    serve_until_signal,
};
