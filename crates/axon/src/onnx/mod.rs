//! ONNX Runtime: the one module that names `ort`.
//!
//! The library is loaded at run time, so that one build of Axon serves the CPU and the GPU with the ONNX Runtime
//! that the user has (1.24 or newer). `ort` builds sessions; runs go through the C API itself, because a session may
//! run for several callers at once and because outputs are handed on without a copy.
//!
//! What always holds: ONNX Runtime's telemetry is off before the library starts; its threads never spin; the
//! execution provider is the one asked for, or the load fails; no text of ONNX Runtime reaches a caller unless
//! it is free of paths and source lines.

mod file;
mod library;
mod message;
mod options;
mod pools;
mod run;
mod session;

pub use file::{ModelFile, element_type_name};
pub use library::{find_library, load_library, runtime_version};
pub use pools::{PoolMaker, PoolsElsewhere, pools_elsewhere};
pub use session::{Session, SessionOptions};
