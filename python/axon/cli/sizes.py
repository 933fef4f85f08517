"""Sizes and times as people write and read them."""

from __future__ import annotations

import argparse
import re
from typing import Final

__all__ = ["parse_size", "show_size"]

_UNITS: Final = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_LEAST: Final = 1 << 20
_LARGEST: Final = (1 << 63) - 1
_KIB: Final = 1024


def parse_size(text: str) -> int:
    """Parse a number of bytes with its unit, as 512MiB or 20GB; at least 1 MiB."""
    found = re.fullmatch(r"(\d{1,19})([KMG]i?B)?", text)
    size = int(found[1]) * _UNITS[found[2] or ""] if found else 0
    if not _LEAST <= size <= _LARGEST:
        message = f"expected a size such as 512MiB or 20GB, at least 1MiB, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return size


def show_size(size: int) -> str:
    """Write a number of bytes in the unit that suits it."""
    number = float(size)
    for unit in ("B", "KiB", "MiB"):
        if number < _KIB:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= _KIB
    return f"{number:.2f} GiB"
