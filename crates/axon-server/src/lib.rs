//! The wire of the Axon inference server: the Open Inference Protocol over HTTP, and the Python-free binary.
//!
//! `codec` is pure: bytes in, values out. `handler` holds one body for each verb. The listener and the shutdown
//! signal are arguments, and every limit and timer of a connection is the server's own (`connection`).

pub mod announce;
mod answers;
mod body;
pub mod codec;
mod connection;
mod handler;
mod loading;
pub mod logging;
pub mod route;
mod serve;
pub mod signals;
pub mod status;

pub use serve::{BODY_LIMIT, ServeError, ServeOptions, bind, serve, serve_until_signal};
