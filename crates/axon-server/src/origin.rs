//! Requests that a browser sends for a page of another site.
//!
//! A browser lets any page post to any address that its user can reach, loopback included, and only keeps the answer from
//! it. That is enough to unload a model, so such requests are refused before their body is read. Programs that are no
//! browsers name no origin and are not concerned.

use axon::error::Echo;
use axon::{Error, ErrorKind, Result};
use hyper::Method;
use hyper::header::{HOST, HeaderValue};
use hyper::http::request::Parts;

use crate::present::{Known, Present};

/// Checks that a request that may change something is not sent for a page of another site.
///
/// **Source:** Fetch Metadata Request Headers (W3C), section 2.4; Fetch (WHATWG), the `Origin` header.
///
/// # Errors
/// [`ErrorKind::PermissionDenied`] at `Origin`.
pub(crate) fn check_origin(head: &Parts, present: Present<'_>) -> Result<()> {
    // `Sec-Fetch-Site` is what a browser says of the page that asks, on connections that it trusts, loopback among them.
    let (origin, site) = (present.get(Known::Origin), present.get(Known::Site));
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(&head.method) {
        return Ok(());
    }
    let origin = origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()));
    let is_own = match site {
        Some(site) => matches!(site.as_bytes(), b"same-origin" | b"none"),
        None => origin.as_deref().is_none_or(|origin| is_host(head, origin)),
    };
    if is_own {
        return Ok(());
    }
    let got = origin.unwrap_or_default();
    Err(Error::at(
        ErrorKind::PermissionDenied,
        "Origin",
        format_args!(
            "expected a page of this server, got {}\nhint: pages of other sites may not ask; ask by a program, or serve \
             both behind one address",
            Echo(&got)
        ),
    ))
}

/// Whether an origin names the host that a request is for.
fn is_host(head: &Parts, origin: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let named = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = named.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes));
    host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_bytes()))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn is_let_in(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri("/v2/x").header(HOST, "Localhost:8000");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let checked = check_origin(&head, Present::of(&head.headers));
        if let Err(error) = &checked {
            assert_eq!((error.kind(), error.field()), (ErrorKind::PermissionDenied, Some("Origin")));
        }
        checked.is_ok()
    }

    #[test]
    fn a_page_of_another_site_may_look_and_not_ask() {
        let other = ("origin", "https://other.example");
        assert!(is_let_in("GET", &[other]));
        assert!(!is_let_in("POST", &[other]));
        assert!(!is_let_in("POST", &[("origin", "null")]));
        assert!(!is_let_in("POST", &[("sec-fetch-site", "cross-site")]));
        assert!(!is_let_in("POST", &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:8000")]));
    }

    #[test]
    fn programs_and_the_servers_own_pages_ask() {
        assert!(is_let_in("POST", &[]));
        assert!(is_let_in("POST", &[("origin", "http://localhost:8000")]));
        // A proxy may have another name for the server than the browser.
        assert!(is_let_in(
            "POST",
            &[("origin", "https://models.example"), ("sec-fetch-site", "same-origin")]
        ));
    }
}
