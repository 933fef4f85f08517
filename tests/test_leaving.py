"""A client that leaves, whatever it speaks and however it goes: what it waited for is not run, or stops running.

One instance runs a request that would never come to an end. Another waits behind it. The second client leaves the
queue, the first one the run, and the next request is answered: the instance is free again.
"""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import numpy as np
import pytest
from axon import InferenceServer, ModelConfig
from grpc_asking import let_it_be_read, stub
from http2 import PATIENCE_S, RST_STREAM, Connection, frame, post
from models import ENDLESS, endless, endless_sum, save
from serving import serving
from test_bad_input import ask
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from conftest import SaveModel
    from serving import Server

    Leave: TypeAlias = Callable[[], object]
    Way: TypeAlias = Callable[[Server], AbstractContextManager[Leave]]

INFER: Final = "/v2/models/endless/infer"
CANCEL: Final = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = save(endless(), tmp_path_factory.mktemp("model") / "endless.onnx")
    with serving(path, "--instances", "1", "--log-level", "off") as started:
        yield started


def body(value: float) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]}).encode()


def call(value: float) -> Any:  # noqa: ANN401 - the messages have no types
    given = {"name": "x", "datatype": "FP32", "shape": [1]}
    return pb.ModelInferRequest(
        model_name="endless", inputs=[given], raw_input_contents=[np.array([value], np.float32).tobytes()]
    )


@contextmanager
def over_http1(server: Server, *, reset: bool) -> Iterator[Leave]:
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        payload = body(ENDLESS)
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n\r\n"
        client.sendall(head.encode() + payload)
        yield client.close


@contextmanager
def over_http2(server: Server, *, reset: bool) -> Iterator[Leave]:
    with Connection(server.address) as connection:
        stream = connection.open(post(INFER))
        connection.data(stream, body(ENDLESS))
        connection.ping()

        def leave() -> None:
            if reset:
                connection.send(frame(RST_STREAM, stream=stream, payload=struct.pack(">I", CANCEL)))
            else:
                connection.socket.close()

        yield leave


@contextmanager
def over_grpc(server: Server, *, cancel: bool) -> Iterator[Leave]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        service = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        future = service.ModelInfer.future(call(ENDLESS), timeout=PATIENCE_S)
        let_it_be_read(service)
        yield future.cancel if cancel else channel.close


@contextmanager
def over_a_stream(server: Server) -> Iterator[Leave]:
    with stub(server) as service:
        questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        questions.put(call(ENDLESS))
        answers = service.ModelStreamInfer(iter(questions.get, None), timeout=PATIENCE_S)
        let_it_be_read(service)
        yield answers.cancel
        questions.put(None)


WAYS: Final[dict[str, Way]] = {
    "http1-hangs-up": lambda server: over_http1(server, reset=False),
    "http1-resets": lambda server: over_http1(server, reset=True),
    "http2-hangs-up": lambda server: over_http2(server, reset=False),
    "http2-resets-its-stream": lambda server: over_http2(server, reset=True),
    "grpc-hangs-up": lambda server: over_grpc(server, cancel=False),
    "grpc-cancels": lambda server: over_grpc(server, cancel=True),
    "grpc-cancels-its-stream": over_a_stream,
}


def counters(server: Server) -> dict[str, int]:
    (stats,) = json.loads(ask(server, "/v2/models/endless/stats").body)["model_stats"]
    return {
        "success": stats["inference_stats"]["success"]["count"],
        "fail": stats["inference_stats"]["fail"]["count"],
        "cancel": stats["response_stats"]["0"]["cancel"]["count"],
        "runs": stats["execution_count"],
    }


def wait_for_cancels(server: Server, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while counters(server)["cancel"] < count:
        assert time.monotonic() < deadline, "the server does not notice that its client has left"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_client_that_leaves_is_never_run_or_stops_its_run(server: Server, way: Way) -> None:
    for _ in range(20):
        before = counters(server)
        with way(server) as leave_the_run:
            counters(server)
            with way(server) as leave_the_queue:
                counters(server)
                leave_the_queue()
                wait_for_cancels(server, before["cancel"] + 1)
            leave_the_run()
            wait_for_cancels(server, before["cancel"] + 2)
        answer = ask(server, INFER, body(3.0))
        assert json.loads(answer.body)["outputs"][0]["data"] == [3.0]
        moved = {name: count - before[name] for name, count in counters(server).items()}
        runs = moved.pop("runs")
        assert moved == {"success": 1, "fail": 2, "cancel": 2}
        assert runs <= 2, "the request that waited was run"
        # Once, the first had left before the instance was quick enough to run it.
        if runs == 2:
            return
    pytest.fail("no request was ever running when its client left")


def test_a_coroutine_that_is_cancelled_stops_its_run(save_model: SaveModel) -> None:
    async def asked() -> None:
        config = ModelConfig(instances=1)
        async with await InferenceServer.load(save_model(endless()), config=config) as server:
            for _ in range(20):
                running = asyncio.create_task(server.infer(np.array([ENDLESS], np.float32)))
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(running), 0.02)
                assert not running.done()
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
                answer = await server.infer(np.array([2.0], np.float32))
                assert answer["y"].tolist() == [2.0]

    asyncio.run(asked())


PATIENT: Final = """
max_batch_size: 4
sequence_batching {
  max_sequence_idle_microseconds: 100000000
  state [ { input_name: "before" output_name: "after" data_type: TYPE_FP32 dims: [ 1 ]
            initial_state { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true name: "zero" } } ]
}
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def test_a_request_of_a_sequence_that_is_left_while_it_runs_leaves_the_sequence_as_it_was(tmp_path: Path) -> None:
    save(endless_sum(), tmp_path / "endless" / "1" / "model.onnx")
    (tmp_path / "endless" / "config.pbtxt").write_text(PATIENT, encoding="utf-8")
    with serving(tmp_path, "--log-level", "off") as server:

        def asked(value: float, *, start: bool = False) -> bytes:
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
            parameters = {"sequence_id": 7, "sequence_start": start}
            return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()

        def summed(value: float, *, start: bool = False) -> list[float]:
            answer = ask(server, INFER, asked(value, start=start))
            assert answer.status == 200, answer.body
            (output,) = json.loads(answer.body)["outputs"]
            return list(output["data"])

        for _ in range(20):
            before = counters(server)
            assert summed(1.0, start=True) == [1.0]
            with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client:
                payload = asked(ENDLESS)
                head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n\r\n"
                client.sendall(head.encode() + payload)
                counters(server)
            assert summed(2.0) == [3.0]
            if counters(server)["runs"] == before["runs"] + 3:
                return
        pytest.fail("no request was ever running when its client left")


IDENTITY: Final = """
backend: "identity" max_batch_size: 1
input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }
"""


def test_a_made_up_delay_frees_its_instance_when_the_client_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "echo"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(IDENTITY, encoding="utf-8")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    long = json.dumps({"inputs": [tensor], "parameters": {"execute_delay_ms": 60_000}}).encode()
    with serving(tmp_path, "--log-level", "off") as server:
        head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(long)}\r\n\r\n"
        with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as client:
            client.sendall(head.encode() + long)
        done = threading.Event()
        answers = []

        def short() -> None:
            answers.append(ask(server, "/v2/models/echo/infer", json.dumps({"inputs": [tensor]}).encode()))
            done.set()

        threading.Thread(target=short, daemon=True).start()
        assert done.wait(PATIENCE_S), "the instance still waits for nobody"
        assert json.loads(answers[0].body)["outputs"][0]["data"] == [1.0]
