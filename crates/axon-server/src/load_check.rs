//! The child that loads a model for trial: limits itself, loads, prints what it found and ends.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use axon::import::{Job, build};
use axon::load_check::{Outcome, try_model};
use axon::onnx::load_library;
use rustix::process::{Resource, Rlimit, setrlimit};

/// The priority of whom everybody else goes before. **Source:** nice(2).
const LEAST_URGENT: i32 = 19;

/// The first argument that makes `axon-server` the child.
pub const SUBCOMMAND: &str = "__check-load";

/// How nice a trial is; 19 is the most.
const NICENESS: i32 = 10;

/// How `axon-server` starts itself as the child.
#[must_use]
pub fn command() -> Vec<OsString> {
    // On Linux the file that this process was started from, also when another has been put in its place since.
    let program = if cfg!(target_os = "linux") {
        PathBuf::from("/proc/self/exe")
    } else {
        std::env::current_exe().unwrap_or_default()
    };
    vec![program.into(), SUBCOMMAND.into()]
}

/// Loads a model for trial, as [`axon::load_check`] says what the arguments are, and ends this process.
#[expect(clippy::print_stdout, reason = "the parent reads it")]
pub fn run(arguments: &[OsString]) -> ! {
    let (outcome, message) = match parse(arguments) {
        Some(trial) => trial.run(),
        None => (
            Outcome::Unable,
            "expected a model, a library, bytes and seconds, and a folder, a key and a place for an import"
                .to_owned(),
        ),
    };
    println!("{message}");
    let _ = std::io::stdout().flush();
    // Without handlers that run at exit: ONNX Runtime's own may crash, which would look like the model's doing.
    signal_hook::low_level::exit(outcome as i32)
}

struct Trial<'a> {
    model: &'a Path,
    runtime: Option<&'a Path>,
    memory: u64,
    seconds: u64,
    import: Option<Import<'a>>,
}

/// What is made of the model besides.
struct Import<'a> {
    folder: &'a Path,
    key: &'a str,
    /// It has what processor time others leave.
    is_background: bool,
}

fn parse(arguments: &[OsString]) -> Option<Trial<'_>> {
    let (trial, rest) = arguments.split_at_checked(4)?;
    let [model, library, memory, seconds] = trial else { return None };
    let import = match rest {
        [] => None,
        [folder, key, place] => Some(Import {
            folder: Path::new(folder),
            key: key.to_str()?,
            is_background: place == "background",
        }),
        _ => return None,
    };
    Some(Trial {
        import,
        model: Path::new(model),
        runtime: (!library.is_empty()).then(|| Path::new(library)),
        memory: memory.to_str()?.parse().ok()?,
        seconds: seconds.to_str()?.parse().ok()?,
    })
}

impl Import<'_> {
    fn run(&self, model: &Path, library: Option<&Path>) -> (Outcome, String) {
        let job = Job { model: model.to_owned(), folder: self.folder.to_owned(), key: self.key.to_owned() };
        match load_library(library).and_then(|()| build(&job)) {
            Ok(()) => (Outcome::Survived, String::new()),
            Err(error) => {
                let cause = error.cause().map(|cause| format!(" ({cause})")).unwrap_or_default();
                (Outcome::of(&error), format!("{error}{cause}"))
            }
        }
    }
}

impl Trial<'_> {
    fn run(&self) -> (Outcome, String) {
        if let Err(error) = self.limit() {
            return (Outcome::Unable, format!("cannot limit this process: {error}"));
        }
        match &self.import {
            None => try_model(self.model, self.runtime),
            Some(import) => import.run(self.model, self.runtime),
        }
    }

    fn limit(&self) -> rustix::io::Result<()> {
        let at_most = |resource, soft: u64, hard: u64| {
            let ceiling = rustix::process::getrlimit(resource).maximum;
            let within = |value: u64| Some(ceiling.map_or(value, |ceiling| value.min(ceiling)));
            setrlimit(resource, Rlimit { current: within(soft), maximum: within(hard) })
        };
        // Nobody waits for the outcome of a trial whose parent has ended, and another may begin the same work.
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        at_most(Resource::As, self.memory, self.memory)?;
        at_most(Resource::Cpu, self.seconds, self.seconds.saturating_add(1))?;
        // A crash is expected here and worth no dump; and a trial writes nothing but its answer, to a pipe. What an import
        // writes is not more than it may hold in memory.
        let written = if self.import.is_some() { self.memory } else { 0 };
        at_most(Resource::Core, 0, 0)?;
        at_most(Resource::Fsize, written, written)?;
        // Serving goes first; where that cannot be said, it has its turn like others.
        let is_background = self.import.as_ref().is_some_and(|import| import.is_background);
        let _ = rustix::process::nice(if is_background { LEAST_URGENT } else { NICENESS });
        #[cfg(target_os = "linux")]
        {
            // Should the machine run out of memory all the same, this process is the one to go. Where that cannot be
            // said, the limits hold alone.
            let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
            // A server that is killed leaves nothing behind.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        }
        Ok(())
    }
}
