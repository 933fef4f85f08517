"""The protocol over gRPC with its official clients, `tritonclient.grpc` and its asyncio twin, and gRPC's own tools.

The models are ones whose answer is known, as in test_tritonclient.py; "unchanged" is always bit for bit. Refusals are
in test_grpc_bad_input.py, streams in test_grpc_streams.py; repository control, configuration and shared memory are in
test_control.py.
"""

from __future__ import annotations

import asyncio
import queue
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_asking import request_of, stats, stub, tensor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_rows import INFER, SERVICE, parameters, question
from http2 import PATIENCE_S, Connection, grpc_headers, message
from models import DATATYPES, identity, mlp, save, two_inputs
from serving import serving
from test_tritonclient import NUMPY, SEEDS, assert_same, direct, hard_values, rows, strings
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from serving import Server

    Array: TypeAlias = npt.NDArray[Any]

#: The field for the typed contents of each data type that has one. **Source:** Open Inference Protocol.
CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
#: What zlib takes for the format of each encoding.
WINDOWS: Final = {"gzip": 31, "deflate": 15}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        save(identity(datatype), folder / f"{datatype}.onnx")
    for version, seed in SEEDS.items():
        save(mlp(seed=seed), folder / "layout" / version / "model.onnx")
    (folder / "layout" / "config.pbtxt").write_text("version_policy { all { } }")
    save(identity("FP32", ("batch", "width")), folder / "wide.onnx")
    save(two_inputs(), folder / "two.onnx")
    save(mlp(), folder / "counted.onnx")
    with serving(folder) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as connected:
        yield connected


def status_of(error: InferenceServerException) -> tuple[str, str]:
    return str(error.status()), str(error.message())


def test_the_server_and_its_models_are_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    asked = [("layout", ""), ("layout", "1"), ("layout", "3"), ("FP32", "1"), ("layout", "2"), ("nobody", "")]
    assert [client.is_model_ready(*one) for one in asked] == [True, True, True, True, False, False]


def test_the_server_says_what_it_is_as_over_http(server: Server, client: triton.InferenceServerClient) -> None:
    metadata = client.get_server_metadata(as_json=True)
    with triton_http.InferenceServerClient(server.address) as other:
        assert metadata == other.get_server_metadata()


@pytest.mark.parametrize("model", ["two", "layout", "BYTES"])
def test_a_model_says_what_it_takes_as_over_http(
    server: Server, client: triton.InferenceServerClient, model: str
) -> None:
    metadata = client.get_model_metadata(model)
    with triton_http.InferenceServerClient(server.address) as other:
        expected = other.get_model_metadata(model)

    def described(tensors: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]

    assert (metadata.name, metadata.platform) == (expected["name"], expected["platform"])
    assert list(metadata.versions) == expected["versions"]
    assert described(metadata.inputs) == expected["inputs"]
    assert described(metadata.outputs) == expected["outputs"]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_comes_back_unchanged(client: triton.InferenceServerClient, datatype: str) -> None:
    value = hard_values(datatype)
    result = client.infer(datatype, [tensor("INPUT0", value, datatype)])
    assert result.get_output("OUTPUT0").datatype == datatype
    assert_same(result.as_numpy("OUTPUT0"), value)


@pytest.mark.parametrize("datatype", CONTENTS)
def test_each_datatype_with_typed_contents_comes_back_unchanged(server: Server, datatype: str) -> None:
    value = hard_values(datatype)
    typed = {
        "name": "INPUT0",
        "datatype": datatype,
        "shape": value.shape,
        "contents": {CONTENTS[datatype]: value.ravel().tolist()},
    }
    with stub(server) as service:
        answer = service.ModelInfer(pb.ModelInferRequest(model_name=datatype, inputs=[typed]))
    assert list(answer.outputs[0].shape) == list(value.shape)
    if datatype == "BYTES":
        raw = b"".join(struct.pack("<I", len(element)) + element for element in value.flat)
    else:
        raw = value.astype(NUMPY[datatype]).tobytes()
    assert list(answer.raw_output_contents) == [raw]


def test_only_the_outputs_that_are_asked_for_come_and_in_that_order(client: triton.InferenceServerClient) -> None:
    a, b = rows(1, width=3), rows(2, width=3)
    inputs = [tensor("b", b), tensor("a", a)]
    asked = [triton.InferRequestedOutput(name) for name in ("difference", "sum")]
    both = client.infer("two", inputs, outputs=asked)
    assert [output.name for output in both.get_response().outputs] == ["difference", "sum"]
    assert_same(both.as_numpy("sum"), a + b)
    assert_same(both.as_numpy("difference"), a - b)
    one = client.infer("two", inputs, outputs=asked[:1])
    assert one.as_numpy("sum") is None
    assert_same(one.as_numpy("difference"), a - b)


