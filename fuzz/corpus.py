"""Write the seeds of the corpus: valid inputs of every target, and the ends of the catalogue of bad ones.

.venv/bin/python fuzz/corpus.py
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2

HERE = Path(__file__).parent / "corpus"


def tensor(name: str, datatype: str, shape: list[int], **members: object) -> dict[str, object]:
    """Describe an input."""
    return {"name": name, "datatype": datatype, "shape": shape, **members}


def requests() -> list[bytes]:
    """Make JSON bodies."""
    types = ["UINT8", "INT64", "FP16", "BF16", "FP32", "FP64"]
    documents: list[dict[str, object]] = [
        {"inputs": [tensor(name, name, [1, 2], data=[[1, 2]]) for name in types]},
        {"inputs": [tensor("s", "BYTES", [2], data=["a", "\u00e9\\u0000"]), tensor("b", "BOOL", [1], data=[True])]},
        {
            "id": "7",
            "parameters": {"sequence_id": 5, "sequence_start": True, "priority": 1, "timeout": 10, "k": 1.5},
            "inputs": [tensor("x", "FP32", [1], data=[1e-3])],
            "outputs": [{"name": "y", "parameters": {"classification": 3, "binary_data": True}}],
        },
    ]
    bad = [b"", b"{}", b"null", b'{"inputs":{}}', b"[" * 200, b'{"inputs":[{"shape":[-1,18446744073709551617]}]}']
    return [json.dumps(document).encode() for document in documents] + bad


def binaries() -> list[bytes]:
    """Make bodies whose first two bytes are the length of their JSON."""
    head = json.dumps({"inputs": [tensor("x", "FP32", [1, 2], parameters={"binary_data_size": 8})]}).encode()
    text = json.dumps({"inputs": [tensor("s", "BYTES", [1], parameters={"binary_data_size": 5})]}).encode()
    return [
        struct.pack("<H", len(head)) + head + bytes(8),
        struct.pack("<H", len(text)) + text + b"\x01\0\0\0a",
        struct.pack("<H", len(text)) + text + b"\xff\xff\xff\xffa",
    ]


def messages() -> list[bytes]:
    """Make messages of gRPC."""
    raw = service_pb2.ModelInferRequest(model_name="m", model_version="1", id="7")
    raw.inputs.add(name="x", datatype="FP32").shape.extend([1, 2])
    raw.raw_input_contents.append(bytes(8))
    raw.parameters["timeout"].int64_param = 5
    raw.outputs.add(name="y").parameters["classification"].int64_param = 2
    typed = service_pb2.ModelInferRequest(model_name="m")
    given = typed.inputs.add(name="x", datatype="UINT8")
    given.shape.extend([2])
    given.contents.uint_contents.extend([1, 300])
    shared = service_pb2.ModelInferRequest(model_name="m")
    shared.inputs.add(name="x", datatype="BYTES").parameters["shared_memory_region"].string_param = "r"
    return [message.SerializeToString() for message in (raw, typed, shared)]


PBTXT = b"""name: "m" max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]
output { name: 'y' data_type: TYPE_FP32 dims: 2 label_filename: "l" } version_policy < latest { num_versions: 2 } >
sequence_batching { oldest { max_candidate_sequences: 4 } control_input [ { name: "s" control [
{ kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ] } # comment
parameters { key: "k" value { string_value: "v" } } instance_group [ { count: 2 kind: KIND_CPU } ]"""
TOML = b"""max_batch_size = 8
instances = 2
versions = [1, 3]
[inputs.x]
datatype = "FP32"
shape = [-1, 4]
[sequence]
strategy = "oldest"
"""
CONFIG = (
    b'{"name":"m","maxBatchSize":8,"input":[{"name":"x","data_type":"TYPE_FP32","dims":[4]}],'
    b'"version_policy":{"all":{}}}'
)


def models() -> list[bytes]:
    """Make model files: subgraphs, functions, typed and raw and external and sparse data."""
    info = helper.make_tensor_value_info
    inputs, outputs = [info("x", TensorProto.FLOAT, ["rows", 2])], [info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "b", [], [info("z", TensorProto.FLOAT, None)]
    )
    typed = helper.make_tensor("t", TensorProto.INT64, [2], [1, 300])
    raw = helper.make_tensor("r", TensorProto.FLOAT, [2], bytes(8), raw=True)
    apart = TensorProto(name="w", dims=[2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    apart.external_data.add(key="location", value="../w")
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [3]),
        [9],
    )
    nodes = [
        helper.make_node("If", ["c"], ["a"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["k"], value=typed),
        helper.make_node("f", ["a"], ["y"], domain="d"),
    ]
    bodies = [("f", ["g", "g"]), ("g", ["f"])]
    functions = [
        helper.make_function(
            "d", name, ["a"], ["b"], [helper.make_node(call, ["a"], ["b"], domain="d") for call in calls], opsets
        )
        for name, calls in bodies
    ]
    made = []
    for initializers, chosen in (([typed, raw], []), ([apart], []), ([raw], functions[:1]), ([], functions)):
        graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
        made.append(helper.make_model(graph, functions=chosen, opset_imports=opsets, ir_version=8))
    made[0].graph.sparse_initializer.append(sparse)
    return [model.SerializeToString() for model in made]


CORPUS = {
    "json": requests(),
    "binary": binaries(),
    "bytes": [b"\x02\x01\0\0\0a\0\0\0\0", b"\x01\xff\xff\xff\xff", b"\0"],
    "protobuf": messages(),
    "generate": [b'{"x":[1,2],"s":"a","id":"7","parameters":{"timeout":5}}', b'{"x":1}', b""],
    "pbtxt": [PBTXT, b"x { " * 50],
    "toml": [TOML, b"a = [[" * 20],
    "config-json": [CONFIG, b"{}"],
    "path": [
        b"/v2/models/m/versions/1/infer",
        b"/v2/repository/models/..%2f/load",
        b"/v2/systemsharedmemory/region/r/register",
        b"//v2",
    ],
    "shape": [struct.pack("<3Q", 2, 3, 4), struct.pack("<2Q", 2**63, 2), struct.pack("<2Q", 0, 2**64 - 1), b""],
    "gzip": [gzip.compress(b"{}" * 50), zlib.compress(bytes(2000)), gzip.compress(bytes(1 << 20))[:200], b""],
    "model": models(),
}


def main() -> None:
    """Write each seed to a file of its number."""
    for name, seeds in CORPUS.items():
        (HERE / name).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (HERE / name / f"{number:02}").write_bytes(seed)


if __name__ == "__main__":
    main()
