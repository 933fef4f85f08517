"""Asks a model through both servers of the package, which must answer alike, bit for bit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from axon import InferenceServer, sync
from axon.errors import (
    AxonError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]
    Arrays: TypeAlias = dict[str, Array]


def ask(path: Path, inputs: object, **question: Any) -> Arrays:  # noqa: ANN401 - what `infer` takes
    """Ask both servers; return or raise what both of them did."""

    async def asked() -> Arrays:
        async with await InferenceServer.load(path) as server:
            return await server.infer(inputs, **question)

    with sync.InferenceServer.load(path) as server:
        blocking = outcome(lambda: server.infer(inputs, **question))
    waiting = outcome(lambda: asyncio.run(asked()))
    if isinstance(blocking, AxonError):
        assert isinstance(waiting, AxonError)
        assert waiting.__reduce__() == blocking.__reduce__()
        raise blocking
    assert not isinstance(waiting, AxonError), waiting
    assert_same(waiting, blocking)
    return blocking


def outcome(action: Callable[[], Arrays]) -> Arrays | AxonError:
    try:
        return action()
    except AxonError as error:
        return error


def assert_same(actual: Arrays, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        if array.dtype == object:
            assert actual[name].tolist() == array.tolist()
        else:
            assert actual[name].tobytes() == array.tobytes()


async def start(asked: Coroutine[Any, Any, Arrays]) -> asyncio.Task[Arrays]:
    """Send a request, and return before its answer is here."""
    task = asyncio.create_task(asked)
    await asyncio.sleep(0)
    return task


async def outcome_of(awaitable: Awaitable[Arrays]) -> Arrays | BaseException:
    return (await asyncio.gather(awaitable, return_exceptions=True))[0]
