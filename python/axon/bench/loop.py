"""An event loop that wakes when it was asked to, and the room that many connections need."""

from __future__ import annotations

import asyncio
import resource
import select
import selectors
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Selected = list[tuple[selectors.SelectorKey, int]]

__all__ = ["precise_loop", "raise_open_file_limit"]


class _PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond, where `epoll_wait` takes whole milliseconds and would send each request late."""

    def select(self, timeout: float | None = None) -> Selected:
        """Wait for events; see `selectors.BaseSelector.select`."""
        if timeout is not None and timeout > 0.0:
            # An epoll descriptor can itself be waited for.
            select.select([self.fileno()], [], [], timeout)
            timeout = 0.0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Make the loop that requests are sent on. Make it early: `select` takes descriptors below 1,024 only."""
    return asyncio.SelectorEventLoop(_PreciseSelector())


def raise_open_file_limit() -> None:
    """Let this process open as many files as the system lets it, as each request under way over HTTP has its socket."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    _quietly(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)))


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except (OSError, ValueError):
        # The limit that is there then holds, and what it refuses is counted as failed connections.
        return
