"""The inference server in this process, for asyncio."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from axon import _axon, errors
from axon._base import ServerBase, question
from axon._tensors import Inputs, Outputs, from_native, to_native
from axon.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from axon._axon import NativeOutput

__all__ = ["InferenceServer"]


class InferenceServer(ServerBase):
    """Serves models to coroutines of this process; no sockets.

    ```python
    async with await InferenceServer.load("model.onnx") as server:
        outputs = await server.infer({"x": array})
    ```

    Requests of many coroutines share runs where the model allows it. The GIL is released while a model runs.
    """

    @classmethod
    async def load(
        cls, path: str | os.PathLike[str], *, name: str | None = None, config: ModelConfig | None = None
    ) -> Self:
        """Load a model file, or every model of a folder, and wait until they are ready.

        Args:
            path: The file or folder.
            name: The name of a lone file's model; None takes the file's.
            config: How the models are run; None is every default.

        Raises:
            InvalidModel: The path is not there, or a model cannot be served.
        """
        native = (config or ModelConfig()).native(name)
        return cls(await asyncio.to_thread(_axon.Server.load, os.fspath(path), native))

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, config: ModelConfig | None = None) -> Self:
        """Open a folder of models and wait until each has been tried.

        A model that cannot be served does not stop the others: `models()` says why, and asking it raises
        `ModelNotReady`.

        Args:
            path: A folder of `name.onnx` files and `name/1/model.onnx` folders.
            config: How the models are run; None is every default.

        Raises:
            InvalidModel: The folder cannot be read.
        """
        native = (config or ModelConfig()).native()
        return cls(await asyncio.to_thread(_axon.Server.open, os.fspath(path), native))

    async def infer(
        self,
        inputs: Inputs,
        *,
        model: str | None = None,
        version: int | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Run a model once.

        Args:
            inputs: Arrays by input name, or one array for a model with one input. Where the model is batched, each is
                `[rows, *signature]` with the same rows. They must not be changed until the answer is here.
            model: Name of the model; None for the only one.
            version: Version to run; the newest that is ready when None.
            outputs: Names of the outputs wanted; all when None.
            timeout_s: Seconds to wait to be run, more than 0; the server's `request_timeout_s` when None.

        Returns:
            Read-only arrays by output name, in the model's order, each `[rows, *signature]`.

        Raises:
            InvalidRequest: An input's name, shape or data type is not the model's; `field` names it.
            ModelNotFound: There is no such model or version.
            ModelNotReady: The model failed to load.
            Overloaded: The queue is full; `retry_after_s` says when to try again.
            DeadlineExceeded: The request was not run within the timeout.
            ExecutionFailed: The model failed while it ran.
            ServerError: The server is closed.
        """
        waiter = _waiter_of_running_loop()
        token, future = waiter.expect(asyncio.get_running_loop())
        try:
            asked = question(model, version, outputs, timeout_s)
            refusal = self._native.submit(to_native(inputs), asked, waiter.completions, token)
            if refusal is not None:
                raise errors.from_native(refusal)  # noqa: TRY301 - the clean-up is the same
        except BaseException:
            waiter.forget(token)
            raise
        try:
            return from_native(await future)
        except asyncio.CancelledError:
            waiter.forget(token)
            self._native.cancel(token)
            raise

    async def close(self) -> None:
        """Answer what has been accepted and stop every thread. Closing twice does nothing more."""
        await asyncio.to_thread(self._native.close)

    async def __aenter__(self) -> Self:
        """Return the server."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the server."""
        await self.close()


class _Waiter:
    """The futures of one event loop that wait for answers."""

    # One for the process: a server may be asked from several loops, and knows its requests by token.
    _tokens = itertools.count(1)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.completions = _axon.Completions()
        self._futures: dict[int, asyncio.Future[list[NativeOutput]]] = {}
        # Weakly: `_waiters` holds this as long as it does the loop.
        self._loop = ref(loop)
        loop.add_reader(self.completions.fileno(), self._deliver)

    def expect(self, loop: asyncio.AbstractEventLoop) -> tuple[int, asyncio.Future[list[NativeOutput]]]:
        token = next(self._tokens)
        future: asyncio.Future[list[NativeOutput]] = loop.create_future()
        self._futures[token] = future
        return token, future

    def forget(self, token: int) -> None:
        self._futures.pop(token, None)

    def _deliver(self) -> None:
        for token, outputs, error in self.completions.drain():
            future = self._futures.pop(token, None)
            if future is None or future.done():
                continue
            if error is not None:
                future.set_exception(errors.from_native(error))
            elif outputs is not None:
                future.set_result(outputs)


_waiters: WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiter] = WeakKeyDictionary()


def _waiter_of_running_loop() -> _Waiter:
    loop: Any = asyncio.get_running_loop()
    waiter = _waiters.get(loop)
    if waiter is None:
        # A loop that was closed with requests pending would keep itself alive through their futures.
        for closed in [other for other in _waiters if other.is_closed()]:
            del _waiters[closed]
        waiter = _waiters[loop] = _Waiter(loop)
    return waiter
