//! The protocol's messages, compiled from `proto/`.

#![allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "this code is generated; what it means is said in `proto/`"
)]

/// The Open Inference Protocol.
pub mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// The health checking protocol.
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// What Axon says of itself beyond the protocol.
pub mod introspection {
    include!(concat!(env!("OUT_DIR"), "/axon.rs"));
}

/// Metrics as Prometheus reads them.
pub mod metrics {
    include!(concat!(env!("OUT_DIR"), "/io.prometheus.client.rs"));
}

/// What collectors of traces are sent.
pub mod otlp {
    include!(concat!(env!("OUT_DIR"), "/axon.otlp.rs"));
}

/// The services and their messages, as server reflection tells them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/services.binpb"));
