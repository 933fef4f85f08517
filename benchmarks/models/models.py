"""The four kinds of model that are served on small machines, with random weights, and questions for each."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.imports.models import Graph, make

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NAMES", "Question", "Subject", "subject"]

#: Words of the sentences that the encoder is asked; each is as frequent as the others.
LENGTHS: Final = (16, 32, 64, 128)
_SEED: Final = 3


@dataclass(frozen=True)
class Question:
    """One request, as ONNX Runtime and as the server take it.

    Attributes:
        inputs: Arrays of one row by input name.
        body: The body of the HTTP request: JSON, then the tensors.
    """

    inputs: dict[str, NDArray[Any]]
    body: bytes


@dataclass(frozen=True)
class Subject:
    """A model and what is asked of it.

    Attributes:
        path: Its file.
        questions: Each is as frequent as the others.
        json_length: Bytes of JSON before the tensors, the same for all questions.
        target_ms: The latency target that it is served with.
    """

    path: Path
    questions: tuple[Question, ...]
    json_length: int
    target_ms: float


def _squeezenet(path: Path) -> None:
    """Write a convolution network of SqueezeNet 1.1's shape: 1.2 M weights, 0.35 G multiplications an image."""
    graph = Graph()

    def convolution(x: str, channels: tuple[int, int], kernel: int, stride: int = 1) -> str:
        before, after = channels
        weight = graph.weight(after, before, kernel, kernel, scale=(2 / (before * kernel * kernel)) ** 0.5)
        bias, pads = graph.weight(after), [kernel // 2] * 4
        x = graph.node("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        return graph.node("Relu", x)

    x, before = convolution("image", (3, 64), 3, 2), 64
    for squeezed, expanded, is_pooled in (
        *((16, 64, True), (16, 64, False), (32, 128, True), (32, 128, False)),
        *((48, 192, True), (48, 192, False), (64, 256, False), (64, 256, False)),
    ):
        if is_pooled:
            x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
        x = convolution(x, (before, squeezed), 1)
        parts = convolution(x, (squeezed, expanded), 1), convolution(x, (squeezed, expanded), 3)
        x, before = graph.node("Concat", *parts, axis=1), 2 * expanded
    x = graph.node("GlobalAveragePool", convolution(x, (before, 1000), 1))
    graph.node("Flatten", x)
    graph.nodes[-1].output[0] = "logits"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", 3, 224, 224])]
    graph.save(path, inputs, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 1000])])


def _perceptron(path: Path, sizes: tuple[int, ...]) -> None:
    graph, x = Graph(), "x"
    for before, after in pairwise(sizes):
        x = graph.node("Relu", graph.dense(x, before, after))
    graph.nodes[-1].output[0] = "y"
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", sizes[0]])]
    graph.save(path, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", sizes[-1]])])


def _question(inputs: dict[str, NDArray[Any]]) -> tuple[bytes, bytes]:
    """Return the JSON and the tensors of a request."""
    datatypes = {"float32": "FP32", "int64": "INT64"}
    described = [
        {
            "name": name,
            "datatype": datatypes[array.dtype.name],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    text = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    return text, b"".join(array.tobytes() for array in inputs.values())


def _subject(path: Path, asked: list[dict[str, NDArray[Any]]], target_ms: float) -> Subject:
    parts = [_question(inputs) for inputs in asked]
    # One header for all: spaces behind shorter JSON mean nothing.
    length = max(len(text) for text, _ in parts)
    bodies = [text.ljust(length) + tensors for text, tensors in parts]
    questions = tuple(Question(inputs, body) for inputs, body in zip(asked, bodies, strict=True))
    return Subject(path, questions, length, target_ms)


def subject(name: str, folder: Path) -> Subject:
    """Write the model `name` to a folder of its own below `folder`, and return it with its questions."""
    (folder / name).mkdir()
    path = folder / name / "model.onnx"
    random = np.random.default_rng(_SEED)
    if name == "encoder":
        make("minilm-6", folder / name).rename(path)
        rows = [random.integers(0, 30_000, (1, length), dtype=np.int64) for length in LENGTHS]
        return _subject(path, [{"input_ids": row} for row in rows], 250)
    if name == "convolution":
        _squeezenet(path)
        return _subject(path, [{"image": random.random((1, 3, 224, 224), np.float32)}], 250)
    sizes = (64, 128, 64, 10) if name == "tiny-mlp" else (512, 1024, 1024, 256)
    _perceptron(path, sizes)
    return _subject(path, [{"x": random.random((1, sizes[0]), np.float32)}], 10)


#: The models, from the cheapest: 17 k, 1.8 M and 11 M weights in matrices (and 12 M in a table of words), 1.2 M in
#: convolutions.
NAMES: Final = ("tiny-mlp", "mlp", "encoder", "convolution")
