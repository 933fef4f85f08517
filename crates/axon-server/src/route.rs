//! Which verb a path names. Pure, and on the path as it came: nothing is decoded, so nothing can hide in an escape.

use axon::repository::check_name;
use axon::{Error, ErrorKind, Result};
use hyper::Method;

use crate::residency::Keep;

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
    /// `/v2/repository[/R]/...`
    Repository {
        /// The repository, when the path names one.
        repository: Option<&'a str>,
        /// What is asked of it.
        verb: RepositoryVerb<'a>,
    },
    /// `/v2/{system,cuda}sharedmemory[/region/R]/...`
    SharedMemory {
        /// Whose memory.
        kind: MemoryKind,
        /// The region; `None` for all.
        region: Option<&'a str>,
        /// What is asked of it.
        verb: MemoryVerb,
    },
    /// `/v2/trace/setting`
    TraceSetting,
    /// `/v2/logging`
    Logging,
    /// `/metrics`
    Metrics,
    /// `/v2/residency`
    Residency,
    /// `/v2/aliases`
    Aliases,
    /// `/v2/aliases/A`
    Alias(&'a str),
    /// `/openapi.json`
    OpenApi,
    /// `/v2/axon/overview`
    Overview,
    /// `/`, `/dashboard`, `/docs`, and what their pages are made of.
    Page(&'a str),
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
    /// An answer to a flat JSON object.
    Generate,
    /// The same, as a stream of events.
    GenerateStream,
    /// Its configuration.
    Config,
    /// Its statistics.
    Statistics,
    /// What was learned of it.
    Explain,
    /// How it did lately.
    Recent,
    /// How it is traced.
    TraceSetting,
}

impl ModelVerb {
    /// Whether it asks for an answer of the model.
    #[must_use]
    pub const fn infers(self) -> bool {
        matches!(self, Self::Infer | Self::Generate | Self::GenerateStream)
    }
}

/// What is asked of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepositoryVerb<'a> {
    /// What it holds.
    Index,
    /// To load a model; its name is checked by the repository.
    Load(&'a str),
    /// To unload one.
    Unload(&'a str),
    /// To have one in memory, or not more than others.
    Keep(&'a str, Keep),
}

/// Whose memory a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// The host's.
    System,
    /// A GPU's.
    Cuda,
}

/// What is asked of a shared-memory region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryVerb {
    /// What is registered.
    Status,
    /// To use it from now on.
    Register,
    /// To forget it.
    Unregister,
}

impl Route<'_> {
    /// The methods that the route takes, as `Allow` lists them.
    #[must_use]
    pub fn allow(&self) -> &'static str {
        match self {
            Self::Model { verb, .. } => match verb {
                ModelVerb::Infer | ModelVerb::Generate | ModelVerb::GenerateStream => "POST",
                ModelVerb::TraceSetting => "GET, HEAD, POST",
                _ => "GET, HEAD",
            },
            Self::Repository { .. }
            | Self::SharedMemory { verb: MemoryVerb::Register | MemoryVerb::Unregister, .. } => "POST",
            Self::TraceSetting | Self::Logging | Self::Aliases => "GET, HEAD, POST",
            Self::Alias(_) => "GET, HEAD, PUT, DELETE",
            _ => "GET, HEAD",
        }
    }

    fn takes(&self, method: &Method) -> bool {
        if let Self::Model { verb, .. } = self
            && verb.infers()
        {
            return *method == Method::POST;
        }
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
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
    // The longest route has eight segments; the leading `/` makes an empty first one.
    let mut segments = [""; 10];
    let mut count = 0;
    for segment in path.split('/') {
        let Some(slot) = segments.get_mut(count) else { return Err(not_found(path)) };
        *slot = segment;
        count += 1;
    }
    let Some(["", first, rest @ ..]) = segments.get(..count) else { return Err(not_found(path)) };
    match (*first, rest) {
        ("v2", rest) => parse_v2(rest, path),
        ("metrics", []) => Ok(Route::Metrics),
        ("openapi.json", []) => Ok(Route::OpenApi),
        ("docs" | "dashboard", _) | ("", []) => Ok(Route::Page(path)),
        _ => Err(not_found(path)),
    }
}

fn parse_v2<'a>(segments: &[&'a str], path: &'a str) -> Result<Route<'a>> {
    match segments {
        [] => Ok(Route::Server),
        ["health", "live"] => Ok(Route::Live),
        ["health", "ready"] => Ok(Route::Ready),
        ["trace", "setting"] => Ok(Route::TraceSetting),
        ["logging"] => Ok(Route::Logging),
        ["residency"] => Ok(Route::Residency),
        ["aliases"] => Ok(Route::Aliases),
        ["aliases", name] if !name.is_empty() => Ok(Route::Alias(name)),
        ["axon", "overview"] => Ok(Route::Overview),
        ["models", "stats"] => Ok(Route::AllStatistics),
        ["models", name, "versions", version, rest @ ..] if !name.is_empty() => {
            let verb = model_verb(rest).filter(|verb| *verb != ModelVerb::TraceSetting);
            let verb = verb.ok_or_else(|| not_found(path))?;
            check_name(name)?;
            Ok(Route::Model { name, version: Some(parse_version(version)?), verb })
        }
        ["models", name, rest @ ..] if !name.is_empty() => {
            let verb = model_verb(rest).ok_or_else(|| not_found(path))?;
            check_name(name)?;
            Ok(Route::Model { name, version: None, verb })
        }
        ["repository", rest @ ..] => parse_repository(rest).ok_or_else(|| not_found(path)),
        ["systemsharedmemory", rest @ ..] => {
            parse_memory(MemoryKind::System, rest).ok_or_else(|| not_found(path))
        }
        ["cudasharedmemory", rest @ ..] => {
            parse_memory(MemoryKind::Cuda, rest).ok_or_else(|| not_found(path))
        }
        _ => Err(not_found(path)),
    }
}

