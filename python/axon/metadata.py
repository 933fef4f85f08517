"""What is known of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["ModelMetadata", "ModelState", "TensorMetadata"]


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output.

    Attributes:
        name: Its name in the graph.
        datatype: Its element type, as the Open Inference Protocol spells it ("FP32").
        shape: Its dimensions; -1 is dynamic.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> TensorMetadata:
        """Read one from a report of the native module."""
        return cls(report["name"], report["datatype"], tuple(report["shape"]))


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model takes and gives.

    Attributes:
        name: The model.
        versions: The version asked for, else all that are ready, ascending.
        platform: What runs it: "onnxruntime_onnx", or "identity" for the backend of tests.
        inputs: What it takes, in the model's order.
        outputs: What it gives, in the model's order.
    """

    name: str
    versions: tuple[int, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True, slots=True)
class ModelState:
    """A version of a model and its state.

    Attributes:
        name: The model.
        version: The version.
        state: "READY", "LOADING" or "UNAVAILABLE".
        reason: Why it is unavailable; None otherwise.
    """

    name: str
    version: int
    state: str
    reason: str | None
