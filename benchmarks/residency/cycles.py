"""Load, ask, unload, a thousand times: what is left behind, and how long it takes beside ONNX Runtime alone.

    $ .venv/bin/python benchmarks/residency/cycles.py                 # about three minutes
    $ .venv/bin/python benchmarks/residency/cycles.py --cycles 200

The model is a perceptron of 12.6 MB. Axon and ONNX Runtime's Python package, which makes a session, runs it and drops
it, take turns of 25 cycles, so that whatever the machine does meanwhile hits both alike. After each turn the server is
given the time to have ended what it ended, and the kernel is asked what it has. *As it is*: as the model is loaded the
first few times. *Imported*: as it is loaded once it was imported, by `axon add` or in the background.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime as ort

from benchmarks.residency.models import perceptron
from benchmarks.residency.serve import AXON, Connection, Held, held, keep, question, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES: Final = (1024, 1024, 1024, 1024)
#: Cycles of each in turn.
TURN: Final = 25
#: From here on nothing may grow.
SETTLED: Final = 100
OK: Final = 200
SEED: Final = 1


def options() -> ort.SessionOptions:
    """Return what ONNX Runtime is called with: one thread, as Axon runs a model this small."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    return chosen


def cycle_alone(path: str) -> None:
    """Be the process that cycles ONNX Runtime as often as it is told to, and tells what that took."""
    row = np.ones((1, SIZES[0]), np.float32)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            session = ort.InferenceSession(path, options(), providers=["CPUExecutionProvider"])
            session.run(None, {"x": row})
            del session
        print(time.perf_counter() - began, flush=True)


@contextmanager
def alone(path: Path) -> Iterator[tuple[Callable[[int], float], int]]:
    """Start that process; yield what has it cycle so often and returns the seconds, and its id."""
    command = [sys.executable, __file__, "--alone", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def cycles(count: int) -> float:
            print(count, file=process.stdin, flush=True)
            return float(process.stdout.readline() if process.stdout else "nan")

        yield cycles, process.pid
        process.communicate()


class Served:
    """A server that loads, answers and unloads."""

    def __init__(self, address: str, pid: int, expected: bytes) -> None:
        """Use the server at `address`, which answers `expected`."""
        self.pid = pid
        self._connection = Connection(address)
        self._expected = np.frombuffer(expected, np.float32)
        self._body = question(np.ones((1, SIZES[0]), np.float32))
        self._threads: int | None = None

    def cycles(self, count: int) -> float:
        """Cycle so often; return the seconds."""
        began = time.perf_counter()
        for _ in range(count):
            self._post("/v2/repository/models/m/load", b"{}")
            answer = self._connection.post("/v2/models/m/infer", *self._body)
            if answer.status != OK or not np.allclose(answer.tensor(), self._expected, rtol=1e-4, atol=1e-4):
                raise SystemExit(f"cycles: {answer.status} {answer.body[:300]!r}")
            self._post("/v2/repository/models/m/unload", b"{}")
        return time.perf_counter() - began

    def _post(self, path: str, body: bytes) -> None:
        answer = self._connection.post(path, body)
        if answer.status != OK:
            raise SystemExit(f"cycles: {path}: {answer.status} {answer.body[:300]!r}")

    def held(self) -> Held:
        """Say what it has when it has ended what it ended; its threads tell."""
        if self._threads is None:
            time.sleep(1)
            self._threads = held(self.pid).threads
        wait_until(lambda: held(self.pid).threads <= (self._threads or 0), "threads of a model that is gone stay")
        # What an unloaded model leaves is given back on a thread that stays.
        time.sleep(0.05)
        return held(self.pid)


def measure(folder: Path, cache: Path, model: Path, cycles: int) -> dict[str, Any]:
    """Cycle both in turn."""
    row = np.ones((1, SIZES[0]), np.float32)
    session = ort.InferenceSession(model, options(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": row})[0].tobytes()
    del session
    seen: list[Held] = []
    runtime: list[float] = []
    times: list[tuple[float, float]] = []
    with (
        serving(folder, cache, "--model-control-mode", "explicit") as (address, pid),
        alone(model) as (cycle, alone_pid),
    ):
        served = Served(address, pid, expected)
        # What is found out at a first load, and the runtime itself.
        served.cycles(3)
        cycle(3)
        for _ in range(cycles // TURN):
            times.append((served.cycles(TURN) / TURN, cycle(TURN) / TURN))
            seen.append(served.held())
            runtime.append(held(alone_pid).resident_mib)
    first = min(SETTLED // TURN, len(seen) - 1)
    ratios = [axon / plain for axon, plain in times]
    rest = seen[first:]
    return {
        "cycles": cycles,
        "cycle_ms": round(statistics.median(axon for axon, _ in times) * 1e3, 2),
        "runtime_cycle_ms": round(statistics.median(plain for _, plain in times) * 1e3, 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "drift_mib": round(max(one.resident_mib for one in rest) - rest[0].resident_mib, 2),
        "last_mib_more": round(rest[-1].resident_mib - rest[0].resident_mib, 2),
        "runtime_drift_mib": round(max(runtime[first:]) - runtime[first], 2),
        "descriptors_more": rest[-1].descriptors - seen[0].descriptors,
        "threads_more": rest[-1].threads - seen[0].threads,
        "mappings_more": rest[-1].mappings - rest[0].mappings,
        "resident_mib": [round(one.resident_mib, 2) for one in seen],
    }


ROWS: Final = {
    "cycles": "cycles",
    "cycle_ms": "a cycle, ms",
    "runtime_cycle_ms": "ONNX Runtime alone, ms",
    "ratio": "ratio, median of turns",
    "ratio_range": "ratio, range",
    "drift_mib": "memory from cycle 100 on: most above, MiB",
    "last_mib_more": "and at the end, MiB",
    "runtime_drift_mib": "ONNX Runtime alone: most above, MiB",
    "descriptors_more": "descriptors more",
    "threads_more": "threads more",
    "mappings_more": "mappings more",
}


def main() -> None:
    """Measure, or be the process that calls ONNX Runtime alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=1000, help="of the model as it is (default: 1000)")
    parser.add_argument("--imported-cycles", type=int, default=300, help="of the imported model (default: 300)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.alone:
        cycle_alone(chosen.alone)
        return
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place, "models"), Path(place, "cache")
        model = perceptron(folder / "m" / "1" / "model.onnx", SIZES, np.random.default_rng(SEED))
        results["as it is"] = measure(folder, cache, model, chosen.cycles)
        environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
        subprocess.run([AXON, "add", model], check=True, stdout=subprocess.DEVNULL, env=environment)
        results["imported"] = measure(folder, cache, model, chosen.imported_cycles)
    print(f"\n{'':44}" + "".join(f"{name:>18}" for name in results))
    for key, label in ROWS.items():
        print(f"{label:44}" + "".join(f"{result[key]!s:>18}" for result in results.values()))
    keep("residency/cycles", chosen.json, {"model_bytes": 12_600_000, "results": results})


if __name__ == "__main__":
    main()
