"""Tiny ONNX models, one for each thing that a server must get right or refuse.

Each function builds its model from scratch, so the tests need no model files; a docstring says why its model exists.
All are opset 17 and IR version 8, which every ONNX Runtime that Axon supports reads (1.24 and newer). A first dimension
named `batch` is a declared batch axis; whether a model may really be batched is for the server to find out.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Shape: TypeAlias = Sequence[int | str]

__all__ = [
    "DATATYPES",
    "ENDLESS",
    "SLEEPER",
    "baked_batch",
    "cumsum_rows",
    "dynamic_inner",
    "dynamic_quantized",
    "endless",
    "endless_sum",
    "external_data",
    "fixed_batch",
    "gather",
    "identity",
    "mixing_mean",
    "mlp",
    "nan_output",
    "no_batch",
    "random_output",
    "save",
    "scalar",
    "sequence_output",
    "slow",
    "two_inputs",
]

OPSET: Final = 17
IR_VERSION: Final = 8
BATCH_OF_3: Final = ("batch", 3)
# ONNX element types by wire name. Source: the Open Inference Protocol's "Tensor Data Types", and BF16 as Triton has it.
DATATYPES: Final[Mapping[str, int]] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write `model` to `path`, with the folders that lead to it, and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def identity(datatype: str, shape: Shape = BATCH_OF_3) -> onnx.ModelProto:
    """`INPUT0` -> `OUTPUT0`, unchanged: what goes in of each of `DATATYPES` must come out, byte for byte.

    ONNX Runtime's CPU provider runs it for all of `DATATYPES`. Its Python API takes BF16 only as an `OrtValue`, since
    numpy has no such type.
    """
    return _model(
        [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
        inputs=[_tensor("INPUT0", shape, datatype)],
        outputs=[_tensor("OUTPUT0", shape, datatype)],
    )


def mlp(sizes: Sequence[int] = (64, 128, 64, 10), seed: int = 0) -> onnx.ModelProto:
    """`x` `[batch, sizes[0]]` -> `y` `[batch, sizes[-1]]`: an ordinary model that may be batched, rows independent."""
    random = np.random.default_rng(seed)
    nodes, constants, value = [], {}, "x"
    last = len(sizes) - 2
    for layer, (wide, narrow) in enumerate(pairwise(sizes)):
        weight, bias, linear = f"weight_{layer}", f"bias_{layer}", "y" if layer == last else f"linear_{layer}"
        constants[weight] = random.normal(0.0, math.sqrt(2.0 / wide), (wide, narrow)).astype(np.float32)
        constants[bias] = random.normal(0.0, 0.1, narrow).astype(np.float32)
        nodes.append(helper.make_node("Gemm", [value, weight, bias], [linear]))
        if layer < last:
            value = f"active_{layer}"
            nodes.append(helper.make_node("Relu", [linear], [value]))
    return _model(
        nodes,
        inputs=[_tensor("x", ("batch", sizes[0]))],
        outputs=[_tensor("y", ("batch", sizes[-1]))],
        constants=constants,
    )


def two_inputs() -> onnx.ModelProto:
    """`[batch, 3]` each, `a` and `b` -> `sum` and `difference`: mixed up names show, as `a - b` is not `b - a`."""
    return _model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        inputs=[_tensor("a"), _tensor("b")],
        outputs=[_tensor("sum"), _tensor("difference")],
    )


def mixing_mean() -> onnx.ModelProto:
    """`x` -> `y` = `x` less its mean over the batch: runs at every size, yet each row depends on all of the others."""
    return _model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        inputs=[_tensor("x")],
        outputs=[_tensor("y")],
    )


def cumsum_rows() -> onnx.ModelProto:
    """`x` -> `y` = running sum over rows: the first row of a batch is right, so only a later row shows the mixing."""
    return _model(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        inputs=[_tensor("x")],
        outputs=[_tensor("y")],
        constants={"axis": np.array(0, np.int64)},
    )


def dynamic_quantized() -> onnx.ModelProto:
    """`x` -> `y` = `x` rounded to 8 bits of the batch's range: a small mixing, as in dynamically quantized exports."""
    return _model(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["quantized", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["y"]),
        ],
        inputs=[_tensor("x")],
        outputs=[_tensor("y")],
    )


def baked_batch() -> onnx.ModelProto:
    """`x` -> `y` = `2 x`: declares `batch`, but a Reshape to `[1, 3]` inside, as bad exports have, fails two rows.

    The last Reshape keeps ONNX Runtime from inferring `[1, 3]` for `y`: only a run tells.
    """
    return _model(
        [
            helper.make_node("Reshape", ["x", "one_row"], ["row"]),
            helper.make_node("Add", ["row", "row"], ["doubled"]),
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Reshape", ["doubled", "shape"], ["y"]),
        ],
        inputs=[_tensor("x")],
        outputs=[_tensor("y")],
        constants={"one_row": np.array([1, 3], np.int64)},
    )


def fixed_batch(rows: int) -> onnx.ModelProto:
    """`x` `[rows, 3]` -> `y` = `2 x`: takes exactly `rows` rows, no fewer and no more."""
    return _doubling((rows, 3))


def random_output() -> onnx.ModelProto:
    """`x` -> `y`, noise of the same shape: the same request gives another answer, so none may be cached or compared."""
    return _model(
        [helper.make_node("RandomNormalLike", ["x"], ["y"])],
        inputs=[_tensor("x")],
        outputs=[_tensor("y")],
    )


def gather() -> onnx.ModelProto:
    """`index` INT64 `[batch]` -> `row` `[batch, 2]` of a table of 3: an index outside [-3, 2] fails the whole run."""
    return _model(
        [helper.make_node("Gather", ["table", "index"], ["row"], axis=0)],
        inputs=[_tensor("index", ("batch",), "INT64")],
        outputs=[_tensor("row", ("batch", 2))],
        constants={"table": np.array([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]], np.float32)},
    )


