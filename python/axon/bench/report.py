"""What came out, as the JSON that docs/bench.md describes, and as tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from axon._tensors import Array
    from axon.bench.model import Model
    from axon.bench.percentile import Percentile
    from axon.bench.search import Step
    from axon.bench.summary import Summary

__all__ = ["SCHEMA", "Asked", "Searched", "load_sent", "load_text", "step_line", "tables", "to_json", "warnings"]

#: Goes up when a key changes its meaning or goes; new keys may come without.
SCHEMA: Final = "axon.bench/1"
_ERRORS_SHOWN: Final = 12
#: Of fewer values, the interval of the p99 has no upper end.
_FEWEST: Final = 368


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was to be measured: the parts of a report that are known before."""

    model: Model
    inputs: Mapping[str, Array]
    load: dict[str, Any]
    axon: str


@dataclass(frozen=True, slots=True)
class Searched:
    """How the highest rate was looked for.

    Attributes:
        rate: It; None when none held.
        shown: The rate of the run whose figures are reported.
        steps: What was tried, in order.
        is_interrupted: Whether the search was ended before it had found it.
    """

    rate: float | None
    shown: float
    steps: Sequence[Step]
    is_interrupted: bool


def load_sent(asked: Asked, searched: Searched | None) -> dict[str, Any]:
    """Return the load whose figures are reported."""
    return asked.load if searched is None else {**asked.load, "rate": searched.shown}


def to_json(asked: Asked, summary: Summary, searched: Searched | None) -> dict[str, Any]:
    """Make the object that `--json` prints."""
    model = asked.model
    datatypes = {put.name: put.datatype for put in model.takes}
    return {
        "schema": SCHEMA,
        "axon": asked.axon,
        "model": model.name,
        "version": model.version,
        "protocol": model.protocol,
        "address": model.address,
        "inputs": [
            {"name": name, "datatype": datatypes.get(name), "shape": list(array.shape)}
            for name, array in asked.inputs.items()
        ],
        "load": load_sent(asked, searched),
        **_figures(summary),
        "search": None if searched is None else _search(searched),
    }


def _figures(summary: Summary) -> dict[str, Any]:
    goodput = None
    if summary.limit_s is not None:
        goodput = {
            "limit_ms": _ms(summary.limit_s),
            "per_s": summary.goodput_per_s,
            "share": summary.share_in_limit,
        }
    latency = None
    if summary.percentiles:
        latency = {
            "mean": _ms(summary.mean_s),
            "min": _ms(summary.min_s),
            "max": _ms(summary.max_s),
            **{name: _percentile(value) for name, value in summary.percentiles.items()},
        }
    return {
        "window_s": summary.window_s,
        "interrupted": summary.is_interrupted,
        "requests": {
            "due": summary.due,
            "answered": summary.answered,
            "failed": summary.failed,
            "not_sent": summary.not_sent,
            "unfinished": summary.unfinished,
            "warm_up": summary.warm_up,
        },
        "throughput_per_s": summary.throughput_per_s,
        "goodput": goodput,
        "latency_ms": latency,
        "errors": [{"code": each.code, "reason": each.reason, "count": each.count} for each in summary.errors],
        "generator": {
            "lateness_p99_ms": _ms(summary.lateness_p99_s),
            "lateness_max_ms": _ms(summary.lateness_max_s),
            "is_late": summary.is_late,
        },
    }


def _search(searched: Searched) -> dict[str, Any]:
    return {
        "rate": searched.rate,
        "interrupted": searched.is_interrupted,
        "steps": [
            {
                "rate": step.rate,
                "holds": step.holds,
                "p99_ms": None if step.summary.limit_p99_s is None else _percentile(step.summary.limit_p99_s),
                "due": step.summary.due,
                "share": step.summary.share_in_limit,
                "generator_limit": step.is_generator_limit,
            }
            for step in searched.steps
        ],
    }


def _percentile(value: Percentile) -> dict[str, float | None]:
    return {"value": _ms(value.value), "low": _ms(value.low), "high": _ms(value.high)}


def _ms(seconds: float | None) -> float | None:
    """Return milliseconds; None for what JSON does not have."""
    return None if seconds is None or not math.isfinite(seconds) else round(seconds * 1e3, 6)


def step_line(step: Step) -> str:
    """Write one line on a rate that was tried."""
    p99 = step.summary.limit_p99_s
    shown = "none" if p99 is None else interval(p99)
    verdict = "holds" if step.holds else "the generator is late" if step.is_generator_limit else "does not hold"
    return f"{step.rate:>12,.2f}/s  p99 {shown}  {step.summary.due:,} requests  {verdict}"


