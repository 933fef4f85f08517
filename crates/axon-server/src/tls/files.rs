//! The operator's files, and what a handshake needs of them.

use std::fmt::Display;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::ring;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// The most bytes of a file: some hundred certificates.
const MAX_FILE: u64 = 1 << 20;

const CERTIFICATE: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";

/// The files that TLS is spoken with, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead from it to one that clients trust.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates of those who sign clients', and lists of what they have revoked; `None` asks clients for none.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// The files that were named on a command line; `None` when none was.
    ///
    /// # Errors
    /// A text that names the option that is missing.
    pub fn of_options(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        client_ca: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key, client_ca })),
            (Some(_), None) => Err(format!("{KEY}: expected the key of {CERTIFICATE}, got nothing")),
            (None, Some(_)) => Err(format!("{CERTIFICATE}: expected the certificate of {KEY}, got nothing")),
            (None, None) if client_ca.is_some() => {
                Err(format!("{CERTIFICATE}: expected one, since {CLIENT_CA} is given, got nothing"))
            }
            (None, None) => Ok(None),
        }
    }

    pub(super) fn read(&self) -> Result<Contents, String> {
        let client_ca = self.client_ca.as_deref().map(|path| read(CLIENT_CA, path)).transpose()?;
        Ok(Contents {
            certificate: read(CERTIFICATE, &self.certificate)?,
            key: read(KEY, &self.key)?,
            client_ca,
        })
    }
}

fn read(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    let told = |error| problem(option, path, format_args!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(told)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(problem(option, path, format_args!("is longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn problem(option: &str, path: &Path, what: impl Display) -> String {
    format!("{option}: `{}` {what}", path.display().to_string().escape_debug())
}

/// What the files hold.
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    /// A number that is another one when a file is another one.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.certificate, &self.key, &self.client_ca).hash(&mut hasher);
        hasher.finish()
    }
}

/// What handshakes need.
#[derive(Debug)]
pub(super) struct Ready {
    /// For ports that speak HTTP/1.1 and HTTP/2.
    pub any: Arc<ServerConfig>,
    /// For the port that speaks HTTP/2 alone.
    pub http2: Arc<ServerConfig>,
    /// When the first certificate of the chain to expire does, in seconds since 1970.
    pub expires: u64,
    /// Of what it was made of.
    pub fingerprint: u64,
}

impl Ready {
    /// Checks what was read, and makes of it what handshakes need.
    ///
    /// # Errors
    /// A text that names the option and the file, what is wrong, and what to do.
    pub fn make(contents: &Contents, files: &TlsFiles) -> Result<Self, String> {
        let chain = chain(&contents.certificate, &files.certificate)?;
        let expires = expiry(&chain, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| problem(KEY, &files.key, no_pem(&error, "private key")))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = match (&contents.client_ca, &files.client_ca) {
            (Some(bytes), Some(path)) => verifier(bytes, path, &provider)?,
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("{CERTIFICATE}: TLS cannot be set up: {error}"))?;
        let mut http2 = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| mismatch(&error, files))?;
        if files.client_ca.is_some() {
            // A session that is taken up again is let in without a look at the client's certificate, which may have
            // expired since.
            http2.send_tls13_tickets = 0;
            http2.session_storage = Arc::new(NoServerSessionStorage {});
        } else {
            // Shared by the ports, and new with every change of the files.
            http2.ticketer =
                ring::Ticketer::new().map_err(|error| format!("{KEY}: no tickets can be made: {error}"))?;
        }
        http2.alpn_protocols = vec![b"h2".to_vec()];
        let mut any = http2.clone();
        any.alpn_protocols.push(b"http/1.1".to_vec());
        let fingerprint = contents.fingerprint();
        Ok(Self { any: Arc::new(any), http2: Arc::new(http2), expires, fingerprint })
    }
}

fn no_pem(error: &PemError, what: &str) -> String {
    match error {
        PemError::NoItemsFound => format!("has no {what} in PEM"),
        error => format!("is no PEM: {error}"),
    }
}

/// Every item of a kind that a file has; at least one.
fn items<T: PemObject>(option: &str, bytes: &[u8], path: &Path, what: &str) -> Result<Vec<T>, String> {
    let items: Result<Vec<T>, PemError> = T::pem_slice_iter(bytes).collect();
    let items =
        items.and_then(|items| if items.is_empty() { Err(PemError::NoItemsFound) } else { Ok(items) });
    items.map_err(|error| problem(option, path, no_pem(&error, what)))
}

fn chain(bytes: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    items(CERTIFICATE, bytes, path, "certificate")
}

/// When the first of a chain to expire does, in seconds since 1970; an error when it has.
fn expiry(chain: &[CertificateDer<'_>], path: &Path) -> Result<u64, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut first = u64::MAX;
    for (index, certificate) in chain.iter().enumerate() {
        let certificate = Certificate::from_der(certificate).map_err(|error| {
            problem(
                CERTIFICATE,
                path,
                format_args!("has a certificate (number {index}) that is none: {error}"),
            )
        })?;
        let validity = certificate.tbs_certificate.validity;
        let expires = validity.not_after.to_unix_duration().as_secs();
        if expires <= now {
            let what = format_args!(
                "has a certificate (number {index}) that expired at {}\nhint: renew it",
                validity.not_after
            );
            return Err(problem(CERTIFICATE, path, what));
        }
        if validity.not_before.to_unix_duration().as_secs() > now {
            // Where the clock is set late, as on small devices, it will be valid when clients come.
            tracing::warn!(
                "{}",
                problem(CERTIFICATE, path, format_args!("is not valid before {}", validity.not_before))
            );
        }
        first = first.min(expires);
    }
    Ok(first)
}

fn verifier(
    bytes: &[u8],
    path: &Path,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in
        items::<CertificateDer<'_>>(CLIENT_CA, bytes, path, "certificate")?.into_iter().enumerate()
    {
        roots.add(certificate).map_err(|error| {
            problem(CLIENT_CA, path, format_args!("has a certificate (number {index}) that is none: {error}"))
        })?;
    }
    let revoked: Result<Vec<CertificateRevocationListDer<'_>>, _> =
        CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let revoked = revoked.map_err(|error| problem(CLIENT_CA, path, no_pem(&error, "list")))?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(revoked)
        // Who has no list of revoked certificates in the file has revoked none.
        .allow_unknown_revocation_status()
        .build()
        .map_err(|error| problem(CLIENT_CA, path, format_args!("cannot be used: {error}")))
}

fn mismatch(error: &Error, files: &TlsFiles) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let certificate = files.certificate.display().to_string();
            let what = format!(
                "is not the key of {CERTIFICATE} `{}`\nhint: the server's own certificate comes first in its file",
                certificate.escape_debug()
            );
            problem(KEY, &files.key, what)
        }
        Error::InvalidCertificate(error) => {
            problem(CERTIFICATE, &files.certificate, format_args!("cannot be used: {error}"))
        }
        error => problem(KEY, &files.key, format_args!("cannot be used: {error}")),
    }
}
