//! Tells how a request was run: in headers over HTTP, in trailers over gRPC.

use std::time::Duration;

use axon::request::{CacheUse, Timing};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// What it waited for its model to be loaded, in milliseconds; told where it did.
const LOAD: HeaderName = HeaderName::from_static("x-axon-load-ms");
/// From its arrival at the queue to the start of its batch, in milliseconds.
const QUEUE: HeaderName = HeaderName::from_static("x-axon-queue-ms");
/// The run of its batch, in milliseconds.
const COMPUTE: HeaderName = HeaderName::from_static("x-axon-compute-ms");
/// The rows of its batch, neighbours' included.
const BATCH_SIZE: HeaderName = HeaderName::from_static("x-axon-batch-size");
/// Whether the response cache answered, `hit` or `miss`, of models whose answers are kept.
const CACHE: HeaderName = HeaderName::from_static("x-axon-cache");

/// Adds what is told of `timing`.
pub(crate) fn insert(headers: &mut HeaderMap, timing: &Timing) {
    if !timing.load.is_zero() {
        headers.insert(LOAD, milliseconds(timing.load));
    }
    headers.insert(QUEUE, milliseconds(timing.queue));
    headers.insert(COMPUTE, milliseconds(timing.compute));
    headers.insert(BATCH_SIZE, HeaderValue::from(timing.batch_rows));
    let cache = match timing.cache {
        CacheUse::None => return,
        CacheUse::Miss => "miss",
        CacheUse::Hit => "hit",
    };
    headers.insert(CACHE, HeaderValue::from_static(cache));
}

/// Milliseconds with three decimals. Each answer pays for it, so that it goes without the machinery of `format!`.
fn milliseconds(duration: Duration) -> HeaderValue {
    // The digits of any `u64` and a point.
    let mut text = [b'0'; 21];
    let mut start = text.len();
    let mut rest = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    for (index, place) in text.iter_mut().enumerate().rev() {
        let written = 20 - index;
        if written == 3 {
            *place = b'.';
        } else if rest > 0 || written < 5 {
            // A remainder of ten fits a byte.
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
        } else {
            break;
        }
        start = index;
    }
    HeaderValue::from_bytes(text.get(start..).unwrap_or_default())
        .unwrap_or_else(|_| HeaderValue::from_static("0.000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_decimals() {
        let check = |nanoseconds, expected: &str| {
            assert_eq!(milliseconds(Duration::from_nanos(nanoseconds)).to_str().unwrap(), expected);
        };
        check(0, "0.000");
        check(999, "0.000");
        check(1_000, "0.001");
        check(999_999, "0.999");
        check(1_000_000, "1.000");
        check(10_203_040, "10.203");
        check(300_000_000_000, "300000.000");
        assert_eq!(milliseconds(Duration::MAX).to_str().unwrap(), "18446744073709551.615");
    }

    #[test]
    fn a_run_is_told_in_three_headers() {
        let mut headers = HeaderMap::new();
        let timing = Timing {
            queue: Duration::from_micros(1_250),
            compute: Duration::from_millis(20),
            batch_rows: 8,
            ..Timing::default()
        };
        insert(&mut headers, &timing);
        let read = |headers: &HeaderMap, name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(
            ["x-axon-queue-ms", "x-axon-compute-ms", "x-axon-batch-size"].map(|name| read(&headers, name)),
            ["1.250", "20.000", "8"]
        );
        assert!(!headers.contains_key("x-axon-load-ms"), "its model was there");
        insert(&mut headers, &Timing { load: Duration::from_millis(31), ..timing });
        assert_eq!(read(&headers, "x-axon-load-ms"), "31.000");
    }
}
