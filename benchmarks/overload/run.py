"""How a server that is asked for more than it can do behaves: rows L-01 to L-06 of the test plan, on a real server.

The model is the backend `identity`, whose run takes 20 ms whatever else the machine does, so that its capacity is 50
requests a second. `axon bench` sends 2 to 20 times as many at random moments over HTTP, each of which wants its answer
within 200 ms, to Axon with that latency target and, in the same run, to Axon without one (a queue of 1,024 in order of
arrival, as other servers have it). Meanwhile one more connection asks again and again and times what it is refused.

    $ .venv/bin/python benchmarks/overload/run.py            # about 6 minutes
    $ .venv/bin/python benchmarks/overload/run.py --seconds 5
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

AXON: Final = Path(sys.executable).with_name("axon")
LIMIT_MS: Final = 200
RUN_MS: Final = 20
FACTORS: Final = (2, 5, 10, 20)
IN_A_ROW: Final = 10
QUESTION: Final = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]})
MODEL: Final = """
backend = "identity"
max_batch_size = 1
[inputs.x]
datatype = "FP32"
shape = [1]
[outputs.y]
datatype = "FP32"
shape = [1]
[parameters]
execute_delay_ms = 20
"""


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, int]]:
    """Serve the model and yield the address and the process id."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "slow" / "1").mkdir(parents=True)
        (Path(folder) / "slow" / "model.toml").write_text(MODEL)
        command = [
            str(AXON),
            "serve",
            folder,
            "--http-port",
            "0",
            "--metrics-port",
            "0",
            "--no-grpc",
            "--log-level",
            "error",
            *options,
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines: Iterator[str] = iter(process.stdout or ())
            found = next(filter(None, (re.search(r"ready at http://(\S+)", line) for line in lines)), None)
            if found is None:
                raise SystemExit("overload: the server did not start")
            try:
                yield found[1], process.pid
            finally:
                process.terminate()


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


@dataclass
class Probe:
    """One connection that asks until it is told to stop, times refusals, and counts what it is answered in time."""

    address: str
    refused_ms: list[float] = field(default_factory=list)
    good_per_s: float = 0.0
    ends: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask, and ask again 5 ms after each answer."""
        connection, began, good = http.client.HTTPConnection(self.address), time.perf_counter(), 0
        while not self.ends.wait(0.005):
            took, status = ask(connection)
            if status == http.client.SERVICE_UNAVAILABLE:
                self.refused_ms.append(took)
            good += status == http.client.OK and took <= LIMIT_MS
        self.good_per_s = good / (time.perf_counter() - began)


def ask(connection: http.client.HTTPConnection) -> tuple[float, int]:
    """Ask once; the milliseconds that it took and the status."""
    began = time.perf_counter()
    connection.request("POST", "/v2/models/slow/infer", QUESTION)
    answer = connection.getresponse()
    answer.read()
    return (time.perf_counter() - began) * 1e3, answer.status


def bench(address: str, seconds: float, *load: str) -> dict[str, Any]:
    """Send a load and return the report of `axon bench`; no answer at all is a report too."""
    options = ("--duration", f"{seconds}s", "--limit", f"{LIMIT_MS}ms", "--json", "--max-in-flight", "4096")
    command = [str(AXON), "bench", "slow", "--url", f"http://{address}", *options, *load]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=False, capture_output=True).stdout)
    return report


def recovery_s(address: str) -> float:
    """Return the seconds until so many answers in a row come in time, one asked after the other."""
    connection, began = http.client.HTTPConnection(address), time.perf_counter()
    good: list[float] = []
    while len(good) < IN_A_ROW:
        asked = time.perf_counter()
        took, status = ask(connection)
        good = [*good, asked] if status == http.client.OK and took <= LIMIT_MS else []
    return good[0] - began


def percentile(values: list[float], share: float) -> float:
    """Return a percentile; NaN of nothing."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else float("nan")


def measure(name: str, seconds: float, *options: str) -> None:
    """Overload a server step by step and print a line for each step."""
    with serving(*options) as (address, pid):
        peak = bench(address, seconds, "--concurrency", "4")["throughput_per_s"]
        print(f"\n{name}: {peak:.1f}/s at best, with 4 callers in turn")
        print("  load   goodput/s  of best   p50 ms   p99 ms   refused p99 ms   recovers s   MiB more")
        steady = memory_mib(pid)
        for factor in FACTORS:
            probe = Probe(address)
            thread = threading.Thread(target=probe.run)
            thread.start()
            report = bench(address, seconds, "--rate", str(factor * 1000 / RUN_MS))
            probe.ends.set()
            thread.join()
            more, back = memory_mib(pid) - steady, recovery_s(address)
            latency, good = report["latency_ms"] or {}, report["goodput"]["per_s"] + probe.good_per_s
            p50, p99 = (latency[key]["value"] if latency else float("nan") for key in ("p50", "p99"))
            refused = percentile(probe.refused_ms, 0.99)
            print(
                f"  {factor:>3}x {good:>11.1f} {100 * good / peak:>7.1f}% {p50:>8.1f} {p99:>8.1f}"
                f" {refused:>16.2f} {back:>12.2f} {more:>10.1f}",
                flush=True,
            )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each step (default: 30)")
    seconds = parser.parse_args().seconds
    print(f"answers wanted within {LIMIT_MS} ms, {1000 // RUN_MS}/s can be run, {seconds:g} s a step")
    measure("with --latency-target 200ms", seconds, "--latency-target", f"{LIMIT_MS}ms")
    measure("without a target", seconds)


if __name__ == "__main__":
    main()
