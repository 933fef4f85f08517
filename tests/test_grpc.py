"""The protocol over gRPC with its official clients, `tritonclient.grpc` and its asyncio twin, and gRPC's own tools.

The models are ones whose answer is known, as in test_tritonclient.py; "unchanged" is always bit for bit. Refusals are
in test_grpc_bad_input.py; repository control, configuration and shared memory in test_control.py.
"""

from __future__ import annotations

import asyncio
import json
import queue
import struct
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_rows import INFER, SERVICE, STREAM, parameters, question
from http2 import Connection, grpc_headers, message
from models import DATATYPES, identity, mlp, save, slow, two_inputs
from serving import serving
from test_tritonclient import NUMPY, SEEDS, assert_same, direct, hard_values, rows, strings
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from serving import Server

    Array: TypeAlias = npt.NDArray[Any]

PATIENCE_S: Final = 30.0
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
#: The rows of a request that runs for a while: 20 ms each, and more on a slower machine.
LONG: Final = 40
#: By how much `slow(20)` rolls its rows.
STEPS: Final = 80


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


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    save(slow(20), folder / "slow.onnx")
    save(identity("FP32"), folder / "FP32.onnx")
    with serving(folder, "--instances", "1", "--no-batching") as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as connected:
        yield connected


@contextmanager
def stub(server: Server) -> Iterator[Any]:
    """Yield the service as the official client's own stub has it."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, value: Array, datatype: str = "FP32") -> triton.InferInput:
    return triton.InferInput(name, list(value.shape), datatype).set_data_from_numpy(value)


def rolling(count: int) -> Array:
    """Return an input of `slow`."""
    return np.arange(count * 256, dtype=np.float32).reshape(count, 256)


def rolled(count: int) -> Array:
    """Return what `slow(20)` answers to `rolling`."""
    return np.roll(rolling(count), STEPS, axis=1)


def stats(server: Server, model: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{server.address}/v2/models/{model}/stats", timeout=PATIENCE_S) as response:
        (found,) = json.load(response)["model_stats"]
    return dict(found)


def counts(server: Server, model: str = "slow") -> dict[str, int]:
    """Return how many requests ended well, how many rows were run, and in how many runs."""
    found = stats(server, model)
    ended = found["inference_stats"]["success"]["count"]
    return {"success": ended, "rows": found["inference_count"], "runs": found["execution_count"]}


def moved(server: Server, before: dict[str, int], model: str = "slow") -> dict[str, int]:
    return {name: count - before[name] for name, count in counts(server, model).items()}


def status_of(error: InferenceServerException) -> tuple[str, str]:
    return str(error.status()), str(error.message())


# One question, one answer.


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


# Time, and callers that leave.


def busy(service: Any) -> Any:  # noqa: ANN401 - the stub has no types
    """Start a request of many rows, and return its future; what comes meanwhile waits."""
    return service.ModelInfer.future(slow_request(LONG), timeout=PATIENCE_S)


def slow_request(count: int, **members: Any) -> Any:  # noqa: ANN401 - what a message takes
    given = {"name": "x", "datatype": "FP32", "shape": [count, 256]}
    return pb.ModelInferRequest(
        model_name="slow", inputs=[given], raw_input_contents=[rolling(count).tobytes()], **members
    )


def let_it_be_read(service: Any) -> None:  # noqa: ANN401
    """Return when the server has read what was sent before on the same connection: it reads in order."""
    for _ in range(3):
        service.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S)


def assert_rolled(answer: Any, count: int) -> None:  # noqa: ANN401
    assert list(answer.raw_output_contents) == [rolled(count).tobytes()]


def test_a_request_whose_deadline_passes_in_the_queue_is_never_run(slow_server: Server) -> None:
    before = counts(slow_server)
    with triton.InferenceServerClient(slow_server.grpc_address) as client, stub(slow_server) as service:
        running = busy(service)
        let_it_be_read(service)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("slow", [tensor("x", rolling(1))], client_timeout=0.05)
        assert status_of(caught.value)[0] == "StatusCode.DEADLINE_EXCEEDED"
        # By the server's own clock: the caller waits for what it says.
        impatient = slow_request(1, parameters=parameters(timeout=20_000))
        with pytest.raises(grpc.RpcError) as told:
            service.ModelInfer(impatient, timeout=PATIENCE_S)
        assert told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "was not run" in told.value.details()
        assert not running.done(), f"{LONG} rows run for too short a time to tell"
        assert_rolled(running.result(PATIENCE_S), LONG)
        assert_rolled(service.ModelInfer(slow_request(2)), 2)
    assert moved(slow_server, before) == {"success": 2, "rows": LONG + 2, "runs": 2}


def test_a_request_that_is_cancelled_leaves_the_queue_and_is_never_run(slow_server: Server) -> None:
    before = counts(slow_server)
    cancelled: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(slow_server.grpc_address) as client, stub(slow_server) as service:
        running = busy(service)
        let_it_be_read(service)
        contexts = [
            client.async_infer("slow", [tensor("x", rolling(1))], lambda **ended: cancelled.put(ended["error"]))
            for _ in range(20)
        ]
        client.is_server_live()
        staying = [service.ModelInfer.future(slow_request(2), timeout=PATIENCE_S) for _ in range(3)]
        for context in contexts:
            context.cancel()
        for _ in contexts:
            assert "CANCELLED" in str(cancelled.get(timeout=PATIENCE_S).status())
        client.is_server_live()
        assert not running.done(), f"{LONG} rows run for too short a time to tell"
        for future, count in [(running, LONG), *((one, 2) for one in staying)]:
            assert_rolled(future.result(PATIENCE_S), count)
    assert moved(slow_server, before) == {"success": 4, "rows": LONG + 6, "runs": 4}


def test_a_client_that_leaves_takes_its_stream_out_of_the_queue(slow_server: Server) -> None:
    before = counts(slow_server)
    with stub(slow_server) as service:
        running = busy(service)
        let_it_be_read(service)
        with grpc.insecure_channel(slow_server.grpc_address) as gone:
            leaving = service_pb2_grpc.GRPCInferenceServiceStub(gone)
            bad = slow_request(1, model_version="99")
            answers = leaving.ModelStreamInfer(iter([bad, *(slow_request(1) for _ in range(60))]))
            assert "99" in next(answers).error_message
            let_it_be_read(leaving)
        let_it_be_read(service)
        assert not running.done(), f"{LONG} rows run for too short a time to tell"
        assert_rolled(running.result(PATIENCE_S), LONG)
        assert_rolled(service.ModelInfer(slow_request(2)), 2)
    assert moved(slow_server, before) == {"success": 2, "rows": LONG + 2, "runs": 2}


def test_clients_that_leave_inside_a_stream_leave_nothing_behind(server: Server) -> None:
    process = psutil.Process(server.process.pid)

    def leave(count: int) -> None:
        for _ in range(count):
            with Connection(server.grpc_address) as connection:
                stream = connection.open(grpc_headers(STREAM))
                body = message(question(model_name="FP32")) * 100
                connection.data(stream, body + body[:30], end=False)
                connection.read_until(lambda found=connection.streams[stream]: len(found.body) > 1000)  # type: ignore[misc]

    leave(5)
    threads, files = process.num_threads(), process.num_fds()
    leave(50)
    deadline = asyncio.run(settled(lambda: process.num_fds() <= files and process.num_threads() <= threads))
    assert deadline, (process.num_fds(), files, process.num_threads(), threads)


async def settled(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; return whether it came to."""
    for _ in range(int(PATIENCE_S / 0.02)):
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


