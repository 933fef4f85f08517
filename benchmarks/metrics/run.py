"""What it costs that everything is counted, and what a scrape costs.

    .venv/bin/python benchmarks/metrics/run.py            # about four minutes, once the programs are built
    .venv/bin/python benchmarks/metrics/run.py --save     # and keep it in benchmarks/results

On a machine that does other things too, one long window says little. So everything is compared in many short windows
in turn, in the order A B B A, and the result is the median of the ratios within pairs, with the interval that holds it
in 95 of 100 resamplings of the pairs. Beside the throughput stands the processor time of the server for each request,
which others on the machine disturb far less.

1. Two servers of one build answer a model that does nothing, one with `--metrics on` and one with `--metrics off`.
2. One server answers a steady load far below what it can (an open loop; latency counts from when a request was due):
   alone, while a process scrapes it 1,000 times a second, and while the same process asks as often whether it lives.
   The last tells what any such neighbour costs on these cores, the scraper's own work included.
3. A server of 200 models is scraped in each form.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.overhead.machine import cpu_clock, describe
from benchmarks.overhead.processes import ROOT, BenchError, Process, Server, Worker
from benchmarks.wire.run import http_body, messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Window = Callable[[], dict[str, float]]

LOAD: Final = ROOT / "benchmarks" / "overhead" / "load"
MODELS: Final = 200
SCRAPES_PER_SECOND: Final = 1000
CALLERS: Final = 32
WARM_UP_S: Final = 0.1
#: The steady load, requests a second, and how long one of its windows is: 2,000 requests, 20 of them above the p99.
STEADY: Final = 2000.0
STEADY_S: Final = 1.0
#: Resamplings of the pairs, and their seed.
RESAMPLINGS: Final = 4000
SEED: Final = 1
PORTS: Final = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
FORMS: Final = {
    "text": "text/plain;version=0.0.4",
    "OpenMetrics": "application/openmetrics-text;version=1.0.0",
    "protobuf": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
}
#: A model that answers with its input, and takes no time for it.
MODEL: Final = """
backend = "identity"
max_batch_size = 64
[inputs.x]
datatype = "FP32"
shape = [4]
[outputs.y]
datatype = "FP32"
shape = [4]
"""


@dataclass
class Asked:
    """A server, and what asks it: `HTTP` and `gRPC` as fast as it answers, `steady` at a rate."""

    server: Server
    workers: dict[str, Worker]

    def saturate(self, protocol: str, seconds: float) -> dict[str, float]:
        """Ask as fast as it answers for a while."""
        spent = self.cpu_s()
        report = self.workers[protocol].window(callers=CALLERS, rows=1, warm_up_s=WARM_UP_S, seconds=seconds)
        return {
            "requests/s": report["requests"] / report["seconds"],
            "server CPU, us a request": 1e6 * (self.cpu_s() - spent) / report["all_requests"],
        }

    def steady(self, seed: int, beside: Beside | None = None) -> dict[str, float]:
        """Ask at a rate for a while, with something `beside` it.

        Raises:
            BenchError: A request failed, or not even nine of ten could be asked.
        """
        worker = self.workers["steady"]
        window = {"callers": CALLERS, "rows": 1, "warm_up_s": WARM_UP_S, "seconds": STEADY_S, "rate": STEADY}
        spent = self.cpu_s()
        if beside is not None:
            beside.begin(WARM_UP_S + STEADY_S)
        worker.write_line(json.dumps({**window, "seed": seed}))
        report = json.loads(worker.read_line())
        told = {} if beside is None else beside.end()
        if report["failed"] or report["answered"] < 0.9 * report["due"]:
            raise BenchError(f"of {report['due']} requests {report['answered']} were answered: {report}")
        return {
            "p50, us": report["p50_us"],
            "p99, us": report["p99_us"],
            "server CPU, ms a second": 1e3 * (self.cpu_s() - spent) / (WARM_UP_S + STEADY_S),
            **told,
        }

    def cpu_s(self) -> float:
        """Return the server's processor time so far."""
        return time.clock_gettime(cpu_clock(self.server.pid))


