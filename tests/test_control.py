"""Repository control, configuration, shared memory and settings over HTTP and gRPC, with the official clients."""

from __future__ import annotations

import http.client
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from models import identity, mlp, save
from serving import Server, serving
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOLS: Final = ("http", "grpc")
SAME_CONFIG: Final = """
backend: "identity"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
TRITON_CONFIG: Final = """
name: "triton"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 64 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" } ]
version_policy { specific { versions: [ 1, 3 ] } }
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { }
"""
TRACE_FILE: Final = "trace file location can not be updated through network protocol"
BINARY: Final = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":%d}}]}'
TRITON_SAYS: Final = [
    (
        BINARY % 4 + bytes(4),
        str(len(BINARY % 4)),
        "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'same'. Expected 8, got 4",
    ),
    (
        BINARY % 8 + bytes(6),
        str(len(BINARY % 8)),
        "unexpected size for input 'x', expecting 2 additional bytes for model 'same'",
    ),
    (BINARY % 8 + bytes(9), str(len(BINARY % 8)), "unexpected additional input data for model 'same'"),
    (
        BINARY % 8,
        None,
        (
            "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when passing "
            "inputs in binary data format"
        ),
    ),
    (b"{}", "99", "inference header size should be in range (0, 2), got: 99"),
]
TRITON_SAYS_OVER_GRPC: Final[list[tuple[dict[str, Any], str]]] = [
    (
        {"raw": [bytes(4)]},
        "[request id: 7] input byte size mismatch for input 'x' for model 'same'. Expected 8, got 4",
    ),
    (
        {"raw": [bytes(8)], "contents": {"fp32_contents": [1, 2]}},
        "contents field must not be specified when using raw_input_contents for 'x' for model 'same'",
    ),
    ({}, "unable to find data for input tensor 'x' for model 'same' in request."),
    (
        {"contents": {"int_contents": [1, 2]}},
        (
            "unexpected explicit tensor data for input tensor 'x' for model 'same' of type 'INT32', expected datatype "
            "'FP32'"
        ),
    ),
    (
        {"datatype": "BYTES", "raw": [b"\1\0\0\0a\1\0"]},
        (
            "[request id: 7] incomplete string length indicator for inference input 'x' for model 'same', expecting 4 "
            "bytes but only 2 bytes available. Please make sure the string length indicator is in one buffer."
        ),
    ),
    (
        {"datatype": "BYTES", "raw": [b"\1\0\0\0a"]},
        "[request id: 7] expected 2 string elements for inference input 'x' for model 'same', got 1",
    ),
]


def client_of(server: Server, protocol: str) -> Any:  # noqa: ANN401 - the client has no types
    if protocol == "http":
        return http_client.InferenceServerClient(server.address)
    return grpc_client.InferenceServerClient(server.grpc_address)


def refused(status: int, grpc_status: str, call: Any, *arguments: Any, **named: Any) -> str:  # noqa: ANN401
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    assert caught.value.status() in (str(status), f"StatusCode.{grpc_status}"), caught.value
    return str(caught.value.message())


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    save(identity("FP32"), folder / "one.onnx")
    (folder / "same" / "1").mkdir(parents=True)
    (folder / "same" / "config.pbtxt").write_text(SAME_CONFIG)
    for version in (1, 2, 3):
        save(mlp(seed=version), folder / "triton" / str(version) / "model.onnx")
    (folder / "triton" / "labels.txt").write_text("".join(f"class {number}\n" for number in range(10)))
    (folder / "triton" / "config.pbtxt").write_text(TRITON_CONFIG)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    options = ("--model-control-mode", "explicit", "--load-model", "*", "--allow-client-shm", "--log-level", "off")
    with serving(repository, *options) as started:
        yield started


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_repository_of_triton_is_served_unchanged(server: Server, protocol: str) -> None:
    client = client_of(server, protocol)
    config = (
        client.get_model_config("triton") if protocol == "http" else client.get_model_config("triton", as_json=True)
    )
    config = config.get("config", config)
    assert (config["name"], config["platform"], config["max_batch_size"]) == ("triton", "onnxruntime_onnx", 8)
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [int(size) for size in config["input"][0]["dims"]] == [64]
    assert [int(version) for version in config["version_policy"]["specific"]["versions"]] == [1, 3]
    ready = [client.is_model_ready("triton", str(version)) for version in (1, 2, 3)]
    assert ready == [True, False, True]
    module: Any = http_client if protocol == "http" else grpc_client
    given = module.InferInput("x", [2, 64], "FP32")
    given.set_data_from_numpy(np.ones((2, 64), np.float32))
    wanted = module.InferRequestedOutput("y", class_count=2)
    classes = client.infer("triton", [given], outputs=[wanted]).as_numpy("y")
    assert classes.shape == (2, 2)
    for text in classes.flatten().tolist():
        _, index, label = text.decode().split(":")
        assert label == f"class {index}"
    given = module.InferInput("x", [9, 64], "FP32")
    given.set_data_from_numpy(np.ones((9, 64), np.float32))
    assert "9 > 8" in refused(400, "INVALID_ARGUMENT", client.infer, "triton", [given])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_models_are_loaded_and_unloaded_on_request(server: Server, protocol: str) -> None:
    """B-93 to B-96 and B-98."""
    client = client_of(server, protocol)
    client.unload_model("one")
    assert not client.is_model_ready("one")
    index = (
        client.get_model_repository_index() if protocol == "http" else client.get_model_repository_index(as_json=True)
    )
    entries = index if protocol == "http" else index["models"]
    assert {"one", "same", "triton"} == {entry["name"] for entry in entries}
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client_of(server, protocol).load_model, "one") for _ in range(8)]
        assert [call.result() for call in calls] == [None] * 8
    assert client.is_model_ready("one")
    assert "`nope` is not here" in refused(404, "NOT_FOUND", client.load_model, "nope")
    refused(404, "NOT_FOUND", client.unload_model, "nope")
    for name in ("..", "a%2fb" if protocol == "http" else "a/b", "-x", "x" * 300):
        refused(400, "INVALID_ARGUMENT", client.load_model, name)
    wrong = refused(400, "INVALID_ARGUMENT", client.load_model, "one", config='{"max_bath_size": 8}')
    assert "did you mean `max_batch_size`" in wrong
    refused(400, "INVALID_ARGUMENT", client.load_model, "one", config='{"max_batch_size": 0}', files={"file:../x": b""})
    assert client.is_model_ready("one"), "a load that is refused takes nothing away"


def test_without_control_nothing_is_loaded_on_request(tmp_path: Path) -> None:
    """B-93."""
    save(identity("FP32"), tmp_path / "one.onnx")
    with serving(tmp_path, "--log-level", "off") as started:
        for protocol in PROTOCOLS:
            for verb in ("load_model", "unload_model"):
                text = refused(503, "UNAVAILABLE", getattr(client_of(started, protocol), verb), "one")
                assert "--model-control-mode explicit" in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_go_through_shared_memory(server: Server, protocol: str) -> None:
    """B-83 to B-91: in place both ways, bounds checked, a region that shrinks is an error."""
    client = client_of(server, protocol)
    module: Any = http_client if protocol == "http" else grpc_client
    key = f"/axon-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm", key[1:])  # noqa: S108 - where POSIX shared memory lies
    values = np.arange(4, dtype=np.float32)
    try:
        path.write_bytes(values.tobytes() + bytes(16))
        client.register_system_shared_memory("region", key, 32)
        refused(409, "FAILED_PRECONDITION", client.register_system_shared_memory, "region", key, 32)
        refused(400, "INVALID_ARGUMENT", client.register_system_shared_memory, "other", key, 33)
        refused(400, "INVALID_ARGUMENT", client.register_system_shared_memory, "other", "/a/b", 1)
        refused(400, "INVALID_ARGUMENT", client.register_system_shared_memory, "other", "/axon-not-there", 1)

        def infer(offset: int = 0, size: int = 16) -> Any:  # noqa: ANN401
            given = module.InferInput("x", [2, 2], "FP32")
            given.set_shared_memory("region", size, offset)
            wanted = module.InferRequestedOutput("y")
            wanted.set_shared_memory("region", 16, 16)
            return client.infer("same", [given], outputs=[wanted])

        infer()
        assert path.read_bytes() == values.tobytes() * 2
        refused(400, "INVALID_ARGUMENT", infer, offset=32)
        refused(400, "INVALID_ARGUMENT", infer, size=17)
        path.write_bytes(b"short")
        assert "shrank" in refused(400, "INVALID_ARGUMENT", infer)
        client.unregister_system_shared_memory("region")
        refused(400, "INVALID_ARGUMENT", infer)
        handle = b"" if protocol == "http" else bytes(63)
        refused(400, "INVALID_ARGUMENT", client.register_cuda_shared_memory, "gpu", handle, 0, 16)
        assert client.is_server_live()
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def test_shared_memory_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    save(identity("FP32"), tmp_path / "one.onnx")
    with serving(tmp_path, "--log-level", "off") as started:
        for protocol in PROTOCOLS:
            client = client_of(started, protocol)
            text = refused(501, "UNIMPLEMENTED", client.register_system_shared_memory, "r", "/k", 16)
            assert "--allow-client-shm" in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_settings_are_read_and_changed(server: Server, protocol: str) -> None:
    client = client_of(server, protocol)
    as_json = {} if protocol == "http" else {"as_json": True}
    client.update_trace_settings("same", {"trace_rate": "7"}, **as_json)
    assert "7" in str(client.get_trace_settings("same", **as_json))
    assert "7" not in str(client.get_trace_settings(None, **as_json))
    client.update_trace_settings("same", {"trace_rate": None}, **as_json)
    assert "1000" in str(client.get_trace_settings("same", **as_json))
    refused(400, "INVALID_ARGUMENT", client.update_trace_settings, None, {"trace_rate": "x"})
    refused(501, "UNIMPLEMENTED", client.update_trace_settings, None, {"trace_file": "/x"})
    refused(404, "NOT_FOUND", client.get_trace_settings, "nope")
    client.update_log_settings({"log_verbose_level": 0, "log_format": "ISO8601"})
    assert "ISO8601" in str(client.get_log_settings(**as_json))
    refused(400, "INVALID_ARGUMENT", client.update_log_settings, {"log_format": "x"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_test_backend_takes_as_long_as_it_is_told_and_an_expired_request_is_never_run(
    server: Server, protocol: str
) -> None:
    client = client_of(server, protocol)
    module: Any = http_client if protocol == "http" else grpc_client
    given = module.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.ones((1, 2), np.float32))

    def runs() -> int:
        stats = ask(server, "GET", "/v2/models/same/stats")[1]["model_stats"]
        return int(stats[0]["execution_count"])

    before = runs()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client_of(server, protocol).infer, "same", [given], parameters={"execute_delay_ms": 600})
        while runs() == before and not slow.done():
            with suppress(InferenceServerException):
                client.infer("same", [given], timeout=1000)
            if ask(server, "GET", "/v2/models/same/stats")[1]["model_stats"][0]["inference_stats"]["fail"]["count"]:
                break
        assert slow.result().as_numpy("y").tolist() == [[1.0, 1.0]]
    refused(400, "INVALID_ARGUMENT", client.infer, "same", [given], parameters={"execute_delay_ms": 10**9})


def test_answers_are_compressed_as_the_caller_likes_best(server: Server) -> None:
    client = client_of(server, "http")
    given = http_client.InferInput("x", [4, 2], "FP32")
    values = np.random.default_rng(3).random((4, 2), np.float32)
    given.set_data_from_numpy(values)
    for request in (None, "gzip", "deflate"):
        for response in (None, "gzip", "deflate"):
            got = client.infer(
                "same", [given], request_compression_algorithm=request, response_compression_algorithm=response
            )
            assert got.as_numpy("y").tobytes() == values.tobytes()


def test_an_answer_says_that_it_varies_with_what_the_caller_accepts(server: Server) -> None:
    for accepted in ("identity", "gzip"):
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}'
        connection.request("POST", "/v2/models/same/infer", body, {"Accept-Encoding": accepted})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert (answer.status, answer.headers["Vary"]) == (200, "accept-encoding")
        assert answer.headers.get("Content-Encoding", "identity") == accepted


def test_generate_answers_a_flat_object(server: Server) -> None:
    status, answer = ask(server, "POST", "/v2/models/same/generate", b'{"x": [1, 2.5], "id": "7"}')
    assert (status, answer) == (200, {"model_name": "same", "model_version": "1", "id": "7", "y": [1.0, 2.5]})
    status, answer = ask(server, "POST", "/v2/models/same/generate", b'{"x": [1, 2, 3]}')
    assert (status, answer["field"]) == (400, "x")
    status, answer = ask(server, "POST", "/v2/models/same/generate", b"{}", Content_Encoding="gzip")
    assert (status, answer["code"]) == (415, "MEDIA")
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request("POST", "/v2/models/same/generate_stream", b'{"x": [1, 2]}')
    streamed = connection.getresponse()
    assert streamed.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert streamed.read() == b'data: {"model_name":"same","model_version":"1","y":[1.0,2.0]}\n\n'
    connection.close()


def test_triton_is_answered_in_its_own_words(repository: Path) -> None:
    options = ("--compat", "triton", "--model-control-mode", "explicit", "--load-model", "*", "--log-level", "off")
    with serving(repository, *options) as started:
        assert ask(started, "GET", "/v2")[1]["name"] == "triton"
        assert ask(started, "GET", "/nothing") == (404, {"error": "Not Found"})
        assert ask(started, "DELETE", "/v2") == (405, {"error": "Method Not Allowed"})
        unknown = {"error": "Request for unknown model: 'nope' is not found"}
        assert ask(started, "GET", "/v2/models/nope") == (400, unknown)
        version = {"error": "Request for unknown model: 'one' version 9 is not found"}
        assert ask(started, "GET", "/v2/models/one/versions/9") == (404, version)
        body = json.dumps({"inputs": [{"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}]}).encode()
        wrong = "[request id: <id_unknown>] inference input 'x' data-type is 'INT32', but model 'same' expects 'FP32'"
        assert ask(started, "POST", "/v2/models/same/infer", body) == (400, {"error": wrong})
        body = (
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[NaN,1]}],'
            b'"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
        )
        connection = http.client.HTTPConnection(started.host, started.port, timeout=30)
        connection.request("POST", "/v2/models/same/infer", body)
        assert connection.getresponse().status == 200, "B-24"
        connection.close()
        for body, header, told in TRITON_SAYS:
            headers = {} if header is None else {"Inference-Header-Content-Length": header}
            assert ask(started, "POST", "/v2/models/same/infer", body, **headers) == (400, {"error": told})
        assert ask(started, "POST", "/v2/trace/setting", b'{"trace_file": "x"}') == (501, {"error": TRACE_FILE})
        unknown = {"error": "Request for unknown model : nope"}
        assert ask(started, "GET", "/v2/models/nope/trace/setting") == (400, unknown)
        with grpc.insecure_channel(started.grpc_address) as channel:
            service = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for members, told in TRITON_SAYS_OVER_GRPC:
                given = {"name": "x", "datatype": "FP32", "shape": [1, 2], **members}
                raw = given.pop("raw", [])
                message = pb.ModelInferRequest(model_name="same", id="7", inputs=[given], raw_input_contents=raw)
                with pytest.raises(grpc.RpcError) as caught:
                    service.ModelInfer(message, timeout=30)
                assert (caught.value.code().name, caught.value.details()) == ("INVALID_ARGUMENT", told)
        for protocol in PROTOCOLS:
            client = client_of(started, protocol)
            client.unload_model("nope")
            text = refused(500, "INTERNAL", client.load_model, "nope")
            assert text == "failed to load 'nope', failed to poll from model repository"