@pytest.mark.parametrize("version", ["", "1", "3"])
def test_each_version_answers_as_its_own_file_does(client: triton.InferenceServerClient, version: str) -> None:
    x = rows(5)
    result = client.infer("layout", [tensor("x", x)], model_version=version)
    assert result.get_response().model_version == (version or "3")
    assert_same(result.as_numpy("y"), direct(mlp(seed=SEEDS[version or "3"]), {"x": x})[0])


def test_classification_names_the_best_classes_of_each_row(client: triton.InferenceServerClient) -> None:
    x = rows(9, count=4)
    (scores,) = direct(mlp(), {"x": x})
    best = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    expected = [[f"{row[index]:f}:{index}" for index in indices] for row, indices in zip(scores, best, strict=True)]
    result = client.infer("counted", [tensor("x", x)], outputs=[triton.InferRequestedOutput("y", class_count=3)])
    assert_same(result.as_numpy("y"), strings(expected))


def test_a_request_id_comes_back_and_none_is_made_up(client: triton.InferenceServerClient) -> None:
    inputs = [tensor("INPUT0", hard_values("FP32"))]
    assert client.infer("FP32", inputs, request_id="tag-7 é").get_response().id == "tag-7 é"
    assert client.infer("FP32", inputs).get_response().id == ""


def test_parameters_that_mean_nothing_to_the_model_are_accepted(client: triton.InferenceServerClient) -> None:
    value = hard_values("FP32")
    own = {"tenant": "blue", "level": 2, "dark": True}
    result = client.infer("FP32", [tensor("INPUT0", value)], priority=1, timeout=9_000_000, parameters=own)
    assert_same(result.as_numpy("OUTPUT0"), value)


@pytest.mark.parametrize(
    ("model", "value", "status", "text"),
    [
        ("FP32", np.zeros((1, 4), np.float32), "INVALID_ARGUMENT", "inputs[0].shape[1]: expected 3, got 4"),
        ("FP32", np.zeros((1, 3), np.float64), "INVALID_ARGUMENT", "inputs[0].datatype: expected FP32"),
        ("nobody", np.zeros((1, 3), np.float32), "NOT_FOUND", "nobody"),
    ],
)
def test_the_exception_carries_the_servers_text(
    client: triton.InferenceServerClient, model: str, value: Array, status: str, text: str
) -> None:
    datatype = "FP32" if value.dtype == np.float32 else "FP64"
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor("INPUT0", value, datatype)])
    got, said = status_of(caught.value)
    assert got == f"StatusCode.{status}"
    assert text in said


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered_unchanged(client: triton.InferenceServerClient, algorithm: str) -> None:
    for count in (1, 50, 50_000):
        value = rows(3, count=count, width=3)
        result = client.infer("FP32", [tensor("INPUT0", value)], compression_algorithm=algorithm)
        assert_same(result.as_numpy("OUTPUT0"), value)


@pytest.mark.parametrize(
    ("encoding", "accepted", "answered"),
    [
        ("gzip", None, "gzip"),
        ("deflate", None, "deflate"),
        ("gzip", "identity,deflate,gzip", "gzip"),
        ("gzip", "identity", None),
        ("deflate", "identity, gzip", None),
        (None, "gzip", None),
        ("identity", "gzip", None),
    ],
)
def test_an_answer_is_compressed_on_the_wire_if_its_request_was_and_the_caller_takes_it(
    server: Server, encoding: str | None, accepted: str | None, answered: str | None
) -> None:
    value = np.zeros(3000, np.float32)
    plain = question(
        {"name": "INPUT0", "datatype": "FP32", "shape": [1000, 3]},
        model_name="FP32",
        raw_input_contents=[value.tobytes()],
    )
    body = message(plain)
    if encoding in WINDOWS:
        packer = zlib.compressobj(wbits=WINDOWS[encoding])
        body = message(packer.compress(plain) + packer.flush(), flag=1)
    with Connection(server.grpc_address) as connection:
        changes = {"grpc-encoding": encoding, "grpc-accept-encoding": accepted}
        response = connection.request(grpc_headers(INFER, changes), body)
    assert response.headers.get("grpc-encoding") == answered
    ((flag, found),) = response.messages()
    assert flag == (answered is not None)
    if answered is not None:
        assert len(found) < value.nbytes / 10
        found = zlib.decompress(found, WINDOWS[answered])
    assert list(pb.ModelInferResponse.FromString(found).raw_output_contents) == [value.tobytes()]


