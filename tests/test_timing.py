"""Each answer tells how it was run: headers over HTTP, trailers over gRPC. Asked with real clients."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import grpc
import httpx2 as httpx
import numpy as np
import pytest
from grpc_asking import stub
from http2 import PATIENCE_S, Connection, post
from models import identity, save
from serving import TRACE, rows_run, serving, traced
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from serving import Server

MILLISECONDS: Final = re.compile(r"(?:0|[1-9]\d*)\.\d{3}")
#: What a run of the model takes at the very least, whatever the machine: 4 ms where it was measured.
COMPUTE_MS: Final = 0.05
INFER: Final = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = save(traced(identity("FP32")), tmp_path_factory.mktemp("model") / "echo.onnx")
    with serving(path, "--instances", "1", "--log-level", "off") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.address}", timeout=PATIENCE_S) as connected:
        yield connected


def question(rows: int, **members: Any) -> dict[str, Any]:  # noqa: ANN401
    data = list(range(3 * rows))
    return {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [rows, 3], "data": data}], **members}


def check(told: Mapping[str, str], rows: int) -> None:
    for name in ("x-axon-queue-ms", "x-axon-compute-ms"):
        assert MILLISECONDS.fullmatch(told[name]), told[name]
    assert float(told["x-axon-compute-ms"]) > COMPUTE_MS
    assert told["x-axon-batch-size"] == str(rows)


@pytest.mark.parametrize("rows", [1, 5])
def test_an_answer_over_http_tells_how_it_was_run(client: httpx.Client, rows: int) -> None:
    answer = client.post(INFER, json=question(rows))
    assert answer.status_code == 200, answer.text
    check(answer.headers, rows)


def test_binary_and_compressed_answers_and_generated_ones_tell_it_too(client: httpx.Client) -> None:
    binary = client.post(INFER, json=question(2, parameters={"binary_data_output": True}))
    assert "inference-header-content-length" in binary.headers
    check(binary.headers, 2)
    packed = client.post(INFER, json=question(2), headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    check(packed.headers, 2)
    for verb in ("generate", "generate_stream"):
        generated = client.post(f"/v2/models/echo/{verb}", json={"INPUT0": [1, 2, 3]})
        assert generated.status_code == 200, generated.text
        check(generated.headers, 1)


def test_an_answer_over_http2_tells_it(server: Server) -> None:
    with Connection(server.address) as connection:
        response = connection.request(post(INFER), json.dumps(question(3)).encode())
        assert response.status == "200"
        check(response.headers, 3)


def call(rows: int) -> Any:  # noqa: ANN401 - the messages have no types
    given = {"name": "INPUT0", "datatype": "FP32", "shape": [rows, 3]}
    return pb.ModelInferRequest(
        model_name="echo", inputs=[given], raw_input_contents=[np.zeros((rows, 3), np.float32).tobytes()]
    )


def test_a_call_of_grpc_tells_it_in_its_trailers(server: Server) -> None:
    with stub(server) as service:
        _, ended = service.ModelInfer.with_call(call(4), timeout=PATIENCE_S)
        check(dict(ended.trailing_metadata()), 4)


def test_what_was_not_run_tells_nothing(server: Server, client: httpx.Client) -> None:
    for answer in (client.get("/v2"), client.post(INFER, json={"inputs": []})):
        assert not [name for name in answer.headers if name.startswith("x-axon")]
    with stub(server) as service:
        with pytest.raises(grpc.RpcError) as caught:
            service.ModelInfer(pb.ModelInferRequest(model_name="echo"), timeout=PATIENCE_S)
        _, ended = service.ServerLive.with_call(pb.ServerLiveRequest(), timeout=PATIENCE_S)
    for trailers in (caught.value.trailing_metadata(), ended.trailing_metadata()):
        assert not [name for name, _ in trailers if name.startswith("x-axon")]


def test_the_rows_of_neighbours_count(client: httpx.Client) -> None:
    """The size that is told is that of the run, as the model itself has seen it."""

    def one(rows: int) -> tuple[str, int]:
        answer = client.post(INFER, json=question(rows))
        outputs = {output["name"]: np.array(output["data"], np.float32) for output in answer.json()["outputs"]}
        return answer.headers["x-axon-batch-size"], rows_run({TRACE: outputs[TRACE]})

    with ThreadPoolExecutor(8) as pool:
        for told, ran in pool.map(one, [1, 2] * 40):
            assert told == str(ran)
