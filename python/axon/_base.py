"""What the asyncio server and its blocking twin share: everything but the wait."""

from __future__ import annotations

import atexit
import json
from typing import TYPE_CHECKING, Any

from axon import _axon
from axon._tensors import is_text
from axon.errors import InvalidRequest, ModelNotFound
from axon.metadata import ModelMetadata, ModelState, TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from axon._axon import NativeQuestion, Server

__all__ = ["ServerBase", "question"]

# At the interpreter's exit no thread may still use ONNX Runtime, whose own clean-up runs after this.
atexit.register(_axon.close_all)


def question(
    model: str | None, version: int | None, outputs: Sequence[str] | None, timeout_s: float | None
) -> NativeQuestion:
    """Return all of a request but its inputs, as the native module takes it."""
    if version is not None and not 0 <= version < 2**64:
        raise ModelNotFound(f"version {version} is not here; expected 1 to 2^64 - 1", "model_version")
    if isinstance(outputs, str):
        raise InvalidRequest("outputs: expected a sequence of names, got one str", "outputs")
    names = [model or "", *(outputs or ())]
    for index, name in enumerate(names):
        field = f"outputs[{index - 1}].name" if index else "model_name"
        if not isinstance(name, str) or not is_text(name):
            raise InvalidRequest(f"{field}: expected text, got {name!r}", field)
    return names[0], version, names[1:], timeout_s


class ServerBase:
    """The models of a server, without a way to ask them."""

    def __init__(self, native: Server) -> None:
        """Take over a native server; use `load` or `open`."""
        self._native = native

    def models(self) -> list[ModelState]:
        """Return every version of every model and its state, by name and version."""
        return [ModelState(*state) for state in self._native.models()]

    def metadata(self, model: str | None = None, version: int | None = None) -> ModelMetadata:
        """Return what a model takes and gives.

        Args:
            model: Name of the model; None for the only one.
            version: The version; the newest that is ready when None.

        Raises:
            ModelNotFound: There is no such model or version.
            ModelNotReady: It is not ready.
        """
        report = self.report(model, version)
        return ModelMetadata(
            name=report["name"],
            versions=tuple(self._native.versions(model or "", version)),
            platform=report["platform"],
            inputs=tuple(map(TensorMetadata.from_report, report["inputs"])),
            outputs=tuple(map(TensorMetadata.from_report, report["outputs"])),
        )

    def report(self, model: str | None = None, version: int | None = None) -> dict[str, Any]:
        """Return what was read, measured and chosen when a model was loaded; `axon inspect` prints it.

        Raises:
            ModelNotFound: There is no such model or version.
            ModelNotReady: It is not ready.
        """
        report: dict[str, Any] = json.loads(self._native.report(model or "", version))
        return report

    def is_ready(self) -> bool:
        """Return whether every model is ready and the server is open."""
        return self._native.is_ready()