# Streams.


def streamed(server: Server, requests: Sequence[Any], **call: Any) -> list[Any]:  # noqa: ANN401
    with stub(server) as service:
        return list(service.ModelStreamInfer(iter(requests), timeout=PATIENCE_S, **call))


def request_of(index: int, **members: Any) -> Any:  # noqa: ANN401
    value = rows(index, width=3)
    given = {"name": "INPUT0", "datatype": "FP32", "shape": value.shape}
    whole = {"model_name": "FP32", "id": str(index), **members}
    return pb.ModelInferRequest(inputs=[given], raw_input_contents=[value.tobytes()], **whole)


def test_a_stream_of_the_official_client_is_answered_in_order(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(100):
        client.async_stream_infer("FP32", [tensor("INPUT0", rows(index, width=3))], request_id=str(index))
    client.async_stream_infer("nobody", [tensor("INPUT0", rows(0))], request_id="bad")
    client.async_stream_infer("FP32", [tensor("INPUT0", rows(7, width=3))], request_id="last")
    for index in range(100):
        result, error = answers.get(timeout=PATIENCE_S)
        assert error is None
        assert result.get_response().id == str(index)
        assert_same(result.as_numpy("OUTPUT0"), rows(index, width=3))
    result, error = answers.get(timeout=PATIENCE_S)
    assert result is None
    assert "nobody" in error.message()
    result, error = answers.get(timeout=PATIENCE_S)
    assert (error, result.get_response().id) == (None, "last")
    client.stop_stream()
    assert answers.empty()


def test_five_hundred_requests_in_one_stream_are_answered_in_order(server: Server) -> None:
    """Slow and quick models take turns: a quick answer waits for the slow one before it."""
    models = ["wide", "FP32", "FP32"]
    answers = streamed(server, [request_of(index, model_name=models[index % 3]) for index in range(500)])
    assert [answer.infer_response.id for answer in answers] == [str(index) for index in range(500)]
    for index, answer in enumerate(answers):
        assert answer.error_message == ""
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        assert list(answer.infer_response.raw_output_contents) == [rows(index, width=3).tobytes()]


def test_a_quick_answer_waits_for_the_slow_one_that_was_asked_before(slow_server: Server) -> None:
    requests = [slow_request(5, id="slow"), slow_request(1, id="bad", model_version="99"), slow_request(1, id="quick")]
    answers = streamed(slow_server, requests)
    assert [answer.infer_response.id for answer in answers] == ["slow", "bad", "quick"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert list(answers[0].infer_response.raw_output_contents) == [rolled(5).tobytes()]


def test_an_error_ends_the_stream_where_its_caller_says_so(server: Server) -> None:
    requests = [request_of(0), request_of(1, model_name="nobody"), request_of(2)]
    with stub(server) as service:
        answers = service.ModelStreamInfer(iter(requests), metadata=[("triton_grpc_error", "true")], timeout=PATIENCE_S)
        assert next(answers).infer_response.id == "0"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "nobody" in caught.value.details()
    assert ("axon-field", "model_name") in caught.value.trailing_metadata()


def test_a_stream_that_runs_ahead_of_its_answers_is_held_back_and_its_connection_lives(slow_server: Server) -> None:
    """However small its requests are, which come in a frame each."""
    with Connection(slow_server.grpc_address) as connection:
        connection.ping()
        stream = connection.open(grpc_headers(STREAM))
        connection.data(stream, message(slow_request(LONG).SerializeToString()), end=False)
        small, sent = message(question(model_name="FP32")), 0
        while connection.room(stream) >= len(small) and not connection.closed:
            connection.data(stream, small, end=False)
            sent += 1
        connection.ping()
        assert sent > 1000
        assert not connection.closed, connection.goaway
        assert not connection.streams[stream].body, f"{LONG} rows run for too short a time to tell"
        live = connection.request(grpc_headers(f"{SERVICE}ServerLive"), message(b""))
        assert live.metadata["grpc-status"] == "0"
        # The answer of the first opens the window again.
        connection.read_until(lambda: connection.room(stream) >= len(small))
        assert not connection.closed, connection.goaway


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_stream_may_be_compressed(server: Server, compression: grpc.Compression) -> None:
    answers = streamed(server, [request_of(index) for index in range(20)], compression=compression)
    for index, answer in enumerate(answers):
        assert list(answer.infer_response.raw_output_contents) == [rows(index, width=3).tobytes()]


def test_a_stream_without_requests_ends_well(server: Server) -> None:
    assert streamed(server, []) == []


def test_many_streams_of_one_connection_do_not_wait_for_each_other(server: Server) -> None:
    with stub(server) as service:
        waiting: queue.Queue[Any] = queue.Queue()
        idle = service.ModelStreamInfer(iter(waiting.get, None), timeout=PATIENCE_S)

        def ask(worker: int) -> list[str]:
            requests = [request_of(index, id=f"{worker}-{index}") for index in range(50)]
            answers = service.ModelStreamInfer(iter(requests), timeout=PATIENCE_S)
            return [answer.infer_response.id for answer in answers]

        with ThreadPoolExecutor(8) as pool:
            for worker, ids in enumerate(pool.map(ask, range(8))):
                assert ids == [f"{worker}-{index}" for index in range(50)]
        waiting.put(request_of(0))
        assert next(idle).infer_response.id == "0"
        waiting.put(None)
        assert list(idle) == []


# Statistics, shutdown, health, reflection, asyncio.


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


def test_a_shutdown_answers_what_has_come_and_takes_no_more(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = save(slow(20), tmp_path_factory.mktemp("model") / "slow.onnx")
    with serving(path, "--instances", "1", "--no-batching") as server, stub(server) as service:
        unary = [service.ModelInfer.future(slow_request(10), timeout=PATIENCE_S) for _ in range(3)]
        questions: queue.Queue[Any] = queue.Queue()
        answers = service.ModelStreamInfer(iter(questions.get, None), timeout=PATIENCE_S)
        questions.put(slow_request(1, id="bad", model_version="99"))
        assert next(answers).error_message
        for index in range(3):
            questions.put(slow_request(5, id=str(index)))
        questions.put(None)
        # Answers to a bad question come when those before it were read; one of another stream says that all were.
        let_it_be_read(service)
        server.process.terminate()
        for future in unary:
            assert_rolled(future.result(), 10)
        for index, answer in enumerate(answers):
            assert answer.infer_response.id == str(index)
            assert list(answer.infer_response.raw_output_contents) == [rolled(5).tobytes()]
        assert index == 2
        server.process.wait(PATIENCE_S)
        with pytest.raises(grpc.RpcError) as caught:
            service.ModelInfer(slow_request(1), timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


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


def test_reflection_lists_and_describes_the_services(server: Server) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert services >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
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
