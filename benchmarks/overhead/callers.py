"""Asks ONNX Runtime or Axon from Python over and over, and times the answers.

`run.py` starts it, one process for each way of asking and each model. Like `load`, the load generator in Rust, it
prints `{"ready": true}` once it has checked an answer, then reads windows from standard input and prints a report for
each, both as lines of JSON; `load/src/window.rs` says what they hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUCKETS_PER_OCTAVE: Final = 16
TOLERANCE: Final = 1e-5
Rows = npt.NDArray[np.float32]


@dataclass(kw_only=True)
class Recorder:
    """When answers are timed, in nanoseconds, and the answers so far."""

    start: int
    end: int
    all_requests: int = 0
    latencies: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, window: Mapping[str, Any]) -> Recorder:
        """Start the warm-up now."""
        start = time.perf_counter_ns() + int(window["warm_up_s"] * 1e9)
        return cls(start=start, end=start + int(window["seconds"] * 1e9))

    def answered(self, asked: int) -> int:
        """Count an answer that came now and return the time."""
        now = time.perf_counter_ns()
        self.all_requests += 1
        if self.start <= now < self.end:
            self.latencies.append(now - asked)
        return now

    def report(self, callers: list[Recorder]) -> dict[str, Any]:
        """Return the report of a window in which these asked."""
        latencies = np.sort(np.array([latency for caller in callers for latency in caller.latencies], np.int64))
        buckets, counts = np.unique((np.log2(latencies) * BUCKETS_PER_OCTAVE).astype(int), return_counts=True)

        def percentile(share: float) -> float | None:
            if not len(latencies):
                return None
            return float(latencies[min(int(len(latencies) * share), len(latencies) - 1)]) / 1e3

        return {
            "all_requests": sum(caller.all_requests for caller in callers),
            "requests": len(latencies),
            "seconds": (self.end - self.start) / 1e9,
            "p50_us": percentile(0.5),
            "p90_us": percentile(0.9),
            "p99_us": percentile(0.99),
            "max_us": percentile(1.0),
            "histogram": [[int(bucket), int(count)] for bucket, count in zip(buckets, counts, strict=True)],
            "failed": 0,
            "first_failure": None,
        }


class Subject(Protocol):
    """What is asked, and how. A failure is an exception, which ends the process."""

    def ask(self, rows: Rows) -> Rows:
        """Ask once and return the answer."""

    def measure(self, rows: Rows, callers: int, recorder: Recorder) -> list[Recorder]:
        """Ask from `callers` callers until the recorder's end; return what each counted."""


class OnnxRuntime:
    """ONNX Runtime with a session and a thread for each caller and one thread for each run."""

    def __init__(self, model: str) -> None:
        """Load one session; `measure` loads more."""
        import onnxruntime  # noqa: PLC0415 - Axon's processes must not load it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._load: Callable[[], Any] = lambda: onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._sessions = [self._load()]
        self._input = self._sessions[0].get_inputs()[0].name

    def ask(self, rows: Rows) -> Rows:
        """Ask once."""
        answer: Rows = self._sessions[0].run(None, {self._input: rows})[0]
        return answer

    def measure(self, rows: Rows, callers: int, recorder: Recorder) -> list[Recorder]:
        """Ask from threads."""
        self._sessions += [self._load() for _ in range(callers - len(self._sessions))]

        def call(index: int, own: Recorder) -> None:
            run, inputs, asked = self._sessions[index].run, {self._input: rows}, time.perf_counter_ns()
            while asked < own.end:
                run(None, inputs)
                asked = own.answered(asked)

        return in_threads(call, callers, recorder)


class AxonSync:
    """`axon.sync.InferenceServer`, asked from threads."""

    def __init__(self, model: str) -> None:
        """Load the model with every default."""
        from axon.sync import InferenceServer  # noqa: PLC0415 - ONNX Runtime's processes must not load it

        self._server = InferenceServer.load(model)

    def ask(self, rows: Rows) -> Rows:
        """Ask once."""
        return next(iter(self._server.infer(rows).values()))

    def measure(self, rows: Rows, callers: int, recorder: Recorder) -> list[Recorder]:
        """Ask from threads."""

        def call(_index: int, own: Recorder) -> None:
            infer, asked = self._server.infer, time.perf_counter_ns()
            while asked < own.end:
                infer(rows)
                asked = own.answered(asked)

        return in_threads(call, callers, recorder)


class AxonAsync:
    """`axon.InferenceServer`, asked from coroutines of one event loop."""

    def __init__(self, model: str) -> None:
        """Load the model with every default."""
        from axon import InferenceServer  # noqa: PLC0415 - as above

        self._runner = asyncio.Runner()
        self._server = self._runner.run(InferenceServer.load(model))

    def ask(self, rows: Rows) -> Rows:
        """Ask once."""
        outputs = self._runner.run(self._server.infer(rows))
        return next(iter(outputs.values()))

    def measure(self, rows: Rows, callers: int, recorder: Recorder) -> list[Recorder]:
        """Ask from coroutines."""

        async def call() -> Recorder:
            own, infer = Recorder(start=recorder.start, end=recorder.end), self._server.infer
            asked = time.perf_counter_ns()
            while asked < own.end:
                await infer(rows)
                asked = own.answered(asked)
            return own

        async def call_all() -> list[Recorder]:
            return await asyncio.gather(*(call() for _ in range(callers)))

        return self._runner.run(call_all())


class Call(Protocol):
    """One caller that asks in a thread of its own."""

    def __call__(self, index: int, own: Recorder, /) -> None:
        """Ask until the recorder's end."""


def in_threads(call: Call, callers: int, recorder: Recorder) -> list[Recorder]:
    """Run `callers` callers, each with a recorder of its own, and return the recorders."""
    recorders = [Recorder(start=recorder.start, end=recorder.end) for _ in range(callers)]
    # Threads start together, so that the first ones do not fill the warm-up alone.
    everybody = threading.Barrier(callers)

    def start(index: int) -> None:
        everybody.wait()
        call(index, recorders[index])

    with ThreadPoolExecutor(callers) as pool:
        for done in [pool.submit(start, index) for index in range(callers)]:
            done.result()
    return recorders


SUBJECTS: Final[Mapping[str, Callable[[str], Subject]]] = {
    "ort-python": OnnxRuntime,
    "axon-python-sync": AxonSync,
    "axon-python-async": AxonAsync,
}


def check(subject: Subject, rows: Rows, expected: Rows) -> None:
    """Check every row of an answer; runs of several rows may round in another order."""
    answer = subject.ask(rows)
    if answer.shape != (len(rows), len(expected)) or not np.allclose(
        answer, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max()
    ):
        message = f"a wrong answer: {answer}"
        raise ValueError(message)


def main() -> None:
    """Measure the windows that are asked for until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("model")
    parser.add_argument("--input", required=True, help="one row of the input as little-endian FP32")
    parser.add_argument("--expected", required=True, help="one row of the output")
    chosen = parser.parse_args()
    row, expected = (np.frombuffer(Path(name).read_bytes(), "<f4") for name in (chosen.input, chosen.expected))
    subject = SUBJECTS[chosen.subject](chosen.model)
    check(subject, row[None], expected)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        window = json.loads(line)
        rows = np.repeat(row[None], window["rows"], axis=0)
        check(subject, rows, expected)
        recorder = Recorder.of(window)
        report = recorder.report(subject.measure(rows, window["callers"], recorder))
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    main()