def dynamic_inner() -> onnx.ModelProto:
    """`x` `[batch, length]` -> `y` = `2 x`: requests of different lengths cannot share a batch."""
    return _doubling(("batch", "length"))


def no_batch() -> onnx.ModelProto:
    """`x` `[3]` -> `y` = `2 x`: the first dimension is data, not a batch."""
    return _doubling((3,))


def scalar() -> onnx.ModelProto:
    """`x` `[]` -> `y` = `2 x`: no dimensions at all, one element."""
    return _doubling(())


def sequence_output() -> onnx.ModelProto:
    """`x` -> `y`, a sequence of its rows: not a tensor, so the protocol cannot carry it and loading must be refused."""
    row = helper.make_tensor_type_proto(TensorProto.FLOAT, (1, 3))
    return _model(
        [helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)],
        inputs=[_tensor("x")],
        outputs=[helper.make_value_info("y", helper.make_sequence_type_proto(row))],
    )


def nan_output() -> onnx.ModelProto:
    """`x` -> `y` = `sqrt(x)`: a negative element gives NaN, which binary carries and JSON has no number for."""
    return _model(
        [helper.make_node("Sqrt", ["x"], ["y"])],
        inputs=[_tensor("x")],
        outputs=[_tensor("y")],
    )


def slow(milliseconds: float = 5.0) -> onnx.ModelProto:
    """`x` `[batch, 256]` -> `y`, `x` rolled right: about `milliseconds` of one core a row, so that a queue can form.

    Each MatMul rolls by one and takes 34 million operations (256x256 by 256x256), measured as 0.29 ms on one core of an
    AMD EPYC: four stand for a millisecond, and a slower core takes longer.
    """
    steps = math.ceil(4 * milliseconds)
    return _model(
        [
            helper.make_node("Unsqueeze", ["x", "middle"], ["lone"]),
            helper.make_node("Mul", ["lone", "column"], ["value_0"]),
            *(helper.make_node("MatMul", [f"value_{at}", "roll"], [f"value_{at + 1}"]) for at in range(steps)),
            helper.make_node("Gather", [f"value_{steps}", "first"], ["y"], axis=1),
        ],
        inputs=[_tensor("x", ("batch", 256))],
        outputs=[_tensor("y", ("batch", 256))],
        constants={
            "middle": np.array([1], np.int64),
            "column": np.ones((256, 1), np.float32),
            "roll": np.roll(np.eye(256, dtype=np.float32), 1, axis=1),
            "first": np.array(0, np.int64),
        },
    )


#: What `endless` never comes to an end with: no value that a load-time probe would think of.
ENDLESS: Final = 12345.0

#: The `model.toml` of a test executor that answers `x` as `y`, as late as its request or its configuration says.
SLEEPER: Final = """
backend = "identity"
max_batch_size = 1
[inputs.x]
datatype = "FP32"
shape = [1]
[outputs.y]
datatype = "FP32"
shape = [1]
"""


def endless() -> onnx.ModelProto:
    """`x` `[1]` -> `y` = `x`, after a loop of one round, or for `ENDLESS` of more than any machine will ever do.

    ONNX Runtime can be told to stop between two rounds.
    """
    return _model(
        _looping("y", (1,)),
        inputs=[_tensor("x", (1,))],
        outputs=[_tensor("y", (1,))],
        constants=_ROUNDS,
    )


def endless_sum() -> onnx.ModelProto:
    """`x` and the state `before`, `[batch, 1]` -> `sum` and the state `after`, their sum; as endless as `endless`."""
    shape = ("batch", 1)
    return _model(
        [
            *_looping("looped", shape),
            helper.make_node("Add", ["looped", "before"], ["sum"]),
            helper.make_node("Identity", ["sum"], ["after"]),
        ],
        inputs=[_tensor("x", shape), _tensor("before", shape)],
        outputs=[_tensor("sum", shape), _tensor("after", shape)],
        constants=_ROUNDS,
    )


_ROUNDS: Final[Mapping[str, npt.NDArray[Any]]] = {
    "magic": np.array([ENDLESS], np.float32),
    "many": np.array([1 << 50], np.int64),
    "one": np.array([1], np.int64),
    "nothing": np.array([0], np.float32),
}


def _looping(result: str, shape: Shape) -> list[onnx.NodeProto]:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go"]), helper.make_node("Add", ["value", "nothing"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            _tensor("value", shape),
        ],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, []), _tensor("next", shape)],
    )
    return [
        helper.make_node("Equal", ["x", "magic"], ["is_endless"]),
        helper.make_node("Where", ["is_endless", "many", "one"], ["rounds_of_each"]),
        helper.make_node("ReduceMax", ["rounds_of_each"], ["rounds"], keepdims=0),
        helper.make_node("Loop", ["rounds", "", "x"], [result], body=body),
    ]


def external_data(path: Path) -> Path:
    """Write `mlp()` to `path`, its weights to `<path>.data`, and return `path`: a model of two files, never bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = path.with_name(f"{path.name}.data")
    weights.unlink(missing_ok=True)  # Where it exists, onnx appends.
    onnx.save(mlp(), path, save_as_external_data=True, location=weights.name, size_threshold=0)
    return path


def _doubling(shape: Shape) -> onnx.ModelProto:
    return _model(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        inputs=[_tensor("x", shape)],
        outputs=[_tensor("y", shape)],
    )


def _tensor(name: str, shape: Shape = BATCH_OF_3, datatype: str = "FP32") -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, DATATYPES[datatype], shape)


def _model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, npt.NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializer=initializers)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="axon/tests",
    )