fn model_verb(rest: &[&str]) -> Option<ModelVerb> {
    match rest {
        [] => Some(ModelVerb::Metadata),
        ["ready"] => Some(ModelVerb::Ready),
        ["infer"] => Some(ModelVerb::Infer),
        ["generate"] => Some(ModelVerb::Generate),
        ["generate_stream"] => Some(ModelVerb::GenerateStream),
        ["config"] => Some(ModelVerb::Config),
        ["stats"] => Some(ModelVerb::Statistics),
        ["explain"] => Some(ModelVerb::Explain),
        ["recent"] => Some(ModelVerb::Recent),
        ["trace", "setting"] => Some(ModelVerb::TraceSetting),
        _ => None,
    }
}

fn parse_repository<'a>(rest: &[&'a str]) -> Option<Route<'a>> {
    let (repository, rest) = match rest {
        ["index"] | ["models", ..] => (None, rest),
        [repository, rest @ ..] if !repository.is_empty() => (Some(*repository), rest),
        _ => return None,
    };
    let verb = match rest {
        ["index"] => RepositoryVerb::Index,
        ["models", name, "load"] => RepositoryVerb::Load(name),
        ["models", name, "unload"] => RepositoryVerb::Unload(name),
        ["models", name, "warm"] => RepositoryVerb::Keep(name, Keep::Warm),
        ["models", name, "pin"] => RepositoryVerb::Keep(name, Keep::Pin),
        ["models", name, "unpin"] => RepositoryVerb::Keep(name, Keep::Unpin),
        _ => return None,
    };
    Some(Route::Repository { repository, verb })
}

fn parse_memory<'a>(kind: MemoryKind, rest: &[&'a str]) -> Option<Route<'a>> {
    let (region, verb) = match rest {
        ["region", region, verb] => (Some(*region), *verb),
        [verb] => (None, *verb),
        _ => return None,
    };
    let verb = match verb {
        "status" => MemoryVerb::Status,
        "register" if region.is_some() => MemoryVerb::Register,
        "unregister" => MemoryVerb::Unregister,
        _ => return None,
    };
    Some(Route::SharedMemory { kind, region, verb })
}

/// That nothing is at a path.
pub(crate) fn not_found(path: &str) -> Error {
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
        check("/v2/models/m/trace/setting", model("m", None, ModelVerb::TraceSetting));
        check("/v2/models/m/versions/2/generate_stream", model("m", Some(2), ModelVerb::GenerateStream));
        let repository = |repository, verb| Route::Repository { repository, verb };
        check("/v2/repository/index", repository(None, RepositoryVerb::Index));
        check("/v2/repository/r/index", repository(Some("r"), RepositoryVerb::Index));
        check("/v2/residency", Route::Residency);
        check("/v2/aliases", Route::Aliases);
        check("/v2/aliases/prod", Route::Alias("prod"));
        check("/v2/repository/models/m/pin", repository(None, RepositoryVerb::Keep("m", Keep::Pin)));
        check("/v2/repository/models/m/load", repository(None, RepositoryVerb::Load("m")));
        check("/v2/repository/r/models/m/unload", repository(Some("r"), RepositoryVerb::Unload("m")));
        let memory = |kind, region, verb| Route::SharedMemory { kind, region, verb };
        check("/v2/systemsharedmemory/status", memory(MemoryKind::System, None, MemoryVerb::Status));
        check(
            "/v2/cudasharedmemory/region/r/register",
            memory(MemoryKind::Cuda, Some("r"), MemoryVerb::Register),
        );
        check("/v2/systemsharedmemory/unregister", memory(MemoryKind::System, None, MemoryVerb::Unregister));
        check("/metrics", Route::Metrics);
        check("/openapi.json", Route::OpenApi);
        check("/", Route::Page("/"));
        check("/dashboard", Route::Page("/dashboard"));
        check("/dashboard/main.js", Route::Page("/dashboard/main.js"));
        check("/v2/axon/overview", Route::Overview);
        check("/v2/models/m/recent", model("m", None, ModelVerb::Recent));
        check("/docs", Route::Page("/docs"));
        check("/docs/page.js", Route::Page("/docs/page.js"));
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
            "//",
            "//v2",
            "/v2/",
            "/v2/./models",
            "/V2",
            "/v2/models",
            "/v2/models//infer",
            "/v2/models/m/x",
            "/v2/models/m/versions/1/trace/setting",
            "/v2/repository",
            "/v2/aliases/",
            "/v2/aliases/a/b",
            "/v2/repository//index",
            "/v2/systemsharedmemory/register",
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
        assert!(route(&Method::PUT, "/v2/aliases/prod").is_ok());
        assert!(route(&Method::DELETE, "/v2/aliases").is_err());
        assert!(route(&Method::POST, "/v2").is_err());
    }
}
