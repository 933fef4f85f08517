"""Sends requests when they are due, to a target, and writes down what came of each.

One event loop does it all, and its clock is the only one: tests run it on a loop whose time is virtual. An open loop
starts a request when it is due, however many are under way, up to `max_in_flight`; a closed loop keeps a number of
them under way and starts the next when one has ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from axon.bench.record import TIMEOUT, Failure, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

__all__ = ["Load", "Target", "run"]

#: Requests that are started in a row by a generator that is late, before it looks for answers.
_IN_A_ROW: Final = 16
#: How often somebody is told how far a run is, in seconds. Seldom: to draw a bar holds up what is due meanwhile.
_TICK_S: Final = 0.5


class Target(Protocol):
    """Something that answers requests, all of them alike."""

    async def send(self) -> Failure | None:
        """Send the request and wait for its answer; None is a good one. Being cancelled gives the request up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent, and for how long.

    Attributes:
        due: When requests are due, in seconds from the start, ascending; None is a closed loop.
        concurrency: How many requests a closed loop keeps under way.
        warmup_s: Seconds at the start in which requests are sent and not counted.
        duration_s: Seconds after them.
        timeout_s: Seconds after it was sent in which a request must be answered.
        max_in_flight: Most requests under way in an open loop; one more that is due is not sent, and counted so.
        limit_s: Seconds within which an answer is good; None is any.
    """

    due: Iterable[float] | None = None
    concurrency: int = 1
    warmup_s: float = 0.0
    duration_s: float = 10.0
    timeout_s: float = 10.0
    max_in_flight: int = 512
    limit_s: float | None = None


async def run(
    load: Load,
    target: Target,
    *,
    stop: asyncio.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> Record:
    """Send a load and return what came of it.

    Args:
        load: What to send.
        target: Where to.
        stop: Ends the run when it is set; requests that are under way then are unfinished.
        progress: Told now and then how many of the run's seconds have passed.
    """
    return await _Run(load, target).run(stop or asyncio.Event(), progress)


class _Run:
    def __init__(self, load: Load, target: Target) -> None:
        self._load = load
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._record = Record()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start = 0.0
        self._defect: BaseException | None = None

    async def run(self, stop: asyncio.Event, progress: Callable[[float], None] | None) -> Record:
        load, record = self._load, self._record
        # What counts begins here; moments before it, those of the warm-up, are negative.
        self._start = self._loop.time() + load.warmup_s
        sending = self._loop.create_task(self._closed() if load.due is None else self._open(iter(load.due)))
        stopping = self._loop.create_task(stop.wait())
        ticking = self._loop.create_task(self._tick(progress)) if progress else None
        try:
            await asyncio.wait([sending, stopping], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
                if self._tasks:
                    ending = self._loop.create_task(asyncio.wait(self._tasks))
                    await asyncio.wait([ending, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            record.is_interrupted = stop.is_set()
            left: list[asyncio.Task[Any]] = [
                task for task in (sending, stopping, ticking, *self._tasks) if task is not None
            ]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if self._defect is not None:
            raise self._defect
        # A trace may end, and a person may end a run, before its time.
        passed = self._loop.time() - self._start
        record.window_s = max(min(passed, load.duration_s), 0.0)
        return record

    async def _open(self, moments: Iterator[float]) -> None:
        load, loop, row = self._load, self._loop, 0
        begin, end = self._start - load.warmup_s, self._start + load.duration_s
        for moment in moments:
            due = begin + moment
            if due >= end:
                # The part that counts lasts until here, though nothing more is due in it.
                await asyncio.sleep(max(end - loop.time(), 0.0))
                return
            wait = due - loop.time()
            row = 0 if wait > 0.0 else row + 1
            if wait > 0.0:
                await asyncio.sleep(wait)
            elif row % _IN_A_ROW == 0:
                await asyncio.sleep(0)
            if len(self._tasks) < load.max_in_flight:
                self._count(due)
                self._begin(self._one(due))
            elif due < self._start:
                self._record.warm_up += 1
            else:
                self._record.not_sent += 1

    async def _closed(self) -> None:
        workers = [self._loop.create_task(self._work()) for _ in range(self._load.concurrency)]
        try:
            # The first that fails, which is a defect, ends them all.
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self) -> None:
        end = self._start + self._load.duration_s
        while (due := self._loop.time()) < end:
            self._count(due)
            await self._one(due)
            # An answer that is here at once must not keep the others, or the end, from their turn.
            await asyncio.sleep(0)

    def _begin(self, request: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(request)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect = error

    def _count(self, due: float) -> None:
        # Before its task runs, which may be cancelled before that.
        if due < self._start:
            self._record.warm_up += 1
        else:
            self._record.unfinished += 1

    async def _one(self, due: float) -> None:
        loop, record, load, start = self._loop, self._record, self._load, self._start
        sent = loop.time()
        try:
            async with asyncio.timeout(load.timeout_s):
                failure = await self._target.send()
        except TimeoutError:
            failure = Failure(TIMEOUT, f"no answer within {load.timeout_s:g} s")
        ended = loop.time()
        if failure is None and 0.0 <= ended - start < load.duration_s:
            record.answered_in_window += 1
            record.good_in_window += load.limit_s is None or ended - due <= load.limit_s
        if due >= start:
            record.unfinished -= 1
            record.add(due - start, sent - start, ended - start, failure)

    async def _tick(self, progress: Callable[[float], None]) -> None:
        begin = self._start - self._load.warmup_s
        while True:
            progress(self._loop.time() - begin)
            await asyncio.sleep(_TICK_S)
