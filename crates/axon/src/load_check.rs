//! Loads a model for trial in a process of its own, which can be stopped, before this process loads it.
//!
//! ONNX Runtime cannot be interrupted and takes what memory a model makes it take; a model that makes it crash takes the
//! server with it. So a model that is not known yet is first loaded and run once by a child under limits of time and
//! memory. What survives is noted by the SHA-256 of its files, so that a trial is paid for once on a machine.
//!
//! The child is started as [`LoadCheckConfig::command`] followed by the model's file, the ONNX Runtime library (empty:
//! look for it), the bytes of address space and the seconds of processor time that it may take. It limits itself, calls
//! [`try_model`], prints a message and exits with an [`Outcome`]'s number. The same child imports models for
//! [`import`](crate::import), with a few arguments more. It guards against what a model does to ONNX
//! Runtime by accident or for harm; it is no sandbox for code that a model brings in.

mod record;

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::config::{Device, LoadCheckConfig, LoadCheckMode};
use crate::error::{Error, ErrorKind, Result};
use crate::onnx::{ModelFile, Session, SessionOptions, load_library};
use crate::probe::try_once;
use record::Records;

/// The longest message of a child that is read, in bytes.
const MAX_MESSAGE: u64 = 16 << 10;

/// The time that a trial may take on top for each so many bytes of a model: a slow disk reads as much in a second.
const BYTES_A_SECOND: u64 = 32 << 20;

/// Address space that a trial may take whatever the model: the interpreter, the library and its threads take a
/// gigabyte of it, hardly any of which is memory.
const BASE_MEMORY: u64 = 4 << 30;

/// What a model may take for each of its bytes: the file as read, as parsed, and as optimised and packed, each with a
/// copy while it is made.
const MEMORY_FACTOR: u64 = 8;

/// How often a child that has said its last word is looked at.
const REAP_INTERVAL: Duration = Duration::from_millis(1);

/// How often it is asked whether a child is to go on.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// How a trial has ended, as the child's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was loaded, and run if it could be run on made-up inputs.
    Survived = 0,
    /// ONNX Runtime refuses it.
    Refused = 10,
    /// The memory did not suffice.
    OutOfMemory = 11,
    /// The trial itself could not be made.
    Unable = 12,
}

impl Outcome {
    /// How work in a child that failed with `error` ends.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            _ if is_out_of_memory(error) => Self::OutOfMemory,
            ErrorKind::InvalidModel => Self::Refused,
            _ => Self::Unable,
        }
    }
}

/// Loads the model at `path` and runs it once on made-up inputs; for a process of its own. Returns the outcome and what
/// to print.
#[must_use]
pub fn try_model(path: &Path, library: Option<&Path>) -> (Outcome, String) {
    if let Err(error) = load_library(library) {
        return (Outcome::Unable, error.message().to_owned());
    }
    let failed = |error: &Error, otherwise| {
        let outcome = if is_out_of_memory(error) { Outcome::OutOfMemory } else { otherwise };
        (outcome, error.message().to_owned())
    };
    let options = SessionOptions { device: Device::Cpu, threads: 1, arena: false };
    let mut session = match Session::load(path, options) {
        Ok(session) => session,
        Err(error) => return failed(&error, Outcome::Refused),
    };
    let signature = Arc::clone(&session);
    match try_once(signature.signature(), &mut session) {
        Ok(()) => (Outcome::Survived, String::new()),
        // Real inputs may fit, so that the probe's word on it counts, in the process that serves.
        Err(error) => failed(&error, Outcome::Survived),
    }
}

/// ONNX Runtime tells of it in words alone. **Source:** its allocators and the C++ standard library.
fn is_out_of_memory(error: &Error) -> bool {
    let texts = [error.message(), error.cause().unwrap_or_default()];
    texts.iter().any(|text| text.contains("bad_alloc") || text.contains("Failed to allocate memory"))
}

