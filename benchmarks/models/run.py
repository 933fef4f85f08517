"""Serve four kinds of real model at 30, 70, 90 and 120 % of what they can do, beside ONNX Runtime's own ceiling.

    .venv/bin/python benchmarks/models/run.py                       # about 12 minutes after the first build
    .venv/bin/python benchmarks/models/run.py --only mlp --rounds 1

The ceiling is ONNX Runtime called from Python by a thread for each core, each run on one thread, with the batch that
gives the most rows a second; of the encoder, whose sentences have four lengths, a batch has one length. The capacity
is what `axon-server` answers over HTTP to 64 callers who ask again at once; the loads are shares of that, at random
moments (Poisson), and latency counts from the moment at which a request was due. The load generator takes its part of
the same cores, which the ceiling does not have to share. Every figure is the median over the rounds, which go through
all windows in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.models.models import NAMES, Subject, subject
from benchmarks.overhead.processes import ROOT, Server, Worker

LOAD: Final = ROOT / "benchmarks" / "overhead" / "load"
SHARES: Final = (30, 70, 90, 120)
ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
CALLERS: Final = 64
CONNECTIONS: Final = 512
CORES: Final = len(os.sched_getaffinity(0))
_SEED: Final = 11


def rows_per_second(session: onnxruntime.InferenceSession, inputs: dict[str, Any], rows: int, seconds: float) -> float:
    """Run `rows` times the same row from a thread for each core and return the rows a second."""
    batch = {name: np.repeat(array, rows, axis=0) for name, array in inputs.items()}
    session.run(None, batch)
    ran = [0] * CORES
    started = time.perf_counter()

    def ask(index: int) -> None:
        while time.perf_counter() - started < seconds:
            session.run(None, batch)
            ran[index] += 1

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(CORES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows * sum(ran) / (time.perf_counter() - started)


class Ceiling:
    """What ONNX Runtime can do alone."""

    def __init__(self, subject: Subject, seconds: float) -> None:
        """Load the model and find the best batch for each question."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(subject.path, options, providers=["CPUExecutionProvider"])
        self._seconds = seconds
        self._best = []
        for question in subject.questions:
            rates = {rows: rows_per_second(self._session, question.inputs, rows, seconds / 4) for rows in ROWS}
            self._best.append((question.inputs, max(rates, key=rates.__getitem__)))

    @property
    def rows(self) -> list[int]:
        """The best batch of each question."""
        return [rows for _, rows in self._best]

    def measure(self) -> float:
        """Return the rows a second where all questions are as frequent."""
        each = [1 / rows_per_second(self._session, inputs, rows, self._seconds) for inputs, rows in self._best]
        return len(each) / sum(each)


class Served:
    """The model behind `axon-server`, and what asks it."""

    def __init__(self, subject: Subject, load: Path, folder: Path, stack: ExitStack) -> None:
        """Start the server and its askers."""
        self._target_s = subject.target_ms / 1e3
        command: list[str | Path] = [ROOT / "target" / "release" / "axon-server", subject.path, "--name", "m"]
        options = ["--http-port", "0", "--no-grpc", "--latency-target", f"{subject.target_ms:g}ms"]
        server = stack.enter_context(Server([*command, *options]))
        bodies: list[str | Path] = []
        for number, question in enumerate(subject.questions):
            path = folder / f"{number}.body"
            path.write_bytes(question.body)
            bodies += ["--body", path]
        words = ["--address", server.address, "--path", "/v2/models/m/infer", *bodies]
        words += ["--header", f"Inference-Header-Content-Length: {subject.json_length}"]
        # The capacity is asked for without a deadline of 10 ms: 64 callers wait for one another.
        patient = ["--header", "X-Request-Timeout: 10"]
        self._closed = stack.enter_context(Worker([load, "http", *words, *patient]))
        self._open = stack.enter_context(Worker([load, "open", *words]))

    def capacity(self, seconds: float) -> float:
        """Return the answers a second to callers who ask again at once."""
        report = self._closed.window(callers=CALLERS, rows=1, warm_up_s=seconds / 4, seconds=seconds)
        return float(report["requests"]) / float(report["seconds"])

    def load(self, rate: float, seconds: float, seed: int) -> dict[str, Any]:
        """Ask `rate` times a second."""
        window = {"callers": CONNECTIONS, "rows": 1, "warm_up_s": seconds / 4, "seconds": seconds}
        self._open.write_line(json.dumps(window | {"rate": rate, "seed": seed, "limit_s": self._target_s}))
        report: dict[str, Any] = json.loads(self._open.read_line())
        if report["failed"]:
            raise SystemExit(f"models: {report['first_failure']}")
        return report


