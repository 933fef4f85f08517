//! Which of the headers that matter a request has, found in one pass.
//!
//! Most requests have few of them, and looking up one that is not there costs as much as half the pass.

use hyper::header::{HeaderMap, HeaderValue};

/// A header of requests that matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known {
    AcceptEncoding,
    CacheControl,
    ContentEncoding,
    ContentType,
    HeaderLength,
    Host,
    Origin,
    RequestTimeout,
    Site,
    TraceParent,
    TransferEncoding,
}

impl Known {
    const ALL: [Self; 11] = [
        Self::AcceptEncoding,
        Self::CacheControl,
        Self::ContentEncoding,
        Self::ContentType,
        Self::HeaderLength,
        Self::Host,
        Self::Origin,
        Self::RequestTimeout,
        Self::Site,
        Self::TraceParent,
        Self::TransferEncoding,
    ];

    /// Its name, in lower case.
    const fn name(self) -> &'static str {
        match self {
            Self::AcceptEncoding => "accept-encoding",
            Self::CacheControl => "cache-control",
            Self::ContentEncoding => "content-encoding",
            Self::ContentType => "content-type",
            Self::HeaderLength => "inference-header-content-length",
            Self::Host => "host",
            Self::Origin => "origin",
            Self::RequestTimeout => "x-request-timeout",
            Self::Site => "sec-fetch-site",
            Self::TraceParent => "traceparent",
            Self::TransferEncoding => "transfer-encoding",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The headers of a request, and which of those that matter are among them.
#[derive(Clone, Copy)]
pub(crate) struct Present<'a> {
    headers: &'a HeaderMap,
    found: u16,
    repeated: u16,
}

impl<'a> Present<'a> {
    /// Looks through `headers`.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let (mut found, mut repeated) = (0, 0);
        for name in headers.iter().map(|(name, _)| name.as_str()) {
            // One of another length is not compared.
            if let Some(known) = Known::ALL.iter().find(|known| known.name() == name) {
                repeated |= found & known.bit();
                found |= known.bit();
            }
        }
        Self { headers, found, repeated }
    }

    /// Whether the request has it, once or more often.
    pub const fn has(self, known: Known) -> bool {
        self.found & known.bit() != 0
    }

    /// Whether the request has it more than once.
    pub const fn repeats(self, known: Known) -> bool {
        self.repeated & known.bit() != 0
    }

    /// Its first value.
    pub fn get(self, known: Known) -> Option<&'a HeaderValue> {
        if self.has(known) { self.headers.get(known.name()) } else { None }
    }

    /// All headers.
    pub const fn all(self) -> &'a HeaderMap {
        self.headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_has_is_found_whatever_its_case_and_order() {
        let lines: [(&'static [u8], &str); 4] =
            [(b"X-Other", "1"), (b"Host", "a"), (b"TRACEPARENT", "t"), (b"host", "b")];
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = hyper::header::HeaderName::from_bytes(name).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let present = Present::of(&headers);
        assert!(present.has(Known::Host) && present.repeats(Known::Host));
        assert!(present.has(Known::TraceParent) && !present.repeats(Known::TraceParent));
        assert_eq!(present.get(Known::Host).unwrap(), "a");
        assert_eq!(present.get(Known::TraceParent).unwrap(), "t");
        for absent in Known::ALL {
            if !matches!(absent, Known::Host | Known::TraceParent) {
                assert!(!present.has(absent) && present.get(absent).is_none(), "{absent:?}");
            }
        }
    }

    #[test]
    fn each_header_has_a_bit_of_its_own() {
        let all = Known::ALL.iter().fold(0_u16, |all, known| {
            assert_eq!(all & known.bit(), 0, "{known:?}");
            all | known.bit()
        });
        assert_eq!(all.count_ones() as usize, Known::ALL.len());
    }
}
