//! How much memory this process takes, and how much there is: read from Linux's own files, nowhere else known.

use std::path::PathBuf;

/// Headroom is at least this much, and at most a quarter of all.
const LEAST_HEADROOM: u64 = 256 << 20;

/// What the host, or this process's cgroup, has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostMemory {
    /// All of it.
    pub total: u64,
    /// What can be taken before something has to be given up.
    pub available: u64,
    /// Processes wait for memory: more than a tenth of the last ten seconds.
    pub is_pressed: bool,
}

impl HostMemory {
    /// What is known now; `None` where nothing is.
    pub fn read() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let mut memory = Self {
            total: kib(&text, "MemTotal:")?,
            available: kib(&text, "MemAvailable:")?,
            is_pressed: false,
        };
        if let Some((limit, used)) = Cgroup::own().and_then(|cgroup| cgroup.limit_and_use()) {
            memory.total = memory.total.min(limit);
            memory.available = memory.available.min(limit.saturating_sub(used));
        }
        memory.is_pressed = pressure().is_some_and(|share| share > 10.0);
        Some(memory)
    }

    /// What is to stay free: a tenth, or 256 MiB where that is more, but never more than a quarter.
    pub fn headroom(self) -> u64 {
        (self.total / 10).max(LEAST_HEADROOM).min(self.total / 4)
    }

    /// The budget of a server that takes `used` bytes without models, where nobody has said one.
    pub fn budget(self, used: u64) -> u64 {
        self.total.saturating_sub(self.headroom()).saturating_sub(used)
    }

    /// What may be charged now, of `budget` bytes, while `charged` are: less where the host has not so much.
    pub fn allowed(self, budget: u64, charged: u64) -> u64 {
        // Where others wait for memory already, some is given up before it is gone.
        let headroom = if self.is_pressed { self.headroom() * 2 } else { self.headroom() };
        let most = charged.saturating_add(self.available).saturating_sub(headroom);
        budget.min(most)
    }
}

/// The bytes of memory that this process takes: resident ones, those of mapped files among them.
pub(super) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    kib(&text, "VmRSS:")
}

/// A line such as `VmRSS:     1234 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The share of the last ten seconds, in percent, in which some process waited for memory.
fn pressure() -> Option<f64> {
    parse_pressure(&std::fs::read_to_string("/proc/pressure/memory").ok()?)
}

fn parse_pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_whitespace().find_map(|part| part.strip_prefix("avg10="))?.parse().ok()
}

/// The folder of this process's cgroup.
enum Cgroup {
    V1(PathBuf),
    V2(PathBuf),
}

impl Cgroup {
    fn own() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
    }

    /// Lines are `0::/path` (version 2) or `5:memory:/path` (version 1).
    fn parse(text: &str) -> Option<Self> {
        let below = |root: &str, path: &str| {
            let folder = PathBuf::from(root).join(path.trim_start_matches('/'));
            // Inside a container the path is the host's, and the root is the container's own.
            if folder.is_dir() { folder } else { PathBuf::from(root) }
        };
        let v1 = text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            controllers.split(',').any(|one| one == "memory").then(|| below("/sys/fs/cgroup/memory", path))
        });
        if let Some(folder) = v1 {
            return Some(Self::V1(folder));
        }
        text.lines()
            .find_map(|line| line.strip_prefix("0::"))
            .map(|path| Self::V2(below("/sys/fs/cgroup", path)))
    }

    /// The limit and what counts against it, less what the kernel can drop at once.
    fn limit_and_use(&self) -> Option<(u64, u64)> {
        let (folder, limit, used) = match self {
            Self::V1(folder) => (folder, "memory.limit_in_bytes", "memory.usage_in_bytes"),
            Self::V2(folder) => (folder, "memory.max", "memory.current"),
        };
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let limit = read(limit)?.trim().parse().ok()?;
        let used: u64 = read(used)?.trim().parse().ok()?;
        let statistics = read("memory.stat").unwrap_or_default();
        let inactive = statistics.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            matches!(name, "inactive_file" | "total_inactive_file").then(|| value.parse::<u64>().ok())?
        });
        Some((limit, used.saturating_sub(inactive.unwrap_or(0))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_budget_leaves_a_tenth_or_a_quarter_of_a_gibibyte() {
        let of = |total| HostMemory { total, available: total, is_pressed: false }.budget(0);
        assert_eq!(of(100 * GIB), 90 * GIB);
        assert_eq!(of(2 * GIB), 2 * GIB - (256 << 20));
        assert_eq!(of(400 << 20), 300 << 20, "a quarter at most");
    }

    #[test]
    fn what_others_take_makes_the_budget_smaller() {
        let memory = |available, is_pressed| HostMemory { total: 10 * GIB, available, is_pressed };
        assert_eq!(memory(8 * GIB, false).allowed(5 * GIB, GIB), 5 * GIB);
        assert_eq!(memory(2 * GIB, false).allowed(5 * GIB, GIB), 2 * GIB);
        assert_eq!(memory(GIB / 2, false).allowed(5 * GIB, 3 * GIB), 3 * GIB - GIB / 2, "some have to go");
        assert_eq!(memory(2 * GIB, true).allowed(5 * GIB, GIB), GIB);
        assert_eq!(memory(0, false).allowed(5 * GIB, 0), 0);
    }

    #[test]
    fn the_systems_files_are_understood() {
        assert_eq!(kib("VmPeak:\t 9 kB\nVmRSS:\t   1234 kB\n", "VmRSS:"), Some(1234 << 10));
        assert_eq!(kib("VmRSS:\t many kB\n", "VmRSS:"), None);
        let text =
            "some avg10=12.50 avg60=1.00 avg300=0.00 total=7\nfull avg10=99.00 avg60=0 avg300=0 total=0\n";
        assert_eq!(parse_pressure(text), Some(12.5));
        assert_eq!(parse_pressure(""), None);
    }
}
