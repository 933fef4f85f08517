"""An image as an input of a model. Only this module names Pillow, which the extra `image` installs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from axon._optional import needed

with needed("image"):
    import PIL.Image

if TYPE_CHECKING:
    from axon._tensors import Array

__all__ = ["fits", "read_image"]

#: Pillow's modes by the channels that an input may have, the likeliest first.
_MODES: Final = {3: "RGB", 1: "L", 4: "RGBA"}
#: The dimensions of a batch of images that have channels.
_ROWS_OF_IMAGES: Final = 4
_FLOATS: Final = ("FP16", "BF16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where an input has an image's height, width and channels; its shape is `[1, *these]` if it has one more."""

    height: int
    width: int
    channels: int
    channels_first: bool | None


def _layout(dims: tuple[int, ...]) -> _Layout | None:
    """Read `[N,C,H,W]`, `[N,H,W,C]`, `[C,H,W]`, `[H,W,C]` or `[N,H,W]`; None is something else."""
    if len(dims) not in (_ROWS_OF_IMAGES, _ROWS_OF_IMAGES - 1):
        return None
    first, second, third = dims[-3:]
    # A dynamic dimension in front of two is the batch, of grey images.
    if len(dims) == _ROWS_OF_IMAGES or first > 0:
        for channels in _MODES:
            if first == channels:
                return _Layout(second, third, channels, channels_first=True)
            if third == channels:
                return _Layout(first, second, channels, channels_first=False)
    return _Layout(second, third, 1, channels_first=None) if len(dims) < _ROWS_OF_IMAGES else None


def fits(datatype: str, dims: tuple[int, ...]) -> bool:
    """Return whether an input takes images."""
    return datatype in (*_FLOATS, "UINT8") and _layout(dims) is not None


def read_image(path: str, datatype: str, dims: tuple[int, ...]) -> tuple[Array, str]:
    """Read an image into the shape that an input takes; see `fits`.

    Args:
        path: A file that Pillow reads.
        datatype: The input's: of floats, 0 to 255 become 0 to 1.
        dims: Its dimensions; -1 takes the image's own size.

    Returns:
        The array, and what was done to the image.

    Raises:
        OSError: It cannot be read, or is no image.
    """
    layout = _layout(dims)
    assert layout is not None  # noqa: S101 - `fits` was asked
    with PIL.Image.open(path) as opened:
        mode, size = _MODES[layout.channels], opened.size
        done = [f"{size[0]}x{size[1]} {opened.mode}"]
        image: Any = opened.convert(mode)
        wanted = (layout.width if layout.width > 0 else size[0], layout.height if layout.height > 0 else size[1])
        if mode != opened.mode:
            done.append(f"converted to {mode}")
    if wanted != size:
        image = image.resize(wanted, PIL.Image.Resampling.BILINEAR)
        done.append(f"resized to {wanted[0]}x{wanted[1]}")
    array = np.asarray(image)
    if layout.channels_first is not None:
        array = array.reshape(wanted[1], wanted[0], layout.channels)
        done.append("as CHW" if layout.channels_first else "as HWC")
        array = array.transpose(2, 0, 1) if layout.channels_first else array
    if datatype in _FLOATS:
        array = array.astype(np.float32) / np.float32(255)
        done.append("scaled to 0..1")
    return np.ascontiguousarray(array), ", ".join(done)
