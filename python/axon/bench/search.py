"""Looks for the highest rate that a server answers within a limit: doubles the rate until it does not, then bisects.

The search is pure: a generator that yields the rates to try and is sent what came of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

    from axon.bench.summary import Summary

__all__ = ["Step", "judge", "rates"]

#: How close to each other the best rate and the worst that failed must be, as a share.
_PRECISION: Final = 0.05
_LOWEST_RATE: Final = 0.01
_HIGHEST_RATE: Final = 1e6


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried.

    Attributes:
        rate: Requests a second.
        holds: Whether 99 of 100 requests that were due were answered within the limit.
        summary: What came of it.
        is_generator_limit: Whether it failed because the generator could not send so many, as far as it can tell.
    """

    rate: float
    holds: bool
    summary: Summary
    is_generator_limit: bool


def judge(rate: float, summary: Summary, limit_s: float) -> Step:
    """Say what a run at a rate shows. A request that failed, or could not be sent, is later than any limit."""
    p99 = summary.limit_p99_s
    holds = p99 is not None and p99.value <= limit_s
    return Step(rate, holds, summary, is_generator_limit=not holds and summary.is_late)


def rates(first: float) -> Generator[float, bool, float | None]:
    """Yield the rates to try from `first` on, and take whether each held; return the highest that did, None of none."""
    best, worst = 0.0, math.inf
    rate = first
    while _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        if (yield rate):
            best = rate
        else:
            worst = rate
        if worst < math.inf and best > 0.0:
            break
        rate = rate * 2.0 if best > 0.0 else rate / 2.0
    while best > 0.0 and worst < math.inf and worst > best * (1.0 + _PRECISION):
        middle = (best + worst) / 2.0
        if (yield middle):
            best = middle
        else:
            worst = middle
    return best or None
