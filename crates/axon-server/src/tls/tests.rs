//! What needs no certificate; the rest is `tests/test_tls.py`, with real ones.

use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::{Handshake, Tls, TlsFiles};

#[test]
fn options_come_together_or_say_what_is_missing() {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let of = |certificate, key, client_ca| {
        TlsFiles::of_options(path(certificate), path(key), path(client_ca))
            .map(|files| files.is_some())
            .map_err(|problem| problem.split(':').next().map(str::to_owned).unwrap())
    };
    assert_eq!(of("", "", ""), Ok(false));
    assert_eq!(of("c", "k", ""), Ok(true));
    assert_eq!(of("c", "k", "a"), Ok(true));
    assert_eq!(of("c", "", "a"), Err("--tls-key".to_owned()));
    assert_eq!(of("", "k", ""), Err("--tls-cert".to_owned()));
    assert_eq!(of("", "", "a"), Err("--tls-cert".to_owned()));
}

#[test]
fn a_file_that_is_not_there_is_named_with_its_option() {
    let files =
        TlsFiles { certificate: "/nowhere/c.pem".into(), key: "/nowhere/k.pem".into(), client_ca: None };
    let problem = Tls::open(files).unwrap_err();
    assert!(problem.starts_with("--tls-cert: `/nowhere/c.pem` cannot be read: "), "{problem}");
}

#[test]
fn an_end_is_counted_under_its_cause() {
    for (index, result) in Handshake::ALL.into_iter().enumerate() {
        assert_eq!(result as usize, index);
    }
    let of = |error| Handshake::of(&io::Error::new(io::ErrorKind::InvalidData, error));
    let rows = [
        (Error::NoCertificatesPresented, Handshake::NoClientCertificate),
        (Error::InvalidCertificate(CertificateError::Revoked), Handshake::ClientCertificate),
        (Error::AlertReceived(AlertDescription::UnknownCA), Handshake::ServerCertificate),
        (Error::AlertReceived(AlertDescription::ProtocolVersion), Handshake::ProtocolVersion),
        (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), Handshake::ProtocolVersion),
        (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), Handshake::Other),
        (Error::InvalidMessage(InvalidMessage::InvalidContentType), Handshake::NotTls),
        (Error::NoApplicationProtocol, Handshake::Other),
    ];
    for (error, expected) in rows {
        assert_eq!(of(error.clone()), expected, "{error}");
    }
    assert_eq!(Handshake::of(&io::ErrorKind::UnexpectedEof.into()), Handshake::Other);
}
