"""When requests are due, in seconds from the start: drawn from a seed, or read from a file."""

from __future__ import annotations

import json
import math
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Arrivals", "BadTrace", "due", "read_trace"]

_DRAWN: Final = 4096
#: Bursty arrivals: rates in multiples of the mean, and the mean seconds that each lasts. 3 · 0.1 + ⅓ · 0.3 = 0.1 + 0.3.
_BURST: Final = (3.0, 0.1)
_CALM: Final = (1.0 / 3.0, 0.3)
_KEY: Final = "at_s"


class Arrivals(Enum):
    """How the requests of an open loop are spread over time."""

    POISSON = "poisson"
    CONSTANT = "constant"
    BURSTY = "bursty"


class BadTrace(ValueError):  # noqa: N818 - the name says it
    """A trace cannot be replayed; the text says which line, what came and what is wanted."""


def due(arrivals: Arrivals, rate: float, seed: int) -> Iterator[float]:
    """Yield without end when requests are due, ascending from 0.

    Args:
        arrivals: Evenly spaced; independent of each other (Poisson); or Poisson at 3 times the rate and at a third of
            it by turns, a quarter of the time in bursts of 0.1 s on average.
        rate: Requests a second on average, more than 0.
        seed: Of what is drawn; the same one yields the same moments.
    """
    random = np.random.default_rng(seed)
    if arrivals is Arrivals.CONSTANT:
        return _constant(rate)
    return _poisson(rate, random) if arrivals is Arrivals.POISSON else _bursty(rate, random)


def _constant(rate: float) -> Iterator[float]:
    count = 0
    while True:
        # Divided anew each time: a sum of steps would drift.
        yield count / rate
        count += 1


def _poisson(rate: float, random: np.random.Generator) -> Iterator[float]:
    at = 0.0
    while True:
        for gap in random.exponential(1.0 / rate, _DRAWN).tolist():
            at += gap
            yield at


def _bursty(rate: float, random: np.random.Generator) -> Iterator[float]:
    at = 0.0
    while True:
        for times, seconds in (_BURST, _CALM):
            end = at + random.exponential(seconds)
            # What is left of a gap at the end of a phase is dropped: exponential gaps have no memory.
            while (at := at + random.exponential(1.0 / (rate * times))) < end:
                yield at
            at = end


def read_trace(path: Path) -> list[float]:
    """Read when requests were due: a number of seconds, or an object with `at_s`, on each line; the first is at 0.

    Raises:
        BadTrace: A line is neither, or earlier than the one before; or there is none.
        OSError: The file cannot be read.
    """
    moments: list[float] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadTrace(f"expected text, got bytes that are not UTF-8 at {error.start}") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        at = _moment(number, text)
        if moments and at < moments[-1]:
            raise BadTrace(f"line {number}: expected a moment from {moments[-1]:g} s on, got {at:g} s")
        moments.append(at)
    if not moments:
        raise BadTrace("expected a moment on each line, got none")
    return [at - moments[0] for at in moments]


def _moment(number: int, text: str) -> float:
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        said = said.get(_KEY)
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    if not is_number or not math.isfinite(said) or abs(said) > 1e12:  # noqa: PLR2004 - seconds since any epoch
        raise BadTrace(f'line {number}: expected seconds or {{"{_KEY}": seconds}}, got {text[:60]!r}')
    return float(said)
