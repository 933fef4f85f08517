"""A figure as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from axon.bench.plot import Line

if TYPE_CHECKING:
    from axon.bench.plot import Figure, Text

__all__ = ["to_svg"]


def to_svg(figure: Figure) -> str:
    """Write a figure as a whole SVG document."""
    size = f'width="{figure.width}" height="{figure.height}" viewBox="0 0 {figure.width} {figure.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *(_line(shape) if isinstance(shape, Line) else _text(shape) for shape in figure.shapes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _line(line: Line) -> str:
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in line.points)
    return f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="{line.width:g}"/>'


def _text(text: Text) -> str:
    place = f'x="{text.x:.2f}" y="{text.y:.2f}" text-anchor="{text.anchor}"'
    # A name may have any character, and XML not: those that it cannot have are left out.
    plain = "".join(letter for letter in text.text if letter.isprintable())
    return f'<text {place} font-size="{text.size:g}" fill="{text.colour}">{escape(plain)}</text>'