def test_forty_mebibytes_go_both_ways_unchanged(client: triton.InferenceServerClient) -> None:
    value = np.random.default_rng(40).integers(0, 2**32, 10 << 20, np.uint32).view(np.float32).reshape(1, -1)
    result = client.infer("wide", [tensor("INPUT0", value)])
    assert_same(result.as_numpy("OUTPUT0"), value)


def test_async_infer_gives_each_request_its_own_answer(client: triton.InferenceServerClient) -> None:
    values = [rows(seed, width=3) for seed in range(64)]
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()

    def collect(index: int) -> Callable[[Any, Any], None]:
        return lambda result, error: answers.put((index, result, error))

    for index, value in enumerate(values):
        client.async_infer("FP32", [tensor("INPUT0", value)], collect(index), request_id=str(index))
    for _ in values:
        index, result, error = answers.get(timeout=PATIENCE_S)
        assert error is None
        assert result.get_response().id == str(index)
        assert_same(result.as_numpy("OUTPUT0"), values[index])


def test_settings_of_traces_and_logs_are_read_and_changed(client: triton.InferenceServerClient) -> None:
    before = client.get_trace_settings(as_json=True)["settings"]
    assert before["trace_level"] == {"value": ["OFF"]}
    changed = client.update_trace_settings(settings={"trace_rate": "7"}, as_json=True)["settings"]
    assert changed == {**before, "trace_rate": {"value": ["7"]}}
    assert client.get_trace_settings("FP32", as_json=True)["settings"]["trace_rate"] == {"value": ["7"]}
    assert client.update_trace_settings(settings={"trace_rate": None}, as_json=True)["settings"] == before
    level = client.get_log_settings(as_json=True)["settings"]["log_verbose_level"]
    assert client.update_log_settings({"log_verbose_level": 0}, as_json=True)["settings"]["log_verbose_level"] == level
    with pytest.raises(InferenceServerException, match="log_file"):
        client.update_log_settings({"log_file": "x"})


def test_statistics_add_up_under_load_over_both_protocols(server: Server) -> None:
    def ask(worker: int) -> int:
        kind = triton if worker % 2 else triton_http
        address = server.grpc_address if worker % 2 else server.address
        count = 1 + worker % 4
        with kind.InferenceServerClient(address) as own:
            for index in range(25):
                given = kind.InferInput("x", [count, 64], "FP32").set_data_from_numpy(rows(index, count))
                own.infer("counted", [given])
        return 25 * count

    before = stats(server, "counted")
    with ThreadPoolExecutor(8) as pool:
        rows_sent = sum(pool.map(ask, range(8)))
    after = stats(server, "counted")

    def count_of(found: dict[str, Any], name: str) -> int:
        return int(found["inference_stats"][name]["count"])

    grown = {
        name: count_of(after, name) - count_of(before, name) for name in ("success", "fail", "queue", "compute_infer")
    }
    assert grown == {"success": 200, "fail": 0, "queue": 200, "compute_infer": 200}
    assert after["inference_count"] - before["inference_count"] == rows_sent
    batches = [(batch["batch_size"], batch["compute_infer"]["count"]) for batch in after["batch_stats"]]
    assert sum(size * count for size, count in batches) == after["inference_count"]
    assert sum(count for _, count in batches) == after["execution_count"]
    with stub(server) as service:
        (found,) = service.ModelStatistics(pb.ModelStatisticsRequest(name="counted")).model_stats
        every = service.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert found.inference_stats.success.count == count_of(after, "success")
    assert found.inference_stats.success.ns == after["inference_stats"]["success"]["ns"]
    assert (found.inference_count, found.execution_count) == (after["inference_count"], after["execution_count"])
    assert [(batch.batch_size, batch.compute_infer.count) for batch in found.batch_stats] == batches
    assert {(one.name, one.version) for one in every} >= {("layout", "1"), ("layout", "3"), ("two", "1")}


