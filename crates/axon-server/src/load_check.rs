//! The child that loads a model for trial: limits itself, loads, prints what it found and ends.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use axon::load_check::{Outcome, try_model};
use rustix::process::{Resource, Rlimit, setrlimit};

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
        None => (Outcome::Unable, "expected a model, a library, bytes and seconds".to_owned()),
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
}

fn parse(arguments: &[OsString]) -> Option<Trial<'_>> {
    let [model, library, memory, seconds] = arguments else { return None };
    Some(Trial {
        model: Path::new(model),
        runtime: (!library.is_empty()).then(|| Path::new(library)),
        memory: memory.to_str()?.parse().ok()?,
        seconds: seconds.to_str()?.parse().ok()?,
    })
}

impl Trial<'_> {
    fn run(&self) -> (Outcome, String) {
        if let Err(error) = self.limit() {
            return (Outcome::Unable, format!("cannot limit this process: {error}"));
        }
        try_model(self.model, self.runtime)
    }

    fn limit(&self) -> rustix::io::Result<()> {
        let at_most = |resource, soft: u64, hard: u64| {
            let ceiling = rustix::process::getrlimit(resource).maximum;
            let within = |value: u64| Some(ceiling.map_or(value, |ceiling| value.min(ceiling)));
            setrlimit(resource, Rlimit { current: within(soft), maximum: within(hard) })
        };
        at_most(Resource::As, self.memory, self.memory)?;
        at_most(Resource::Cpu, self.seconds, self.seconds.saturating_add(1))?;
        // A crash is expected here and worth no dump; and a trial writes nothing but its answer, to a pipe.
        at_most(Resource::Core, 0, 0)?;
        at_most(Resource::Fsize, 0, 0)?;
        // Requests are served meanwhile. Where that cannot be said, the trial runs at their priority.
        let _ = rustix::process::setpriority_process(None, NICENESS);
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
