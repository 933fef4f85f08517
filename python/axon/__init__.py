"""Axon: an inference server for ONNX models.

```python
from axon import InferenceServer

server = await InferenceServer.load("model.onnx")
outputs = await server.infer({"x": array})
```

The same, blocking, is in `axon.sync`; the command is `axon serve MODEL.onnx`. `axon.Client` and `axon.AsyncClient` ask
any server of the Open Inference Protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from axon import errors
from axon.errors import (
    AxonError,
    ConnectionFailed,
    DeadlineExceeded,
    ExecutionFailed,
    InvalidModel,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    QuotaExceeded,
    ServerError,
)

if TYPE_CHECKING:
    from axon._axon import __version__
    from axon.client import AsyncClient, Client, SequenceStep
    from axon.config import ModelConfig
    from axon.metadata import ModelMetadata, ModelState, TensorMetadata
    from axon.server import InferenceServer

__all__ = [
    "AsyncClient",
    "AxonError",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "ExecutionFailed",
    "InferenceServer",
    "InvalidModel",
    "InvalidRequest",
    "ModelConfig",
    "ModelMetadata",
    "ModelNotFound",
    "ModelNotReady",
    "ModelState",
    "Overloaded",
    "QuotaExceeded",
    "SequenceStep",
    "ServerError",
    "TensorMetadata",
    "__version__",
    "errors",
]

_LAZY = {
    "AsyncClient": "axon.client",
    "Client": "axon.client",
    "InferenceServer": "axon.server",
    "ModelConfig": "axon.config",
    "ModelMetadata": "axon.metadata",
    "ModelState": "axon.metadata",
    "SequenceStep": "axon.client",
    "TensorMetadata": "axon.metadata",
    "__version__": "axon._axon",
}


def _load(name: str) -> object:
    """Import what needs NumPy or the native module when it is first used: a client needs no engine."""
    module = _LAZY.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    import importlib  # noqa: PLC0415 - only here, and only once for each name

    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:
    __getattr__ = _load


def __dir__() -> list[str]:
    return __all__
