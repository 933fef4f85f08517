"""Sizes as people read them; `axon.cli.parser` reads those that people write."""

from __future__ import annotations

from typing import Final

__all__ = ["show_size"]

_SCALES: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def show_size(count: int) -> str:
    """Write a number of bytes in the unit that suits it."""
    for scale, unit in _SCALES:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
