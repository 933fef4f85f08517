//! Which collector spans are sent to, and as whose: by the options, and by the environment as every program that speaks
//! OpenTelemetry reads it.
//!
//! **Source:** OpenTelemetry, "OTLP exporter configuration" and "Environment variable specification".

use std::time::Duration;

use axon::error::Echo;
use axon::{Error, Result};
use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::TraceOptions;

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1.
    Http,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// The names on the command line and in the environment.
    pub const NAMES: [&'static str; 2] = ["http/protobuf", "grpc"];
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "http/protobuf" => Ok(Self::Http),
            "grpc" => Ok(Self::Grpc),
            _ => Err(format!("expected {}, got {}", Self::NAMES.join(" or "), Echo(text))),
        }
    }
}

/// Where spans go.
pub(super) struct Destination {
    pub protocol: Protocol,
    pub host: String,
    pub port: u16,
    /// `host:port` as requests name it.
    pub authority: String,
    pub path: String,
    /// What the collector wants to be told with each request, such as a key.
    pub headers: HeaderMap,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// How long spans are collected before they are sent.
    pub delay: Duration,
    /// Who the spans are of, `service.name` among them.
    pub resource: Vec<(String, String)>,
}

/// The path of the call that takes spans.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The option that names the collector.
const OPTION: &str = "--otlp-endpoint";

/// The variables, each for traces alone and for all signals.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const DELAY: &str = "OTEL_BSP_SCHEDULE_DELAY";

const TIMEOUT_MS: u64 = 10_000;
const DELAY_MS: u64 = 1_000;
/// The longest of each.
const MAX_MS: u64 = 60_000;

impl Destination {
    /// What `options` and the environment say; `None` when neither names a collector, or tracing is switched off.
    pub fn find(options: &TraceOptions, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        // What is said for traces alone comes first. The variable is told beside its value, to be blamed for it.
        let exporter = |[own, general]: [&'static str; 2]| {
            let said = |name| variable(name).map(|value| (name, value));
            said(own).or_else(|| said(general))
        };
        let says = |name: &str, value: &str| {
            variable(name).is_some_and(|said| said.trim().eq_ignore_ascii_case(value))
        };
        let is_off = says("OTEL_SDK_DISABLED", "true") || says("OTEL_TRACES_EXPORTER", "none");
        // A URL for traces alone is used as it is; any other is where the paths of all signals begin.
        let (name, url) = match (&options.endpoint, exporter(ENDPOINTS)) {
            (Some(url), _) => (OPTION, url.clone()),
            (None, Some(said)) if !is_off => said,
            (None, _) => return Ok(None),
        };
        let is_whole = name == ENDPOINTS[0];
        let protocol = match (options.protocol, exporter(PROTOCOLS)) {
            (Some(protocol), _) => protocol,
            (None, Some((name, value))) => {
                value.trim().parse().map_err(|problem: String| wrong(name, &problem))?
            }
            (None, None) => Protocol::Http,
        };
        let Place { host, port, authority, path } = Place::of(&url, name)?;
        let path = match protocol {
            Protocol::Grpc => GRPC_PATH.to_owned(),
            Protocol::Http if is_whole => path,
            Protocol::Http => format!("{}/v1/traces", path.trim_end_matches('/')),
        };
        let headers =
            exporter(HEADERS).map_or_else(|| Ok(HeaderMap::new()), |(name, text)| headers(name, &text))?;
        let delay = variable(DELAY).map(|text| (DELAY, text));
        Ok(Some(Self {
            protocol,
            host,
            port,
            authority,
            path,
            headers,
            timeout: milliseconds(exporter(TIMEOUTS), TIMEOUT_MS)?,
            delay: milliseconds(delay, DELAY_MS)?,
            resource: resource(variable("OTEL_SERVICE_NAME"), variable("OTEL_RESOURCE_ATTRIBUTES"))?,
        }))
    }
}

fn wrong(name: &'static str, problem: &str) -> Error {
    Error::invalid(name, problem)
}

struct Place {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Place {
    /// Reads the URL that `name`, an option or a variable, says.
    fn of(url: &str, name: &'static str) -> Result<Self> {
        // What is echoed may be a password.
        let problem = |expected: &str| Error::invalid(name, format_args!("expected {expected}"));
        let uri: Uri = url.trim().parse().map_err(|_| problem("a URL such as http://127.0.0.1:4318"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(problem(
                    "http://: traces are sent without TLS\nhint: send them to a collector on this host, which passes them on",
                ));
            }
            _ => return Err(problem("a URL such as http://127.0.0.1:4318")),
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(|| problem("a host, without a user's name or password"))?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(80),
            // A sign is none of a port's, though a number may have one.
            Some(port) => port
                .strip_prefix(':')
                .filter(|port| !port.starts_with('+'))
                .and_then(|port| port.parse().ok()),
            None => None,
        };
        let port = port.filter(|port| *port > 0);
        Ok(Self {
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.ok_or_else(|| problem("a port from 1 to 65535 behind the host's colon"))?,
            authority: authority.as_str().to_owned(),
            path: uri.path().to_owned(),
        })
    }
}

/// What a variable says, or else what is usual.
fn milliseconds(said: Option<(&'static str, String)>, usual: u64) -> Result<Duration> {
    let Some((name, text)) = said else { return Ok(Duration::from_millis(usual)) };
    let number = text.trim().parse().ok().filter(|number| (1..=MAX_MS).contains(number));
    let number = number.ok_or_else(|| {
        Error::invalid(name, format_args!("expected 1 to {MAX_MS} milliseconds, got {}", Echo(&text)))
    });
    number.map(Duration::from_millis)
}

/// `key=value,key=value`, the values with `%` and two digits for what cannot stand there.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    let pair = |member: &str| {
        let (key, value) = member.split_once('=')?;
        Some((key.trim().to_owned(), percent_decode(value.trim())?)).filter(|(key, _)| !key.is_empty())
    };
    members.map(pair).collect()
}

fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        rest = others;
        if *first == b'%' {
            let (digits, others) = others.split_at_checked(2)?;
            rest = others;
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            decoded.push(*first);
        }
    }
    String::from_utf8(decoded).ok()
}

/// The headers, whose values are not told: they are keys to other people's systems.
fn headers(name: &'static str, text: &str) -> Result<HeaderMap> {
    let problem = || wrong(name, "expected name=value,name=value");
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text).ok_or_else(problem)? {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| problem())?;
        let mut value = HeaderValue::from_str(&value).map_err(|_| problem())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Who the spans are of. A name of its own wins over one among the attributes.
fn resource(name: Option<String>, attributes: Option<String>) -> Result<Vec<(String, String)>> {
    let told = attributes.unwrap_or_default();
    let mut resource = pairs(&told).ok_or_else(|| {
        wrong("OTEL_RESOURCE_ATTRIBUTES", &format!("expected key=value,key=value, got {}", Echo(&told)))
    })?;
    let is_name = |(key, _): &(String, String)| key == "service.name";
    if name.is_some() {
        resource.retain(|pair| !is_name(pair));
    }
    if !resource.iter().any(is_name) {
        resource.push(("service.name".to_owned(), name.unwrap_or_else(|| "axon".to_owned())));
    }
    let mut add = |key: &str, value: String| {
        if !resource.iter().any(|(known, _)| known == key) {
            resource.push((key.to_owned(), value));
        }
    };
    add("service.version", env!("CARGO_PKG_VERSION").to_owned());
    add("process.pid", std::process::id().to_string());
    Ok(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(endpoint: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<Destination>> {
        let options = TraceOptions { endpoint: endpoint.map(str::to_owned), ..TraceOptions::default() };
        let value = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Destination::find(&options, value)
    }

    #[test]
    fn the_place_is_that_of_the_option_or_else_of_the_environment() {
        let check = |endpoint: Option<&str>, variables: &[(&str, &str)], expected: Option<&str>| {
            let found = find(endpoint, variables).unwrap();
            let told = found.map(|to| format!("{}:{}{}", to.host, to.port, to.path));
            assert_eq!(told.as_deref(), expected, "{endpoint:?} {variables:?}");
        };
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:1/base/");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:2/all");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        check(None, &[], None);
        check(Some("http://127.0.0.1:4318"), &[own], Some("127.0.0.1:4318/v1/traces"));
        check(Some("http://[::1]:4318/x"), &[], Some("::1:4318/x/v1/traces"));
        check(Some("http://collector"), &[], Some("collector:80/v1/traces"));
        check(Some("http://[::1]/"), &[], Some("::1:80/v1/traces"));
        check(Some("http://collector:65535/"), &[], Some("collector:65535/v1/traces"));
        check(None, &[general], Some("general:1/base/v1/traces"));
        check(None, &[general, own], Some("own:2/all"));
        check(None, &[general, grpc], Some(&format!("general:1{GRPC_PATH}")));
        check(None, &[general, ("OTEL_SDK_DISABLED", "true")], None);
        check(None, &[general, ("OTEL_TRACES_EXPORTER", "none")], None);
        check(Some("http://here:3"), &[("OTEL_SDK_DISABLED", "true")], Some("here:3/v1/traces"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |endpoint: &str, variables: &[(&str, &str)], field: &str| {
            let error = find(Some(endpoint), variables).err().unwrap();
            assert_eq!(error.field(), Some(field), "{endpoint} {variables:?}");
        };
        for url in [
            "collector:4318",
            "https://collector",
            "ftp://x",
            "http://user:secret@x",
            "http://",
            "x y",
            "",
            "http://x:",
            "http://x:0",
            "http://x:65536",
            "http://x:99999/v1",
            "http://x:+80",
            "http://x:http",
            "http://[::1]:",
            "http://[::1]:0",
        ] {
            check(url, &[], "--otlp-endpoint");
        }
        for name in ENDPOINTS {
            for url in ["collector:4318", "http://user:secret@x", "http://x:", "http://x:65536"] {
                let error = find(None, &[(name, url)]).err().unwrap();
                assert_eq!(error.field(), Some(name), "{url}");
                assert!(!error.message().contains("secret"));
            }
        }
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "key"),
            ("OTEL_BSP_SCHEDULE_DELAY", "60001"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "key"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "k=%0A"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "k=%4"),
            ("OTEL_RESOURCE_ATTRIBUTES", "=v"),
        ] {
            check("http://x", &[(name, value)], name);
        }
    }

    #[test]
    fn headers_and_attributes_are_read() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%2Cb, x = y "),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment=test"),
            ("OTEL_SERVICE_NAME", "mine"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ];
        let found = find(Some("http://x"), &variables).unwrap().unwrap();
        assert_eq!(
            (&found.headers["api-key"], &found.headers["x"]),
            (&"a,b".parse().unwrap(), &"y".parse().unwrap())
        );
        let check = |key: &str, expected: &str| {
            let values: Vec<_> = found.resource.iter().filter(|(known, _)| known == key).collect();
            assert_eq!(values, [&(key.to_owned(), expected.to_owned())]);
        };
        check("service.name", "mine");
        check("deployment.environment", "test");
        assert_eq!(found.timeout, Duration::from_millis(250));
        assert_eq!(found.delay, Duration::from_millis(DELAY_MS));
    }
}
