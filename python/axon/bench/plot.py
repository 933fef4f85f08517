"""Latencies as a picture: bars for a terminal, and a figure that `svg` and `png` draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from axon.bench.percentile import percentile
from axon.bench.summary import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    Latencies: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

__all__ = ["Figure", "Line", "Text", "bars", "figure"]

_BARS: Final = 16
_BAR_WIDTH: Final = 44
_POINTS: Final = 240
_WIDTH, _HEIGHT = 840, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 810.0, 52.0, 404.0
_INK, _GRID, _CURVE, _LIMIT = "#24292f", "#d8dee4", "#0969da", "#cf222e"
#: The least span of the axis of latencies, as a ratio: one value alone still has room around it.
_LEAST_RATIO: Final = 1.25


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Text:
    """A text; `anchor` is "start", "middle" or "end", where the point is, and the point is on its base line."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    size: float = 13.0
    colour: str = _INK


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of lines and texts on white; the origin is the upper left corner."""

    width: int
    height: int
    shapes: tuple[Line | Text, ...]


def bars(latencies: Latencies, encoding: str) -> str:
    """Draw how many of these latencies (in seconds, ascending) lie where, for a terminal of this `encoding`."""
    if not latencies.size:
        return "no answer, so no latency to plot\n"
    edges = _edges(latencies)
    # The edges are rounded, so that the first and the last value might fall outside.
    counts = np.histogram(np.clip(latencies, edges[0], edges[-1]), edges)[0]
    block = "█" if _can_write("█", encoding) else "#"
    marks = {name: float(percentile(latencies, q).value) for name, q in QUANTILES.items()}
    rows = []
    for at, count in enumerate(counts.tolist()):
        low, high = edges[at], edges[at + 1]
        inside = [name for name, value in marks.items() if low <= value < high or (at == len(counts) - 1 == value)]
        bar = block * max(round(count / counts.max() * _BAR_WIDTH), 1 if count else 0)
        share = f"{count / latencies.size:7.2%}"
        rows.append(f"{_ms(low):>9} to {_ms(high):>9} ms {share} {bar} {' '.join(inside)}".rstrip())
    return "\n".join(rows) + "\n"


def _edges(latencies: Latencies) -> list[float]:
    low, high = _span(latencies)
    return [float(edge) for edge in np.geomspace(low, high, _BARS + 1)]


def _span(latencies: Latencies) -> tuple[float, float]:
    """Return the ends of a logarithmic axis for these latencies."""
    low = max(float(latencies[0]), 1e-7)
    high = max(float(latencies[-1]) * 1.0001, low)
    if high / low < _LEAST_RATIO:
        low, high = low / math.sqrt(_LEAST_RATIO), high * math.sqrt(_LEAST_RATIO)
    return low, high


def _can_write(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def figure(latencies: Latencies, title: str, limit_s: float | None) -> Figure:
    """Draw latencies (in seconds, ascending) by percentile, with the intervals of those that are printed.

    Args:
        latencies: What was measured.
        title: What stands above.
        limit_s: Where to draw the limit; None draws none.
    """
    shapes: list[Line | Text] = [Text(_LEFT, 28.0, title, size=16.0)]
    if not latencies.size:
        shapes.append(Text((_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2, "no answer", "middle"))
        return Figure(_WIDTH, _HEIGHT, tuple(shapes))
    axes = _Axes.of(latencies, limit_s)
    shapes += axes.grid()
    shapes.append(Line(tuple(axes.curve(latencies)), _CURVE, 2.0))
    for q in QUANTILES.values():
        shapes += axes.interval(latencies, q)
    if limit_s is not None:
        y = axes.y(limit_s)
        shapes += [
            Line(((_LEFT, y), (_RIGHT, y)), _LIMIT, 1.5),
            Text(_LEFT + 6.0, y - 5.0, f"limit {_ms(limit_s)} ms", colour=_LIMIT),
        ]
    return Figure(_WIDTH, _HEIGHT, tuple(shapes))


@dataclass(frozen=True, slots=True)
class _Axes:
    """From values to places: each nine of a percentile takes the same room, and each power of ten of the latency."""

    low: float
    high: float
    nines: float

    @classmethod
    def of(cls, latencies: Latencies, limit_s: float | None) -> _Axes:
        low, high = _span(latencies)
        if limit_s is not None:
            low, high = min(low, limit_s / 1.1), max(high, limit_s * 1.1)
        return cls(low, high, max(math.log10(latencies.size), 1.0))

    def x(self, q: float) -> float:
        nines = min(-math.log10(1.0 - q), self.nines) if q < 1.0 else self.nines
        return _LEFT + (_RIGHT - _LEFT) * nines / self.nines

    def y(self, seconds: float) -> float:
        share = math.log(min(max(seconds, self.low), self.high) / self.low) / math.log(self.high / self.low)
        return _BOTTOM - (_BOTTOM - _TOP) * share

    def grid(self) -> Iterator[Line | Text]:
        for tick in _ticks(self.low, self.high):
            y = self.y(tick)
            yield Line(((_LEFT, y), (_RIGHT, y)), _GRID)
            yield Text(_LEFT - 8.0, y + 4.0, f"{_ms(tick)} ms", "end")
        # 0.9, 0.99, ... and the median; no further than there are values for.
        for q in (0.0, 0.5, *(1.0 - 10.0**-nines for nines in range(1, math.floor(self.nines) + 1))):
            x = self.x(q)
            yield Line(((x, _TOP), (x, _BOTTOM)), _GRID)
            yield Text(x, _BOTTOM + 20.0, f"{q * 100:.10g} %", "middle")
        yield Text((_LEFT + _RIGHT) / 2, _BOTTOM + 42.0, "share of the answers that came within", "middle")

    def curve(self, latencies: Latencies) -> Iterator[tuple[float, float]]:
        for at in range(_POINTS + 1):
            q = 1.0 - 10.0 ** (-self.nines * at / _POINTS)
            rank = min(int(q * latencies.size), latencies.size - 1)
            yield self.x(q), self.y(float(latencies[rank]))

    def interval(self, latencies: Latencies, q: float) -> Iterator[Line]:
        found = percentile(latencies, q)
        if found.low is None or found.high is None:
            return
        x, low, high = self.x(q), self.y(found.low), self.y(found.high)
        yield Line(((x, low), (x, high)), _INK, 1.5)
        for y in (low, high):
            yield Line(((x - 4.0, y), (x + 4.0, y)), _INK, 1.5)


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten from `low` to `high`; the ends where fewer than two lie there."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    return ticks if len(ticks) > 1 else [low, high]