def test_health_is_readiness(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken.onnx").write_text("not a model")
    states = health_pb2.HealthCheckResponse
    with serving(folder, "--log-level", "off") as unready:
        for one, expected in ((server, states.SERVING), (unready, states.NOT_SERVING)):
            with grpc.insecure_channel(one.grpc_address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                for service in ("", "inference.GRPCInferenceService", "anything"):
                    assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == expected


def test_health_that_is_watched_is_told_when_it_changes_until_the_server_ends(tmp_path: Path) -> None:
    save(identity("FP32"), tmp_path / "FP32.onnx")
    (tmp_path / "broken.onnx").write_text("not a model")
    states = health_pb2.HealthCheckResponse
    options = ("--model-control-mode", "explicit", "--load-model", "FP32", "--log-level", "off")
    with serving(tmp_path, *options) as ending, stub(ending) as service:
        with grpc.insecure_channel(ending.grpc_address) as channel:
            told = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert next(told).status == states.SERVING
            with pytest.raises(grpc.RpcError):
                service.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="broken"), timeout=PATIENCE_S)
            assert next(told).status == states.NOT_SERVING
            service.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="broken"), timeout=PATIENCE_S)
            assert next(told).status == states.SERVING
            ending.process.terminate()
            assert next(told).status == states.NOT_SERVING
            with pytest.raises(grpc.RpcError) as caught:
                next(told)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ending.process.wait(PATIENCE_S) == 0


def test_reflection_lists_and_describes_the_services(server: Server) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert services >= {"inference.GRPCInferenceService", "grpc.health.v1.Health", "axon.Introspection"}
        described = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        official = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        assert {method.name for method in described.methods} >= {method.name for method in official.methods}
        asked = described.methods_by_name["ModelInfer"].input_type
        expected = pb.ModelInferRequest.DESCRIPTOR
        assert {(field.name, field.number) for field in asked.fields} == {
            (field.name, field.number) for field in expected.fields
        }
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="nobody.at.Home")
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(reflection.ServerReflectionInfo(iter([request])))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_asyncio_client_is_served_alike(server: Server) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(server.grpc_address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("layout", "3")
            assert not await client.is_model_ready("layout", "2")
            assert (await client.get_server_metadata()).name == "axon"
            values = [rows(seed, width=3) for seed in range(64)]
            asked = (
                client.infer(
                    "FP32",
                    [tensor("INPUT0", value)],
                    request_id=str(index),
                    compression_algorithm="gzip" if index % 4 == 0 else None,
                )
                for index, value in enumerate(values)
            )
            for index, (result, value) in enumerate(zip(await asyncio.gather(*asked), values, strict=True)):
                assert result.get_response().id == str(index)
                assert_same(result.as_numpy("OUTPUT0"), value)
            with pytest.raises(InferenceServerException, match="nobody"):
                await client.infer("nobody", [tensor("INPUT0", values[0])])

            async def questions() -> Any:  # noqa: ANN401 - a generator of what the client takes
                for index, value in enumerate(values):
                    model = "nobody" if index == 5 else "FP32"
                    yield {"model_name": model, "inputs": [tensor("INPUT0", value)], "request_id": str(index)}

            index = 0
            async for result, error in client.stream_infer(questions()):
                if index == 5:
                    assert "nobody" in error.message()
                else:
                    assert (error, result.get_response().id) == (None, str(index))
                    assert_same(result.as_numpy("OUTPUT0"), values[index])
                index += 1
            assert index == len(values)

    asyncio.run(ask())


def test_a_thousand_calls_of_one_connection_at_once_are_all_answered(server: Server) -> None:
    """More than the server takes of one connection at once: the library keeps the rest back until there is room."""
    with stub(server) as service:
        pending = [service.ModelInfer.future(request_of(index), timeout=PATIENCE_S) for index in range(1000)]
        for index, future in enumerate(pending):
            assert list(future.result().raw_output_contents) == [rows(index, width=3).tobytes()]


def test_each_call_of_the_service_is_known_whatever_it_says(server: Server) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            if method.client_streaming:
                continue
            ended = channel.unary_unary(SERVICE + method.name).future(b"", timeout=PATIENCE_S)
            assert "no method" not in (ended.details() or ""), method.name


def test_custom_parameters_of_every_kind_are_accepted(server: Server) -> None:
    own = parameters(whole=-1, large=2**64 - 1, text="é", switch=True, number=0.5)
    with stub(server) as service:
        answer = service.ModelInfer(request_of(1, parameters=own))
    assert list(answer.raw_output_contents) == [rows(1, width=3).tobytes()]
