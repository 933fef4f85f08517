//! The Axon inference engine.
//!
//! Loads ONNX models, batches the requests of many callers and runs them on ONNX Runtime. No sockets and no
//! Python: the wire is the crate `axon-server`, the Python package is built from `axon-python`.
//!
//! Data flows one way, and answers come back as values: [`server`] → [`repository`] → [`scheduler`]
//! ([`batcher`]) → [`executor`] → [`onnx`].

pub mod alias;
pub mod batcher;
pub mod config;
pub mod error;
pub mod executor;
pub mod import;
pub mod lanes;
pub mod load_check;
pub mod metrics;
pub mod model_config;
pub mod onnx;
pub mod plan;
pub mod probe;
pub mod reason;
pub mod report;
pub mod repository;
pub mod request;
pub mod residency;
pub mod response_cache;
pub mod scheduler;
pub mod sequence;
pub mod server;
pub mod signature;
pub mod simulation;
pub mod stop;
mod storage;

/// The README's Rust is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub use error::{Error, ErrorKind, Result};
pub use synapse::{DataType, Shape, Tensor};
