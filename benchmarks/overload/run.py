"""How a server that is asked for more than it can do behaves: rows L-01 to L-08 of the test plan, on a real server.

The model is the backend `identity`, whose run takes 20 ms whatever else the machine does, so that its capacity is 50
requests a second. `axon bench` sends 2 to 20 times as many at random moments over HTTP, each of which wants its answer
within 200 ms, to Axon with that latency target and, in the same run, to Axon without one (a queue of 1,024 in order of
arrival, as other servers have it). Meanwhile one more connection asks again and again and times what it is refused.

    $ .venv/bin/python benchmarks/overload/run.py            # about 7 minutes
    $ .venv/bin/python benchmarks/overload/run.py --seconds 5
    $ .venv/bin/python benchmarks/overload/run.py --only tenants storm --seconds 10

`tenants` (L-07): a modest one asks evenly for 0.4 of the capacity while a greedy one sends 10 times the capacity; with
one class for both, and with the greedy one in a less urgent class. `storm` (L-08): twice the capacity comes, and who is
refused asks again at once, three times at most; then half of the capacity comes.
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
from concurrent.futures import ThreadPoolExecutor
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
PARTS: Final = ("target", "none", "tenants", "storm")
#: More than are ever under way at once.
THREADS: Final = 64
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
def serving(*options: str, model: str = MODEL) -> Iterator[tuple[str, int]]:
    """Serve the model and yield the address and the process id."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "slow" / "1").mkdir(parents=True)
        (Path(folder) / "slow" / "model.toml").write_text(model)
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


def ask(connection: http.client.HTTPConnection, question: str = QUESTION) -> tuple[float, int]:
    """Ask once; the milliseconds that it took and the status."""
    began = time.perf_counter()
    connection.request("POST", "/v2/models/slow/infer", question)
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


class Callers:
    """Callers who ask evenly, each in a thread with a connection of its own."""

    def __init__(self, address: str, question: str, *, retries: int) -> None:
        """Ask `question` at `address`; who is refused asks again at once, so many times."""
        self._address, self._question, self._retries = address, question, retries
        self._of_thread = threading.local()
        #: When each was asked first, whether it was answered in time at last, and how often it was asked.
        self.ended: list[tuple[float, bool, int]] = []

    def send(self, per_s: float, seconds: float) -> None:
        """Ask `per_s` questions each second, wait for all answers."""
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            asked = []
            for index in range(int(per_s * seconds)):
                time.sleep(max(began + index / per_s - time.perf_counter(), 0))
                asked.append(pool.submit(self._one, time.perf_counter()))
            for each in asked:
                each.result()

    def _one(self, due: float) -> None:
        if not hasattr(self._of_thread, "connection"):
            self._of_thread.connection = http.client.HTTPConnection(self._address)
        tries, status = 0, int(http.client.SERVICE_UNAVAILABLE)
        while status == http.client.SERVICE_UNAVAILABLE and tries <= self._retries:
            _, status = ask(self._of_thread.connection, self._question)
            tries += 1
        took = (time.perf_counter() - due) * 1e3
        self.ended.append((due, status == http.client.OK and took <= LIMIT_MS, tries))

    def good(self) -> float:
        """Return the share that was answered in time."""
        return sum(good for _, good, _ in self.ended) / max(len(self.ended), 1)


def measure_tenants(seconds: float) -> None:
    """One tenant sends ten times what can be run; what another gets of the little that it asks for."""
    urgent = json.dumps({**json.loads(QUESTION), "parameters": {"priority": 1}})
    classes = "priority_levels = 2\ndefault_priority_level = 2\n"
    print("\ntwo tenants: the modest one's goodput, of what it asks for (0.4 of the capacity)")
    for name, model, question in (("one class", MODEL, QUESTION), ("a class each", classes + MODEL, urgent)):
        with serving("--latency-target", f"{LIMIT_MS}ms", model=model) as (address, _):
            alone = Callers(address, question, retries=0)
            alone.send(0.4 * 1000 / RUN_MS, seconds)
            modest = Callers(address, question, retries=0)
            with ThreadPoolExecutor(1) as other:
                greedy = other.submit(bench, address, seconds + 2, "--rate", str(10 * 1000 / RUN_MS))
                time.sleep(1)
                modest.send(0.4 * 1000 / RUN_MS, seconds)
                goodput = greedy.result()["goodput"]["per_s"]
            shares = f"alone {100 * alone.good():5.1f}%, beside the greedy one {100 * modest.good():5.1f}%"
            print(f"  {name:<14} {shares}; the greedy one has {goodput:.1f}/s", flush=True)


def measure_storm(seconds: float) -> None:
    """Who is refused asks again at once; how long it takes to be well when the storm is over."""
    with serving("--latency-target", f"{LIMIT_MS}ms") as (address, _):
        storm = Callers(address, QUESTION, retries=3)
        storm.send(2 * 1000 / RUN_MS, seconds)
        over = time.perf_counter()
        after = Callers(address, QUESTION, retries=3)
        after.send(0.5 * 1000 / RUN_MS, 5)
    asked = sum(tries for _, _, tries in storm.ended)
    late = [due for due, good, _ in after.ended if not good]
    print("\na storm of retries: twice the capacity, each refusal asked again three times")
    good, last = storm.good() * len(storm.ended) / seconds, max(late, default=over) - over
    print(f"  {asked / seconds:.0f}/s asked with retries, {good:.1f}/s in time")
    print(
        f"  then half of the capacity: {100 * after.good():.1f}% in time, the last that was not {last:.2f} s after",
        flush=True,
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each step (default: 30)")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    chosen = parser.parse_args()
    seconds = chosen.seconds
    print(f"answers wanted within {LIMIT_MS} ms, {1000 // RUN_MS}/s can be run, {seconds:g} s a step")
    if "target" in chosen.only:
        measure("with --latency-target 200ms", seconds, "--latency-target", f"{LIMIT_MS}ms")
    if "none" in chosen.only:
        measure("without a target", seconds)
    if "tenants" in chosen.only:
        measure_tenants(seconds)
    if "storm" in chosen.only:
        measure_storm(seconds)


if __name__ == "__main__":
    main()
