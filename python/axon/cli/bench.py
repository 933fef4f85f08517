"""`axon bench`: how fast a model answers, and how many requests at once."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from axon.cli.options import add_input_options, add_trust_options
from axon.cli.parser import bounded, duration

if TYPE_CHECKING:
    from axon.cli.parser import Commands

__all__ = ["add_to"]

URL: Final = "http://127.0.0.1:8000"
_TERMINAL: Final = "terminal"
_MOST: Final = 1_000_000
_DAY_S: Final = 86400.0
_EXAMPLES: Final = """examples:
  axon bench digits --rate 2000 --limit 10ms       2,000 requests a second, at random moments
  axon bench digits --concurrency 64               64 callers, each of whom waits for an answer
  axon bench digits --find-rate --p99 10ms         the highest rate at which 99 of 100 answers come within 10 ms
  axon bench digits --url grpc://gpu-1:8001 --rate 500 --arrivals bursty --plot latency.svg
  axon bench digits --trace moments.txt --json     moments that were recorded: seconds, one on each line
  axon bench model.onnx --rate 1000                a file, run in this process

Latency counts from the moment a request was due, also when it could only be sent later. A duration is a number and
us, ms, s, m or h. Ctrl-C ends early and shows what was measured.
"""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast a model answers under load",
        description="Send a model requests, all alike, and show how long the answers took. Any server of the Open "
        "Inference Protocol v2 will do.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a model on the server, or the path of an .onnx file")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--url", help=f"the server, http:// or grpc:// (default: {URL})")
    place.add_argument("--in-process", metavar="PATH", help="open this file, or folder of models, in this process")
    parser.add_argument("--model-version", metavar="N", help="version to run (default: the server's choice)")
    add_input_options(parser, seed_of="the moments and of random data")
    _add_load(parser)
    add_trust_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON; docs/bench.md says what is in it")
    parser.add_argument(
        "--plot",
        action="append",
        type=_plot,
        default=[],
        metavar="WHERE",
        help="draw the latencies: terminal, FILE.svg or FILE.png; may come several times",
    )
    parser.set_defaults(run=_run)


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load", "what is sent; without --rate or --trace, --concurrency 1")
    kind = load.add_mutually_exclusive_group()
    kind.add_argument(
        "--rate",
        type=bounded(float, "requests a second", 0.01, float(_MOST)),
        metavar="R",
        help="open loop: requests a second on average; with --find-rate, the first that is tried",
    )
    kind.add_argument("--trace", type=Path, metavar="FILE", help="open loop: replay moments from a file")
    kind.add_argument(
        "--concurrency",
        type=bounded(int, "an integer", 1, _MOST),
        metavar="N",
        help="closed loop: N requests under way, each followed by the next when it is answered",
    )
    load.add_argument(
        "--arrivals",
        choices=["poisson", "constant", "bursty"],
        help="how --rate is spread over time (default: poisson)",
    )
    load.add_argument(
        "--duration", type=duration(0.01, _DAY_S), metavar="T", help="how long it counts (default: 10s; a whole trace)"
    )
    load.add_argument(
        "--warmup", type=duration(0.0, _DAY_S), metavar="T", help="how long before that (default: 1s; of a trace none)"
    )
    load.add_argument(
        "--timeout",
        type=duration(1e-3, _DAY_S),
        metavar="T",
        help="how long a request waits for its answer; the server is told (default: 10s, and it is not)",
    )
    load.add_argument(
        "--max-in-flight",
        type=bounded(int, "an integer", 1, _MOST),
        default=512,
        metavar="N",
        help="open loop: most requests under way; what is due beyond is counted as not sent (default: 512)",
    )
    load.add_argument(
        "--limit",
        "--p99",
        type=duration(1e-6, _DAY_S, needs_unit=True),
        metavar="T",
        help="within which time an answer is good, as 10ms",
    )
    load.add_argument(
        "--find-rate", action="store_true", help="look for the highest rate at which 99 of 100 are within --p99"
    )


def _plot(text: str) -> str:
    if text != _TERMINAL and not text.endswith((".svg", ".png")):
        raise argparse.ArgumentTypeError(f"expected {_TERMINAL}, FILE.svg or FILE.png, got {text!r}")
    return text


def _run(chosen: argparse.Namespace) -> int:
    from axon.cli.inputs import UsageError  # noqa: PLC0415 - and below: the command line starts without NumPy

    try:
        return _measure(chosen)
    except (UsageError, ImportError) as error:
        return _wrong(error)


def _wrong(error: object) -> int:
    print(f"axon bench: {error}", file=sys.stderr)
    return 2


def _measure(chosen: argparse.Namespace) -> int:
    from axon.cli import bench_run  # noqa: PLC0415

    _check(chosen)
    plan = bench_run.plan(chosen)
    try:
        outcome = bench_run.measure(plan, chosen)
    finally:
        plan.model.close()
    shown = sys.stderr if chosen.json else sys.stdout
    if chosen.json:
        print(json.dumps(outcome.report, allow_nan=False))
    else:
        _print_tables(outcome.tables)
    for warning in outcome.warnings:
        print(f"axon bench: warning: {warning}", file=sys.stderr)
    for where in chosen.plot:
        if where == _TERMINAL:
            print(outcome.bars(shown.encoding or "ascii"), end="", file=shown)
        else:
            _write(outcome, where)
    if not outcome.summary.answered:
        print("axon bench: no request was answered", file=sys.stderr)
        return 1
    return 0


def _check(chosen: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is opened or sent."""
    from axon.cli.inputs import UsageError  # noqa: PLC0415

    if chosen.arrivals is not None and chosen.rate is None and not chosen.find_rate:
        raise UsageError("--arrivals: expected with --rate or --find-rate, got neither")
    if chosen.find_rate and chosen.limit is None:
        raise UsageError("--find-rate: expected --p99 with it, as --p99 10ms, got none")
    for option, value in (("--trace", chosen.trace), ("--concurrency", chosen.concurrency)):
        if chosen.find_rate and value is not None:
            raise UsageError(f"--find-rate: it chooses the rate itself, got {option} too")
    is_file = chosen.model.endswith(".onnx") or Path(chosen.model).is_file()
    if is_file and chosen.in_process is not None:
        raise UsageError(f"--in-process: expected the name of a model in it as MODEL, got the file `{chosen.model}`")
    if is_file and chosen.url is not None:
        raise UsageError(f"--url: `{chosen.model}` is a file, which is run in this process\nhint: leave out --url")
    if (is_file or chosen.in_process is not None) and chosen.model_version is not None:
        raise UsageError("--model-version: expected with a server, got a model that is run in this process")
    for where in chosen.plot:
        _check_plot(where)


