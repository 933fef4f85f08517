//! W3C's trace context: which trace a request belongs to, and which span of it asked.
//!
//! **Source:** W3C Trace Context, level 2. A `traceparent` that is malformed is taken for none; so is a `tracestate`
//! that is malformed, or that comes without a `traceparent`.

use std::fmt;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The caller records its spans, or we do ours.
pub(super) const SAMPLED: u8 = 1;
/// The low 56 bits of the trace's id are random.
pub(super) const RANDOM: u8 = 2;

/// The most members of a `tracestate`.
const MAX_MEMBERS: usize = 32;
/// The most characters of a member's key, and of its value.
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 256;

/// A span, as others refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanContext {
    pub trace: u128,
    pub span: u64,
    pub flags: u8,
}

impl SpanContext {
    /// The trace's id as logs and exemplars show it.
    pub const fn trace_id(self) -> TraceId {
        TraceId(self.trace)
    }

    /// Its own id as logs show it.
    pub const fn span_id(self) -> SpanId {
        SpanId(self.span)
    }

    /// Whether its spans are meant to be kept.
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Reads a `traceparent`.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(55)?;
        let [v1, v2, b'-', ids @ ..] = known else { return None };
        let (trace, ids) = ids.split_at_checked(32)?;
        let (dash, ids) = ids.split_first()?;
        let (span, ids) = ids.split_at_checked(16)?;
        let [second_dash, f1, f2] = ids else { return None };
        let version = hex(&[*v1, *v2])?;
        // Later versions may go on behind another dash; version 0 may not, and 255 is none.
        let ends = rest.is_empty() || (version != 0 && rest.starts_with(b"-"));
        if version == 0xff || !ends || *dash != b'-' || *second_dash != b'-' {
            return None;
        }
        let (trace, span) = (hex(trace)?, u64::try_from(hex(span)?).ok()?);
        let flags = u8::try_from(hex(&[*f1, *f2])?).ok()?;
        // What other bits mean is not known, so they are not passed on.
        let flags = flags & (SAMPLED | RANDOM);
        (trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }
}

/// The form of a `traceparent`.
impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// A trace's id: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A span's id: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpanId(u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A number of hexadecimal digits, none of them a capital.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// What a request's headers say of the trace that it belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub context: Option<SpanContext>,
    /// What tracing systems on the way said to each other: handed on as it came.
    pub state: Option<HeaderValue>,
    /// It is a span of this server that asks: the stream's, for a question of it.
    pub is_local: bool,
}

impl Caller {
    /// Reads headers, or the metadata of a call.
    pub fn of(headers: &HeaderMap) -> Self {
        Self::read(headers, headers.contains_key(TRACEPARENT))
    }

    /// The same, of headers that are known to have a `traceparent` or not.
    pub fn read(headers: &HeaderMap, has_parent: bool) -> Self {
        if !has_parent {
            return Self::default();
        }
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return Self::default() };
        let context = SpanContext::parse(parent.as_bytes());
        Self { context, state: context.and_then(|_| state(headers)), is_local: false }
    }

    /// Reads texts that stand for the headers, such as the parameters of a question in a stream.
    pub fn of_texts(parent: &str, state: Option<&str>) -> Self {
        let context = SpanContext::parse(parent.as_bytes());
        let state = state.filter(|state| context.is_some() && is_state(state.as_bytes()));
        Self { context, state: state.and_then(|state| HeaderValue::from_str(state).ok()), is_local: false }
    }
}

/// The `tracestate`, which may come in several headers.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?.clone();
    let rest: Vec<_> = values.collect();
    let joined = if rest.is_empty() {
        first
    } else {
        let parts: Vec<_> = std::iter::once(&first).chain(rest).map(HeaderValue::as_bytes).collect();
        HeaderValue::from_bytes(&parts.join(&b","[..])).ok()?
    };
    is_state(joined.as_bytes()).then_some(joined)
}

