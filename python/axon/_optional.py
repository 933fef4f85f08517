"""Says which extra to install when an optional dependency is not here."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["needed"]


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Import, inside, what `extra` installs.

    Raises:
        ImportError: It is not installed; the text names the extra.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"`{error.name}` is not installed\nhint: pip install 'axon[{extra}]'") from error
