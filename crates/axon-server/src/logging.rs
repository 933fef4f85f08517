//! Logs to standard error, a line for each event, at levels that can be changed while the server runs.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tracing::Level;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, Registry};

/// The levels that `--log-level` takes, quietest first.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// One bit for each level that is on; each can be switched alone.
static ON: AtomicU8 = AtomicU8::new(0);

const fn bit(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 4,
        Level::DEBUG => 8,
        Level::TRACE => 16,
    }
}

/// Starts logging at `level`, one of [`LEVELS`]; later calls only change the level.
///
/// # Errors
/// What was expected, when it is none of them.
pub fn start(level: &str) -> Result<(), String> {
    let Some(position) = LEVELS.iter().position(|known| *known == level) else {
        return Err(format!("expected one of {}, got `{}`", LEVELS.join(", "), level.escape_debug()));
    };
    // All bits below the one of the first level that is too detailed.
    ON.store((1 << position) - 1, Relaxed);
    let filter = FilterFn::new(|metadata| ON.load(Relaxed) & bit(*metadata.level()) != 0);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second server in one process, or a host program with a subscriber of its own, keeps what is there.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(lines.with_filter(filter)));
    tracing::callsite::rebuild_interest_cache();
    Ok(())
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
