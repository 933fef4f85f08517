//! Logs to standard error: a line for each event, as text or JSON, at levels that can be changed while the server runs.
//!
//! An event becomes a line on the thread that tells it, and a thread of its own writes the lines: whoever answers requests
//! never waits for whoever reads the log. What a client can have a say in cannot break out of its line.

mod line;
mod sink;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

pub(crate) use line::Line;
pub use sink::dropped;

/// The levels that `--log-level` takes, quietest first.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The forms that `--log-format` takes.
pub const FORMATS: [&str; 2] = ["text", "json"];

/// How long the last lines may take to be written.
const LAST: Duration = Duration::from_millis(500);

/// One bit for each level that is on; each can be switched alone.
static ON: AtomicU8 = AtomicU8::new(0);

/// Whether lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

const fn bit(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 4,
        Level::DEBUG => 8,
        Level::TRACE => 16,
    }
}

/// Starts logging at `level`, one of [`LEVELS`], in `format`, one of [`FORMATS`]; later calls only change them.
///
/// # Errors
/// What was expected, when either is none of them.
pub fn start(level: &str, format: &str) -> Result<(), String> {
    let place = |known: &[&str], chosen: &str| {
        let place = known.iter().position(|known| *known == chosen);
        place.ok_or_else(|| format!("expected one of {}, got `{}`", known.join(", "), chosen.escape_debug()))
    };
    let (position, format) = (place(&LEVELS, level)?, place(&FORMATS, format)?);
    // All bits below the one of the first level that is too detailed.
    ON.store((1 << position) - 1, Relaxed);
    JSON.store(format == 1, Relaxed);
    // A second server in one process, or a host program with a subscriber of its own, keeps what is there.
    let _ = tracing::subscriber::set_global_default(Log);
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// Waits until what was logged has been written, for a moment at most: for the end of a process.
pub fn finish() {
    sink::finish(LAST);
}

/// Writes a line, whatever the level.
pub(crate) fn write(line: Line) {
    sink::write(&line.end());
}

/// Begins a line about what happens now.
pub(crate) fn line(level: Level) -> Line {
    Line::new(level, JSON.load(Relaxed))
}

/// Whether events of a level are written.
pub(crate) fn is_on(level: Level) -> bool {
    ON.load(Relaxed) & bit(level) != 0
}

/// Switches one level.
pub(crate) fn switch(level: Level, on: bool) {
    if on {
        ON.fetch_or(bit(level), Relaxed);
    } else {
        ON.fetch_and(!bit(level), Relaxed);
    }
    tracing::callsite::rebuild_interest_cache();
}

/// How much is told beside information: 0 nothing, 1 what helps to find an error, 2 everything.
pub(crate) fn verbosity() -> u64 {
    u64::from(is_on(Level::DEBUG)) + u64::from(is_on(Level::TRACE))
}

/// Sets what [`verbosity`] tells; more than 2 is 2.
pub(crate) fn set_verbosity(verbosity: u64) {
    switch(Level::DEBUG, verbosity > 0);
    switch(Level::TRACE, verbosity > 1);
}

/// Writes events. Spans are not told: what a line is about stands in its fields.
struct Log;

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked again whenever a level is switched.
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Whoever asks whether an event would be written is answered too.
        !metadata.is_span() && is_on(*metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        Some(levels.into_iter().find(|level| is_on(*level)).map_or(LevelFilter::OFF, LevelFilter::from_level))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = line(*event.metadata().level());
        event.record(&mut line);
        write(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
