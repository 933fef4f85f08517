//! The ports, and how many connections each has had.

use std::sync::atomic::{AtomicU64, Ordering};

/// A port that the server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Http,
    Grpc,
    Metrics,
}

impl Port {
    /// All, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Metrics];

    /// The name in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Metrics => "metrics",
        }
    }
}

/// The counters of every port.
#[derive(Debug, Default)]
pub(crate) struct Ports([Counters; Port::ALL.len()]);

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    closed: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
}

/// What had been counted of a port at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Connections that are open.
    pub open: u64,
    /// Those that were accepted.
    pub accepted: u64,
    /// Those that were closed at once.
    pub refused: u64,
    /// Those that could not be accepted.
    pub errors: u64,
}

impl Ports {
    pub fn open(&self, port: Port) {
        self.0[port as usize].accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn close(&self, port: Port) {
        // What was counted before it is seen by whoever sees this.
        self.0[port as usize].closed.fetch_add(1, Ordering::Release);
    }

    pub fn refuse(&self, port: Port) {
        self.0[port as usize].refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn fail(&self, port: Port) {
        self.0[port as usize].errors.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self, port: Port) -> Counted {
        let Counters { accepted, closed, refused, errors } = &self.0[port as usize];
        let closed = closed.load(Ordering::Acquire);
        let accepted = accepted.load(Ordering::Relaxed);
        Counted {
            open: accepted.saturating_sub(closed),
            accepted,
            refused: refused.load(Ordering::Relaxed),
            errors: errors.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_counted_apart() {
        let ports = Ports::default();
        for (index, port) in Port::ALL.into_iter().enumerate() {
            assert_eq!(port as usize, index);
        }
        ports.open(Port::Http);
        ports.open(Port::Http);
        ports.close(Port::Http);
        ports.refuse(Port::Grpc);
        ports.fail(Port::Grpc);
        let counted = |open, accepted, refused, errors| Counted { open, accepted, refused, errors };
        assert_eq!(ports.read(Port::Http), counted(1, 2, 0, 0));
        assert_eq!(ports.read(Port::Grpc), counted(0, 0, 1, 1));
        assert_eq!(ports.read(Port::Metrics), counted(0, 0, 0, 0));
    }
}