/// Has the model at `path` tried where `config` says so; `library` is the one that this process has loaded.
///
/// # Errors
/// [`ErrorKind::InvalidModel`] when the model did not survive or is refused before, [`ErrorKind::Internal`] when the
/// trial could not be made.
pub fn check(path: &Path, library: Option<&Path>, device: Device, config: &LoadCheckConfig) -> Result<()> {
    if config.mode == LoadCheckMode::Off {
        return Ok(());
    }
    let outline = ModelFile::read(path)?;
    let records = Records::open(config.records.as_deref());
    let key = records.key(path, &outline).map_err(|error| {
        Error::new(ErrorKind::InvalidModel, format!("cannot read the model's files: {error}"))
    })?;
    if config.mode == LoadCheckMode::First && records.contains(&key) {
        return Ok(());
    }
    let bytes = outline.size.saturating_add(outline.initializer_bytes);
    let mut nothing_more = Errand { arguments: &[], trials: 1, bytes, goes_on: &mut || true };
    let trial = Trial::of(bytes, config, 1);
    let started = Instant::now();
    let end = trial.run(path, library, config, &mut nothing_more)?;
    tracing::debug!(milliseconds = started.elapsed().as_millis(), status = %end.status, "loaded a model for trial");
    let is_elsewhere = device != Device::Cpu;
    match trial.judge(&end) {
        Ok(()) => {
            records.enter(&key);
            Ok(())
        }
        // The trial is made on the CPU; what runs only elsewhere is refused there and has not harmed.
        Err(_) if is_elsewhere && end.is(Outcome::Refused) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a child does with a model besides loading it for trial.
pub(crate) struct Errand<'a> {
    /// What it is told on top of a trial's arguments.
    pub arguments: &'a [OsString],
    /// It may take the time and the memory of so many trials.
    pub trials: u32,
    /// Bytes of the model and its tensors.
    pub bytes: u64,
    /// Asked again and again while it runs; it is killed when the answer is no.
    pub goes_on: &'a mut dyn FnMut() -> bool,
}

/// Has a child run an errand with the model at `path`, under the limits that `config` has.
///
/// # Errors
/// As [`check`], and [`ErrorKind::Cancelled`] when it was not to go on.
pub(crate) fn run_errand(
    path: &Path,
    library: Option<&Path>,
    config: &LoadCheckConfig,
    mut errand: Errand<'_>,
) -> Result<()> {
    let trial = Trial::of(errand.bytes, config, errand.trials);
    let end = trial.run(path, library, config, &mut errand)?;
    if end.is_stopped { Err(Error::stopped()) } else { trial.judge(&end) }
}

/// How a child has ended.
struct End {
    status: ExitStatus,
    message: String,
    /// It was stopped here because its time was over.
    is_late: bool,
    /// It was stopped here because it was not to go on.
    is_stopped: bool,
}

impl End {
    fn is(&self, outcome: Outcome) -> bool {
        self.status.code() == Some(outcome as i32)
    }
}

/// How the wait for a child has ended.
enum Waited {
    /// With the child; this is what it printed.
    Ended(String),
    /// Its time is over.
    Late,
    /// It is not to go on.
    Stopped,
}

/// The limits of one trial.
struct Trial {
    time: Duration,
    memory: u64,
}

impl Trial {
    /// Those of `trials` trials of a model of `bytes`.
    fn of(bytes: u64, config: &LoadCheckConfig, trials: u32) -> Self {
        let time = config.time.saturating_add(Duration::from_secs(bytes / BYTES_A_SECOND));
        let memory =
            config.memory.unwrap_or_else(|| BASE_MEMORY.saturating_add(bytes.saturating_mul(MEMORY_FACTOR)));
        Self { time: time.saturating_mul(trials), memory: memory.saturating_mul(trials.into()) }
    }

    /// Runs the child to its end, or to the limit of time.
    fn run(
        &self,
        path: &Path,
        library: Option<&Path>,
        config: &LoadCheckConfig,
        errand: &mut Errand<'_>,
    ) -> Result<End> {
        let Some((program, arguments)) = config.command.split_first() else {
            return Err(unable("no command is set for it"));
        };
        let path = std::path::absolute(path).map_err(unable)?;
        let seconds = self.time.as_secs().saturating_add(1);
        let mut child = Command::new(program)
            .args(arguments)
            .arg(path)
            .arg(library.unwrap_or(Path::new("")))
            .args([self.memory.to_string(), seconds.to_string()])
            .args(errand.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // An interrupt from the terminal is for the server, which ends the trial as it ends.
            .process_group(0)
            .spawn()
            .map_err(unable)?;
        let outcome = self.wait(&mut child, errand.goes_on);
        // Nothing is left to run, whatever has happened.
        let _ = child.kill();
        let status = child.wait().map_err(unable)?;
        Ok(match outcome? {
            Waited::Ended(message) => End { status, message, is_late: false, is_stopped: false },
            Waited::Late => End { status, message: String::new(), is_late: true, is_stopped: false },
            Waited::Stopped => End { status, message: String::new(), is_late: false, is_stopped: true },
        })
    }

    /// Waits until the child has ended, its time is over, or it is not to go on.
    fn wait(&self, child: &mut Child, goes_on: &mut dyn FnMut() -> bool) -> Result<Waited> {
        let end = Instant::now() + self.time;
        let (sender, printed) = channel();
        if let Some(output) = child.stdout.take() {
            let read = move || {
                let mut bytes = Vec::new();
                let _ = output.take(MAX_MESSAGE).read_to_end(&mut bytes);
                // Nobody listens any more once the time is over.
                let _ = sender.send(bytes);
            };
            std::thread::Builder::new().name("axon-trial".to_owned()).spawn(read).map_err(unable)?;
        }
        // Its output ends when the child does; past the time nothing of it counts.
        let mut interval = WATCH_INTERVAL;
        let bytes = loop {
            match printed.recv_timeout(interval) {
                Ok(bytes) => break bytes,
                Err(RecvTimeoutError::Disconnected) => break Vec::new(),
                Err(RecvTimeoutError::Timeout) if !goes_on() => return Ok(Waited::Stopped),
                Err(RecvTimeoutError::Timeout) => {
                    interval = WATCH_INTERVAL.min(end.saturating_duration_since(Instant::now()));
                    if interval.is_zero() {
                        return Ok(Waited::Late);
                    }
                }
            }
        };
        while child.try_wait().map_err(unable)?.is_none() {
            if Instant::now() >= end {
                return Ok(Waited::Late);
            }
            std::thread::sleep(REAP_INTERVAL);
        }
        Ok(Waited::Ended(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// What a child's end says of the model.
    fn judge(&self, end: &End) -> Result<()> {
        if end.is(Outcome::Survived) {
            return Ok(());
        }
        if end.is(Outcome::Refused) {
            return Err(Error::new(ErrorKind::InvalidModel, end.message.trim()));
        }
        let harmed = |what: String| {
            Err(Error::at(
                ErrorKind::InvalidModel,
                "load_check",
                format_args!("the model is not loaded: a process that loaded it for trial {what}"),
            ))
        };
        if end.is(Outcome::OutOfMemory) {
            return harmed(format!(
                "took more than {} bytes of memory\nhint: `--load-check-bytes` allows more",
                self.memory
            ));
        }
        match end.status.signal() {
            Some(signal) if end.is_late || signal == SIGXCPU => harmed(format!(
                "took more than {} s and was stopped\nhint: `--load-check-secs` allows more",
                self.time.as_secs()
            )),
            Some(signal) => harmed(format!("was killed by signal {signal}{}", signal_name(signal))),
            None => {
                Err(unable(format_args!("its process ended with {}: {}", end.status, end.message.trim())))
            }
        }
    }
}

const SIGKILL: i32 = 9;
const SIGXCPU: i32 = 24;

/// The names of the signals that a crash ends with. **Source:** Linux, signal(7).
fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT), as a program that runs out of memory is",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        SIGKILL => " (SIGKILL), as the system does when its memory is used up",
        11 => " (SIGSEGV)",
        25 => " (SIGXFSZ)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

fn unable(problem: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Internal,
        "the model could not be loaded for trial\nhint: `--load-check off` loads models without one",
    )
    .with_source(problem)
}
