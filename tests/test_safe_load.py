"""A model file that would harm is refused with the place named, and leaves the server and its other models alive.

Rows of the robustness reference by number; each hostile file is built here.
"""

from __future__ import annotations

import http.client
import json
import os
import pickle
import struct
import zipfile
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import pytest
from models import mlp, save
from onnx import TensorProto, helper, numpy_helper
from serving import Server, environment, run_axon, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: Bytes that must never be in an answer.
CANARY: Final = 12345.678
#: Seconds that a trial may take here.
TRIAL_S: Final = 5


def _model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    output: str = "y",
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "hostile", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("hostile", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)


def _bomb(depth: int) -> onnx.ModelProto:
    """Functions of which each calls the next twice."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("hostile", 1)]

    def function(level: int) -> onnx.FunctionProto:
        step = ("Neg", "") if level == depth else (f"f{level + 1}", "hostile")
        nodes = [
            helper.make_node(step[0], ["a"], ["b"], domain=step[1]),
            helper.make_node(step[0], ["b"], ["c"], domain=step[1]),
        ]
        return helper.make_function("hostile", f"f{level}", ["a"], ["c"], nodes, opsets)

    calls = [helper.make_node("f0", ["x"], ["y"], domain="hostile")]
    return _model(calls, functions=[function(level) for level in range(depth + 1)])


def _recursive() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("hostile", 1)]
    call = helper.make_node("F", ["a"], ["b"], domain="hostile")
    function = helper.make_function("hostile", "F", ["a"], ["b"], [call], opsets)
    return _model([helper.make_node("F", ["x"], ["y"], domain="hostile")], functions=[function])


def _with_tensor(dims: Sequence[int], data_type: int, raw: bytes) -> onnx.ModelProto:
    tensor = onnx.TensorProto(name="w", dims=dims, raw_data=raw)
    tensor.data_type = data_type
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def _external(location: str, **entries: str) -> onnx.ModelProto:
    tensor = onnx.TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def _constant_of_shape(gigabytes: int) -> onnx.ModelProto:
    size = numpy_helper.from_array(np.array([gigabytes << 28], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        helper.make_node("ReduceMean", ["huge"], ["mean"], keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]
    return _model(nodes, [size])


def _endless_loop() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("v", TensorProto.FLOAT, None)],
        [info("on", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, None)],
    )
    true = numpy_helper.from_array(np.array(1, np.bool_), "true")
    return _model([helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)], [true])


def _cycle() -> onnx.ModelProto:
    return _model([helper.make_node("Add", ["x", "b"], ["y"]), helper.make_node("Neg", ["y"], ["b"])])


def _versions(opset: int | None, ir: int = 8) -> onnx.ModelProto:
    """Negate, by operators of this version; none imports no operators."""
    model = _model([helper.make_node("Neg", ["x"], ["y"])])
    del model.opset_import[:]
    if opset is not None:
        model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = ir
    return model


def _weighted(array: np.ndarray[Any, Any]) -> onnx.ModelProto:
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(array, "w")])


def _image(kind: str, weights: Sequence[onnx.TensorProto] = (), **attributes: Any) -> onnx.ModelProto:  # noqa: ANN401
    """Do something to an image of four by four."""
    node = helper.make_node(kind, ["x", *(weight.name for weight in weights)], ["y"], **attributes)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1, 4, 4])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "hostile", [image], [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _convolution(**attributes: Any) -> onnx.ModelProto:  # noqa: ANN401
    return _image("Conv", [numpy_helper.from_array(np.zeros((1, 1, 3, 3), np.float32), "w")], **attributes)


def _twice() -> onnx.ModelProto:
    return _model([helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])])


def _named(name: str) -> onnx.ModelProto:
    return _model([helper.make_node("Neg", ["x"], [name])], output=name)


def _zip() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.onnx", b"")
    return file.getvalue()


def _deep() -> bytes:
    inner = b""
    for _ in range(200):
        for number in (6, 5, 1):
            inner = bytes([number << 3 | 2]) + _varint(len(inner)) + inner
    return b"\x3a" + _varint(len(inner)) + inner


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


_WHOLE: Final = mlp().SerializeToString()
_PLACE: Final = "initializer `w`.external_data"

#: Name, file, and what the error says.
HOSTILE: Final[Sequence[tuple[str, bytes | onnx.ModelProto, str]]] = [
    ("b105_empty", b"", "not an ONNX protobuf"),
    ("b105_half", _WHOLE[: len(_WHOLE) // 2], "not an ONNX protobuf"),
    ("b105_minus_1", _WHOLE[:-1], "not an ONNX protobuf"),
    ("b105_text", b"hello, this is a model", "not an ONNX protobuf"),
    ("b105_zip", _zip(), "not an ONNX protobuf"),
    ("b105_pickle", pickle.dumps({"w": 1}), "not an ONNX protobuf"),
    ("b105_random", np.random.default_rng(7).bytes(64 << 10), "not an ONNX protobuf"),
    ("b106_opset_999", _versions(999), "Opset 999 is under development"),
    ("b106_opset_0", _versions(0), "domain_version of 0"),
    ("b106_no_opset", _versions(None), "Missing opset"),
    ("b106_ir_99", _versions(17, ir=99), "IR version"),
    ("b107_cycle", _cycle(), "ONNX Runtime cannot load the model"),
    ("b107_dangling", _model([helper.make_node("Add", ["x", "nowhere"], ["y"])]), "input 'nowhere' is not"),
    ("b107_twice", _twice(), "Duplicate definition of name (y)"),
    ("b108_unknown", _model([helper.make_node("Frobnicate", ["x"], ["y"])]), "Frobnicate"),
    ("b108_domain", _model([helper.make_node("Op", ["x"], ["y"], domain="nowhere")]), "'nowhere'"),
    ("b109_type", _weighted(np.zeros((2, 2), np.int64)), "(MatMul) bound to different types (tensor(float) and"),
    ("b109_shape", _weighted(np.zeros((3, 2), np.float32)), "(MatMul) [ShapeInferenceError] Incompatible dimensions"),
    ("b110_short", _with_tensor([1, 1, 2, 2], TensorProto.FLOAT, b"\0" * 4), "initializer `w`: expected 16 bytes"),
    ("b110_huge", _with_tensor([1 << 31, 1 << 31], TensorProto.FLOAT, b""), "initializer `w`: expected"),
    ("b110_negative", _with_tensor([-1], TensorProto.FLOAT, b""), "initializer `w`: expected dimensions"),
    ("b110_type", _with_tensor([1], 99, b"\0"), "initializer `w`: expected a known element type, got 99"),
    ("b111_up", _external("../canary"), f"{_PLACE}.location: expected a relative path"),
    ("b111_inner_up", _external("a/../../canary"), f"{_PLACE}.location: expected a relative path"),
    ("b111_absolute", _external("/etc/hostname"), f"{_PLACE}.location: expected a relative path"),
    ("b111_symlink", _external("symlink"), f"{_PLACE}.location: expected a file that is reached through no symbolic"),
    ("b111_folder", _external("up/canary"), f"{_PLACE}.location: expected a file that is reached through no symbolic"),
    ("b111_hard_link", _external("hard"), f"{_PLACE}.location: expected a file with one name"),
    ("b111_pipe", _external("pipe"), f"{_PLACE}.location: expected a regular file"),
    ("b111_tag", _external("*/_ORT_MEM_ADDR_/*", offset="4096"), f"{_PLACE}.location: expected a file in the model's"),
    ("b111_minus_4", _external("weights", offset="-4"), f"{_PLACE}.offset: expected a number"),
    ("b111_largest", _external("weights", offset=str((1 << 63) - 1)), f"{_PLACE}.offset: expected 8 bytes from"),
    ("b112_short", _external("weights", offset="4"), f"{_PLACE}.offset: expected 8 bytes from 4 on inside the file"),
    ("b112_missing", _external("missing"), f"{_PLACE}.location: expected a file in the model's folder"),
    ("b113_recursive", _recursive(), "functions[`F`]: a function calls itself"),
    ("b114_depth_14", _bomb(14), "functions: expected at most"),
    ("b114_depth_16", _bomb(16), "functions: expected at most"),
    ("b114_depth_24", _bomb(24), "functions: expected at most"),
    ("b115_newline", _model([helper.make_node("Neg", ["x"], ["a\nb"])], output="a\nb"), "expected a printable name"),
    ("b115_nul", _named("a\0b"), "node[0].output: expected a printable name"),
    ("b115_mebibyte", _named("n" * (1 << 20)), "node[0].output: expected a name of at most 4096 bytes, got 1048576"),
    ("b116_stride", _convolution(strides=[0, 0]), "(Conv) [ShapeInferenceError] Attribute strides"),
    ("b116_pad", _convolution(pads=[-100] * 4), "(Conv) [ShapeInferenceError] Attribute pads"),
    ("b116_dilation", _convolution(dilations=[1 << 62] * 2), "(Conv) [ShapeInferenceError]"),
    ("b116_kernel", _image("MaxPool", kernel_shape=[0, 0]), "(MaxPool) [ShapeInferenceError] Attribute kernel_shape"),
    (
        "b117_256_gib",
        _constant_of_shape(256),
        "load_check: the model is not loaded: a process that loaded it for trial",
    ),
    ("b118_loop", _endless_loop(), f"took more than {TRIAL_S} s and was stopped"),
    ("deep", _deep(), "graph: expected at most 100 messages inside each other"),
]


def _write(folder: Path) -> None:
    save(mlp(), folder / "good.onnx")
    for name, file, _ in HOSTILE:
        model = folder / name / "1" / "model.onnx"
        model.parent.mkdir(parents=True)
        model.write_bytes(file if isinstance(file, bytes) else file.SerializeToString())
        if not name.startswith(("b111", "b112")):
            continue
        canary = struct.pack("<2f", CANARY, CANARY)
        for path in (model.with_name("weights"), model.parent.parent / "canary", model.with_name("hard")):
            path.write_bytes(canary)
        (model.parent.parent / "other name").hardlink_to(model.with_name("hard"))
        model.with_name("symlink").symlink_to("../canary")
        model.with_name("up").symlink_to("..")
        os.mkfifo(model.with_name("pipe"))


def _ask(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:  # noqa: ANN401 - JSON
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request(method, path, json.dumps(body) if body is not None else b"")
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "models").mkdir()
    _write(folder / "models")
    options = ("--load-check", "always", "--load-check-secs", str(TRIAL_S), "--log-level", "off")
    with serving(folder / "models", *options, env=environment(XDG_CACHE_HOME=str(folder / "cache"))) as server:
        yield server


@pytest.mark.parametrize(("name", "expected"), [(name, expected) for name, _, expected in HOSTILE])
def test_a_hostile_model_is_refused_and_the_place_is_named(server: Server, name: str, expected: str) -> None:
    _, index = _ask(server, "POST", "/v2/repository/index", {})
    entry = next(entry for entry in index if entry["name"] == name)
    assert entry["state"] == "UNAVAILABLE"
    assert expected in entry["reason"]
    status, answer = _ask(server, "POST", f"/v2/models/{name}/infer", {"inputs": []})
    assert status in (400, 503)
    assert str(CANARY) not in json.dumps(answer)


def test_the_server_lives_and_serves_the_good_model(server: Server) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]
    status, answer = _ask(server, "POST", "/v2/models/good/infer", {"inputs": inputs})
    assert status == 200, answer
    assert _ask(server, "GET", "/v2/health/live")[0] == 200


def test_a_chain_of_many_nodes_is_no_bomb(tmp_path: Path) -> None:
    """B-115: it is long, and nothing else."""
    names = ["x", *(f"v{number}" for number in range(1, 20_000)), "y"]
    nodes = [helper.make_node("Neg", [before], [after]) for before, after in pairwise(names)]
    with serving(save(_model(nodes), tmp_path / "chain.onnx")) as server:
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, -2.0]}]
        status, answer = _ask(server, "POST", "/v2/models/chain/infer", {"inputs": inputs})
        assert (status, answer["outputs"][0]["data"]) == (200, [1.0, -2.0])


def test_a_bomb_of_a_kilobyte_is_refused_in_under_a_second_without_a_trial(tmp_path: Path) -> None:
    bomb = _bomb(16)
    assert bomb.ByteSize() < 2048
    path = tmp_path / "bomb.onnx"
    path.write_bytes(bomb.SerializeToString())
    ended = run_axon("serve", path, "--http-port", "0", "--metrics-port", "0", "--no-grpc", "--load-check", "off")
    assert ended.returncode == 1
    assert "nodes after inlining" in ended.stderr


def _records(cache: Path) -> list[Path]:
    folder = cache / "axon" / "checked"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_what_has_survived_is_noted_once_and_noted_again_when_the_note_is_torn(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model = save(mlp(), tmp_path / "good.onnx")

    def serve() -> None:
        with serving(model, env=environment(XDG_CACHE_HOME=str(cache))):
            pass

    serve()
    (note,) = _records(cache)
    first = note.stat().st_mtime_ns
    whole = note.read_bytes()
    serve()
    assert note.stat().st_mtime_ns == first, "it was known"
    note.write_bytes(whole[:-5])
    serve()
    assert note.read_bytes() == whole


def test_a_model_that_is_refused_is_not_noted(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = save(_endless_loop(), tmp_path / "loop.onnx")
    ended = run_axon(
        "serve",
        path,
        "--http-port",
        "0",
        "--metrics-port",
        "0",
        "--no-grpc",
        "--load-check-secs",
        "1",
        env=environment(XDG_CACHE_HOME=str(cache)),
    )
    assert ended.returncode == 1
    assert "took more than 1 s and was stopped" in ended.stderr
    assert "--load-check-secs" in ended.stderr
    assert _records(cache) == []
