"""What is measured: each way of asking each model, by one caller and by many."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from benchmarks.overhead.machine import DISTURBED_CORES, memory_mib, reset_peak_memory, usage
from benchmarks.overhead.processes import Server, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from benchmarks.overhead.questions import Question

__all__ = ["SUBJECTS", "Cell", "Programs", "start_cells"]

#: Ways of asking, by the name they are given.
SUBJECTS: Final = {
    "ort-rust": "ONNX Runtime, Rust",
    "ort-rust-batch": "ONNX Runtime, Rust, best batch",
    "ort-python": "ONNX Runtime, Python",
    "ort-python-batch": "ONNX Runtime, Python, best batch",
    "axon-rust": "Axon in-process, Rust",
    "axon-python-async": "Axon in-process, asyncio",
    "axon-python-sync": "Axon in-process, threads",
    "http-floor": "bare hyper, same bytes",
    "http-binary": "Axon HTTP, binary",
    "http-json": "Axon HTTP, JSON",
}
CALLERS: Final = (1, 64)
#: A slow model's window is longer by this, so that a window holds enough of its runs.
SLOW_FACTOR: Final = 2
#: Of a window, before it is timed: long enough for 64 callers' first queue of the slow model to be answered.
WARM_UP: Final = 0.25
MAX_BATCH: Final = 64
SWEEP_S: Final = 0.15


@dataclass(frozen=True, kw_only=True)
class Programs:
    """What was built."""

    server: Path
    load: Path


@dataclass(kw_only=True)
class Cell:
    """One figure of the result: a model, asked in one way by so many callers.

    Attributes:
        model: The model's name.
        subject: One of `SUBJECTS`.
        callers: Requests in flight; the direct callers are never more than the cores.
        rows: Rows of each request.
        worker: What asks.
        server: The process whose processor time and memory count: the server's, else the worker's own.
        windows: What was measured, one for each round.
        discarded: Windows that were measured again.
    """

    model: str
    subject: str
    callers: int
    worker: Worker
    server: int
    rows: int = 1
    windows: list[dict[str, Any]] = field(default_factory=list)
    discarded: int = 0

    def measure(self, seconds: float) -> None:
        """Measure one window."""
        seconds *= SLOW_FACTOR if self.model == "slow" else 1
        pids = {self.server, self.worker.pid, os.getpid()}
        reset_peak_memory(self.server)
        before = usage(pids)
        report = self.worker.window(callers=self.callers, rows=self.rows, warm_up_s=seconds * WARM_UP, seconds=seconds)
        used = usage(pids) - before
        microseconds = 1e6 / report["all_requests"]
        rate = report["requests"] / report["seconds"]
        self.windows.append(
            report
            | {
                "requests_per_s": rate,
                "rows_per_s": rate * self.rows,
                "cpu_us": used.run_s[self.server] * microseconds,
                "client_cpu_us": used.run_s[self.worker.pid] * microseconds,
                "peak_rss_mib": memory_mib(self.server)["peak_rss"],
                "run_queue_share": sum(used.wait_s.values()) / used.wall_s,
                "others_cores": max(used.busy_s - sum(used.run_s.values()), 0.0) / used.wall_s,
            }
        )

    def is_disturbed(self, at: int = -1) -> bool:
        """Return whether other processes, or the host, took a part of the cores during a window."""
        return bool(self.windows[at]["others_cores"] > DISTURBED_CORES)

    def calm_windows(self) -> list[dict[str, Any]]:
        """Return the windows in which nothing else ran."""
        return [window for at, window in enumerate(self.windows) if not self.is_disturbed(at)]

    def measure_again(self, seconds: float) -> None:
        """Measure the last window again."""
        self.windows.pop()
        self.discarded += 1
        self.measure(seconds)


def start_cells(questions: list[Question], programs: Programs, wanted: set[str], stack: ExitStack) -> Iterator[Cell]:
    """Start the processes of the wanted subjects, which `stack` ends, and check an answer of each."""
    floor = stack.enter_context(Server([programs.load, "echo"])) if "http-floor" in wanted else None
    for question in questions:
        for subject, worker, server in [
            *in_process(question, programs, wanted, stack),
            *over_http(question, programs, wanted, floor, stack),
        ]:
            yield from cells_of(question.name, subject, worker, server)


def in_process(
    question: Question, programs: Programs, wanted: set[str], stack: ExitStack
) -> Iterator[tuple[str, Worker, int]]:
    """Start what runs a model in its own process."""
    arguments = (question.model, "--input", question.input, "--expected", question.expected)
    rust = {"ort-rust": "rust-direct", "axon-rust": "rust-inprocess"}
    for subject in ("ort-rust", "ort-python", "axon-rust", "axon-python-async", "axon-python-sync"):
        if wanted.isdisjoint({subject, f"{subject}-batch"}):
            continue
        if subject in rust:
            worker = Worker([programs.load, rust[subject], *arguments])
        else:
            worker = Worker.in_python(subject, *arguments)
        stack.enter_context(worker)
        for way in (subject, f"{subject}-batch"):
            if way in wanted:
                yield way, worker, worker.pid


def over_http(
    question: Question, programs: Programs, wanted: set[str], floor: Server | None, stack: ExitStack
) -> Iterator[tuple[str, Worker, int]]:
    """Start what is asked over HTTP: one server for each model, and the bare one."""
    if wanted.isdisjoint({"http-floor", "http-binary", "http-json"}):
        return
    server = stack.enter_context(
        Server([programs.server, question.model, "--http-port", "0", "--metrics-port", "0", "--grpc-port", "0"])
    )
    # Right answers first. The bare server reads what the binary request sends and answers as many bytes.
    length = question.check_binary(server.address)
    question.check_json(server.address)
    binary = (question.binary, question.binary_headers)
    json = (question.json, {"Content-Type": "application/json"})
    asked: dict[str, tuple[Server | None, str, tuple[Path, dict[str, str]]]] = {
        "http-floor": (floor, f"/{length}", binary),
        "http-binary": (server, question.path, binary),
        "http-json": (server, question.path, json),
    }
    for subject, (asked_server, path, (body, headers)) in asked.items():
        if subject not in wanted or asked_server is None:
            continue
        command = [programs.load, "http", "--address", asked_server.address, "--path", path, "--body", body]
        command += [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
        yield subject, stack.enter_context(Worker(command)), asked_server.pid


def cells_of(model: str, subject: str, worker: Worker, server: int) -> Iterator[Cell]:
    """Make the cells of one way of asking one model."""
    for callers in CALLERS:
        cell = Cell(model=model, subject=subject, callers=callers, worker=worker, server=server)
        if subject.startswith("ort-"):
            # More threads than cores only wait for each other.
            cell.callers = min(callers, len(os.sched_getaffinity(0)))
        if not subject.endswith("-batch"):
            yield cell
        elif callers > 1:
            cell.rows = best_batch(cell)
            # The batch of one is measured already.
            if cell.rows > 1:
                yield cell


def best_batch(cell: Cell) -> int:
    """Return the rows of a request that give the most rows per second, by one short window for each size."""
    rates: dict[int, float] = {}
    rows = 1
    while rows <= MAX_BATCH:
        report = cell.worker.window(callers=cell.callers, rows=rows, warm_up_s=SWEEP_S / 4, seconds=SWEEP_S)
        rates[rows] = rows * report["requests"] / report["seconds"]
        # Larger ones would not fit the window often enough to tell.
        if report["p50_us"] > SWEEP_S * 1e6 / 8:
            break
        rows *= 2
    return max(rates, key=lambda rows: rates[rows])
