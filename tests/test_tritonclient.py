"""The official client of the protocol, `tritonclient.http`, and its asyncio twin against a real server process.

The models are ones whose answer is known: the identity of each data type, and what ONNX Runtime answers when it is
called directly. "Unchanged" is always bit for bit.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from models import DATATYPES, identity, mlp, save, two_inputs
from serving import serving
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    import onnx
    from serving import Server

    Array: TypeAlias = npt.NDArray[Any]

NUMPY: Final[Mapping[str, npt.DTypeLike]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
FLOATS: Final = ("FP16", "BF16", "FP32", "FP64")
JSON_CASES: Final = [
    (datatype, asked, answered)
    for datatype in DATATYPES
    for asked, answered in (("json", "json"), ("json", "binary"), ("binary", "json"))
    if datatype != "BF16" or asked == "binary"  # the client itself refuses it; by plain HTTP below
]
SEEDS: Final = {"1": 1, "3": 3}  # of the versions of the model `layout`


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        save(identity(datatype), folder / f"{datatype}.onnx")
    for version, seed in SEEDS.items():
        save(mlp(seed=seed), folder / "layout" / version / "model.onnx")
    (folder / "layout" / "config.pbtxt").write_text("version_policy { all { } }")
    save(two_inputs(), folder / "two.onnx")
    save(mlp(), folder / "counted.onnx")
    with serving(folder) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with connect(server) as connected:
        yield connected


def connect(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"{server.host}:{server.port}")


def hard_values(datatype: str) -> Array:
    """Return values `[2, 3]` at the edges of a data type, among them those that JSON has no word for."""
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if datatype == "BYTES":
        return strings([[b"", b"\x00\xff\xfe", "é".encode()], [bytes(range(256)), b"x" * 1000, b"plain"]])
    if datatype in FLOATS:
        limits = ml_dtypes.finfo(NUMPY[datatype])  # type: ignore[no-untyped-call]
        edges = [[-0.0, limits.max, limits.smallest_subnormal], [np.nan, np.inf, -np.inf]]
        return np.array(edges, dtype=NUMPY[datatype])
    bounds = np.iinfo(NUMPY[datatype])
    return np.array([[bounds.min, bounds.max, 0], [1, 2, 3]], dtype=NUMPY[datatype])


def json_values(datatype: str) -> Array:
    """Return values `[2, 3]` at the edges of what JSON can carry of a data type."""
    if datatype == "BYTES":
        return strings([["", 'quote " slash \\ tab \t nul \x00', "é 日本 🙂"], ["a", "\u2028", "x" * 1000]])
    values = hard_values(datatype)
    if datatype in FLOATS:
        values[1] = np.array([0.1, -1.5, 1 / 3]).astype(NUMPY[datatype])
    if datatype == "INT64":
        values[1, 0] = 2**53 + 1
    return values


def strings(rows: Sequence[Sequence[str | bytes]]) -> Array:
    """Return an array of `bytes`."""
    encoded = [[element.encode() if isinstance(element, str) else element for element in row] for row in rows]
    return np.array(encoded, dtype=np.object_)


def tensor(name: str, value: Array, datatype: str = "FP32", *, binary: bool = True) -> triton.InferInput:
    """Return the client's input."""
    return triton.InferInput(name, list(value.shape), datatype).set_data_from_numpy(value, binary_data=binary)


def assert_same(actual: Array, expected: Array) -> None:
    """Assert that two arrays are equal, bit for bit."""
    assert actual.shape == expected.shape
    if expected.dtype == np.object_:
        encoded = [element.encode() if isinstance(element, str) else element for element in actual.flat]
        assert encoded == list(expected.flat)
    else:
        # The client has no numpy type of its own for BF16 in every release.
        assert actual.astype(expected.dtype).tobytes() == expected.tobytes()