@dataclass
class Beside:
    """A process that asks a server something else meanwhile."""

    process: Process
    path: str

    def begin(self, seconds: float, rate: float = SCRAPES_PER_SECOND, form: str = "text") -> None:
        """Have it ask."""
        said = {"path": self.path, "accept": FORMS[form], "rate": rate, "seconds": seconds}
        self.process.write_line(json.dumps(said))

    def end(self) -> dict[str, float]:
        """Wait for it, and return what it asked."""
        told = self.report()
        return {
            "asked beside, /s": told["asked"] / told["seconds"],
            "its own CPU, us each": 1e6 * told["cpu_s"] / told["asked"],
        }

    def report(self) -> dict[str, Any]:
        """Wait for it, and return all that it says."""
        said: dict[str, Any] = json.loads(self.process.read_line())
        return said


def repository(folder: Path, count: int) -> Path:
    """Write `count` models that do nothing."""
    for number in range(count):
        name = "identity" if number == 0 else f"identity{number}"
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "model.toml").write_text(MODEL)
    return folder


def start(stack: ExitStack, programs: tuple[Path, Path], folder: Path, metrics: str) -> Asked:
    """Start a server and what asks it."""
    server_program, load = programs
    models = repository(folder / metrics, 1)
    server = stack.enter_context(Server([server_program, models, *PORTS, "--metrics", metrics]))
    body, json_length, _ = http_body(4)
    (folder / "http").write_bytes(body)
    (folder / "grpc").write_bytes(messages(4)[0])
    head = ("--header", f"Inference-Header-Content-Length: {json_length}")
    http = ("--address", server.address, "--path", "/v2/models/identity/infer", "--body", folder / "http", *head)
    words: dict[str, list[str | Path]] = {
        "HTTP": ["http", *http],
        "steady": ["open", *http],
        "gRPC": ["grpc", "--address", server.grpc_address, "--body", folder / "grpc", "--connections", "4"],
    }
    return Asked(server, {protocol: stack.enter_context(Worker([load, *said])) for protocol, said in words.items()})


def asker(stack: ExitStack, server: Server) -> Process:
    """Start the process that asks beside."""
    process = stack.enter_context(Process([sys.executable, Path(__file__).with_name("asker.py"), server.address]))
    process.read_line()
    return process


def compare(windows: dict[str, Window], base: str, pairs: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Take windows of each kind in turn, forwards and backwards; compare each kind with the kind `base`."""
    told: dict[str, list[dict[str, float]]] = {kind: [] for kind in windows}
    for number in range(pairs):
        order = list(windows) if number % 2 == 0 else list(reversed(windows))
        for kind in order:
            told[kind].append(windows[kind]())
        note(f"{number + 1} of {pairs}")
    result: dict[str, Any] = {}
    for kind, all_of_it in told.items():
        names = list(all_of_it[0])
        result[kind] = {name: statistics.median(one[name] for one in all_of_it) for name in names}
        if kind != base:
            result[f"{kind} / {base}"] = {
                name: ratio([one[name] / other[name] for one, other in zip(all_of_it, told[base], strict=True)])
                for name in names
                if name in told[base][0]
            }
    return result


def ratio(ratios: Sequence[float]) -> dict[str, float]:
    """Return the median of ratios and the interval that 95 of 100 resamplings have it in."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLINGS))
    low, high = medians[RESAMPLINGS * 25 // 1000], medians[RESAMPLINGS * 975 // 1000]
    return {"median": statistics.median(ratios), "low": low, "high": high, "pairs": len(ratios)}


def scrape_times(program: Path, folder: Path) -> dict[str, Any]:
    """Time scrapes of many models, in each form, one after the other."""
    result: dict[str, Any] = {}
    with ExitStack() as stack:
        server = stack.enter_context(Server([program, repository(folder / "many", MODELS), *PORTS]))
        beside = Beside(asker(stack, server), "/metrics")
        for form in FORMS:
            spent = time.clock_gettime(cpu_clock(server.pid))
            # As fast as it answers.
            beside.begin(3.0, rate=1e6, form=form)
            told = beside.report()
            spent = time.clock_gettime(cpu_clock(server.pid)) - spent
            result[form] = {
                "p50, ms": told["p50_ms"],
                "p95, ms": told["p95_ms"],
                "server CPU, ms": 1e3 * spent / told["asked"],
                "KiB": told["bytes"] / 1024,
                "scrapes": told["asked"],
            }
    return result


def build(chosen: argparse.Namespace) -> tuple[Path, Path]:
    """Build the programs that are not given."""
    if chosen.server is None:
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "axon-server"], cwd=ROOT, check=True)
    if chosen.load is None:
        subprocess.run(["cargo", "build", "--release"], cwd=LOAD, check=True)
    release = Path("target") / "release"
    return chosen.server or ROOT / release / "axon-server", chosen.load or LOAD / release / "axon-load"


