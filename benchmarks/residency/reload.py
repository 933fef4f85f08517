"""A new version comes while the old one answers: what its callers notice.

    $ .venv/bin/python benchmarks/residency/reload.py                 # about two minutes
    $ .venv/bin/python benchmarks/residency/reload.py --reloads 4

Requests come at random moments. Each answer is compared with what the version that it names answers, by ONNX Runtime
alone; what is sent after a reload was answered has to come from the new version. `during` is what was sent between the
request to load and its answer, `before` what was sent in as long a quiet time just before. Beside it the same with
ONNX Runtime alone: a thread that answers the same requests, and another that makes the next session, tries it once and
swaps it in.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime as ort

from benchmarks.residency.models import perceptron
from benchmarks.residency.serve import Connection, keep, percentile, question, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

SIZES: Final = (256, 1536, 1536, 256)
CALLERS: Final = 4
OK: Final = 200
SEED: Final = 20261201
#: Quiet before each reload, in seconds; at least as long as the last one took.
QUIET_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    sent: float
    took_ms: float
    #: The version that it named, 0 where it is not told.
    version: int
    #: What was wrong; empty where it was right.
    problem: str


class Callers:
    """Ask at random moments, `rate` a second together, until told to stop."""

    def __init__(self, rate: float, asks: Callable[[], Callable[[], tuple[int, str]]]) -> None:
        """Start them; `asks` makes for each what asks once and tells the version and what is wrong."""
        self.calls: list[Call] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, rate / CALLERS, asks)) for number in range(CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, rate: float, asks: Callable[[], Callable[[], tuple[int, str]]]) -> None:
        random, ask = np.random.default_rng((SEED, number)), asks()
        moment = time.perf_counter()
        while not self._over.is_set():
            # One that is late is sent late, and counts from when it was sent: nobody queues for it but here.
            moment = max(moment + random.exponential(1 / rate), time.perf_counter())
            time.sleep(max(0.0, moment - time.perf_counter()))
            sent = time.perf_counter()
            version, problem = ask()
            self.calls.append(Call(sent, (time.perf_counter() - sent) * 1e3, version, problem))

    def stop(self) -> list[Call]:
        """End them and return every call."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self.calls


class Versions:
    """Versions of one model, written one after the other, and what each answers."""

    def __init__(self, folder: Path) -> None:
        """Write them to `folder`."""
        self._folder = folder
        self._random = np.random.default_rng(SEED)
        self.row: npt.NDArray[np.float32] = self._random.standard_normal((1, SIZES[0])).astype(np.float32)
        self.answers: dict[int, npt.NDArray[np.float32]] = {}

    def file(self, version: int) -> Path:
        """Return the file of a version."""
        return self._folder / "m" / str(version) / "model.onnx"

    def write(self, version: int) -> Path:
        """Write the next version, whole before it is seen."""
        hidden = perceptron(self._folder.parent / "hidden" / "model.onnx", SIZES, self._random)
        session = ort.InferenceSession(hidden, session_options(), providers=["CPUExecutionProvider"])
        self.answers[version] = session.run(None, {"x": self.row})[0].ravel()
        path = self.file(version)
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        hidden.parent.rename(path.parent)
        return path

    def judge(self, version: int, answer: npt.NDArray[np.float32]) -> str:
        """Tell what is wrong with an answer that names a version."""
        is_right = np.allclose(answer, self.answers[version], rtol=1e-4, atol=1e-4)
        return "" if is_right else f"an answer of version {version} is not its own"


