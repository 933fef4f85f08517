"""`axon simulate`: a recorded trace through the batcher, before anything is deployed."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from axon.cli.options import LARGEST_SEED
from axon.cli.parser import bounded, duration

if TYPE_CHECKING:
    from axon._axon import NativeReplay, NativeReplayReport
    from axon.cli.parser import Commands

__all__ = ["add_to"]

_MOST: Final = 1_000_000
_MOST_INSTANCES: Final = 1024
_PAIR: Final = 2
_DAY_S: Final = 86400.0
_FIELDS: Final = ("curve", "run_time")
_EXAMPLES: Final = """examples:
  axon inspect model.onnx --json > profile.json
  axon simulate moments.txt --model profile.json --limit 10ms
  axon simulate moments.txt --model profile.json --limit 10ms --speed 2     the same, twice as fast

A trace is what `axon bench --trace` takes: seconds, one on each line. Nothing is run and nothing is waited for.
"""


class _BadProfile(ValueError):  # noqa: N818 - the name says it
    """A profile cannot be used; the text names the field."""


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "simulate",
        help="play a recorded trace through the batcher under virtual time",
        description="Say what a model would answer in time, and what it would refuse, if requests came as they did.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", type=Path, metavar="TRACE", help="moments: seconds, one on each line")
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="PROFILE",
        help="a JSON file: what `axon inspect MODEL --json` prints, or a curve of one's own (docs/simulate.md)",
    )
    parser.add_argument(
        "--limit",
        type=duration(1e-6, _DAY_S, needs_unit=True),
        metavar="T",
        help="within which time an answer is wanted, as 10ms (default: latency_target_ms of the profile)",
    )
    parser.add_argument(
        "--speed",
        type=bounded(float, "a factor", 0.001, 1000.0),
        default=1.0,
        metavar="X",
        help="play the trace so many times as fast (default: 1)",
    )
    parser.add_argument(
        "--noise",
        type=bounded(float, "a share", 0.0, 1.0),
        default=0.03,
        metavar="SHARE",
        help="standard deviation of a run's time (default: 0.03)",
    )
    parser.add_argument(
        "--seed",
        type=bounded(int, "an integer", 0, LARGEST_SEED),
        metavar="N",
        help="of the noise (default: another each time; it is printed)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; docs/simulate.md says what is in it")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from axon import _axon  # noqa: PLC0415 - and below: the command line starts without what it does not need
    from axon.bench.arrivals import BadTrace, read_trace  # noqa: PLC0415
    from axon.errors import InvalidRequest  # noqa: PLC0415

    try:
        moments = read_trace(chosen.trace)
    except BadTrace as error:
        return _wrong(f"TRACE: `{chosen.trace}`: {error}")
    except OSError as error:
        return _wrong(f"TRACE: cannot read `{chosen.trace}`: {error.strerror}")
    try:
        replay = _replay(_read(chosen.model), chosen)
    except _BadProfile as error:
        return _wrong(f"--model: `{chosen.model}`: {error}")
    except OSError as error:
        return _wrong(f"--model: cannot read `{chosen.model}`: {error.strerror}")
    replay["arrivals"] = [at / chosen.speed for at in moments]
    try:
        report = _axon.simulate(replay)
    except InvalidRequest as error:
        return _wrong(f"TRACE: `{chosen.trace}`: {error.message}")
    if chosen.json:
        said = {"seed": replay["seed"], "speed": chosen.speed, "limit_s": replay["deadline_s"]}
        print(json.dumps({**said, **report}, allow_nan=False))
    else:
        _print(report, replay)
    return 0


def _wrong(text: str) -> int:
    print(f"axon simulate: {text}", file=sys.stderr)
    return 2


def _read(path: Path) -> dict[str, Any]:
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _BadProfile("expected JSON, got something else") from error
    if isinstance(said, list):
        raise _BadProfile("expected the profile of one model, got a list\nhint: inspect one file and not a folder")
    if not isinstance(said, dict):
        raise _BadProfile(f"expected an object, got {str(said)[:60]!r}")
    return said


def _replay(profile: dict[str, Any], chosen: argparse.Namespace) -> NativeReplay:
    limit = chosen.limit
    if limit is None and profile.get("latency_target_ms") is not None:
        limit = _number("latency_target_ms", profile["latency_target_ms"], 1e-3, _DAY_S * 1e3) / 1e3
    if limit is None:
        raise _BadProfile("latency_target_ms: expected milliseconds, got none\nhint: say --limit 10ms instead")
    return {
        "arrivals": [],
        "rows": [],
        "deadline_s": limit,
        "curve": _curve(profile),
        "instances": _count("instances", profile.get("instances", 1), _MOST_INSTANCES),
        "max_batch_rows": _count("max_batch_rows", profile.get("max_batch_rows", 64), _MOST),
        "max_queue_size": _count("max_queue_size", profile.get("max_queue_size", 1024), _MOST),
        "noise": chosen.noise,
        "seed": secrets.randbelow(LARGEST_SEED + 1) if chosen.seed is None else chosen.seed,
    }


def _curve(profile: dict[str, Any]) -> list[tuple[int, float]]:
    """Read `curve`, pairs of rows and seconds, or `run_time`, as `axon inspect` prints it."""
    name = next((name for name in _FIELDS if name in profile), "curve")
    points = profile.get(name)
    if not isinstance(points, list) or not points:
        got = "none" if points is None or points == [] else repr(points)[:60]
        raise _BadProfile(f"{name}: expected [rows, seconds] of at least one run, got {got}")
    curve: list[tuple[int, float]] = []
    for index, point in enumerate(points):
        at = f"{name}[{index}]"
        if name == "run_time" and isinstance(point, dict):
            rows = _count(f"{at}.rows", point.get("rows"), _MOST)
            seconds = _number(f"{at}.milliseconds", point.get("milliseconds"), 1e-6, 3.6e6) / 1e3
        elif isinstance(point, list) and len(point) == _PAIR:
            rows, seconds = _count(f"{at}[0]", point[0], _MOST), _number(f"{at}[1]", point[1], 1e-9, 3600.0)
        else:
            raise _BadProfile(f"{at}: expected [rows, seconds], got {repr(point)[:60]}")
        if curve and rows <= curve[-1][0]:
            raise _BadProfile(f"{at}: expected more than {curve[-1][0]} rows, got {rows}")
        curve.append((rows, seconds))
    return curve


def _count(name: str, said: object, most: int) -> int:
    if not isinstance(said, int) or isinstance(said, bool) or not 1 <= said <= most:
        raise _BadProfile(f"{name}: expected an integer from 1 to {most}, got {repr(said)[:60]}")
    return said


def _number(name: str, said: object, low: float, high: float) -> float:
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    # Written so that NaN, which is not less than anything, is refused.
    if not is_number or not low <= said <= high:  # type: ignore[operator]
        raise _BadProfile(f"{name}: expected a number from {low:g} to {high:g}, got {repr(said)[:60]}")
    return float(said)  # type: ignore[arg-type]


def _print(report: NativeReplayReport, replay: NativeReplay) -> None:
    def share(count: int) -> str:
        return f"{count:>10,}  {100.0 * count / report['received']:6.2f} %"

    def latency(seconds: float | None) -> str:
        return "     none" if seconds is None else f"{seconds * 1e3:10.3f} ms"

    rows = [
        ("received", f"{report['received']:>10,}  in {report['elapsed_s']:.3f} s of virtual time"),
        (f"in time, {replay['deadline_s'] * 1e3:g} ms", share(report["in_time"])),
        ("late", share(report["late"])),
        ("refused, would be late", share(report["refused_predicted"])),
        ("refused, queue full", share(report["refused_queue_full"])),
        ("given up in the queue", share(report["shed"])),
        ("expired in the queue", share(report["expired"])),
        ("latency p50", latency(report["p50_s"])),
        ("latency p99", latency(report["p99_s"])),
        ("p99 as foretold", latency(report["predicted_p99_s"])),
        ("latency max", latency(report["max_s"])),
        ("runs", f"{report['batches']:>10,}  of {report['mean_batch_rows']:.1f} rows on average"),
        ("busy", f"{100.0 * report['busy']:10.1f} %"),
        ("seed", f"{replay['seed']:>10}  trace hash {report['trace']}"),
    ]
    for name, value in rows:
        print(f"{name:<24}{value}")
