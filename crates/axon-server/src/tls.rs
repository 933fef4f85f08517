//! TLS for every port: one certificate for all of them, and client certificates where they are asked for.
//!
//! `files` makes of the operator's files what a handshake needs; `accept` makes the handshakes and counts how they end;
//! `follow` looks whether the files have changed. A connection keeps what it began with: only new ones see a change.
//!
//! Invariants: files that cannot be used never replace files that can; a handshake takes no lock for longer than it takes
//! to clone an `Arc`; a connection has asked no model anything before its handshake is done.
//!
//! **Source:** RFC 8446, RFC 5246; RFC 9113, section 3.2, for `h2`.

mod accept;
mod files;
mod follow;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;

use crate::connection::Port;
pub(crate) use accept::Handshake;
use files::Ready;
pub use files::TlsFiles;
pub(crate) use follow::follow;

/// What the ports speak TLS with, and what has come of it.
pub struct Tls {
    files: TlsFiles,
    ready: RwLock<Arc<Ready>>,
    handshakes: [AtomicU64; Handshake::ALL.len()],
    /// Changes of the files that were taken, and that were not.
    reloads: [AtomicU64; 2],
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A text that names the option and the file, what is wrong, and what to do.
    pub fn open(files: TlsFiles) -> Result<Arc<Self>, String> {
        let ready = Ready::make(&files.read()?, &files)?;
        Ok(Arc::new(Self {
            files,
            ready: RwLock::new(Arc::new(ready)),
            handshakes: Default::default(),
            reloads: Default::default(),
        }))
    }

    /// Whether clients must show a certificate.
    pub(crate) fn asks_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// When the first certificate of the chain to expire does, in seconds since 1970.
    pub(crate) fn expires(&self) -> u64 {
        self.ready().expires
    }

    /// Handshakes that ended so.
    pub(crate) fn handshakes(&self, result: Handshake) -> u64 {
        self.handshakes[result as usize].load(Relaxed)
    }

    /// Changes of the files that were taken, and that were not.
    pub(crate) fn reloads(&self) -> [u64; 2] {
        self.reloads.each_ref().map(|count| count.load(Relaxed))
    }

    pub(crate) fn count(&self, result: Handshake) {
        self.handshakes[result as usize].fetch_add(1, Relaxed);
    }

    fn config(&self, port: Port) -> Arc<ServerConfig> {
        let ready = self.ready();
        Arc::clone(if port == Port::Grpc { &ready.http2 } else { &ready.any })
    }

    fn ready(&self) -> Arc<Ready> {
        Arc::clone(&self.ready.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what the files now hold for all connections to come, or keeps what there is and says why.
    fn replace(&self, made: Result<Ready, String>) -> Result<(), String> {
        let outcome = made.map(|made| {
            *self.ready.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
        });
        self.reloads[usize::from(outcome.is_err())].fetch_add(1, Relaxed);
        outcome
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}