def session_options() -> ort.SessionOptions:
    """Return what ONNX Runtime is called with."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    return chosen


@dataclass
class Window:
    """A quiet time, and the reload after it."""

    quiet: float
    began: float
    ended: float
    version: int


def reload_often(count: int, versions: Versions, reload: Callable[[int], None]) -> list[Window]:
    """Write and load a version after another, each after a quiet time."""
    windows: list[Window] = []
    longest = QUIET_S
    for version in range(2, count + 2):
        versions.write(version)
        # What was written is on its way to the disk.
        time.sleep(0.5)
        quiet = time.perf_counter()
        time.sleep(longest)
        began = time.perf_counter()
        reload(version)
        windows.append(Window(quiet, began, time.perf_counter(), version))
        longest = max(QUIET_S, windows[-1].ended - began)
        # The one that was replaced may still answer, from memory.
        shutil.rmtree(versions.file(version - 1).parent)
    time.sleep(QUIET_S)
    return windows


def figures(calls: list[Call], windows: list[Window]) -> dict[str, Any]:
    """Sum up."""

    def within(since: float, until: float) -> Iterator[Call]:
        return (call for call in calls if since <= call.sent < until)

    before = [call.took_ms for window in windows for call in within(window.quiet, window.began)]
    during = [call.took_ms for window in windows for call in within(window.began, window.ended)]
    late = [
        call
        for window in windows
        for call in within(window.ended, float("inf"))
        if call.version and call.version < window.version
    ]
    problems = [call.problem for call in calls if call.problem]
    result: dict[str, Any] = {
        "requests": len(calls),
        "problems": len(problems),
        "first_problems": problems[:5],
        "answers_of_an_old_version_afterwards": len(late),
        "reloads": len(windows),
        "reload_s": round(statistics.median(window.ended - window.began for window in windows), 3),
    }
    for name, values in (("before", before), ("during", during)):
        result |= {
            f"{name}_requests": len(values),
            f"{name}_p50_ms": round(percentile(values, 0.5), 2),
            f"{name}_p99_ms": round(percentile(values, 0.99), 2),
            f"{name}_most_ms": round(max(values, default=float("nan")), 2),
        }
    return {**result, "p99_ratio": round(result["during_p99_ms"] / result["before_p99_ms"], 3)}


def serve(reloads: int, rate: float, place: Path) -> dict[str, Any]:
    """Reload in a server."""
    folder = place / "models"
    versions = Versions(folder)
    versions.write(1)
    body = question(versions.row)
    options = ("--model-control-mode", "explicit", "--load-model", "m")
    with serving(folder, place / "cache", *options) as (address, _):

        def asks() -> Callable[[], tuple[int, str]]:
            connection = Connection(address)

            def ask() -> tuple[int, str]:
                answer = connection.post("/v2/models/m/infer", *body)
                if answer.status != OK:
                    return 0, f"{answer.status} {answer.body[:300]!r}"
                version = int(answer.version())
                return version, versions.judge(version, answer.tensor())

            return ask

        control = Connection(address)

        def reload(_: int) -> None:
            answer = control.post("/v2/repository/models/m/load", b"{}")
            if answer.status != OK:
                raise SystemExit(f"reload: {answer.status} {answer.body[:300]!r}")

        callers = Callers(rate, asks)
        try:
            time.sleep(1)
            windows = reload_often(reloads, versions, reload)
        finally:
            calls = callers.stop()
    return figures(calls, windows)


def alone(reloads: int, rate: float, place: Path) -> dict[str, Any]:
    """Reload ONNX Runtime's session in this process."""
    versions = Versions(place / "alone")

    def load(version: int) -> tuple[int, Any]:
        path = versions.file(version)
        session = ort.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
        session.run(None, {"x": versions.row})
        return version, session

    versions.write(1)
    current = [load(1)]

    def asks() -> Callable[[], tuple[int, str]]:
        def ask() -> tuple[int, str]:
            version, session = current[0]
            return version, versions.judge(version, session.run(None, {"x": versions.row})[0].ravel())

        return ask

    def reload(version: int) -> None:
        current[0] = load(version)

    callers = Callers(rate, asks)
    try:
        time.sleep(1)
        windows = reload_often(reloads, versions, reload)
    finally:
        calls = callers.stop()
    return figures(calls, windows)


ROWS: Final = {
    "requests": "requests",
    "problems": "errors and wrong or mixed answers",
    "answers_of_an_old_version_afterwards": "answers of an old version after its reload",
    "reloads": "reloads",
    "reload_s": "a reload, s",
    "before_p50_ms": "before: p50, ms",
    "before_p99_ms": "before: p99, ms",
    "during_requests": "requests during reloads",
    "during_p50_ms": "during: p50, ms",
    "during_p99_ms": "during: p99, ms",
    "during_most_ms": "during: longest, ms",
    "p99_ratio": "p99 during / before",
}


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=10, help="of a new version (default: 10)")
    parser.add_argument("--rate", type=float, default=200, help="requests in a second (default: 200)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        results = {
            "Axon": serve(chosen.reloads, chosen.rate, Path(place)),
            "ONNX Runtime alone": alone(chosen.reloads, chosen.rate, Path(place)),
        }
    print(f"\n{'':46}" + "".join(f"{name:>20}" for name in results))
    for key, label in ROWS.items():
        print(f"{label:46}" + "".join(f"{result[key]!s:>20}" for result in results.values()))
    for name, result in results.items():
        for problem in result["first_problems"]:
            print(f"{name}: {problem}")
    keep("residency/reload", chosen.json, {"results": results})


if __name__ == "__main__":
    main()
