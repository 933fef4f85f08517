"""Models with random weights, in the shapes that people serve: BERT-base, MiniLM-6, ResNet-50, and small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["MODELS", "make"]

_OPSET: Final = 17
_VOCABULARY: Final = 30_522
_POSITIONS: Final = 512
_SEED: Final = 7


class Graph:
    """Nodes and weights as they are added; each call returns the name of what comes out."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.default_rng(_SEED)
        self._count = 0

    def name(self, kind: str) -> str:
        """Return a name that is free."""
        self._count += 1
        return f"{kind}_{self._count}"

    def weight(self, *shape: int, scale: float = 0.02) -> str:
        """Add random weights."""
        values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        return self.constant(values)

    def constant(self, values: Any) -> str:  # noqa: ANN401 - whatever NumPy makes an array of
        """Add fixed values."""
        name = self.name("w")
        array = np.asarray(values)
        self.weights.append(
            helper.make_tensor(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.tobytes(), raw=True
            )
        )
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - as ONNX has them
        """Add a node of one output."""
        output = self.name(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def dense(self, x: str, rows: int, columns: int) -> str:
        """Add a matrix product and its bias, as exporters write it."""
        return self.node("Add", self.node("MatMul", x, self.weight(rows, columns)), self.weight(columns))

    def norm(self, x: str, width: int) -> str:
        """Add a layer's normalisation."""
        ones = self.constant(np.ones(width, dtype=np.float32))
        return self.node("LayerNormalization", x, ones, self.weight(width), axis=-1, epsilon=1e-12)

    def save(self, path: Path, inputs: list[Any], outputs: list[Any]) -> None:
        """Write the model."""
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, initializer=self.weights)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="axon-benchmarks")
        onnx.save(model, path)


def _transformer(path: Path, *, layers: int, width: int) -> None:
    graph = Graph()
    heads, size = 12, width // 12
    split = graph.constant(np.array([0, 0, heads, size], dtype=np.int64))
    joined = graph.constant(np.array([0, 0, width], dtype=np.int64))
    scale = graph.constant(np.array(size**-0.5, dtype=np.float32))
    words = graph.node("Gather", graph.weight(_VOCABULARY, width), "input_ids")
    length = graph.node("Shape", "input_ids", start=1, end=2)
    zero, one = (graph.constant(np.array([number], dtype=np.int64)) for number in (0, 1))
    places = graph.node("Slice", graph.weight(_POSITIONS, width), zero, length, zero, one)
    x = graph.norm(graph.node("Add", words, places), width)
    for _ in range(layers):
        parts = []
        for turn in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            part = graph.node("Reshape", graph.dense(x, width, width), split)
            parts.append(graph.node("Transpose", part, perm=turn))
        query, key, value = parts
        scores = graph.node("Mul", graph.node("MatMul", query, key), scale)
        context = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)
        context = graph.node("Reshape", graph.node("Transpose", context, perm=[0, 2, 1, 3]), joined)
        x = graph.norm(graph.node("Add", x, graph.dense(context, width, width)), width)
        inner = graph.dense(x, width, 4 * width)
        half, root = (graph.constant(np.array(number, dtype=np.float32)) for number in (0.5, 2**0.5))
        one_f = graph.constant(np.array(1.0, dtype=np.float32))
        bent = graph.node("Add", graph.node("Erf", graph.node("Div", inner, root)), one_f)
        bent = graph.node("Mul", graph.node("Mul", inner, bent), half)
        x = graph.norm(graph.node("Add", x, graph.dense(bent, 4 * width, width)), width)
    graph.nodes[-1].output[0] = "last_hidden_state"
    rows = ["rows", "length"]
    graph.save(
        path,
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, rows)],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*rows, width])],
    )


def _resnet(path: Path) -> None:
    graph = Graph()

    def convolution(x: str, channels: tuple[int, int], kernel: int, stride: int = 1, *, bends: bool = True) -> str:
        before, after = channels
        weight = graph.weight(after, before, kernel, kernel, scale=(2 / (before * kernel * kernel)) ** 0.5)
        pads = [kernel // 2] * 4
        x = graph.node("Conv", x, weight, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        ones = [graph.constant(np.full(after, number, dtype=np.float32)) for number in (1, 0, 0, 1)]
        x = graph.node("BatchNormalization", x, *ones)
        return graph.node("Relu", x) if bends else x

    x = convolution("image", (3, 64), 7, 2)
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            short = x if block else convolution(x, (before, inner * 4), 1, stride, bends=False)
            x = convolution(convolution(x, (before, inner), 1), (inner, inner), 3, stride)
            x = graph.node("Relu", graph.node("Add", convolution(x, (inner, inner * 4), 1, bends=False), short))
            before = inner * 4
    flat = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    graph.node("Gemm", flat, graph.weight(before, 1000), graph.weight(1000))
    graph.nodes[-1].output[0] = "logits"
    graph.save(
        path,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["rows", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 1000])],
    )


def _perceptron(path: Path, width: int, layers: int) -> None:
    graph = Graph()
    x = "x"
    for _ in range(layers):
        x = graph.node("Relu", graph.dense(x, width, width))
    graph.nodes[-1].output[0] = "y"
    graph.save(
        path,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", width])],
    )


#: What makes each model, and the shape of an input of one row.
MODELS: Final[dict[str, tuple[Callable[[Path], None], dict[str, tuple[str, tuple[int, ...]]]]]] = {
    "bert-base": (lambda path: _transformer(path, layers=12, width=768), {"input_ids": ("int64", (1, 128))}),
    "minilm-6": (lambda path: _transformer(path, layers=6, width=384), {"input_ids": ("int64", (1, 128))}),
    "resnet-50": (_resnet, {"image": ("float32", (1, 3, 224, 224))}),
    "mlp-12mb": (lambda path: _perceptron(path, 1024, 3), {"x": ("float32", (1, 1024))}),
    "mlp-3mb": (lambda path: _perceptron(path, 512, 3), {"x": ("float32", (1, 512))}),
    "mlp-1mb": (lambda path: _perceptron(path, 288, 3), {"x": ("float32", (1, 288))}),
    "mlp-50kb": (lambda path: _perceptron(path, 64, 3), {"x": ("float32", (1, 64))}),
}


def make(name: str, folder: Path) -> Path:
    """Return the file of a model in `folder`, which is written if it is not there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        MODELS[name][0](path)
    return path