def figures(windows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the medians of the windows of one load."""

    def median(of: str) -> float:
        return statistics.median(window[of] or 0.0 for window in windows)

    due = median("due")
    return {
        "due_per_second": due / windows[0]["seconds"],
        "p50_ms": median("p50_us") / 1e3,
        "p99_ms": median("p99_us") / 1e3,
        "answered_in_target_per_second": median("in_limit") / windows[0]["seconds"],
        "in_target_percent": 100 * statistics.median(window["in_limit"] / max(window["due"], 1) for window in windows),
        "refused_percent": 100 * statistics.median(window["refused"] / max(window["due"], 1) for window in windows),
    }


def measure(name: str, load: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one model."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        asked = subject(name, Path(folder))
        ceiling = Ceiling(asked, seconds / 2)
        served = Served(asked, load, Path(folder), stack)
        rates: list[float] = []
        ceilings: list[float] = []
        windows: dict[int, list[dict[str, Any]]] = {share: [] for share in SHARES}
        for number in range(rounds):
            print(f"{name}: round {number + 1} of {rounds}", file=sys.stderr)
            ceilings.append(ceiling.measure())
            rates.append(served.capacity(seconds))
            capacity = statistics.median(rates)
            for share in SHARES:
                windows[share].append(served.load(capacity * share / 100, seconds, _SEED + number))
        return {
            "model": name,
            "target_ms": asked.target_ms,
            "ceiling_rows_per_second": statistics.median(ceilings),
            "ceiling_batches": ceiling.rows,
            "capacity_per_second": statistics.median(rates),
            "loads": {str(share): figures(windows[share]) for share in SHARES},
        }


def tell(measured: dict[str, Any]) -> None:
    """Print one model's table."""
    ceiling, capacity = measured["ceiling_rows_per_second"], measured["capacity_per_second"]
    print(
        f"\n{measured['model']}: ONNX Runtime alone {ceiling:,.0f} rows/s (batches of {measured['ceiling_batches']}), "
        f"served {capacity:,.0f}/s ({100 * capacity / ceiling:.0f} %), target {measured['target_ms']:g} ms"
    )
    print("| load | due/s | p50 ms | p99 ms | in the target | in the target/s | refused |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for share, load in measured["loads"].items():
        print(
            f"| {share} % | {load['due_per_second']:,.0f} | {load['p50_ms']:.2f} | {load['p99_ms']:.2f} "
            f"| {load['in_target_percent']:.1f} % | {load['answered_in_target_per_second']:,.0f} "
            f"| {load['refused_percent']:.1f} % |"
        )


def main() -> None:
    """Build, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, action="append", help="a model; may come several times (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="windows of each figure (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a window in seconds (default: 8)")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "axon-server"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", "--release"], cwd=LOAD, check=True)
    load = LOAD / "target" / "release" / "axon-load"
    measured = []
    for name in arguments.only or NAMES:
        measured.append(measure(name, load, arguments.rounds, arguments.seconds))
        tell(measured[-1])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    kept = ROOT / "benchmarks" / "results" / f"models-{time.strftime('%Y-%m-%d')}-{commit}.json"
    kept.write_text(json.dumps({"commit": commit, "rounds": arguments.rounds, "models": measured}, indent=1) + "\n")
    print(f"kept in {kept.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