def interval(value: Percentile) -> str:
    """Write a percentile in milliseconds, with its interval."""
    if math.isinf(value.value):
        return "never (more than 1 in 100 were not answered)"
    low = "?" if value.low is None else f"{value.low * 1e3:.3f}"
    high = "?" if value.high is None else "never" if math.isinf(value.high) else f"{value.high * 1e3:.3f}"
    return f"{value.value * 1e3:.3f} ms ({low} to {high})"


def warnings(summary: Summary, searched: Searched | None) -> Iterator[str]:
    """Yield what a reader of the figures must know."""
    if summary.is_late and summary.lateness_p99_s is not None:
        yield (
            f"the generator itself was late: 1 in 100 requests was sent {summary.lateness_p99_s * 1e3:.3g} ms or more "
            "after it was due, which is part of the latencies\nhint: ask for less, or run it on another machine"
        )
    if summary.not_sent:
        yield (
            f"{summary.not_sent:,} requests were not sent: --max-in-flight were under way; "
            "the latencies are without them, the share in the limit counts them as missed"
        )
    if summary.is_interrupted:
        yield f"ended before its time; {summary.unfinished:,} requests were under way"
    if searched is not None:
        if searched.is_interrupted:
            yield "the search was ended before it had found the rate"
        elif any(step.is_generator_limit for step in searched.steps):
            yield "the search ended at what the generator can send, which may be less than the server can answer"
        if any(step.holds and step.summary.due < _FEWEST for step in searched.steps):
            yield f"a step had fewer than {_FEWEST} requests, too few for a p99\nhint: a longer --duration"


def tables(asked: Asked, summary: Summary, searched: Searched | None) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return titles and rows: what was asked and came, the latencies, the errors."""
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in asked.inputs.items())
    facts = [
        ("asked", f"{asked.model.name} at {asked.model.address}, {asked.model.protocol}"),
        ("inputs", shapes),
        ("load", load_text(load_sent(asked, searched))),
        ("due", f"{summary.due:,} in {summary.window_s:.2f} s, after {summary.warm_up:,} of warm-up"),
        ("answered", f"{summary.answered:,}"),
    ]
    for name, count in (
        ("failed", summary.failed),
        ("not sent", summary.not_sent),
        ("unfinished", summary.unfinished),
    ):
        facts += [(name, f"{count:,}")] if count else []
    facts.append(("throughput", f"{summary.throughput_per_s:,.1f}/s"))
    if summary.limit_s is not None and summary.share_in_limit is not None:
        share = f"{summary.share_in_limit:.2%} of those due within {summary.limit_s * 1e3:g} ms"
        facts.append(("goodput", f"{summary.goodput_per_s:,.1f}/s; {share}"))
    if summary.lateness_p99_s is not None:
        facts.append(("generator", f"sent {summary.lateness_p99_s * 1e3:.3f} ms after due at p99"))
    if searched is not None:
        limit = f"with p99 within {(summary.limit_s or 0.0) * 1e3:g} ms"
        rate = f"{searched.rate:,.2f}/s {limit}" if searched.rate else f"no rate {limit}; the last tried is shown"
        facts.insert(0, ("highest rate", rate))
    found: list[tuple[str, list[tuple[str, ...]]]] = [("", list(facts))]
    if summary.percentiles:
        rows: list[tuple[str, ...]] = [("", "ms", "95 % interval")]
        for name, value in summary.percentiles.items():
            rows.append((name, f"{value.value * 1e3:.3f}", interval(value).partition(" ms ")[2].strip("()")))
        rows.append(("mean", f"{(summary.mean_s or 0.0) * 1e3:.3f}", ""))
        rows.append(("max", f"{(summary.max_s or 0.0) * 1e3:.3f}", ""))
        found.append(("latency, from when a request was due", rows))
    if summary.errors:
        rows = [("count", "code", "reason")]
        rows += [(f"{each.count:,}", each.code, each.reason) for each in summary.errors[:_ERRORS_SHOWN]]
        left = sum(each.count for each in summary.errors[_ERRORS_SHOWN:])
        rows += [(f"{left:,}", "", "others; --json has them")] if left else []
        found.append(("errors", rows))
    return found


def load_text(load: Mapping[str, Any]) -> str:
    """Write a load in a line."""
    if load["kind"] == "closed":
        what = f"closed loop, {load['concurrency']} under way"
    elif load["trace"] is not None:
        what = f"open loop, trace {load['trace']}"
    else:
        what = f"open loop, {load['rate']:,.6g}/s, {load['arrivals']}"
    return f"{what}, --seed {load['seed']}"
