"""An event loop whose time passes only when nothing else is to be done, and then at once."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that never waits: where another would, its clock goes on.

    Attributes:
        now: What its clock shows, in seconds; whoever adds to it stops the loop for as long.
    """

    def __init__(self) -> None:
        """Start at 1,000 seconds, as no program may rely on 0."""
        self.now = 1000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return what its clock shows."""
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something that never comes"
        self._loop.now += max(timeout, 0.0)
        return super().select(0)


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end on a loop of virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
