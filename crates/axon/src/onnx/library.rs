//! Finds the ONNX Runtime library and starts it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::error::{Error, ErrorKind, Result};

/// The environment variable that names the library.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Turns ONNX Runtime's telemetry off; read once, when the library starts.
/// **Source:** measured with 1.31: without it the library starts a thread and writes a device id to `~/.cache`.
const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

static LOADED: Mutex<Option<PathBuf>> = Mutex::new(None);
static VERSION: OnceLock<String> = OnceLock::new();
static MESSAGES: Mutex<RateLimit> = Mutex::new(RateLimit { since: None, admitted: 0, left_out: 0 });

/// The most messages of ONNX Runtime in a second.
const MESSAGES_PER_SECOND: u32 = 20;

/// Lets so many through in a second, and counts the others.
struct RateLimit {
    since: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

impl RateLimit {
    /// For what comes `now`: `None` when it is left out, else how many have been since the last that was not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let second = Duration::from_secs(1);
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= second) {
            (self.since, self.admitted) = (Some(now), 0);
        }
        if self.admitted == MESSAGES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The version of the ONNX Runtime that is loaded, as `1.32.0`; `None` before the first load.
#[must_use]
pub fn runtime_version() -> Option<&'static str> {
    VERSION.get().map(String::as_str)
}

/// Looks for the library: `ORT_DYLIB_PATH`, then the `onnxruntime` package of the Python environment that is active
/// or that this program is installed in, then beside this program, then `.venv` in the working directory, then the
/// system's loader.
#[must_use]
pub fn find_library() -> PathBuf {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        return path.into();
    }
    let program = std::env::current_exe().and_then(std::fs::canonicalize).unwrap_or_default();
    let beside = program.parent().map(Path::to_owned).unwrap_or_default();
    let environments =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    environments
        .chain(beside.parent().map(Path::to_owned))
        .find_map(|environment| in_python_environment(&environment))
        .or_else(|| newest_library(&beside))
        .or_else(|| in_python_environment(Path::new(".venv")))
        .unwrap_or_else(|| PathBuf::from("libonnxruntime.so.1"))
}

/// `lib/python3.*/site-packages/onnxruntime/capi/libonnxruntime.so.*` below an environment.
fn in_python_environment(environment: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(environment.join("lib")).ok()?;
    let mut folders: Vec<_> = pythons.flatten().map(|entry| entry.path()).collect();
    folders.sort_by_cached_key(|path| numbers(path));
    folders
        .into_iter()
        .rev()
        .find_map(|python| newest_library(&python.join("site-packages").join("onnxruntime").join("capi")))
}

fn newest_library(folder: &Path) -> Option<PathBuf> {
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.")
    };
    std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(is_library)
        .max_by_key(|path| numbers(path))
}

/// The numbers in a file name, so that 1.24 comes after 1.9.
fn numbers(path: &Path) -> Vec<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Loads and starts ONNX Runtime from `library`, or from where [`find_library`] finds it. Later calls do nothing.
///
/// # Errors
/// [`ErrorKind::InvalidModel`] when the library is not there or older than 1.24.
pub fn load_library(library: Option<&Path>) -> Result<()> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.is_some() {
        return Ok(());
    }
    let path = library.map_or_else(find_library, Path::to_owned);
    turn_telemetry_off();
    let version = open(&path).map_err(|problem| cannot_load(&path, &problem))?;
    let builder = ort::init_from(&path).map_err(|error| cannot_load(&path, &error))?;
    builder.with_name("axon").with_telemetry(false).with_logger(Arc::new(log)).commit();
    let environment = Environment::current().map_err(|error| cannot_load(&path, &error))?;
    environment.set_log_level(LogLevel::Warning);
    tracing::debug!(library = %path.display(), version, "loaded ONNX Runtime");
    let _ = VERSION.set(version);
    *loaded = Some(path);
    Ok(())
}

fn cannot_load(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::InvalidModel,
        format!(
            "cannot load ONNX Runtime 1.24 or newer\nhint: `pip install onnxruntime`, or set {LIBRARY_VARIABLE} to libonnxruntime.so"
        ),
    )
    .with_source(format_args!("`{}`: {error}", path.display()))
}

fn turn_telemetry_off() {
    if std::env::var_os(TELEMETRY_VARIABLE).is_none() {
        // SAFETY: `LOADED`'s lock lets one thread at a time come here, once in a process's life, before ONNX Runtime
        // is loaded; Rust code reads the environment under the standard library's own lock. A program with other C
        // code that reads the environment from another thread sets the variable itself, before its threads start.
        unsafe { std::env::set_var(TELEMETRY_VARIABLE, "1") }
    }
}

/// Opens the library, for good, and returns the version that it reports; its build information does not always carry
/// one. It is opened here first because `ort` cannot be asked again after it failed to open a library.
fn open(path: &Path) -> Result<String, String> {
    type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: running the library's initialisers is what its user asks for by naming it; the symbol's type is that of
    // `onnxruntime_c_api.h`, whose first struct has not changed since version 1.0.
    let version = unsafe {
        let library = libloading::Library::new(path).map_err(|error| error.to_string())?;
        let get_base = *library.get::<GetApiBase>(b"OrtGetApiBase").map_err(|error| error.to_string())?;
        std::mem::forget(library);
        std::ffi::CStr::from_ptr(((*get_base()).GetVersionString)()).to_string_lossy().into_owned()
    };
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(1), Some(minor)) if minor >= ort::MINOR_VERSION => Ok(version),
        _ => Err(format!("its version is {version}")),
    }
}

/// ONNX Runtime's own messages. Its errors come back as values too and are logged by whoever handles them; here
/// they are for debugging. A model that fails each time tells so each time, so there is a limit to them.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    // What nobody reads takes no one's place.
    let is_read = match level {
        LogLevel::Verbose | LogLevel::Info => tracing::enabled!(target: "onnxruntime", tracing::Level::TRACE),
        LogLevel::Warning | LogLevel::Error => {
            tracing::enabled!(target: "onnxruntime", tracing::Level::DEBUG)
        }
        LogLevel::Fatal => true,
    };
    if !is_read {
        return;
    }
    let admitted = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
    let Some(left_out) = admitted else { return };
    if left_out > 0 {
        tracing::debug!(target: "onnxruntime", left_out, "ONNX Runtime: messages were left out, there were too many");
    }
    match level {
        LogLevel::Verbose | LogLevel::Info => {
            tracing::trace!(target: "onnxruntime", category, location, "ONNX Runtime: {}", message.escape_debug());
        }
        LogLevel::Warning | LogLevel::Error => {
            tracing::debug!(target: "onnxruntime", category, location, "ONNX Runtime: {}", message.escape_debug());
        }
        LogLevel::Fatal => {
            tracing::error!(target: "onnxruntime", category, location, "ONNX Runtime: {}", message.escape_debug());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_messages_come_through_in_a_second_and_the_others_are_counted() {
        let start = Instant::now();
        let mut limit = RateLimit { since: None, admitted: 0, left_out: 0 };
        let admitted: Vec<_> =
            (0..100).filter_map(|at| limit.admit(start + Duration::from_millis(at))).collect();
        assert_eq!(admitted, vec![0; MESSAGES_PER_SECOND as usize]);
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(80));
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(0));
    }
}