def measure(programs: tuple[Path, Path], chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything."""

    def note(what: str) -> Callable[[str], None]:
        return lambda progress: print(f"\r{what}: {progress}   ", end="", file=sys.stderr, flush=True)

    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        off, on = (start(stack, programs, folder, metrics) for metrics in ("off", "on"))
        for protocol in ("HTTP", "gRPC"):
            windows: dict[str, Window] = {
                "off": partial(off.saturate, protocol, chosen.seconds),
                "on": partial(on.saturate, protocol, chosen.seconds),
            }
            result[protocol] = compare(windows, "off", chosen.pairs, note(f"metrics on and off, {protocol}"))
        process = asker(stack, on.server)
        seeds = iter(range(10**6))
        result["steady"] = compare(
            {
                "alone": lambda: on.steady(next(seeds)),
                "health checks": lambda: on.steady(next(seeds), Beside(process, "/v2/health/live")),
                "scrapes": lambda: on.steady(next(seeds), Beside(process, "/metrics")),
            },
            "alone",
            chosen.steady_pairs,
            note(f"{STEADY:,.0f} requests/s with and without {SCRAPES_PER_SECOND:,} scrapes/s"),
        )
    with tempfile.TemporaryDirectory() as name:
        result["scrape of 200 models"] = scrape_times(programs[0], Path(name))
    print(file=sys.stderr)
    return result


def table(result: dict[str, Any]) -> str:
    """Write the result as tables of Markdown."""

    def told(value: dict[str, float]) -> str:
        return f"{value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

    lines = ["|  | off | on | on / off |", "| --- | ---: | ---: | ---: |"]
    for protocol in ("HTTP", "gRPC"):
        of = result[protocol]
        lines += [
            f"| {protocol}, {name} | {off:,.1f} | {of['on'][name]:,.1f} | {told(of['on / off'][name])} |"
            for name, off in of["off"].items()
        ]
    steady = result["steady"]
    lines += ["", f"| {STEADY:,.0f} requests/s | alone | beside health checks | beside scrapes | scrapes / alone |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for name in steady["scrapes"]:
        kinds = [steady[kind].get(name) for kind in ("alone", "health checks", "scrapes")]
        cells = ["-" if value is None else f"{value:,.1f}" for value in kinds]
        against = steady["scrapes / alone"].get(name)
        lines.append(f"| {name} | {' | '.join(cells)} | {told(against) if against else '-'} |")
    lines += ["", "| scrape of 200 models | p50, ms | p95, ms | server CPU, ms | KiB |", "| --- |" + " ---: |" * 4]
    for form, of in result["scrape of 200 models"].items():
        values = (of["p50, ms"], of["p95, ms"], of["server CPU, ms"])
        lines.append(f"| {form} | {' | '.join(f'{value:.1f}' for value in values)} | {of['KiB']:,.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Build what is not given, measure, print, and keep the result where that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="windows on and off of each protocol (default: 40)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one of these windows (default: 0.5)")
    parser.add_argument("--steady-pairs", type=int, default=20, help="windows of each kind of neighbour (default: 20)")
    parser.add_argument("--server", type=Path, help="an axon-server that is built (default: build it)")
    parser.add_argument("--load", type=Path, help="an axon-load that is built (default: build it)")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    chosen = parser.parse_args()
    try:
        document = {"machine": describe(), **measure(build(chosen), chosen)}
    except BenchError as error:
        print(f"\nbenchmarks/metrics: {error}", file=sys.stderr)
        return 1
    text = json.dumps(document, indent=1)
    print(text if chosen.json else table(document))
    if chosen.save:
        machine = document["machine"]
        kept = ROOT / "benchmarks" / "results" / f"metrics-{machine['date'][:10]}-{machine['commit']}.json"
        kept.write_text(text + "\n")
        print(f"kept in {kept.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
