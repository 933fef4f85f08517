//! Which verb a path names. Pure, and on the path as it came: nothing is decoded, so nothing can hide in an escape.

use axon::repository::check_name;
use axon::{Error, ErrorKind, Result};
use hyper::Method;

/// The longest path and query, in bytes.
pub const MAX_URI: usize = 8 << 10;

/// A verb of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/v2`
    Server,
    /// `/v2/health/live`
    Live,
    /// `/v2/health/ready`
    Ready,
    /// `/v2/models/stats`
    AllStatistics,
    /// `/v2/models/M[/versions/V]...`
    Model {
        /// The name, checked.
        name: &'a str,
        /// The version, when the path has one.
        version: Option<u64>,
        /// What is asked of it.
        verb: ModelVerb,
    },
}

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelVerb {
    /// Its metadata.
    Metadata,
    /// Whether it is ready.
    Ready,
    /// An answer.
    Infer,
    /// Its statistics.
    Statistics,
}

impl Route<'_> {
    /// The methods that the route takes, as `Allow` lists them.
    #[must_use]
    pub fn allow(&self) -> &'static str {
        match self {
            Self::Model { verb: ModelVerb::Infer, .. } => "POST",
            _ => "GET, HEAD",
        }
    }

    fn takes(&self, method: &Method) -> bool {
        match self {
            Self::Model { verb: ModelVerb::Infer, .. } => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }
}

/// Finds the route of a path.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a path that names nothing, [`ErrorKind::MethodNotAllowed`], and
/// [`ErrorKind::InvalidRequest`] for a model name or version that could never be one.
pub fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>> {
    let route = parse(path)?;
    if route.takes(method) {
        return Ok(route);
    }
    let method = axon::error::Echo(method.as_str()).to_string();
    Err(Error::at(
        ErrorKind::MethodNotAllowed,
        "method",
        format_args!("expected {}, got {method}", route.allow()),
    ))
}

/// Finds the route of a path, whatever the method.
///
/// # Errors
/// As [`route`], but for the method.
pub fn parse(path: &str) -> Result<Route<'_>> {
    // The longest route has seven segments; the leading `/` makes an empty first one.
    let mut segments = [""; 9];
    let mut count = 0;
    for segment in path.split('/') {
        let Some(slot) = segments.get_mut(count) else { return Err(not_found(path)) };
        *slot = segment;
        count += 1;
    }
    match segments.get(..count).unwrap_or_default() {
        ["", "v2"] => Ok(Route::Server),
        ["", "v2", "health", "live"] => Ok(Route::Live),
        ["", "v2", "health", "ready"] => Ok(Route::Ready),
        ["", "v2", "models", "stats"] => Ok(Route::AllStatistics),
        ["", "v2", "models", name, "versions", version, rest @ ..] if !name.is_empty() => {
            let verb = model_verb(rest).ok_or_else(|| not_found(path))?;
            check_name(name)?;
            Ok(Route::Model { name, version: Some(parse_version(version)?), verb })
        }
        ["", "v2", "models", name, rest @ ..] if !name.is_empty() => {
            let verb = model_verb(rest).ok_or_else(|| not_found(path))?;
            check_name(name)?;
            Ok(Route::Model { name, version: None, verb })
        }
        _ => Err(not_found(path)),
    }
}

fn model_verb(rest: &[&str]) -> Option<ModelVerb> {
    match rest {
        [] => Some(ModelVerb::Metadata),
        ["ready"] => Some(ModelVerb::Ready),
        ["infer"] => Some(ModelVerb::Infer),
        ["stats"] => Some(ModelVerb::Statistics),
        _ => None,
    }
}

fn not_found(path: &str) -> Error {
    Error::at(ErrorKind::NotFound, "path", format_args!("nothing is at {}", axon::error::Echo(path)))
}

/// Parses a version: a positive integer without leading zeros, at most 2⁶³ - 1.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] at `version`.
pub fn parse_version(text: &str) -> Result<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let version = text.parse::<u64>().ok().filter(|&version| digits && version <= i64::MAX.unsigned_abs());
    version.ok_or_else(|| {
        Error::invalid(
            "version",
            format_args!("expected a positive integer of at most 2^63 - 1, got {}", axon::error::Echo(text)),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_verbs() {
        let model = |name, version, verb| Route::Model { name, version, verb };
        let check = |path, expected| assert_eq!(parse(path).unwrap(), expected, "{path}");
        check("/v2", Route::Server);
        check("/v2/health/live", Route::Live);
        check("/v2/health/ready", Route::Ready);
        check("/v2/models/stats", Route::AllStatistics);
        check("/v2/models/m", model("m", None, ModelVerb::Metadata));
        check("/v2/models/m/ready", model("m", None, ModelVerb::Ready));
        check("/v2/models/m/infer", model("m", None, ModelVerb::Infer));
        check("/v2/models/m/versions/12/infer", model("m", Some(12), ModelVerb::Infer));
        check("/v2/models/versions/versions/1", model("versions", Some(1), ModelVerb::Metadata));
    }

    #[test]
    fn what_names_nothing_is_told_apart_from_a_wrong_name() {
        let check = |path: &str, kind, field| {
            let error = parse(path).unwrap_err();
            assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{path}");
        };
        // B-40
        for path in [
            "",
            "/",
            "//v2",
            "/v2/",
            "/v2/./models",
            "/V2",
            "/v2/models",
            "/v2/models//infer",
            "/v2/models/m/x",
        ] {
            check(path, ErrorKind::NotFound, "path");
        }
        check(&"/v2/models/m".repeat(5), ErrorKind::NotFound, "path");
        // B-41
        for name in ["..%2f..%2fetc", "m%00", "%c0%ae", "..", &"x".repeat(200)] {
            check(&format!("/v2/models/{name}/infer"), ErrorKind::InvalidRequest, "model_name");
        }
        // B-37
        for version in ["abc", "-1", "36893488147419103232", "9223372036854775808", "01", "0", "+1", ""] {
            check(&format!("/v2/models/m/versions/{version}"), ErrorKind::InvalidRequest, "version");
        }
    }

    #[test]
    fn a_verb_takes_its_methods_only() {
        // B-39
        for method in [Method::GET, Method::PUT, Method::TRACE, Method::DELETE] {
            let error = route(&method, "/v2/models/m/infer").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MethodNotAllowed);
        }
        assert!(route(&Method::HEAD, "/v2/health/live").is_ok());
        assert!(route(&Method::POST, "/v2").is_err());
    }
}
