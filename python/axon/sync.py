"""The inference server in this process, for callers that block."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from axon import _axon, errors
from axon._base import ServerBase, question
from axon._tensors import Inputs, Outputs, from_native, to_native
from axon.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["InferenceServer"]


class InferenceServer(ServerBase):
    """Serves models to threads of this process; the twin of `axon.InferenceServer`, call for call.

    ```python
    with InferenceServer.load("model.onnx") as server:
        outputs = server.infer({"x": array})
    ```
    """

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, name: str | None = None, config: ModelConfig | None = None) -> Self:
        """Load a model file, or every model of a folder; see `axon.InferenceServer.load`."""
        return cls(_axon.Server.load(os.fspath(path), (config or ModelConfig()).native(name)))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, config: ModelConfig | None = None) -> Self:
        """Open a folder of models; see `axon.InferenceServer.open`."""
        return cls(_axon.Server.open(os.fspath(path), (config or ModelConfig()).native()))

    def infer(
        self,
        inputs: Inputs,
        *,
        model: str | None = None,
        version: int | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Run a model once and wait for the outputs; see `axon.InferenceServer.infer`."""
        asked = question(model, version, outputs, timeout_s)
        answer, error = self._native.infer(to_native(inputs), asked)
        if error is not None:
            raise errors.from_native(error)
        return from_native(answer or [])

    def close(self) -> None:
        """Answer what has been accepted and stop every thread. Closing twice does nothing more."""
        self._native.close()

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the server."""
        self.close()
