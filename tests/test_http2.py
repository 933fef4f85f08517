"""HTTP/2 frame by frame: answers on the HTTP port, and floods, oversights and malice on both ports (row B-81).

HTTP/1.1 is in test_sockets.py; here is what the two share a port for, and what gRPC's port says to it.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import http2
import numpy as np
import pytest
from http2 import PATIENCE_S, Connection, Response, block, frame, grpc_headers, message, post
from models import identity, save
from serving import serving
from test_bad_input import MIB, forget_peak, memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serving import Server

Pair: TypeAlias = "tuple[str | bytes, str | bytes]"

INFER: Final = "/v2/models/fp32/infer"
LIVE: Final = "/inference.GRPCInferenceService/ServerLive"
LENGTH: Final = "inference-header-content-length"
END: Final = http2.END_HEADERS | http2.END_STREAM
#: Codes of errors. **Source:** RFC 9113, section 7.
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, REFUSED_STREAM, CANCEL = 1, 3, 7, 8
PORTS: Final = ("http", "grpc")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = save(identity("FP32", ("batch", "width")), tmp_path_factory.mktemp("model") / "fp32.onnx")
    with serving(path, "--log-level", "off") as started:
        yield started


def address(server: Server, port: str) -> str:
    return server.address if port == "http" else server.grpc_address


def document(values: np.ndarray[Any, Any], **members: object) -> dict[str, Any]:
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, len(values)], **members}
    return {"inputs": [tensor]}


def in_json(values: np.ndarray[Any, Any]) -> bytes:
    return json.dumps(document(values, data=values.tolist())).encode()


def in_binary(values: np.ndarray[Any, Any]) -> tuple[dict[str, str | bytes | None], bytes]:
    whole = document(values, parameters={"binary_data_size": values.nbytes})
    head = json.dumps({**whole, "parameters": {"binary_data_output": True}}).encode()
    return {LENGTH: str(len(head))}, head + values.tobytes()


def data_of(response: Response) -> list[float]:
    assert response.status == "200", response
    (output,) = json.loads(response.body)["outputs"]
    return list(output["data"])


def numbers(seed: int, count: int = 3) -> np.ndarray[Any, Any]:
    """Return whole numbers, which JSON says exactly."""
    return np.random.default_rng(seed).integers(-(2**20), 2**20, count).astype(np.float32)


def get(server: Server, path: str = "/v2/health/live") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.address, timeout=PATIENCE_S)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_the_http_port_speaks_both_versions_and_says_the_same(server: Server) -> None:
    for path in ("/v2", "/v2/models/fp32", "/v2/health/ready", "/nowhere"):
        with Connection(server.address) as connection:
            response = connection.request(post(path, method="GET"))
        assert (int(response.status), bytes(response.body)) == get(server, path)


def test_a_client_that_would_upgrade_is_answered_as_it_asked(server: Server) -> None:
    connection = http.client.HTTPConnection(server.address, timeout=PATIENCE_S)
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    connection.request("GET", "/v2/health/live", headers=headers)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_model_is_asked_in_json_and_in_binary(server: Server) -> None:
    values = numbers(0)
    with Connection(server.address) as connection:
        assert data_of(connection.request(post(INFER), in_json(values))) == values.tolist()
        headers, body = in_binary(values)
        response = connection.request(post(INFER, headers), body)
    assert response.status == "200"
    assert response.body[int(response.headers[LENGTH]) :] == values.tobytes()


def test_a_large_tensor_goes_through_the_windows_both_ways(server: Server) -> None:
    values = numbers(1, 6 * MIB)
    headers, body = in_binary(values)
    with Connection(server.address) as connection:
        response = connection.request(post(INFER, headers), body)
    assert response.body[int(response.headers[LENGTH]) :] == values.tobytes()


def test_a_body_may_come_in_frames_of_one_byte(server: Server) -> None:
    values = numbers(2)
    with Connection(server.address) as connection:
        stream = connection.open(post(INFER))
        connection.data(stream, in_json(values), size=1)
        assert data_of(connection.wait(stream)) == values.tolist()


def test_a_hundred_requests_of_one_connection_each_get_their_own_answer(server: Server) -> None:
    values = [numbers(seed) for seed in range(100)]
    with Connection(server.address) as connection:
        streams = [connection.open(post(INFER)) for _ in values]
        for stream, value in reversed(list(zip(streams, values, strict=True))):
            connection.data(stream, in_json(value))
        for stream, value in zip(streams, values, strict=True):
            assert data_of(connection.wait(stream)) == value.tolist()


def test_more_requests_at_once_than_are_allowed_are_refused_and_the_others_answered(server: Server) -> None:
    with Connection(server.address) as connection:
        connection.ping()
        streams = [connection.open(post(INFER)) for _ in range(300)]
        connection.ping()
        refused = [stream for stream in streams if connection.streams[stream].reset == REFUSED_STREAM]
        assert refused == streams[256:]
        for stream in streams[:256]:
            connection.data(stream, in_json(numbers(stream)))
        for stream in streams[:256]:
            assert data_of(connection.wait(stream)) == numbers(stream).tolist()


@pytest.mark.parametrize("path", ["/v2", "/v2/models/fp32", "/nowhere"])
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    with Connection(server.address) as connection:
        whole = connection.request(post(path, method="GET"))
        bare = connection.request(post(path, method="HEAD"))
    assert not bare.body
    assert (bare.status, bare.headers["content-length"]) == (whole.status, str(len(whole.body)))


@pytest.mark.parametrize(
    ("path", "status", "allow"), [(INFER, 204, "POST"), ("/v2", 204, "GET, HEAD"), ("/nowhere", 404, None)]
)
def test_options_says_what_may_be_asked_in_both_versions(
    server: Server, path: str, status: int, allow: str | None
) -> None:
    with Connection(server.address) as connection:
        response = connection.request(post(path, method="OPTIONS"))
    assert (int(response.status), response.headers.get("allow")) == (status, allow)
    older = http.client.HTTPConnection(server.address, timeout=PATIENCE_S)
    older.request("OPTIONS", path)
    answer = older.getresponse()
    assert (answer.status, answer.headers["Allow"], answer.read()) == (status, allow, bytes(response.body))
    older.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"), [("GET", "/nowhere", "404", "NOT_FOUND"), ("PUT", INFER, "405", "METHOD")]
)
def test_what_is_not_there_says_so_in_json(server: Server, method: str, path: str, status: str, code: str) -> None:
    with Connection(server.address) as connection:
        response = connection.request(post(path, method=method))
    assert (response.status, json.loads(response.body)["code"]) == (status, code)
    assert response.headers.get("allow") == ("POST" if status == "405" else None)


def test_a_request_that_is_taken_back_disturbs_no_other_of_its_connection(server: Server) -> None:
    with Connection(server.address) as connection:
        for seed in range(10):
            gone, kept = connection.open(post(INFER)), connection.open(post(INFER))
            connection.data(gone, in_json(numbers(seed))[:-1], end=False)
            connection.send(frame(http2.RST_STREAM, 0, gone, struct.pack(">I", CANCEL)))
            connection.data(kept, in_json(numbers(seed)))
            assert data_of(connection.wait(kept)) == numbers(seed).tolist()


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), b"PRIVATE\r\n"],
    ids=["HTTP/1.1", "TLS", "PRIVATE"],
)
def test_what_is_not_http2_is_told_so_on_the_port_of_grpc(server: Server, first: bytes) -> None:
    host, _, port = server.grpc_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(first)
        if first.startswith(b"PRI"):
            # Begins as HTTP/2 does: whoever reads frames closes without a word, or with a frame.
            assert not everything(connection).startswith(b"HTTP/1.1 2")
            return
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 400
        assert b"gRPC" in response.read()
        assert everything(connection) == b""


def everything(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    found = b""
    while piece := connection.recv(1 << 16):
        found += piece
    return found


def ping() -> bytes:
    return frame(http2.PING, payload=b"12345678") * 300_000


def setting(value: int) -> bytes:
    return frame(http2.SETTINGS, payload=struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, value))


def opened(more: int, stream: int = 0) -> bytes:
    return frame(http2.WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def reset(stream: int) -> bytes:
    return frame(http2.RST_STREAM, 0, stream, struct.pack(">I", CANCEL))


def streams(head: bytes, flags: int, after: Callable[[int], bytes] = lambda _: b"") -> bytes:
    return b"".join(frame(http2.HEADERS, flags, stream, head) + after(stream) for stream in range(1, 200_001, 2))


#: What closes a connection, by name; made of the headers of a good request.
FLOODS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "rapid reset": lambda head: streams(head, END, reset),
    "requests without end": lambda head: streams(head, http2.END_HEADERS),
    "1,000 continuations": lambda head: (
        frame(http2.HEADERS, 0, 1, head) + frame(http2.CONTINUATION, 0, 1, block([("x", "y" * 100)])) * 1000
    ),
    "empty continuations": lambda head: frame(http2.HEADERS, 0, 1, head) + frame(http2.CONTINUATION, 0, 1) * 100_000,
    "a million frames of no data": lambda head: (
        frame(http2.HEADERS, http2.END_HEADERS, 1, head) + frame(http2.DATA, 0, 1) * 1_000_000
    ),
    "trailers without end": lambda head: (
        frame(http2.HEADERS, http2.END_HEADERS, 1, head)
        + frame(http2.HEADERS, http2.END_HEADERS, 1, block([("a", "b")])) * 100_000
    ),
    "pings": lambda _: ping(),
    "settings": lambda _: (setting(100) + setting(65_535)) * 150_000,
    "window updates": lambda _: opened(1) * 300_000,
    "priorities": lambda _: frame(http2.PRIORITY, 0, 1, struct.pack(">IB", 3, 1)) * 300_000,
    "frames that nobody knows": lambda _: frame(99, payload=b"x") * 300_000,
    "a window over 2^31-1": lambda _: opened(2**31 - 1),
    "a window that grows by nothing": lambda _: opened(0),
    "a frame that is too long": lambda _: frame(http2.DATA, 0, 1, bytes(MIB + 1)),
    "data of no request": lambda _: frame(http2.DATA, 0, 1, b"x"),
    "a request of the server": lambda head: frame(http2.HEADERS, END, 2, head),
    "a promise": lambda head: frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, struct.pack(">I", 2) + head),
    "a reset of no request": lambda _: reset(1),
    "headers that cannot be unpacked": lambda _: frame(http2.HEADERS, END, 1, b"\xff" * 8),
    "another frame inside headers": lambda head: frame(http2.HEADERS, 0, 1, head) + ping()[:17],
}


@contextmanager
def bystanders(server: Server) -> Iterator[None]:
    """Keep asking on both ports until the block ends; assert that each was answered, and at least once meanwhile."""
    over = Event()

    def ask(port: str) -> int:
        asked = 0
        with Connection(address(server, port)) as connection:
            while not (over.is_set() and asked):
                if port == "http":
                    assert data_of(connection.request(post(INFER), in_json(numbers(asked)))) == numbers(asked).tolist()
                else:
                    response = connection.request(grpc_headers(LIVE), message(b""))
                    assert response.metadata["grpc-status"] == "0", response
                asked += 1
        return asked

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(ask, port) for port in PORTS]
        try:
            yield
        finally:
            over.set()
        assert all(other.result(PATIENCE_S) for other in others)


def head_for(port: str) -> bytes:
    return block(post("/v2/health/live", method="GET") if port == "http" else grpc_headers(LIVE))


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("port", PORTS)
def test_b_81_a_peer_that_floods_or_breaks_the_rules_is_closed_and_nobody_else_notices(
    server: Server, port: str, flood: str
) -> None:
    raw = FLOODS[flood](head_for(port))
    with bystanders(server):
        held = memory(server, "VmRSS")
        forget_peak(server)
        with Connection(address(server, port)) as connection:
            connection.send(raw)
            connection.ping()
            assert connection.closed
        assert memory(server, "VmHWM") - held <= 32 * MIB
    assert get(server) == (200, b'{"live":true}')


def test_b_81_a_flood_of_small_frames_of_data_is_bounded_whatever_becomes_of_it(server: Server) -> None:
    """A request may come in small pieces; but what nobody reads may not pile up."""
    headers = frame(http2.HEADERS, http2.END_HEADERS, 1, block(post(INFER)))
    with bystanders(server):
        held = memory(server, "VmRSS")
        forget_peak(server)
        with Connection(server.address) as connection:
            connection.send(headers + frame(http2.DATA, 0, 1, b"x") * 1_000_000)
            connection.ping()
        assert memory(server, "VmHWM") - held <= 64 * MIB


def changed(**changes: str | None) -> Callable[[list[Pair]], list[Pair]]:
    """Return what sets pseudo-headers, by their names without the colon, or takes them out."""

    def change(good: list[Pair]) -> list[Pair]:
        names = {f":{name}": value for name, value in changes.items()}
        pairs = ((name, names.get(str(name), value)) for name, value in good)
        return [(name, value) for name, value in pairs if value is not None]

    return change


def added(name: str, *values: str) -> Callable[[list[Pair]], list[Pair]]:
    return lambda good: [*good, *((name, value) for value in values)]


#: What spoils one request, by name: what becomes of its good headers.
ODD: Final[dict[str, Callable[[list[Pair]], list[Pair]]]] = {
    "no method": changed(method=None),
    "no scheme": changed(scheme=None),
    "no path": changed(path=None),
    "an empty path": changed(path=""),
    "a path twice": lambda good: [(":path", "/v2"), *good],
    "a path that is relative": changed(path="v2"),
    "a path with NUL": changed(path="/v2\0"),
    "pseudo-headers behind others": lambda good: [("a", "b"), *good],
    "a pseudo-header of responses": lambda good: [(":status", "200"), *good],
    "a pseudo-header that nobody knows": lambda good: [(":nope", "1"), *good],
    "an authority that is none": changed(authority="a b"),
    "a host that is not the authority": added("host", "elsewhere"),
    "a method with a space": changed(method="PO ST"),
    "CONNECT with a path": changed(method="CONNECT"),
    "a name in upper case": added("X-Upper", "1"),
    "a name with a space": added("a b", "1"),
    "an empty name": added("", "1"),
    "NUL in a value": added("x", "a\0b"),
    "a line end in a value": added("x", "a\r\nb: c"),
    "a connection header": added("connection", "close"),
    "a transfer encoding": added("transfer-encoding", "chunked"),
    "te other than trailers": added("te", "gzip"),
    "a length that is too small": added("content-length", "1"),
    "a length that is too large": added("content-length", "500"),
    "two lengths": added("content-length", "3", "4"),
    "a length that is none": added("content-length", "x"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("port", PORTS)
def test_b_81_odd_headers_spoil_their_own_request_or_their_connection(server: Server, port: str, odd: str) -> None:
    """All but the odd one are those of a good request, which is answered where it is let through."""
    good, body = (
        (grpc_headers(LIVE), message(b"")) if port == "grpc" else (post(INFER), in_json(numbers(0)))
    )  # fmt: skip
    with Connection(address(server, port)) as connection:
        response = connection.request(ODD[odd](list(good)), body)
        is_spoilt = response.reset == PROTOCOL_ERROR or connection.goaway == (PROTOCOL_ERROR, "")
        assert is_spoilt or response.status == "400", response
        if not connection.closed:
            assert connection.request(good, body).status == "200"
    assert get(server) == (200, b'{"live":true}')


@pytest.mark.parametrize("port", PORTS)
def test_b_81_a_window_of_a_request_that_overflows_spoils_that_request(server: Server, port: str) -> None:
    with Connection(address(server, port)) as connection:
        stream = connection.open(grpc_headers(LIVE) if port == "grpc" else post(INFER))
        connection.send(opened(2**31 - 1, stream))
        assert connection.wait(stream).reset == FLOW_CONTROL_ERROR
        connection.ping()
        assert not connection.closed


@pytest.mark.parametrize("port", PORTS)
def test_headers_that_are_too_long_are_refused_and_the_connection_goes_on(server: Server, port: str) -> None:
    with Connection(address(server, port)) as connection:
        connection.ping()
        size = 17 << 10 if port == "http" else MIB + (17 << 10)
        assert connection.request(post("/v2", {"x": "y" * size})).status == "431"
        good = connection.request(post("/v2", method="GET"))
        assert good.status == ("200" if port == "http" else "415")
