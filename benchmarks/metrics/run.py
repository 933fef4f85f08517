"""What it costs that everything is counted, and what a scrape costs.

    .venv/bin/python benchmarks/metrics/run.py            # about 3 minutes

Two servers of one build answer a model that does nothing, one with `--metrics on` and one with `--metrics off`. Each
round asks both, in alternating order, so that a busy moment of the machine hits both alike; what is printed are medians
over the rounds of what one window took against the other of its round. Then a server of 200 models is scraped, in each
form.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.overhead.processes import ROOT, Server, Worker
from benchmarks.wire.run import http_body, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

LOAD: Final = ROOT / "benchmarks" / "overhead" / "load"
MODELS: Final = 200
SCRAPES: Final = 50
SCRAPES_PER_SECOND: Final = 1000
CALLERS: Final = 32
WARM_UP_S: Final = 0.3
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
    """A server, and what asks it over each protocol."""

    server: Server
    workers: dict[str, Worker]

    def window(self, protocol: str, seconds: float) -> dict[str, float]:
        """Ask for a while; return what came of it."""
        process = psutil.Process(self.server.pid)
        before = process.cpu_times()
        report = self.workers[protocol].window(callers=CALLERS, rows=1, warm_up_s=WARM_UP_S, seconds=seconds)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        return {
            "requests/s": report["requests"] / report["seconds"],
            "server CPU, us a request": 1e6 * spent / max(report["all_requests"], 1),
            "p99, us": report["p99_us"],
        }


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
    path = "/v2/models/identity/infer"
    words = {
        "HTTP": ["http", "--address", server.address, "--path", path, "--body", folder / "http", *head],
        "gRPC": ["grpc", "--address", server.grpc_address, "--body", folder / "grpc", "--connections", "4"],
    }
    return Asked(server, {protocol: stack.enter_context(Worker([load, *said])) for protocol, said in words.items()})


@contextmanager
def scraping(address: str, rate: int) -> Iterator[None]:
    """Scrape `rate` times a second, on one connection, until the block ends."""
    stop = threading.Event()

    def scrape() -> None:
        with closing(http.client.HTTPConnection(address)) as connection:
            due = time.perf_counter()
            while not stop.is_set():
                connection.request("GET", "/metrics", headers={"Accept": FORMS["protobuf"]})
                connection.getresponse().read()
                due = max(due + 1 / rate, time.perf_counter() - 0.1)
                time.sleep(max(0.0, due - time.perf_counter()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def compare(protocol: str, on: Asked, off: Asked, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure both servers in turn; with and without a scraper, the one that counts."""
    windows: dict[str, list[dict[str, float]]] = {"off": [], "on": [], "scraped": []}
    for number in range(rounds):
        order = ["off", "on", "scraped"]
        for kind in order if number % 2 else reversed(order):
            if kind == "scraped":
                with scraping(on.server.address, SCRAPES_PER_SECOND):
                    windows[kind].append(on.window(protocol, seconds))
            else:
                windows[kind].append((on if kind == "on" else off).window(protocol, seconds))
    result: dict[str, Any] = {}
    for what in windows["off"][0]:
        result[what] = {kind: statistics.median(one[what] for one in told) for kind, told in windows.items()}
        for kind, base in (("on", "off"), ("scraped", "on")):
            ratios = [one[what] / other[what] for one, other in zip(windows[kind], windows[base], strict=True)]
            quarters = statistics.quantiles(ratios, n=4)
            result[what][f"{kind}/{base}"] = [statistics.median(ratios), quarters[0], quarters[2]]
    return result


def scrape_times(program: Path, folder: Path) -> dict[str, Any]:
    """Time scrapes of many models, in each form."""
    result: dict[str, Any] = {}
    with Server([program, repository(folder / "many", MODELS), *PORTS]) as server:
        for form, accept in FORMS.items():
            with closing(http.client.HTTPConnection(server.address)) as connection:
                times = []
                for _ in range(SCRAPES):
                    began = time.perf_counter()
                    connection.request("GET", "/metrics", headers={"Accept": accept})
                    length = len(connection.getresponse().read())
                    times.append(1e3 * (time.perf_counter() - began))
            cuts = statistics.quantiles(times, n=20)
            result[form] = {"p50, ms": statistics.median(times), "p95, ms": cuts[-1], "KiB": length / 1024}
    return result


def main() -> None:
    """Build what is not given, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="windows of each kind (default: 11)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window (default: 2)")
    parser.add_argument("--server", type=Path, help="an axon-server that is built (default: build it)")
    parser.add_argument("--load", type=Path, help="an axon-load that is built (default: build it)")
    chosen = parser.parse_args()
    if chosen.server is None:
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "axon-server"], cwd=ROOT, check=True)
    if chosen.load is None:
        subprocess.run(["cargo", "build", "--release"], cwd=LOAD, check=True)
    release = Path("target") / "release"
    programs = (chosen.server or ROOT / release / "axon-server", chosen.load or LOAD / release / "axon-load")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        on, off = (start(stack, programs, folder, metrics) for metrics in ("on", "off"))
        result: dict[str, Any] = {
            protocol: compare(protocol, on, off, chosen.rounds, chosen.seconds) for protocol in ("HTTP", "gRPC")
        }
    with tempfile.TemporaryDirectory() as name:
        result["scrape of 200 models"] = scrape_times(programs[0], Path(name))
    print(json.dumps(result, indent=2, default=float))


if __name__ == "__main__":
    main()
