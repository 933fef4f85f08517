"""Perceptrons with random weights, to be loaded and unloaded."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["perceptron"]

_OPSET: Final = 17
_IR_VERSION: Final = 8


def perceptron(path: Path, sizes: Sequence[int], random: np.random.Generator) -> Path:
    """Write a model `x` `[rows, sizes[0]]` -> `y` `[rows, sizes[-1]]`, and return its file."""
    nodes, weights, value = [], [], "x"
    for layer, (wide, narrow) in enumerate(pairwise(sizes)):
        matrix = random.standard_normal((wide, narrow), dtype=np.float32) * np.float32((2 / wide) ** 0.5)
        weights.append(numpy_helper.from_array(matrix, f"weight_{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(narrow, np.float32), f"bias_{layer}"))
        is_last = layer == len(sizes) - 2
        linear = "y" if is_last else f"linear_{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"weight_{layer}", f"bias_{layer}"], [linear]))
        if not is_last:
            value = f"active_{layer}"
            nodes.append(helper.make_node("Relu", [linear], [value]))
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", sizes[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
