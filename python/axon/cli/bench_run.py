"""What `axon bench` does once its command line is right: opens the model, sends the load, makes the figures."""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from axon import __version__
from axon.bench import report
from axon.bench.arrivals import Arrivals, BadTrace, due, read_trace
from axon.bench.load import Load, run
from axon.bench.loop import precise_loop, raise_open_file_limit
from axon.bench.model import on_server, open_in_process
from axon.bench.plot import bars, figure
from axon.bench.search import judge, rates
from axon.bench.summary import answered_latencies, summarise
from axon.cli.bench import URL
from axon.cli.inputs import InputReader, UsageError
from axon.cli.options import LARGEST_SEED, trust

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from axon.bench.load import Target
    from axon.bench.model import Model
    from axon.bench.plot import Figure
    from axon.bench.record import Record
    from axon.bench.search import Step
    from axon.bench.summary import Summary

__all__ = ["Outcome", "Plan", "measure", "plan"]

_WARMUP_S: Final = 1.0
_DURATION_S: Final = 10.0
_TIMEOUT_S: Final = 10.0
_FIRST_RATE: Final = 100.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model that is open, its inputs, and the load: `told_s` is the timeout that the server is told."""

    model: Model
    asked: report.Asked
    load: Load
    told_s: float | None
    seed: int
    arrivals: Arrivals


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out, ready to be shown."""

    plan: Plan
    record: Record
    summary: Summary
    searched: report.Searched | None

    @property
    def report(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return report.to_json(self.plan.asked, self.summary, self.searched)

    @property
    def tables(self) -> list[tuple[str, list[tuple[str, ...]]]]:
        """Titles and rows."""
        return report.tables(self.plan.asked, self.summary, self.searched)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know."""
        return list(report.warnings(self.summary, self.searched))

    def bars(self, encoding: str) -> str:
        """Draw the latencies for a terminal."""
        return bars(answered_latencies(self.record), encoding)

    def figure(self) -> Figure:
        """Draw the latencies for a file."""
        title = f"{self.plan.model.name}: latency of {self.summary.answered:,} answers, {report.load_text(self._sent)}"
        return figure(answered_latencies(self.record), title, self.summary.limit_s)

    @property
    def _sent(self) -> dict[str, Any]:
        return report.load_sent(self.plan.asked, self.searched)


def plan(chosen: argparse.Namespace) -> Plan:
    """Open the model and make its inputs and the load.

    Raises:
        UsageError: An option is not what it should be.
        AxonError: The model cannot be asked.
    """
    trace = None if chosen.trace is None else _trace(chosen.trace)
    seed = secrets.randbelow(LARGEST_SEED) if chosen.seed is None else chosen.seed
    model = _open(chosen)
    try:
        reader = InputReader(model.name, model.takes, batch=chosen.batch, shapes=dict(chosen.shape))
        inputs = reader.read(chosen.input, seed)
    except BaseException:
        model.close()
        raise
    for note in reader.notes:
        print(f"axon bench: {note}", file=sys.stderr)
    is_open = chosen.rate is not None or chosen.find_rate
    concurrency = None if is_open or trace is not None else chosen.concurrency or 1
    arrivals = Arrivals(chosen.arrivals or "poisson")
    load = Load(
        due=due(arrivals, chosen.rate, seed) if chosen.rate is not None else trace,
        concurrency=concurrency or 1,
        warmup_s=_warmup_s(chosen),
        duration_s=_duration_s(chosen, trace),
        timeout_s=chosen.timeout or _timeout_s(chosen),
        max_in_flight=chosen.max_in_flight,
        limit_s=chosen.limit,
    )
    said = {
        "kind": "closed" if concurrency else "open",
        "rate": chosen.rate,
        "arrivals": arrivals.value if is_open else None,
        "trace": None if chosen.trace is None else str(chosen.trace),
        "concurrency": concurrency,
        "warmup_s": load.warmup_s,
        "duration_s": load.duration_s,
        "timeout_s": load.timeout_s,
        "max_in_flight": None if concurrency else load.max_in_flight,
        "seed": seed,
    }
    asked = report.Asked(model=model, inputs=inputs, load=said, axon=__version__)
    return Plan(model=model, asked=asked, load=load, told_s=chosen.timeout, seed=seed, arrivals=arrivals)


def _trace(path: Path) -> list[float]:
    try:
        return read_trace(path)
    except BadTrace as error:
        raise UsageError(f"--trace: `{path}`: {error}") from error
    except OSError as error:
        raise UsageError(f"--trace: cannot read `{path}`: {error.strerror}") from error


def _duration_s(chosen: argparse.Namespace, trace: list[float] | None) -> float:
    if chosen.duration is not None:
        return float(chosen.duration)
    # A whole trace, its last request included.
    return _DURATION_S if trace is None else max(trace[-1] - _warmup_s(chosen), 0.0) + 1.0


def _warmup_s(chosen: argparse.Namespace) -> float:
    if chosen.warmup is not None:
        return float(chosen.warmup)
    return _WARMUP_S if chosen.trace is None else 0.0


def _timeout_s(chosen: argparse.Namespace) -> float:
    """Return the timeout where none was said; a search need not wait long for what is too late anyway."""
    return max(1.0, 10.0 * chosen.limit) if chosen.find_rate else _TIMEOUT_S


def _open(chosen: argparse.Namespace) -> Model:
    if chosen.in_process is not None:
        return open_in_process(chosen.in_process, chosen.model)
    if chosen.model.endswith(".onnx") or Path(chosen.model).is_file():
        return open_in_process(chosen.model, None)
    return on_server(URL if chosen.url is None else chosen.url, chosen.model, chosen.model_version, trust(chosen))


def measure(plan: Plan, chosen: argparse.Namespace) -> Outcome:
    """Send the load, or look for the rate; an interrupt ends it early."""
    raise_open_file_limit()
    # What is here now stays, and need not be looked through by each collection of garbage, which holds up what is due.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            return runner.run(_measured(plan, chosen))
    finally:
        gc.unfreeze()


async def _measured(plan: Plan, chosen: argparse.Namespace) -> Outcome:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    target = plan.model.target(plan.asked.inputs, plan.told_s)
    try:
        if chosen.find_rate:
            return await _search(plan, target.target, stop, chosen)
        with _bar(plan.load, plan.model.name) as progress:
            record = await run(plan.load, target.target, stop=stop, progress=progress)
        return Outcome(plan, record, summarise(record, plan.load.limit_s), None)
    finally:
        await target.close()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _search(plan: Plan, target: Target, stop: asyncio.Event, chosen: argparse.Namespace) -> Outcome:
    shown: TextIO = sys.stderr if chosen.json else sys.stdout
    trying = rates(chosen.rate or _FIRST_RATE)
    steps: list[Step] = []
    best: tuple[float, Record, Summary] | None = None
    rate = next(trying)
    while True:
        load = replace(plan.load, due=due(plan.arrivals, rate, plan.seed))
        with _bar(load, f"{rate:,.2f}/s") as progress:
            record = await run(load, target, stop=stop, progress=progress)
        summary = summarise(record, load.limit_s)
        if stop.is_set():
            # A step that was cut short shows nothing, but is all there is where it was the first.
            best = best or (rate, record, summary)
            break
        step = judge(rate, summary, chosen.limit)
        steps.append(step)
        print(report.step_line(step), file=shown, flush=True)
        if step.holds or best is None or not any(each.holds for each in steps):
            best = (rate, record, summary)
        try:
            rate = trying.send(step.holds)
        except StopIteration:
            break
    found = max((step.rate for step in steps if step.holds), default=None)
    rate, record, summary = best
    return Outcome(plan, record, summary, report.Searched(found, rate, steps, is_interrupted=stop.is_set()))


@contextmanager
def _bar(load: Load, what: str) -> Iterator[Callable[[float], None] | None]:
    """Show on standard error how far a run is, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.markup import escape  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # Drawn by the loop that sends, when it says so: a thread that draws would take the interpreter from it at any time.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        task = progress.add_task(escape(what), total=load.warmup_s + load.duration_s)

        def show(passed_s: float) -> None:
            progress.update(task, completed=passed_s, refresh=True)

        yield show
