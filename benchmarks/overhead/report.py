"""What came out: medians with their range, as tables for a terminal and for a README."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.markup import escape
from rich.table import Table

from benchmarks.overhead.cells import SUBJECTS, Cell
from benchmarks.overhead.questions import MODELS
from benchmarks.overhead.startup import WAYS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

__all__ = ["Spread", "print_tables", "results_of", "write_markdown"]

#: What a cell's windows are summed up in.
METRICS: Final = (
    "p50_us",
    "p90_us",
    "p99_us",
    "max_us",
    "requests_per_s",
    "rows_per_s",
    "cpu_us",
    "client_cpu_us",
    "peak_rss_mib",
    "run_queue_share",
    "others_cores",
)
#: Disturbed windows are left out where at least so many calm ones remain.
FEWEST_CALM: Final = 3
COLUMNS: Final = ("p50 µs", "p99 µs", "requests/s", "rows/s", "CPU µs/request", "peak MiB")
MARKS: Final = ("<!-- results: written by run.py --readme -->", "<!-- end of results -->")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median and its range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up some values, at least one."""
        return cls(median=statistics.median(values), low=min(values), high=max(values))

    def text(self) -> str:
        """Return it as `median (low-high)`."""
        return f"{short(self.median)} ({short(self.low)}\u2013{short(self.high)})"

    def json(self) -> dict[str, float]:
        """Return it as an object."""
        return {"median": self.median, "low": self.low, "high": self.high}


