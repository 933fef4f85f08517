//! Logs to standard error, a line for each event.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;

/// The levels that `--log-level` takes, quietest first.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Starts logging at `level`, one of [`LEVELS`]; later calls do nothing.
///
/// # Errors
/// What was expected, when it is none of them.
pub fn start(level: &str) -> Result<(), String> {
    let filter: LevelFilter = match level {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return Err(format!("expected one of {}, got `{}`", LEVELS.join(", "), level.escape_debug())),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .finish();
    // A second server in one process, or a host program with a subscriber of its own, keeps what is there.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}
