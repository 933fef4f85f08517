"""Time, callers that leave, and streams over gRPC: what waits in order, what is never run, what ends.

One instance of `slow` runs a request of many rows, which takes about a second; the model's counters tell what has been
run in the end.
"""

from __future__ import annotations

import asyncio
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
import tritonclient.grpc as triton
from grpc_asking import (
    LONG,
    assert_rolled,
    busy,
    counts,
    let_it_be_read,
    moved,
    request_of,
    rolled,
    rolling,
    slow_request,
    stub,
    tensor,
)
from grpc_rows import SERVICE, STREAM, parameters, question
from http2 import PATIENCE_S, Connection, Response, grpc_headers, message
from models import identity, save, slow
from serving import serving
from test_tritonclient import assert_same, rows
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from serving import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    save(slow(20), folder / "slow.onnx")
    save(identity("FP32"), folder / "FP32.onnx")
    save(identity("FP32", ("batch", "width")), folder / "wide.onnx")
    with serving(folder, "--instances", "1", "--no-batching") as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_address) as connected:
        yield connected


def test_a_request_whose_deadline_passes_in_the_queue_is_never_run(server: Server) -> None:
    before = counts(server)
    with triton.InferenceServerClient(server.grpc_address) as client, stub(server) as service:
        running = busy(service)
        let_it_be_read(service)
        with pytest.raises(InferenceServerException) as caught:
            client.infer("slow", [tensor("x", rolling(1))], client_timeout=0.05)
        assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE")
        # By the server's own clock: the caller waits for what it says.
        impatient = slow_request(1, parameters=parameters(timeout=20_000))
        with pytest.raises(grpc.RpcError) as told:
            service.ModelInfer(impatient, timeout=PATIENCE_S)
        # At once where the long run's end is foretold, else when the time is over.
        if told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            assert "was not run" in told.value.details()
        else:
            assert told.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "longer than the request may wait" in told.value.details()
        assert not running.done(), f"{LONG} rows run for too short a time to tell"
        assert_rolled(running.result(PATIENCE_S), LONG)
        assert_rolled(service.ModelInfer(slow_request(2)), 2)
    assert moved(server, before) == {"success": 2, "rows": LONG + 2, "runs": 2}


def test_a_request_that_is_cancelled_leaves_the_queue_and_is_never_run(server: Server) -> None:
    before = counts(server)
    cancelled: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.grpc_address) as client, stub(server) as service:
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
    assert moved(server, before) == {"success": 4, "rows": LONG + 6, "runs": 4}


def test_a_client_that_leaves_takes_its_stream_out_of_the_queue(server: Server) -> None:
    before = counts(server)
    with stub(server) as service:
        running = busy(service)
        let_it_be_read(service)
        with grpc.insecure_channel(server.grpc_address) as gone:
            leaving = service_pb2_grpc.GRPCInferenceServiceStub(gone)
            bad = slow_request(1, model_version="99")
            answers = leaving.ModelStreamInfer(iter([bad, *(slow_request(1) for _ in range(60))]))
            assert "99" in next(answers).error_message
            let_it_be_read(leaving)
        let_it_be_read(service)
        assert not running.done(), f"{LONG} rows run for too short a time to tell"
        assert_rolled(running.result(PATIENCE_S), LONG)
        assert_rolled(service.ModelInfer(slow_request(2)), 2)
    assert moved(server, before) == {"success": 2, "rows": LONG + 2, "runs": 2}


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


def streamed(server: Server, requests: Sequence[Any], **call: Any) -> list[Any]:  # noqa: ANN401
    with stub(server) as service:
        return list(service.ModelStreamInfer(iter(requests), timeout=PATIENCE_S, **call))


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


def test_a_quick_answer_waits_for_the_slow_one_that_was_asked_before(server: Server) -> None:
    requests = [slow_request(5, id="slow"), slow_request(1, id="bad", model_version="99"), slow_request(1, id="quick")]
    answers = streamed(server, requests)
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


def test_a_stream_that_runs_ahead_of_its_answers_is_held_back_and_its_connection_lives(server: Server) -> None:
    """However small its requests are, which come in a frame each."""
    with Connection(server.grpc_address) as connection:
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


def test_a_shutdown_answers_what_has_come_and_takes_no_more(tmp_path: Path) -> None:
    path = save(slow(20), tmp_path / "slow.onnx")
    with (
        serving(path, "--instances", "1", "--no-batching") as ending,
        stub(ending) as service,
        Connection(ending.grpc_address) as connection,
    ):
        unary = [service.ModelInfer.future(slow_request(10), timeout=PATIENCE_S) for _ in range(3)]
        let_it_be_read(service)
        stream = connection.open(grpc_headers(STREAM))
        asked = [slow_request(5, id=str(index)).SerializeToString() for index in range(3)]
        connection.data(stream, b"".join(map(message, asked)), end=False)
        for _ in range(3):
            connection.request(grpc_headers(f"{SERVICE}ServerLive"), message(b""))
        ending.process.terminate()
        connection.read_until(lambda: connection.goaway is not None)
        assert connection.goaway == (0, "")
        for future in unary:
            assert_rolled(future.result(), 10)
        answers = [pb.ModelStreamInferResponse.FromString(one) for _, one in connection.wait(stream).messages()]
        assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]
        for answer in answers:
            assert_rolled(answer.infer_response, 5)
        assert_shut_down(connection.streams[stream])
        ending.process.wait(PATIENCE_S)
        with pytest.raises(grpc.RpcError) as caught:
            service.ModelInfer(slow_request(1), timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def assert_shut_down(ended: Response) -> None:
    assert (ended.metadata["grpc-status"], "shutting down" in ended.metadata["grpc-message"]) == ("14", True), ended


def test_a_stream_that_asks_nothing_is_ended_by_a_shutdown_and_does_not_hold_it_up(tmp_path: Path) -> None:
    path = save(identity("FP32"), tmp_path / "FP32.onnx")
    with serving(path) as ending, Connection(ending.grpc_address) as connection:
        stream = connection.open(grpc_headers(STREAM))
        connection.data(stream, message(question(model_name="FP32")), end=False)
        connection.read_until(lambda: len(connection.streams[stream].body) > 0)
        ending.process.terminate()
        assert_shut_down(connection.wait(stream))
        assert len(connection.streams[stream].messages()) == 1
        assert ending.process.wait(PATIENCE_S) == 0