def short(value: float) -> str:
    """Write a number with three digits."""
    if value >= 1e6:  # noqa: PLR2004 - here and below: powers of ten
        return f"{short(value / 1e6)}M"
    if value >= 1e4:  # noqa: PLR2004
        return f"{value / 1e3:.0f}k" if value >= 1e5 else f"{value / 1e3:.1f}k"  # noqa: PLR2004
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def results_of(
    machine: Mapping[str, Any], options: Mapping[str, Any], cells: Sequence[Cell], startup: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that was measured, and what it comes to, as JSON."""
    results = {
        "machine": machine,
        "options": options,
        "startup": startup,
        "cells": [
            {
                "model": cell.model,
                "subject": cell.subject,
                "callers": cell.callers,
                "rows": cell.rows,
                "calm_windows": len(cell.calm_windows()),
                "discarded_windows": cell.discarded,
                "summary": {metric: spread_of(cell, metric).json() for metric in METRICS},
                "windows": cell.windows,
            }
            for cell in cells
        ],
    }
    return results | {"targets": [target.json() for target in targets(cells, startup)]}


def spread_of(cell: Cell, metric: str) -> Spread:
    """Sum up one metric of a cell, over its calm windows where there are enough."""
    calm = cell.calm_windows()
    windows = calm if len(calm) >= FEWEST_CALM else cell.windows
    return Spread.of([window[metric] for window in windows])


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the project promises of itself, and what was reached."""

    what: str
    wanted: str
    reached: Spread
    met: bool

    def json(self) -> dict[str, Any]:
        """Return it as an object."""
        return {"what": self.what, "wanted": self.wanted, "reached": self.reached.json(), "met": self.met}


def targets(cells: Sequence[Cell], startup: Mapping[str, Any]) -> Iterator[Target]:
    """Compare what was measured with the targets of issue 2; what was not measured is left out."""
    found = {(cell.model, cell.subject, cell.callers): cell for cell in cells}
    below = (
        (("noop", "http-binary", 1), "p50_us", 150, "HTTP binary, no-op model, 1 caller: p50, µs"),
        (("mlp", "http-binary", 64), "cpu_us", 20, "HTTP binary, tiny MLP, 64 callers: server CPU, µs a request"),
    )
    for key, metric, limit, what in below:
        if key in found:
            reached = spread_of(found[key], metric)
            yield Target(what=what, wanted=f"at most {limit}", reached=reached, met=reached.median <= limit)
    if cell := found.get(("mlp", "http-binary", 64)):
        reached, wanted = spread_of(cell, "requests_per_s"), 60_000
        what = "HTTP binary, tiny MLP, 64 callers: requests/s"
        yield Target(what=what, wanted=f"at least {wanted:,}", reached=reached, met=reached.median >= wanted)
    yield from throughput_targets(cells)
    memory = [reading["rss"] for reading in startup.get("binary-empty", {}).get("memory_mib", [])]
    if memory:
        reached = Spread.of(memory)
        what = "idle memory of axon-server, empty folder, MiB"
        yield Target(what=what, wanted="below 40", reached=reached, met=reached.median < 40)  # noqa: PLR2004
    for way, limit in (("binary-empty", 100), ("command-empty", 400)):
        if way in startup:
            reached = Spread.of([seconds * 1e3 for seconds in startup[way]["ready_s"]])
            what = f"start to ready of {WAYS[way]}, ms"
            yield Target(what=what, wanted=f"below {limit}", reached=reached, met=reached.median < limit)


def throughput_targets(cells: Sequence[Cell]) -> Iterator[Target]:
    """Compare the rows per second of the slow model with ONNX Runtime's best, round by round."""
    slow = [cell for cell in cells if cell.model == "slow"]
    direct = [cell for cell in slow if cell.subject.startswith("ort-")]
    if not direct:
        return
    best = max(direct, key=lambda cell: spread_of(cell, "rows_per_s").median)
    for cell in slow:
        if cell.subject.startswith("ort-") or cell.subject == "http-floor" or cell.callers == 1:
            continue
        reached = shares(cell, best, "rows_per_s")
        what = f"{SUBJECTS[cell.subject]}, slow model, {cell.callers} callers: % of ONNX Runtime's best throughput"
        yield Target(what=what, wanted="at least 97", reached=reached, met=reached.median >= 97)  # noqa: PLR2004


def shares(cell: Cell, of: Cell, metric: str) -> Spread:
    """Sum up what a metric is of another cell's, in percent, round by round, the calm ones where there are enough."""
    rounds = range(len(cell.windows))
    calm = [at for at in rounds if not cell.is_disturbed(at) and not of.is_disturbed(at)]
    chosen = calm if len(calm) >= FEWEST_CALM else rounds
    return Spread.of([cell.windows[at][metric] / of.windows[at][metric] * 100 for at in chosen])


def cell_rows(cells: Sequence[Cell]) -> Iterator[list[str]]:
    """Return a row for each cell: its subject, then `COLUMNS`."""
    order = list(SUBJECTS)
    for cell in sorted(cells, key=lambda cell: order.index(cell.subject)):
        metrics = ("p50_us", "p99_us", "requests_per_s", "rows_per_s", "cpu_us", "peak_rss_mib")
        p50, p99, requests, rows, cpu, memory = (spread_of(cell, metric) for metric in metrics)
        batch = f" ({cell.rows} rows)" if cell.rows > 1 else ""
        yield [
            SUBJECTS[cell.subject] + batch,
            p50.text(),
            p99.text(),
            requests.text(),
            short(rows.median),
            cpu.text(),
            short(memory.high),
        ]


def startup_rows(startup: Mapping[str, Any]) -> Iterator[list[str]]:
    """Return a row for each way of starting."""
    for way, measured in startup.items():
        memory = measured["memory_mib"][0]
        ready = Spread.of([seconds * 1e3 for seconds in measured["ready_s"]])
        yield [WAYS[way], ready.text(), short(memory["rss"]), short(memory["pss"]), short(memory["peak_rss"])]


def tables(cells: Sequence[Cell], startup: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Return the title, the columns and the rows of each table."""
    for model, title in MODELS.items():
        for many in (False, True):
            found = [cell for cell in cells if cell.model == model and (cell.callers > 1) is many]
            if found:
                callers = "64 callers; ONNX Runtime: a thread for each core" if many else "1 caller"
                yield f"{title}; {callers}", ("", *COLUMNS), list(cell_rows(found))
    if startup:
        columns = ("", "start to ready, ms", "idle RSS MiB", "idle PSS MiB", "peak RSS MiB")
        yield "start", columns, list(startup_rows(startup))
    if reached := list(targets(cells, startup)):
        rows = [[one.what, one.wanted, one.reached.text(), "yes" if one.met else "NO"] for one in reached]
        yield "targets", ("", "target", "reached", "met"), rows


def summary_line(machine: Mapping[str, Any], options: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """Say where, of what and how calmly it was measured."""
    windows = sum(len(cell.windows) for cell in cells)
    disturbed = windows - sum(len(cell.calm_windows()) for cell in cells)
    discarded = sum(cell.discarded for cell in cells)
    return (
        f"{machine['cpu']}, {machine['cores']} cores{', virtual' if machine['virtual'] else ''}, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}; Axon {machine['axon']} at {machine['commit']}"
        f"{' with changes' if machine['changed_files'] else ''}, ONNX Runtime {machine['onnxruntime']}, "
        f"Python {machine['python']}, {machine['rustc']}; {machine['date']}, load {machine['load'][0]:.1f}. "
        f"{options['rounds']} rounds of {options['seconds']:g} s; median (lowest\u2013highest) over the rounds; "
        f"{disturbed} of {windows} windows were disturbed by other processes, {discarded} more were discarded."
    )


def print_tables(console: Console, results: Mapping[str, Any], cells: Sequence[Cell]) -> None:
    """Print everything for a person."""
    for title, columns, rows in tables(cells, results["startup"]):
        table = Table(title=escape(title), box=box.SIMPLE, title_justify="left")
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row, style="red" if row[-1] == "NO" else None)
        console.print(table)
    console.print(summary_line(results["machine"], results["options"], cells))


def write_markdown(text: str, results: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    """Return a README's text with the results between its marks."""
    lines = [MARKS[0], "", summary_line(results["machine"], results["options"], cells), ""]
    for title, columns, rows in tables(cells, results["startup"]):
        lines += [f"### {title[0].upper()}{title[1:]}", "", *markdown_table(columns, rows), ""]
    before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
    return before + "\n".join([*lines, MARKS[1]]) + after


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)]
