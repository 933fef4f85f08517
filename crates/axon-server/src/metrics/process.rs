//! What the system says of this process and of the machine. Where it does not say it, nothing is told.
//!
//! **Source:** proc(5).

use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::declared::{
    PROCESS_CPU, PROCESS_FDS, PROCESS_MAX_FDS, PROCESS_RESIDENT, PROCESS_START, PROCESS_THREADS,
    PROCESS_VIRTUAL,
};
use super::family::{Family, Value};

/// What is told of this process.
pub(super) fn families() -> Vec<Family<'static>> {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let mut families = vec![Family::single(&PROCESS_CPU, cpu.tv_sec as f64 + cpu.tv_nsec as f64 * 1e-9)];
    let mut tell = |metric, value: Option<Value<'static>>| {
        families.extend(value.map(|value| Family::single(metric, value)));
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, which may have any characters, ends with the last parenthesis; the state is the field behind it.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    tell(&PROCESS_VIRTUAL, field(after_name, 20).map(Value::from));
    tell(&PROCESS_RESIDENT, field(after_name, 21).map(|pages| (pages * page_size() as u64).into()));
    let fds = std::fs::read_dir("/proc/self/fd").ok();
    // One of them is the folder that is being read.
    tell(&PROCESS_FDS, fds.map(|fds| fds.count().saturating_sub(1).into()));
    tell(&PROCESS_MAX_FDS, getrlimit(Resource::Nofile).current.map(Value::from));
    tell(&PROCESS_THREADS, field(after_name, 17).map(Value::from));
    let started = field(after_name, 19)
        .zip(*BOOT_TIME)
        .map(|(ticks, boot)| Value::Number(boot as f64 + ticks as f64 / clock_ticks_per_second() as f64));
    tell(&PROCESS_START, started);
    families
}

fn field(text: &str, index: usize) -> Option<u64> {
    text.split_ascii_whitespace().nth(index)?.parse().ok()
}

fn named(lines: &str, name: &str) -> Option<u64> {
    field(lines.lines().find_map(|line| line.strip_prefix(name))?, 0)
}

/// Read once: the system makes the whole file anew for each reader.
static BOOT_TIME: LazyLock<Option<u64>> = LazyLock::new(boot_time);

/// When the machine started, in seconds since 1970.
fn boot_time() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    field(stat.lines().find_map(|line| line.strip_prefix("btime"))?, 0)
}

/// The machine's memory in bytes: all, and what is in use.
pub(super) fn machine_memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = |name| named(&text, name).map(|kibibytes| kibibytes << 10);
    let (total, available) = (kibibytes("MemTotal:")?, kibibytes("MemAvailable:")?);
    Some((total, total.saturating_sub(available)))
}

/// The machine's processor time at the last look: all, and what was idle.
#[derive(Default)]
pub(super) struct Utilization(Mutex<Option<(u64, u64)>>);

impl Utilization {
    /// The part of the machine's processor time that was used since the last look; `None` at the first.
    pub fn look(&self) -> Option<f64> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
        // Guests are in what users have already.
        let ticks: Vec<u64> = ticks.take(8).filter_map(|field| field.parse().ok()).collect();
        let idle = ticks.get(3).copied()? + ticks.get(4).copied().unwrap_or_default();
        let now = (ticks.iter().sum(), idle);
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(now)?;
        let (all, idle) = (now.0 - before.0.min(now.0), now.1 - before.1.min(now.1));
        (all > 0).then(|| 1.0 - idle as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_says_all_of_this_process() {
        let families = families();
        let told = |name: &str| {
            let family = families.iter().find(|family| family.metric.name == name).expect(name);
            match family.samples[0].value {
                Value::Count(count) => count as f64,
                Value::Number(number) => number,
                Value::Histogram(_) => panic!("{name}"),
            }
        };
        assert!(told("process_cpu_seconds") > 0.0);
        assert!(told("process_virtual_memory_bytes") > told("process_resident_memory_bytes"));
        assert!(told("process_resident_memory_bytes") > 1e6);
        assert!(told("process_open_fds") >= 3.0 && told("process_open_fds") <= told("process_max_fds"));
        assert!(told("process_threads") >= 1.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - told("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }

    #[test]
    fn the_machine_is_between_idle_and_busy() {
        let utilization = Utilization::default();
        assert_eq!(utilization.look(), None);
        if let Some(used) = utilization.look() {
            assert!((0.0..=1.0).contains(&used), "{used}");
        }
        let (total, used) = machine_memory().unwrap();
        assert!(used < total);
    }
}
