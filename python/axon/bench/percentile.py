"""Percentiles of what was measured, each with an interval that holds the true one in 95 of 100 runs.

The interval has order statistics for its ends, so it assumes no shape of the distribution: of `n` values, the number
that lie below the true quantile `q` is binomial with `n` and `q`. **Source:** David and Nagaraja, "Order Statistics",
§7.1. It does assume that values are independent. Requests that wait in one queue are not, so that two runs may differ
by more than the intervals say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Percentile", "interval_ranks", "percentile"]

_TAIL: Final = 0.025
#: Standard deviations beyond which a binomial's weight is below what a float can add to 1.
_REACH: Final = 9.0


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile and its interval, in the unit of what was measured.

    Attributes:
        value: The smallest value that is no less than the share `q` of all.
        low: The lower end of the interval; None when there are too few values for one.
        high: The upper end; None likewise.
    """

    value: float
    low: float | None
    high: float | None


def percentile(ascending: Sequence[float] | np.ndarray[Any, np.dtype[Any]], q: float) -> Percentile:
    """Return the `q` quantile (more than 0, less than 1) of values in ascending order, of which there is at least one.

    Values may be infinite: a request that was never answered is later than any.
    """
    count = len(ascending)
    low, high = interval_ranks(count, q)
    # Rounded first: 0.999 · 1000 is a little more than 999 in floats.
    rank = max(math.ceil(round(q * count, 6)), 1)
    return Percentile(
        value=float(ascending[rank - 1]),
        low=None if low is None else float(ascending[low - 1]),
        high=None if high is None else float(ascending[high - 1]),
    )


def interval_ranks(count: int, q: float) -> tuple[int | None, int | None]:
    """Return the ranks, from 1, of the values that are the ends of the interval; None is beyond all values.

    At most 2.5 % of the weight lies below the interval, and at most 2.5 % above.
    """
    mean, deviation = count * q, math.sqrt(count * q * (1.0 - q))
    first = max(math.floor(mean - _REACH * deviation) - 1, 0)
    last = min(math.ceil(mean + _REACH * deviation) + 1, count)
    numbers = np.arange(first, last + 1, dtype=np.float64)
    # The weights by their ratios, from the mode: no factorial of a large number, and none underflows where it counts.
    ratios = np.log((count - numbers[:-1]) / (numbers[:-1] + 1.0) * (q / (1.0 - q)))
    logarithms = np.concatenate([[0.0], np.cumsum(ratios)])
    weights = np.exp(logarithms - logarithms.max())
    below = np.cumsum(weights) / weights.sum()
    # `below[k]` is the chance that at most `first + k` values lie below the quantile.
    low = int(first + np.searchsorted(below, _TAIL, side="right"))
    high = int(first + np.searchsorted(below, 1.0 - _TAIL, side="left")) + 1
    return (low if low > 0 else None), (high if high <= count else None)
