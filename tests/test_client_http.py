"""What `axon.Client` puts on the wire over HTTP, against a small server that answers what the test says."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pytest
from axon import AsyncClient, Client
from axon.errors import ConnectionFailed, DeadlineExceeded, InvalidRequest, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NUMBERS: Final = {"model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]}]}
CLIENTS: Final = ("blocking", "asyncio")
X: Final = {"x": np.array([[1, 2]], np.float32)}


class Asked(NamedTuple):
    """A request that came."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401
        """The JSON, which the binary extension may follow with bytes."""
        return json.loads(self.body[: int(self.headers.get("inference-header-content-length", len(self.body)))])


class Answer(NamedTuple):
    """What is answered: one status and body; None closes the connection without an answer."""

    status: int | None
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Fake:
    """A server that answers each path from its list; the last of a list is answered for ever."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        """Answer by path; `silent` is set when those that wait for no answer shall end."""
        self.answers = answers
        self.asked: list[Asked] = []
        self.url = ""
        self.silent = threading.Event()

    def lines(self) -> list[str]:
        """Return what was asked, in order."""
        return [asked.line for asked in self.asked]


@contextmanager
def faking(answers: dict[str, list[Answer]]) -> Iterator[Fake]:
    fake = Fake(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            fake.asked.append(Asked(f"{self.command} {self.path}", headers, body))
            left = fake.answers.get(self.path, [Answer(404, b'{"error":"Not Found"}')])
            answer = left.pop(0) if len(left) > 1 else left[0]
            if answer.status is None:
                fake.silent.wait(30)
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in (*answer.headers, ("Content-Length", str(len(answer.body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        fake.silent.set()
        server.shutdown()
        thread.join()
        server.server_close()


def answered(value: object, **headers: str) -> Answer:
    return Answer(200, json.dumps(value).encode(), tuple((name.replace("_", "-"), v) for name, v in headers.items()))


def ask(kind: str, url: str, action: Callable[[Any], Any], **settings: Any) -> Any:  # noqa: ANN401
    """Do `action`, which calls one method of the client it gets, with a client of `kind`."""
    if kind == "blocking":
        with Client(url, **settings) as client:
            return action(client)

    async def asked() -> Any:  # noqa: ANN401
        async with AsyncClient(url, **settings) as client:
            return await action(client)

    return asyncio.run(asked())


INFER: Final = "/v2/models/m/infer"
SPEAKS_BINARY: Final = answered({"name": "s", "version": "1", "extensions": ["statistics", "binary_tensor_data"]})
REFUSED: Final = Answer(503, b'{"error":"busy"}', (("Retry-After", "0"),))


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_refusal_is_asked_again_and_then_answered(kind: str) -> None:
    with faking({INFER: [REFUSED, REFUSED, answered(NUMBERS)]}) as fake:
        outputs = ask(kind, fake.url, lambda client: client.infer("m", X), binary=False)
        assert outputs["y"].tolist() == [[1, 2]]
        assert fake.lines() == [f"POST {INFER}"] * 3
        assert len({asked.body for asked in fake.asked}) == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_server_that_stays_busy_is_told_of(kind: str) -> None:
    with faking({INFER: [REFUSED]}) as fake:
        with pytest.raises(Overloaded, match="busy") as caught:
            ask(kind, fake.url, lambda client: client.infer("m", X), binary=False, retries=1)
        assert caught.value.retry_after_s == 0
        assert len(fake.asked) == 2


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("server", "is_binary"),
    [
        (SPEAKS_BINARY, True),
        (answered({"name": "s", "version": "1", "extensions": []}), False),
        (answered({"name": "s", "version": "1"}), False),
        (answered({"name": "s", "extensions": "binary_tensor_data"}), False),
        (Answer(404, b"<html>"), False),
        (Answer(500, b"x"), False),
        (answered([]), False),
    ],
)
def test_bytes_are_sent_only_to_a_server_that_says_it_takes_them(kind: str, server: Answer, *, is_binary: bool) -> None:
    with faking({"/v2": [server], INFER: [answered(NUMBERS)]}) as fake:
        outputs = ask(kind, fake.url, lambda client: client.infer("m", X))
        assert outputs["y"].tolist() == [[1, 2]]
        assert fake.lines() == ["GET /v2", f"POST {INFER}"]
        asked = fake.asked[1]
        (put,) = asked.json["inputs"]
        if is_binary:
            assert put == {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
            assert asked.body[int(asked.headers["inference-header-content-length"]) :] == X["x"].tobytes()
            assert asked.json["parameters"] == {"binary_data_output": True}
        else:
            assert put == {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
            assert "inference-header-content-length" not in asked.headers
            assert set(asked.json) == {"inputs"}


def test_a_server_is_asked_once_what_it_takes() -> None:
    with faking({"/v2": [SPEAKS_BINARY], INFER: [answered(NUMBERS)]}) as fake:
        with Client(fake.url) as client:
            for _ in range(3):
                client.infer("m", X)
        assert fake.lines() == ["GET /v2", *[f"POST {INFER}"] * 3]


def test_a_request_is_the_protocols() -> None:
    with faking({"/v2/models/m/versions/2/infer": [answered(NUMBERS)]}) as fake:
        with Client(fake.url, binary=True, headers={"Authorization": "Bearer t"}) as client:
            client.infer(
                "m",
                {"x": X["x"], "t": np.array([b"ab"], object)},
                version=2,
                outputs=["y"],
                id="7",
                priority=3,
                timeout_s=30,
                parameters={"k": "v"},
            )
        (asked,) = fake.asked
    said = asked.json
    timeout = said["parameters"].pop("timeout")
    assert said == {
        "id": "7",
        "inputs": [
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "t", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"k": "v", "priority": 3},
    }
    assert asked.body.endswith(X["x"].tobytes() + b"\x02\0\0\0ab")
    assert asked.headers["authorization"] == "Bearer t"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["content-type"] == "application/octet-stream"
    # The server is told no more than the whole, in the protocol's microseconds and in seconds.
    assert 0 < timeout <= 30_000_000
    assert 0 < float(asked.headers["x-request-timeout"]) <= 30
    assert abs(timeout - float(asked.headers["x-request-timeout"]) * 1e6) <= 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_deadline_that_passes_is_the_clients_own(kind: str) -> None:
    with faking({INFER: [Answer(None)]}) as fake:
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
            ask(kind, fake.url, lambda client: client.infer("m", X, timeout_s=0.2), binary=False)
        assert len(fake.asked) == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_connection_that_breaks_is_told_of_and_not_tried_again(kind: str) -> None:
    with faking({INFER: [Answer(None)]}) as fake:
        fake.silent.set()
        with pytest.raises(ConnectionFailed, match="broke the connection"):
            ask(kind, fake.url, lambda client: client.infer("m", X), binary=False)
        assert len(fake.asked) == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_server_that_packs_its_answer_is_understood(kind: str) -> None:
    packed = Answer(200, gzip.compress(json.dumps(NUMBERS).encode()), (("Content-Encoding", "gzip"),))
    with faking({INFER: [packed]}) as fake:
        outputs = ask(kind, fake.url, lambda client: client.infer("m", X), binary=False)
    assert outputs["y"].tolist() == [[1, 2]]


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_repository_is_asked_as_the_protocol_has_it(kind: str) -> None:
    index = [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    answers = {
        "/v2/repository/index": [answered(index)],
        "/v2/repository/models/m/load": [Answer(200)],
        "/v2/repository/models/m/unload": [Answer(200)],
        "/v2/models/m/config": [answered({"name": "m", "max_batch_size": 8})],
        "/v2/models/stats": [answered({"model_stats": []})],
    }
    with faking(answers) as fake:
        assert ask(kind, fake.url, lambda client: client.models()) == index
        assert ask(kind, fake.url, lambda client: client.config("m"))["max_batch_size"] == 8
        assert ask(kind, fake.url, lambda client: client.statistics()) == {"model_stats": []}
        ask(kind, fake.url, lambda client: client.load("m"))
        ask(kind, fake.url, lambda client: client.load("m", config={"max_batch_size": 4}))
        ask(kind, fake.url, lambda client: client.unload("m"))
        bodies = [asked.json for asked in fake.asked if asked.line.startswith("POST /v2/repository/models")]
    assert bodies == [
        {},
        {"parameters": {"config": '{"max_batch_size": 4}'}},
        {"parameters": {"unload_dependents": False}},
    ]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_load_that_is_refused_is_not_asked_again(kind: str) -> None:
    with faking({"/v2/repository/models/m/load": [REFUSED]}) as fake:
        with pytest.raises(Exception, match="busy"):
            ask(kind, fake.url, lambda client: client.load("m"))
        assert len(fake.asked) == 1


def test_bytes_that_are_no_text_are_refused_before_they_are_sent_as_text() -> None:
    with faking({}) as fake:
        with Client(fake.url, binary=False) as client, pytest.raises(InvalidRequest, match="expected UTF-8") as caught:
            client.infer("m", {"x": np.array([b"\xff"], object)})
        assert caught.value.field == "inputs[0].data"
        assert fake.asked == []


def test_a_path_before_the_protocols_is_kept() -> None:
    with faking({"/gateway/v2/health/live": [Answer(200)]}) as fake:
        with Client(f"{fake.url}/gateway/") as client:
            assert client.is_live()
        assert fake.lines() == ["GET /gateway/v2/health/live"]
