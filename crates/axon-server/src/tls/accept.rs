//! The handshake of a connection, and how it ended.

use std::io;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Tls;
use crate::connection::Port;

/// The first byte of TLS: a record of a handshake.
const HANDSHAKE_RECORD: u8 = 22;

/// What is told who speaks HTTP/1 to a port for TLS.
const NOT_TLS: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 38\r\n\
                       connection: close\r\n\r\nthis port speaks TLS: ask by https://\n";

/// So much of what is no TLS is read, so that the answer to it arrives.
const MAX_PLAIN: usize = 4096;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    Ok,
    Timeout,
    NoClientCertificate,
    ClientCertificate,
    ServerCertificate,
    ProtocolVersion,
    NotTls,
    Other,
}

impl Handshake {
    /// All, in the order in which they are counted.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Timeout,
        Self::NoClientCertificate,
        Self::ClientCertificate,
        Self::ServerCertificate,
        Self::ProtocolVersion,
        Self::NotTls,
        Self::Other,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::NoClientCertificate => "no_client_certificate",
            Self::ClientCertificate => "client_certificate",
            Self::ServerCertificate => "server_certificate",
            Self::ProtocolVersion => "protocol_version",
            Self::NotTls => "not_tls",
            Self::Other => "other",
        }
    }

    /// What an error of a handshake comes from.
    pub(super) fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else {
            // The peer is gone.
            return Self::Other;
        };
        match error {
            Error::NoCertificatesPresented => Self::NoClientCertificate,
            Error::InvalidCertificate(_) => Self::ClientCertificate,
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                // What rustls misses first in what clients of before TLS 1.2 say.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            )
            | Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::ProtocolVersion,
            Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::UnsupportedCertificate,
            ) => Self::ServerCertificate,
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            _ => Self::Other,
        }
    }
}

impl Tls {
    /// Makes the handshake of a connection of `port` and counts how it ended; `None` when that is not well. `began` is
    /// called when the first byte is here. How long it may take is the caller's to say.
    pub(crate) async fn accept(
        &self,
        port: Port,
        mut stream: TcpStream,
        began: impl FnOnce(),
    ) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        // Who leaves without a word, as some health checks do, has begun nothing.
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        began();
        if first != [HANDSHAKE_RECORD] {
            self.count(Handshake::NotTls);
            refuse(&mut stream).await;
            return None;
        }
        let peer = stream.peer_addr().ok().map(|peer| peer.to_string());
        let outcome = TlsAcceptor::from(self.config(port)).accept(stream).await;
        let result = match &outcome {
            // Without the extension rustls goes on; HTTP/2 over TLS is not spoken without it.
            Ok(stream) if port == Port::Grpc && stream.get_ref().1.alpn_protocol().is_none() => {
                Handshake::Other
            }
            Ok(_) => Handshake::Ok,
            Err(error) => Handshake::of(error),
        };
        self.count(result);
        match (result, outcome) {
            (Handshake::Ok, outcome) => outcome.ok(),
            (Handshake::NoClientCertificate | Handshake::ClientCertificate, Err(error)) => {
                tracing::info!(
                    peer,
                    port = port.name(),
                    "a client without a valid certificate was refused: {error}"
                );
                None
            }
            (_, outcome) => {
                let error = outcome.err().map(|error| error.to_string());
                let error = error.as_deref().unwrap_or("the client names no protocol");
                tracing::debug!(peer, port = port.name(), "a TLS handshake failed: {}", error.escape_debug());
                None
            }
        }
    }
}

/// Tells who does not speak TLS; whoever does not read it is gone already.
async fn refuse(stream: &mut TcpStream) {
    let mut read = [0; MAX_PLAIN];
    let length = stream.read(&mut read).await.unwrap_or_default();
    // HTTP/1 begins with the name of a method.
    if read.get(..length).is_some_and(|read| read.first().is_some_and(u8::is_ascii_uppercase)) {
        let _ = stream.write_all(NOT_TLS.as_bytes()).await;
    }
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::NOT_TLS;

    #[test]
    fn the_answer_in_plain_says_its_own_length() {
        let (head, body) = NOT_TLS.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    }
}
