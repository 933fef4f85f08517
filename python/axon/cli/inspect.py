"""`axon inspect`: what a model is, and how it would be run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from axon.cli.options import add_model_options, model_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from axon.cli.parser import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "inspect",
        help="show what a model takes and gives, and how it would be run",
        description="Load a model as `axon serve` would, measure it, and show what was found and chosen.",
    )
    parser.add_argument("path", metavar="MODEL", help="a model file, or a folder of models")
    parser.add_argument("--json", action="store_true", help="print JSON: an object, or an array for a folder")
    add_model_options(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from pathlib import Path  # noqa: PLC0415 - and below: the command line starts without what it does not need

    from axon.sync import InferenceServer  # noqa: PLC0415

    config = model_config(chosen)
    is_folder = Path(chosen.path).is_dir()
    if is_folder:
        server = InferenceServer.open(chosen.path, config=config)
    else:
        server = InferenceServer.load(chosen.path, name=chosen.name, config=config)
    with server:
        states = server.models()
        reports = [server.report(state.name, state.version) for state in states if state.state == "READY"]
        failures = [state for state in states if state.state != "READY"]
    if chosen.json:
        failed = [{"name": state.name, "version": state.version, "error": state.reason} for state in failures]
        print(json.dumps([*reports, *failed] if is_folder else reports[0], indent=2))
    else:
        for report in reports:
            _print_tables(report)
        for state in failures:
            print(f"{state.name} version {state.version}: cannot be served: {state.reason}")
    return 1 if failures else 0


def _print_tables(report: dict[str, Any]) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    facts = Table(title=f"{escape(report['name'])} version {report['version']}", box=box.SIMPLE, show_header=False)
    for fact, value in _facts(report):
        facts.add_row(fact, escape(value))
    tensors = Table(box=box.SIMPLE)
    for column in ("", "name", "datatype", "shape"):
        tensors.add_column(column)
    for side in ("inputs", "outputs"):
        for tensor in report[side]:
            tensors.add_row(side[:-1], escape(tensor["name"]), tensor["datatype"], escape(_shape(tensor)))
    curve = Table(title="run time", box=box.SIMPLE)
    for column in ("rows", "ms a run", "rows/s, one instance"):
        curve.add_column(column, justify="right")
    for point in report["run_time"]:
        rate = point["rows"] / point["milliseconds"] * 1e3
        curve.add_row(str(point["rows"]), f"{point['milliseconds']:.3f}", f"{rate:,.0f}")
    plan = Table(title="plans", box=box.SIMPLE)
    for column in ("", "instances", "threads", "ms a row alone", "ms a batch", "rows", "rows/s, all instances"):
        plan.add_column(column, justify="right")
    for one in report["candidates"]:
        times = (f"{one['single_milliseconds']:.3f}", f"{one['batch_milliseconds']:.3f}", str(one["rows"]))
        chosen = "chosen" if one["is_chosen"] else ""
        plan.add_row(chosen, str(one["instances"]), str(one["threads"]), *times, f"{one['rows_per_second']:,.0f}")
    # Written here and not by rich, which ends the process with 1 when the reader has gone.
    with console.capture() as capture:
        for table in (facts, tensors, curve, plan):
            console.print(table)
    print(capture.get(), end="")


def _facts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "size", f"{report['size_bytes'] / 1024:,.1f} KiB"
    yield "operator set", str(report["opset"])
    yield "made by", report["producer"] or "not said"
    yield "runs on", f"{report['device']}, ONNX Runtime {report['runtime']}"
    yield "batchable", _batchable(report)
    deterministic = {True: "yes", False: "no", None: "not tried"}[report["deterministic"]]
    yield "deterministic", deterministic
    if report["not_tried_because"]:
        yield "not tried", report["not_tried_because"]
    threads = "1 thread" if report["threads"] == 1 else f"{report['threads']} threads"
    yield "instances", f"{report['instances']} of {threads}: {report['chosen_because']}"
    yield "profile", report["profile"]
    yield "rows in a batch", f"up to {report['max_batch_rows']}"
    yield "memory", "kept from run to run" if report["arena"] else "given back after each run (shapes vary)"


def _batchable(report: dict[str, Any]) -> str:
    if report["batchable"] and report["not_batchable_because"]:
        return f"insisted on, although {report['not_batchable_because']}"
    if not report["batchable"]:
        return f"no: {report['not_batchable_because']}"
    return "yes, answers equal bit for bit" if report["bitwise"] else "yes, answers equal within rounding"


def _shape(tensor: dict[str, Any]) -> str:
    names = [*tensor["dimension_names"], *[None] * len(tensor["shape"])]
    sizes = [name or ("?" if size < 0 else str(size)) for size, name in zip(tensor["shape"], names, strict=False)]
    return f"[{', '.join(sizes)}]"
