"""A figure as PNG. Only this module here names Pillow, which the extra `image` installs."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from axon._optional import needed
from axon.bench.plot import Line

with needed("image"):
    import PIL.Image
    import PIL.ImageDraw
    import PIL.ImageFont

if TYPE_CHECKING:
    from axon.bench.plot import Figure

__all__ = ["to_png"]

#: Pixels for each unit of the figure, for screens that have two to the point.
_SCALE: Final = 2
_BEFORE: Final = {"start": 0.0, "middle": 0.5, "end": 1.0}


def to_png(figure: Figure) -> bytes:
    """Draw a figure and return the file."""
    image = PIL.Image.new("RGB", (figure.width * _SCALE, figure.height * _SCALE), "#ffffff")
    draw = PIL.ImageDraw.Draw(image)
    for shape in figure.shapes:
        if isinstance(shape, Line):
            points = [(x * _SCALE, y * _SCALE) for x, y in shape.points]
            draw.line(points, fill=shape.colour, width=max(round(shape.width * _SCALE), 1), joint="curve")
            continue
        font = PIL.ImageFont.load_default(shape.size * _SCALE)
        left, _, right, bottom = draw.textbbox((0, 0), shape.text, font=font)
        x = shape.x * _SCALE - (right - left) * _BEFORE[shape.anchor]
        # The point is on the base line, which is about where capitals end.
        draw.text((x, shape.y * _SCALE - bottom), shape.text, font=font, fill=shape.colour)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
