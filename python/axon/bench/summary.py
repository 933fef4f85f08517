"""The figures of a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from axon.bench.percentile import Percentile, percentile
from axon.bench.record import ANSWERED

if TYPE_CHECKING:
    from axon.bench.record import FailureCount, Record

__all__ = ["QUANTILES", "Summary", "answered_latencies", "summarise"]

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
#: A generator is late when one in a hundred requests is sent this much after it was due, in seconds and as a share of
#: the p99 latency that was measured: below either, the lateness does not change what is read from the figures.
_LATE_S: Final = 1e-3
_LATE_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of a load; latencies are of the requests that were answered, from when they were due.

    Attributes:
        due: Requests that were due in the part that counts: `answered`, `failed`, `not_sent` and `unfinished` together.
        answered: Those with a good answer.
        failed: Those with an error, or none in time.
        not_sent: Those that were due while as many as may be were under way.
        unfinished: Those under way when the run was ended.
        warm_up: Requests before the part that counts.
        window_s: How long the part that counts was.
        throughput_per_s: Good answers a second in it.
        limit_s: Within how many seconds an answer is good; None when nobody said.
        goodput_per_s: Answers a second within the limit.
        share_in_limit: Of the requests that were due and are not unfinished, those answered within it.
        limit_p99_s: The p99 of all of those, where one without an answer is infinitely late; None of none.
        mean_s: Of the latencies; None when there was no answer, as are the next three.
        min_s: The shortest.
        max_s: The longest.
        percentiles: By name, as in `QUANTILES`; empty when there was no answer.
        errors: Why requests failed, the most frequent first.
        lateness_p99_s: The p99 of how long after it was due a request was sent; None when none was sent.
        lateness_max_s: The longest.
        is_late: Whether that lateness is part of what was measured.
        is_interrupted: Whether the run was ended before its time.
    """

    due: int
    answered: int
    failed: int
    not_sent: int
    unfinished: int
    warm_up: int
    window_s: float
    throughput_per_s: float
    limit_s: float | None
    goodput_per_s: float | None
    share_in_limit: float | None
    limit_p99_s: Percentile | None
    mean_s: float | None
    min_s: float | None
    max_s: float | None
    percentiles: dict[str, Percentile]
    errors: tuple[FailureCount, ...]
    lateness_p99_s: float | None
    lateness_max_s: float | None
    is_late: bool
    is_interrupted: bool


def summarise(record: Record, limit_s: float | None) -> Summary:
    """Make the figures; `limit_s` is the one that the load had."""
    answered = answered_latencies(record)
    lateness = np.sort(np.asarray(record.lateness_s))
    percentiles = {name: percentile(answered, q) for name, q in QUANTILES.items()} if answered.size else {}
    # Of a request that was still under way when the run was ended, nothing is known.
    settled = record.due - record.unfinished
    everyone = np.concatenate([answered, np.full(settled - answered.size, np.inf)])
    late_s = percentile(lateness, 0.99).value if lateness.size else None
    is_late = late_s is not None and late_s > max(
        _LATE_S, _LATE_SHARE * percentiles["p99"].value if percentiles else 0.0
    )
    share = float((answered <= limit_s).sum()) / settled if limit_s is not None and settled > 0 else None
    return Summary(
        due=record.due,
        answered=record.answered,
        failed=record.failed,
        not_sent=record.not_sent,
        unfinished=record.unfinished,
        warm_up=record.warm_up,
        window_s=record.window_s,
        throughput_per_s=_rate(record.answered_in_window, record.window_s),
        limit_s=limit_s,
        goodput_per_s=None if limit_s is None else _rate(record.good_in_window, record.window_s),
        share_in_limit=share,
        limit_p99_s=percentile(everyone, 0.99) if everyone.size else None,
        mean_s=float(answered.mean()) if answered.size else None,
        min_s=float(answered[0]) if answered.size else None,
        max_s=float(answered[-1]) if answered.size else None,
        percentiles=percentiles,
        errors=tuple(sorted(record.failures, key=lambda failure: -failure.count)),
        lateness_p99_s=late_s,
        lateness_max_s=float(lateness[-1]) if lateness.size else None,
        is_late=is_late,
        is_interrupted=record.is_interrupted,
    )


def answered_latencies(record: Record) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the latencies of the requests that were answered, in seconds, ascending."""
    return np.sort(np.asarray(record.latency_s)[np.asarray(record.outcomes) == ANSWERED])


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0.0 else 0.0