def _check_plot(where: str) -> None:
    import importlib  # noqa: PLC0415

    from axon.cli.inputs import UsageError  # noqa: PLC0415

    if where != _TERMINAL and not Path(where).parent.is_dir():
        raise UsageError(f"--plot: cannot write `{where}`: no folder `{Path(where).parent}`")
    if where.endswith(".png"):
        # An optional dependency, missed now and not when everything has been measured.
        importlib.import_module("axon.bench.png")


def _write(outcome: Any, where: str) -> None:  # noqa: ANN401 - of a module that is not imported here
    from axon.cli.inputs import UsageError  # noqa: PLC0415

    try:
        if where.endswith(".png"):
            from axon.bench.png import to_png  # noqa: PLC0415

            Path(where).write_bytes(to_png(outcome.figure()))
        else:
            from axon.bench.svg import to_svg  # noqa: PLC0415

            Path(where).write_text(to_svg(outcome.figure()), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--plot: cannot write `{where}`: {error.strerror}") from error


def _print_tables(tables: list[tuple[str, list[tuple[str, ...]]]]) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    # Written here and not by rich, which ends the process with 1 when the reader has gone.
    with console.capture() as capture:
        for title, rows in tables:
            table = Table(title=escape(title) or None, box=box.SIMPLE, show_header=bool(title), title_justify="left")
            header, body = (rows[0], rows[1:]) if title else (("",) * len(rows[0]), rows)
            for column in header:
                table.add_column(column, overflow="fold")
            for row in body:
                table.add_row(*map(escape, row))
            console.print(table)
    print(capture.get(), end="")
