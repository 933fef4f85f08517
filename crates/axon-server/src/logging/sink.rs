//! Where lines go: a queue with a bound, and the thread that writes them to standard error.
//!
//! When whoever reads standard error stops reading, the queue fills and lines are dropped and counted. The count is a
//! line of its own once there is room again.

use std::io::{ErrorKind, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::Level;

/// The most bytes of lines that wait.
const MAX_WAITING: usize = 1 << 20;

static WAITING: Mutex<Waiting> =
    Mutex::new(Waiting { lines: String::new(), lost: 0, is_writing: false, process: 0 });
/// Signals the thread: there are lines.
static COME: Condvar = Condvar::new();
/// Signals [`finish`]: there are none.
static WRITTEN: Condvar = Condvar::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Waiting {
    lines: String,
    /// Dropped since a line last said so.
    lost: u64,
    is_writing: bool,
    /// The process whose thread writes. A forked child has the memory and no thread, and starts its own.
    process: u32,
}

/// How many lines were dropped because nobody read them; it only grows.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

fn lock() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a line written.
pub(super) fn write(line: &str) {
    let mut waiting = lock();
    if waiting.process != std::process::id() && !start(&mut waiting) {
        drop(waiting);
        // Without a thread it is told at once, or not at all.
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    }
    if waiting.lines.len() + line.len() > MAX_WAITING {
        waiting.lost += 1;
        DROPPED.fetch_add(1, Relaxed);
        return;
    }
    let was_empty = waiting.lines.is_empty();
    waiting.lines.push_str(line);
    drop(waiting);
    if was_empty {
        COME.notify_one();
    }
}

/// Starts the thread that writes; false when there can be none.
fn start(waiting: &mut Waiting) -> bool {
    let started = std::thread::Builder::new().name("axon-log".to_owned()).spawn(run).is_ok();
    if started {
        *waiting = Waiting { lines: String::new(), lost: 0, is_writing: false, process: std::process::id() };
    }
    started
}

fn run() {
    let mut waiting = lock();
    loop {
        while waiting.lines.is_empty() {
            waiting.is_writing = false;
            WRITTEN.notify_all();
            waiting = COME.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let mut lines = std::mem::take(&mut waiting.lines);
        let lost = std::mem::take(&mut waiting.lost);
        waiting.is_writing = true;
        drop(waiting);
        if lost > 0 {
            let mut line = super::line(Level::WARN);
            line.message("lines of the log were dropped: nobody read them");
            line.bare("dropped", lost);
            lines.push_str(&line.end());
        }
        // A log that is gone is nothing that could be logged.
        DROPPED.fetch_add(put(&lines), Relaxed);
        waiting = lock();
    }
}

/// Writes lines for as long as that takes; returns how many could not be written.
fn put(lines: &str) -> u64 {
    let mut rest = lines.as_bytes();
    let mut output = std::io::stderr();
    while !rest.is_empty() {
        let written = match output.write(rest) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // Whoever has the other end, or this one too, may have set it not to block: it is full.
            Err(error) if error.kind() == ErrorKind::WouldBlock && wait_for_room() => continue,
            Err(_) => 0,
        };
        if written == 0 {
            break;
        }
        rest = rest.get(written..).unwrap_or_default();
    }
    rest.iter().fold(0, |lines, byte| lines + u64::from(*byte == b'\n'))
}

/// Waits until standard error takes more; false when that cannot be waited for.
fn wait_for_room() -> bool {
    let output = std::io::stderr();
    let mut watched = [PollFd::new(&output, PollFlags::OUT)];
    matches!(poll(&mut watched, None), Ok(_) | Err(Errno::INTR))
}

/// Waits until all has been written, for `limit` at most.
pub(super) fn finish(limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut waiting = lock();
    while waiting.process == std::process::id() && (waiting.is_writing || !waiting.lines.is_empty()) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        waiting = WRITTEN.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}