def direct(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """Return what ONNX Runtime answers without a server."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def rows(seed: int, count: int = 2, width: int = 64) -> Array:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_the_server_and_its_models_are_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("FP32")
    assert client.is_model_ready("layout")


def test_a_version_is_ready_only_if_it_is_there(client: triton.InferenceServerClient) -> None:
    asked = [("layout", "1"), ("layout", "3"), ("FP32", "1"), ("layout", "2"), ("FP32", "3"), ("nobody", "")]
    assert [client.is_model_ready(*one) for one in asked] == [True, True, True, False, False, False]


def test_the_server_says_what_it_is(client: triton.InferenceServerClient) -> None:
    metadata = client.get_server_metadata()
    assert metadata["name"] == "axon"
    assert metadata["version"]
    assert {"binary_tensor_data", "classification", "parameters", "statistics"} <= set(metadata["extensions"])


@pytest.mark.parametrize(("version", "versions"), [("", ["1", "3"]), ("1", ["1"]), ("3", ["3"])])
def test_a_model_says_what_it_takes_and_gives(
    client: triton.InferenceServerClient, version: str, versions: list[str]
) -> None:
    assert client.get_model_metadata("layout", version) == {
        "name": "layout",
        "versions": versions,
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
    }


@pytest.mark.parametrize("datatype", DATATYPES)
def test_metadata_names_each_datatype(client: triton.InferenceServerClient, datatype: str) -> None:
    metadata = client.get_model_metadata(datatype)
    assert metadata["inputs"] == [{"name": "INPUT0", "datatype": datatype, "shape": [-1, 3]}]
    assert metadata["outputs"] == [{"name": "OUTPUT0", "datatype": datatype, "shape": [-1, 3]}]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_comes_back_unchanged_in_binary(client: triton.InferenceServerClient, datatype: str) -> None:
    value = hard_values(datatype)
    result = client.infer(datatype, [tensor("INPUT0", value, datatype)])
    assert result.get_output("OUTPUT0")["datatype"] == datatype
    assert_same(result.as_numpy("OUTPUT0"), value)


@pytest.mark.parametrize(("datatype", "asked", "answered"), JSON_CASES)
def test_each_datatype_comes_back_unchanged_in_json(
    client: triton.InferenceServerClient, datatype: str, asked: str, answered: str
) -> None:
    value = json_values(datatype)
    inputs = [tensor("INPUT0", value, datatype, binary=asked == "binary")]
    outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=answered == "binary")]
    result = client.infer(datatype, inputs, outputs=outputs)
    assert ("data" in result.get_output("OUTPUT0")) is (answered == "json")
    assert_same(result.as_numpy("OUTPUT0"), value)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_comes_back_unchanged_in_json_both_ways(server: Server, datatype: str) -> None:
    value = json_values(datatype)
    request = {"name": "INPUT0", "datatype": datatype, "shape": [2, 3], "data": value.astype(float).tolist()}
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    connection.request("POST", f"/v2/models/{datatype}/infer", json.dumps({"inputs": [request]}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == (datatype, [2, 3])
    assert_same(np.array(output["data"]).astype(value.dtype).reshape(2, 3), value)


def test_bytes_that_are_not_text_are_refused_in_json_answers(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=False)]
    with pytest.raises(InferenceServerException, match=r"outputs\[0\].*UTF-8") as caught:
        client.infer("BYTES", [tensor("INPUT0", hard_values("BYTES"), "BYTES")], outputs=outputs)
    assert caught.value.status() == "400"


def test_inputs_and_outputs_in_json_and_binary_may_be_mixed(client: triton.InferenceServerClient) -> None:
    a, b = rows(1, width=3), rows(2, width=3)
    outputs = [
        triton.InferRequestedOutput("difference", binary_data=True),
        triton.InferRequestedOutput("sum", binary_data=False),
    ]
    result = client.infer("two", [tensor("b", b, binary=False), tensor("a", a)], outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["difference", "sum"]
    assert_same(result.as_numpy("sum"), a + b)
    assert_same(result.as_numpy("difference"), a - b)


def test_only_the_outputs_that_are_asked_for_come(client: triton.InferenceServerClient) -> None:
    a, b = rows(1, width=3), rows(2, width=3)
    outputs = [triton.InferRequestedOutput("difference")]
    result = client.infer("two", [tensor("a", a), tensor("b", b)], outputs=outputs)
    assert result.as_numpy("sum") is None
    assert_same(result.as_numpy("difference"), a - b)


def test_a_request_id_comes_back_and_none_is_made_up(client: triton.InferenceServerClient) -> None:
    inputs = [tensor("INPUT0", hard_values("FP32"))]
    assert client.infer("FP32", inputs, request_id="tag-7 é").get_response()["id"] == "tag-7 é"
    assert "id" not in client.infer("FP32", inputs).get_response()


def test_parameters_that_mean_nothing_to_the_model_are_accepted(client: triton.InferenceServerClient) -> None:
    value = hard_values("FP32")
    result = client.infer(
        "FP32", [tensor("INPUT0", value)], priority=1, timeout=9_000_000, parameters={"tenant": "blue", "level": 2}
    )
    assert_same(result.as_numpy("OUTPUT0"), value)


@pytest.mark.parametrize("version", ["", "1", "3"])
def test_each_version_answers_as_its_own_file_does(client: triton.InferenceServerClient, version: str) -> None:
    x = rows(5)
    result = client.infer("layout", [tensor("x", x)], model_version=version)
    assert result.get_response()["model_version"] == (version or "3")
    assert_same(result.as_numpy("y"), direct(mlp(seed=SEEDS[version or "3"]), {"x": x})[0])


@pytest.mark.parametrize("answered", [None, "gzip", "deflate"])
@pytest.mark.parametrize("asked", ["gzip", "deflate"])
def test_compressed_requests_are_accepted(
    client: triton.InferenceServerClient, asked: str, answered: str | None
) -> None:
    value = rows(3, count=50, width=3)
    for binary in (True, False):
        result = client.infer(
            "FP32",
            [tensor("INPUT0", value, binary=binary)],
            request_compression_algorithm=asked,
            response_compression_algorithm=answered,
        )
        assert_same(result.as_numpy("OUTPUT0"), value)


@pytest.mark.parametrize("answered", ["json", "binary"])
def test_classification_names_the_best_classes_of_each_row(client: triton.InferenceServerClient, answered: str) -> None:
    x = rows(9, count=4)
    (scores,) = direct(mlp(), {"x": x})
    best = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    expected = [[f"{row[index]:f}:{index}" for index in indices] for row, indices in zip(scores, best, strict=True)]
    outputs = [triton.InferRequestedOutput("y", binary_data=answered == "binary", class_count=3)]
    result = client.infer("counted", [tensor("x", x)], outputs=outputs)
    assert result.get_output("y")["datatype"] == "BYTES"
    assert_same(result.as_numpy("y"), strings(expected))


@pytest.mark.parametrize(
    ("model", "value", "status", "text"),
    [
        ("FP32", np.zeros((1, 4), np.float32), "400", "inputs[0].shape[1]: expected 3, got 4"),
        ("FP32", np.zeros((1, 3), np.float64), "400", "inputs[0].datatype: expected FP32"),
        ("nobody", np.zeros((1, 3), np.float32), "404", "nobody"),
    ],
)
def test_the_exception_carries_the_servers_text(
    client: triton.InferenceServerClient, model: str, value: Array, status: str, text: str
) -> None:
    datatype = "FP32" if value.dtype == np.float32 else "FP64"
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor("INPUT0", value, datatype)])
    assert caught.value.status() == status
    assert text in caught.value.message()


def test_concurrent_clients_each_get_their_own_answer(server: Server) -> None:
    def ask(worker: int) -> None:
        with connect(server) as own:
            for index in range(20):
                value = rows(worker * 1000 + index, count=1 + worker % 3, width=3)
                result = own.infer("FP32", [tensor("INPUT0", value)], request_id=f"{worker}-{index}")
                assert result.get_response()["id"] == f"{worker}-{index}"
                assert_same(result.as_numpy("OUTPUT0"), value)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_async_infer_gives_each_request_its_own_answer(server: Server) -> None:
    values = [rows(seed, width=3) for seed in range(64)]
    with triton.InferenceServerClient(f"{server.host}:{server.port}", concurrency=16) as client:
        pending = [client.async_infer("FP32", [tensor("INPUT0", value)]) for value in values]
        for asked, value in zip(pending, values, strict=True):
            assert_same(asked.get_result().as_numpy("OUTPUT0"), value)


def test_the_asyncio_client_is_served_alike(server: Server) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(f"{server.host}:{server.port}") as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("layout", "3")
            assert not await client.is_model_ready("layout", "2")
            assert (await client.get_server_metadata())["name"] == "axon"
            assert (await client.get_model_metadata("layout"))["versions"] == ["1", "3"]
            values = [rows(seed, width=3) for seed in range(64)]
            asked = (
                client.infer(
                    "FP32",
                    [tensor("INPUT0", value, binary=index % 2 == 0)],
                    request_id=str(index),
                    request_compression_algorithm="gzip" if index % 4 == 0 else None,
                )
                for index, value in enumerate(values)
            )
            for index, (result, value) in enumerate(zip(await asyncio.gather(*asked), values, strict=True)):
                assert result.get_response()["id"] == str(index)
                assert_same(result.as_numpy("OUTPUT0"), value)
            with pytest.raises(InferenceServerException, match="nobody"):
                await client.infer("nobody", [tensor("INPUT0", values[0])])

    asyncio.run(ask())


def test_statistics_add_up_under_concurrent_load(server: Server) -> None:
    def ask(worker: int) -> int:
        with connect(server) as own:
            for index in range(25):
                own.infer("counted", [tensor("x", rows(index, count=1 + worker % 4))])
        return 25 * (1 + worker % 4)

    with connect(server) as client:
        (before,) = client.get_inference_statistics("counted", "1")["model_stats"]
        with ThreadPoolExecutor(8) as pool:
            rows_sent = sum(pool.map(ask, range(8)))
        (after,) = client.get_inference_statistics("counted")["model_stats"]
        every = client.get_inference_statistics()["model_stats"]
    assert {(model["name"], model["version"]) for model in every} >= {("layout", "1"), ("layout", "3"), ("two", "1")}
    assert next(model for model in every if model["name"] == "counted") == after
    stats = {name: after["inference_stats"][name] for name in ("success", "fail", "queue", "compute_infer")}
    moved = {name: value["count"] - before["inference_stats"][name]["count"] for name, value in stats.items()}
    assert moved == {"success": 200, "fail": 0, "queue": 200, "compute_infer": 200}
    assert after["inference_count"] - before["inference_count"] == rows_sent
    assert 0 < after["execution_count"] - before["execution_count"] <= 200
    batches = [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in after["batch_stats"]]
    assert sum(count for _, count in batches) == after["execution_count"]
    assert sum(size * count for size, count in batches) == after["inference_count"]
    assert stats["success"]["ns"] >= stats["queue"]["ns"]
    assert after["last_inference"] >= before["last_inference"]
