"""What the kernel knows: processor time, waiting, memory, and the machine itself."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DISTURBED_CORES", "Usage", "describe", "memory_mib", "reset_peak_memory", "usage", "wait_for_calm"]

ROOT: Final = Path(__file__).resolve().parent.parent.parent
#: Fields of the first line of `/proc/stat` that are not time of a process here: idle, iowait, guest, guest_nice.
#: **Source:** proc_stat(5).
NOT_BUSY: Final = (3, 4, 8, 9)
#: Whatever else ran disturbed a window when it took more of the cores than this.
DISTURBED_CORES: Final = 0.1
#: How long nothing must have run. The kernel counts in 10 ms.
CALM_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Seconds of processor time up to a moment, or between two.

    Attributes:
        run_s: On a core, by process, threads that have ended included.
        wait_s: Ready to run and not on a core, by process: the run-queue delay of the threads that it has now.
        busy_s: Of all cores, by whatever ran, what the host took away included.
        wall_s: On the clock.
    """

    run_s: dict[int, float]
    wait_s: dict[int, float]
    busy_s: float
    wall_s: float

    def __sub__(self, before: Usage) -> Usage:
        """Return what was used since `before`."""
        return Usage(
            run_s={pid: seconds - before.run_s[pid] for pid, seconds in self.run_s.items()},
            # Threads that ended in between took their waiting with them.
            wait_s={pid: max(seconds - before.wait_s[pid], 0.0) for pid, seconds in self.wait_s.items()},
            busy_s=self.busy_s - before.busy_s,
            wall_s=self.wall_s - before.wall_s,
        )


def usage(pids: Iterable[int]) -> Usage:
    """Read the usage of processes and of the machine."""
    run = {pid: time.clock_gettime(cpu_clock(pid)) for pid in pids}
    wait = {pid: run_queue_delay(pid) for pid in run}
    ticks = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    busy = sum(count for index, count in enumerate(ticks) if index not in NOT_BUSY)
    return Usage(run_s=run, wait_s=wait, busy_s=busy / os.sysconf("SC_CLK_TCK"), wall_s=time.perf_counter())


def wait_for_calm(limit_s: float) -> None:
    """Wait until nothing runs, for `limit_s` seconds at most. What is measured must be idle meanwhile."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        before = usage([])
        time.sleep(CALM_S)
        used = usage([]) - before
        if used.busy_s <= DISTURBED_CORES * used.wall_s:
            return


def cpu_clock(pid: int) -> int:
    """Return the clock of a process's processor time, exact where `/proc/PID/stat` counts in 10 ms.

    **Source:** `CPUCLOCK_SCHED` and `MAKE_PROCESS_CPUCLOCK` in Linux's `posix-timers_types.h`, which is what
    clock_getcpuclockid(3) returns.
    """
    return (~pid << 3) | 2


def run_queue_delay(pid: int) -> float:
    """Return the seconds that the threads of a process were ready to run and not on a core."""
    paths = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[1]) for path in paths) / 1e9


def memory_mib(pid: int) -> dict[str, float]:
    """Return the resident memory of a process, its highest, and its own share of it, in MiB.

    `pss` counts a page that several processes map by its share, so that libraries are not counted twice.
    """
    fields = {}
    for path in (Path(f"/proc/{pid}/status"), Path(f"/proc/{pid}/smaps_rollup")):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            fields[name] = value
    names = {"rss": "VmRSS", "peak_rss": "VmHWM", "pss": "Pss"}
    return {name: int(fields[field].split()[0]) / 1024 for name, field in names.items()}


def reset_peak_memory(pid: int) -> None:
    """Let `peak_rss` start from what is resident now. **Source:** proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def describe() -> dict[str, Any]:
    """Return what a result must say about where and of what it was measured."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": output_of("git", "rev-parse", "--short", "HEAD"),
        "changed_files": len(output_of("git", "status", "--porcelain").splitlines()),
        "cpu": fields.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "virtual": "hypervisor" in fields.get("flags", "").split(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "rustc": output_of("rustc", "--version"),
        "onnxruntime": version("onnxruntime"),
        "numpy": version("numpy"),
        "axon": version("axon"),
    }


def output_of(*command: str) -> str:
    """Return what a command prints; nothing when it fails, as outside of a git checkout."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
