//! Which host a request is for, where it could say so twice.

use axon::error::Echo;
use axon::{Error, Result};
use hyper::header::{HOST, HeaderMap};
use hyper::{Uri, Version};

/// Checks that a request of HTTP/2 with a `Host` header names the host of its `:authority`: whoever routed it by one
/// must not have it answered by the other.
///
/// **Source:** RFC 9113, section 8.3.1.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](axon::ErrorKind) at `Host`.
pub(crate) fn check_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<()> {
    let (Version::HTTP_2, Some(authority)) = (version, uri.authority()) else { return Ok(()) };
    for host in headers.get_all(HOST) {
        if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) {
            let got = String::from_utf8_lossy(host.as_bytes());
            return Err(Error::invalid(
                "Host",
                format_args!("expected the :authority, {}, got {}", Echo(authority.as_str()), Echo(&got)),
            ));
        }
    }
    Ok(())
}