fn is_state(text: &[u8]) -> bool {
    let mut keys: Vec<&[u8]> = Vec::new();
    for member in text.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
        if member.is_empty() {
            continue;
        }
        let Some(equals) = member.iter().position(|&byte| byte == b'=') else { return false };
        let (key, value) = member.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        if keys.len() == MAX_MEMBERS || keys.contains(&key) || !is_key(key) || !is_value(value) {
            return false;
        }
        keys.push(key);
    }
    !keys.is_empty()
}

fn is_key(key: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_plain = |byte: &u8| is_letter(byte) || b"_-*/@".contains(byte);
    // One may part a tenant from its system.
    let is_parted = key.split(|&byte| byte == b'@').nth(2).is_none();
    key.len() <= MAX_KEY && key.first().is_some_and(is_letter) && key.iter().all(is_plain) && is_parted
}

fn is_value(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'=';
    (1..=MAX_VALUE).contains(&value.len()) && value.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(lines: &[(&'static str, &str)]) -> Caller {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Caller::of(&headers)
    }

    #[test]
    fn a_traceparent_is_read_and_written() {
        let check = |text: &str, written: Option<&str>| {
            let read = read(&[("traceparent", text)]).context;
            assert_eq!(read.map(|context| context.to_string()).as_deref(), written, "{text}");
        };
        check(GOOD, Some(GOOD));
        let other = |flags: &str| format!("{}{flags}", &GOOD[..53]);
        check(&other("00"), Some(&other("00")));
        check(&other("03"), Some(&other("03")));
        check(&other("ff"), Some(&other("03")));
        // Later versions begin as version 0 does.
        check(&GOOD.replacen("00", "cc", 1), Some(GOOD));
        check(&format!("{}-what-comes", GOOD.replacen("00", "cc", 1)), Some(GOOD));
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &format!("{}x", GOOD.replacen("00", "cc", 1)),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0x", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace("-00f", "_00f"),
            &GOOD.replace("b7-01", "b7_01"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &other("0g"),
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn texts_are_read_as_headers_are() {
        let read = |parent, state| {
            let Caller { context, state, is_local } = Caller::of_texts(parent, state);
            assert!(!is_local);
            (context.map(|context| context.to_string()), state)
        };
        assert_eq!(
            read(GOOD, Some("one=1")),
            (Some(GOOD.to_owned()), Some(HeaderValue::from_static("one=1")))
        );
        assert_eq!(read(GOOD, Some("one")), (Some(GOOD.to_owned()), None));
        assert_eq!(read(GOOD, Some("one=\n")), (Some(GOOD.to_owned()), None));
        assert_eq!(read("00", Some("one=1")), (None, None));
    }

    #[test]
    fn of_two_traceparents_neither_is_believed() {
        assert_eq!(read(&[("traceparent", GOOD), ("traceparent", GOOD)]).context, None);
    }

    #[test]
    fn a_tracestate_is_handed_on_when_it_is_one() {
        let check = |values: &[&str], expected: Option<&str>| {
            let lines = values.iter().map(|value| ("tracestate", *value));
            let lines: Vec<_> = std::iter::once(("traceparent", GOOD)).chain(lines).collect();
            let state = read(&lines).state;
            assert_eq!(state.as_ref().map(|state| state.to_str().unwrap()), expected, "{values:?}");
        };
        check(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
        check(&["a=1", "t@b=2"], Some("a=1,t@b=2"));
        check(&["a=1, ,b=2 3"], Some("a=1, ,b=2 3"));
        let many = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        check(&[&many(32)], Some(&many(32)));
        for wrong in [&many(33), "", ",", "a", "a=", "A=1", "a=1,a=2", "a=b=c", "=1", "a@b@c=1", "a=\u{e9}"] {
            check(&[wrong], None);
        }
        check(&[&format!("{}=1", "k".repeat(257))], None);
        check(&[&format!("k={}", "v".repeat(257))], None);
        assert!(read(&[("tracestate", "a=1")]).state.is_none());
        assert!(read(&[("traceparent", "x"), ("tracestate", "a=1")]).state.is_none());
    }
}
