"""What comes over a plain socket: framed badly, in pieces, slowly or not at all. Rows B-70 to B-80 of robustness.md.

Every row is answered within a bound, never with a 5xx, by a server that stays up and closes the connection; bytes that
could be read as two requests get at most one answer. `hyper` frames the requests; where it answers otherwise than the
table wants, and no worse, the row says so.
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from models import identity, save
from serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving import Server

#: The longest that a framing error may stay unanswered. The slow ones have a test of their own.
BOUND_S: Final = 5.0
BODY_LIMIT: Final = 64 << 20
STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
BODY: Final = json.dumps(
    {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
).encode()
INFER: Final = b"POST /v2/models/fp32/infer HTTP/1.1\r\nHost: x\r\n"
POST: Final = INFER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LIVE: Final = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
#: Rows whose bytes two readers could cut differently: a request behind them must not be answered.
SMUGGLING: Final = ("B-75", "B-76", "B-77", "B-78")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    save(identity("FP32"), folder / "fp32.onnx")
    with serving(folder, "--log-level", "off") as started:
        yield started


@dataclass
class Client:
    """A socket that keeps what it has received."""

    socket: socket.socket
    received: bytes = b""

    def send(self, data: bytes) -> None:
        """Send as much as the server takes; one that has answered and closed takes no more."""
        left = memoryview(data)
        while left:
            readable, writable, _ = select.select([self.socket], [self.socket], [], BOUND_S)
            assert readable or writable, "the server neither reads nor answers"
            if readable and not self.receive():
                return
            try:
                left = left[self.socket.send(left) :] if writable else left
            except (BrokenPipeError, ConnectionResetError):
                return

    def receive(self, seconds: float = BOUND_S) -> bytes:
        """Wait for the next piece; empty at the end."""
        self.socket.settimeout(seconds)
        try:
            piece = self.socket.recv(1 << 16)
        except ConnectionResetError:
            piece = b""
        self.received += piece
        return piece

    def receive_all(self, seconds: float = BOUND_S) -> bytes:
        """Wait until the server closes, and return all that came; fails with a timeout when it stays open."""
        deadline = time.monotonic() + seconds
        while self.receive(max(0.01, deadline - time.monotonic())):
            pass
        return self.received

    def response(self) -> tuple[int, dict[str, str], bytes]:
        """Take the next response out of what came: its status, its headers in lower case, its body."""
        while b"\r\n\r\n" not in self.received:
            assert self.receive(), f"closed inside the headers: {self.received!r}"
        head, _, rest = self.received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(rest) < length:
            piece = self.receive()
            assert piece, "closed inside the body"
            rest += piece
        self.received = rest[length:]
        return int(status.split()[1]), headers, rest[:length]


@contextmanager
def connected(server: Server) -> Iterator[Client]:
    with socket.create_connection((server.host, server.port), timeout=BOUND_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Client(connection)


def assert_is_answered(client: Client) -> None:
    status, headers, body = client.response()
    assert (status, headers["content-type"]) == (200, "application/json"), body
    assert json.loads(body)["outputs"][0]["data"] == [1, 2, 3]


def assert_serves(server: Server) -> None:
    """Assert that the next request of another client is answered as ever."""
    assert server.process.poll() is None
    with connected(server) as client:
        client.send(POST)
        assert_is_answered(client)


def line(text: bytes) -> bytes:
    """Return a good request but for one line among its headers."""
    return b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + text + b"\r\n\r\n"


def chunked(text: bytes, encoding: bytes = b"chunked") -> bytes:
    return INFER + b"Transfer-Encoding: " + encoding + b"\r\n\r\n" + text


def sized(*lengths: bytes) -> bytes:
    return INFER + b"".join(b"Content-Length: " + length + b"\r\n" for length in lengths) + b"\r\n" + BODY


WHOLE_CHUNK: Final = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)

# Row, what is wrong, the bytes, and the statuses that may come; 0 stands for a connection that is closed without one.
FRAMING: Final[list[tuple[str, str, bytes, set[int]]]] = [
    ("B-70", "1,000 headers", line(b"\r\n".join(b"h%d: v" % at for at in range(1000))), {431}),
    ("B-70", "a header of 1 MiB", line(b"h: " + b"v" * (1 << 20)), {431}),
    # hyper counts the line with the headers: past 16 KiB it says 431.
    ("B-70", "a URI of 64 KiB", b"GET /" + b"u" * (64 << 10) + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414, 431}),
    ("B-70", "a URI of 9 KiB", b"GET /" + b"u" * (9 << 10) + b" HTTP/1.1\r\nHost: x\r\n\r\n", {414}),
    (
        "B-41",
        "a model name of 60,000",
        b"GET /v2/models/" + b"m" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        {414, 431},
    ),
    ("B-71", "no Host", b"GET /v2 HTTP/1.1\r\nConnection: close\r\n\r\n", {400}),
    ("B-71", "two Hosts", line(b"Host: y\r\nConnection: close"), {400}),
    ("B-72", "HTTP/9.9", b"GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n", {400, 505}),
    ("B-72", "HTTP/0.9", b"GET /v2\r\n\r\n", {400, 505}),
    # A method in lower case is another method, which no path takes; nothing is framed wrongly.
    ("B-72", "get", b"get /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 405, 505}),
    ("B-73", "a space before the colon", line(b"X : x"), {400}),
    ("B-73", "a folded line", line(b"X: x\r\n y"), {400}),
    ("B-73", "a NUL in a value", line(b"X: a\0b"), {400}),
    ("B-73", "a bare CR in a value", line(b"X: a\rb"), {400}),
    ("B-74", "a TLS ClientHello", bytes.fromhex("16030100ea010000e60303") + bytes(range(200)), {0, 400}),
    ("B-74", "4 KiB of garbage", bytes(at * 151 % 251 for at in range(4096)), {0, 400}),
    ("B-75", "a length and chunks", INFER + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    ("B-76", "two lengths", sized(b"%d" % len(BODY), b"5"), {400}),
    ("B-76", "the length -1", sized(b"-1"), {400}),
    ("B-76", "the length +5", sized(b"+5"), {400}),
    ("B-76", "the length 5,5", sized(b"5,5"), {400}),
    ("B-76", "the length 2^63", sized(b"%d" % 2**63), {400, 413}),
    ("B-76", "the length 2^64", sized(b"%d" % 2**64), {400, 413}),
    ("B-77", "the encoding xchunked", chunked(WHOLE_CHUNK, b"xchunked"), {400}),
    ("B-77", "the encoding chunked, identity", chunked(WHOLE_CHUNK, b"chunked, identity"), {400}),
    ("B-77", "the encoding chunked, chunked", chunked(WHOLE_CHUNK, b"chunked, chunked"), {400}),
    ("B-77", "chunked in two lines", chunked(WHOLE_CHUNK, b"chunked\r\nTransfer-Encoding: chunked"), {400}),
    ("B-78", "the chunk size ZZ", chunked(b"ZZ\r\n" + BODY), {400}),
    ("B-78", "the chunk size 2^64", chunked(b"10000000000000000\r\n" + BODY), {400}),
    ("B-78", "the chunk size -1", chunked(b"-1\r\n" + BODY), {400}),
    ("B-78", "a chunk extension of 17 KiB", chunked(b"5;" + b"e" * (17 << 10) + b"\r\nhello\r\n0\r\n\r\n"), {400}),
    ("B-78", "a chunk longer than it says", chunked(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"), {400}),
]


@pytest.mark.parametrize(
    ("row", "data", "statuses"),
    [(row, *rest) for row, _, *rest in FRAMING],
    ids=[f"{row} {name}" for row, name, *_ in FRAMING],
)
def test_what_is_framed_badly_gets_one_refusal_and_is_closed(
    server: Server, row: str, data: bytes, statuses: set[int]
) -> None:
    with connected(server) as client:
        client.send(data + (LIVE if row in SMUGGLING else b""))
        answered = [int(status) for status in STATUS_LINE.findall(client.receive_all())]
    assert len(answered) <= 1, answered
    assert set(answered or [0]) <= statuses
    assert_serves(server)


def test_b_79_a_body_that_ends_early_frees_its_slot(server: Server) -> None:
    before = descriptors(server)
    with connected(server) as client:
        client.send(INFER + b"Content-Length: 500\r\n\r\nhello")
        client.socket.shutdown(socket.SHUT_WR)
        answered = [int(status) for status in STATUS_LINE.findall(client.receive_all(1.0))]
        assert answered in ([], [400])
        assert wait_until_at_most(server, before), "the slot is not free"
    assert_serves(server)


@pytest.mark.parametrize("length", [BODY_LIMIT + 1, 1 << 40])
def test_b_80_a_body_over_the_limit_is_refused_before_it_is_sent(server: Server, length: int) -> None:
    with connected(server) as client:
        client.send(INFER + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % length)
        status, headers, body = client.response()
        assert (status, headers["content-type"]) == (413, "application/json")
        error = json.loads(body)
        assert (error["code"], error["field"]) == ("TOO_LARGE", "body")
        assert f"{length} > {BODY_LIMIT}" in error["error"]
        assert client.receive_all() == b""
    assert_serves(server)


def test_a_body_is_waited_for_after_100_continue(server: Server) -> None:
    with connected(server) as client:
        client.send(INFER + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(BODY))
        assert client.response()[0] == 100
        client.send(BODY)
        assert_is_answered(client)


def test_two_requests_sent_at_once_are_answered_in_order(server: Server) -> None:
    with connected(server) as client:
        client.send(POST + LIVE + POST)
        assert_is_answered(client)
        assert client.response()[::2] == (200, b'{"live":true}')
        assert_is_answered(client)
        assert client.received == b""


@pytest.mark.parametrize("more", [LIVE[:9], LIVE[:-2], POST[:-5], b"\0"])
def test_an_answer_does_not_wait_for_what_comes_behind_its_request(server: Server, more: bytes) -> None:
    with connected(server) as client:
        client.send(POST + more)
        assert_is_answered(client)


def test_the_last_request_of_a_connection_is_answered_whatever_comes_behind_it(server: Server) -> None:
    with connected(server) as client:
        client.send(POST.replace(b"Host: x", b"Host: x\r\nConnection: close") + LIVE)
        assert_is_answered(client)
        assert client.receive_all() == b""


def test_a_connection_is_used_again_and_closed_when_its_client_says_so(server: Server) -> None:
    with connected(server) as client:
        for _ in range(50):
            client.send(POST)
            assert_is_answered(client)
        client.send(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response()[0] == 404
        client.send(POST.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert_is_answered(client)
        assert client.receive_all() == b""


def test_a_request_may_come_byte_by_byte(server: Server) -> None:
    with connected(server) as client:
        for at in range(len(POST)):
            client.send(POST[at : at + 1])
        assert_is_answered(client)


@pytest.mark.parametrize("size", [1, 7, 64, len(BODY)])
@pytest.mark.parametrize("extension", [b"", b";name=value", b';q="a b"'])
def test_a_body_may_come_in_chunks(server: Server, size: int, extension: bytes) -> None:
    pieces = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    with connected(server) as client:
        client.send(chunked(body + b"0\r\nX-Trailer: t\r\n\r\n") + POST)
        assert_is_answered(client)
        assert_is_answered(client)


def test_chunks_beyond_reason_are_refused(server: Server) -> None:
    """T01: each chunk costs more than its byte, so their number has a limit."""
    held = resident(server)
    with connected(server) as client:
        client.send(chunked(b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"))
        status, _, body = client.response()
        assert status == 400
        assert "65536 chunks" in json.loads(body)["error"]
        client.receive_all()
    assert resident(server) - held <= 4 << 20
    assert_serves(server)


@pytest.mark.parametrize("ending", ["half-closes", "hangs up", "resets"])
@pytest.mark.parametrize("data", [b"", b"GET", LIVE[:-2], INFER, POST[:-5], POST, LIVE], ids=lambda data: data[-9:])
def test_a_client_that_ends_at_any_point_leaves_nothing_behind(server: Server, data: bytes, ending: str) -> None:
    before = descriptors(server)
    with connected(server) as client:
        client.send(data)
        if ending == "resets":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ending == "half-closes":
            client.socket.shutdown(socket.SHUT_WR)
            answered = [int(status) for status in STATUS_LINE.findall(client.receive_all())]
            assert answered in ([], [400], [200])
    assert wait_until_at_most(server, before), "a connection stays open"
    assert_serves(server)


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/fp32", "/v2/models/fp32/ready", "/v2/models/stats"],
)
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    with connected(server) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, headers, body = client.response()
        client.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, rest = client.receive_all().partition(b"\r\n\r\n")
    assert (status, rest) == (200, b"")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"content-length: {len(body)}".encode() in head.lower() or not body
    assert headers["content-type"].encode() in head


@pytest.mark.parametrize(
    ("request_line", "status", "allow"),
    [
        ("GET /nowhere", 404, None),
        ("POST /v2/nowhere", 404, None),
        ("POST /v2", 405, "GET, HEAD"),
        ("DELETE /v2/models/fp32", 405, "GET, HEAD"),
        ("DELETE /v2/health/live", 405, "GET, HEAD"),
        ("GET /v2/models/fp32/infer", 405, "POST"),
        ("HEAD /v2/models/fp32/infer", 405, "POST"),
        ("BREW /v2/models/fp32/infer", 405, "POST"),
    ],
)
def test_what_is_not_there_says_so_in_json(server: Server, request_line: str, status: int, allow: str | None) -> None:
    with connected(server) as client:
        client.send(f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = client.receive_all().decode().partition("\r\n\r\n")
    lines = dict(one.lower().split(": ", 1) for one in head.split("\r\n")[1:])
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert lines["content-type"] == "application/json"
    assert lines.get("allow", "").upper() == (allow or "").upper()
    if not request_line.startswith("HEAD"):
        assert set(json.loads(body)) == {"error", "code", "field"}


def test_clients_that_stall_are_closed_while_others_are_served(server: Server) -> None:
    """Silent, or a byte a second of headers or body: closed within 15 s, 15 s and 30 s (T23). Takes 12 s: `slow`."""
    limits = {"silent": 15.0, "header": 15.0, "body": 30.0}
    trickle = {"silent": b"", "header": line(b"X: " + b"x" * 99), "body": INFER + b"Content-Length: 99\r\n\r\n"}
    began = time.monotonic()
    closed: dict[str, float] = {}
    with connected(server) as silent, connected(server) as header, connected(server) as body:
        stalled = {"silent": silent, "header": header, "body": body}
        body.send(trickle["body"])
        tick = 0
        while open_ := {name: client for name, client in stalled.items() if name not in closed}:
            for name, client in open_.items():
                assert time.monotonic() - began < limits[name], f"{name} is still open"
                if name == "header":
                    client.send(trickle[name][tick : tick + 1])
                elif name == "body":
                    client.send(b" ")
            asked = time.monotonic()
            assert_serves(server)
            assert time.monotonic() - asked < 1.0
            tick += 1
            next_tick = began + tick
            while (left := next_tick - time.monotonic()) > 0:
                ready, _, _ = select.select([client.socket for client in open_.values()], [], [], left)
                for name, client in list(open_.items()):
                    if client.socket in ready and not client.receive():
                        closed[name] = time.monotonic() - began
                        del open_[name]
    assert STATUS_LINE.findall(body.received) in ([], [b"408"])
    assert STATUS_LINE.findall(silent.received + header.received) in ([], [b"408"])
    # Not before they had their time, either.
    assert closed["silent"] > 5.0
    assert closed["header"] > 5.0


def descriptors(server: Server) -> int:
    """Count the files and sockets that the server has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def wait_until_at_most(server: Server, count: int, seconds: float = 1.0) -> bool:
    """Tell whether the server gets back to so many open files in time."""
    deadline = time.monotonic() + seconds
    while descriptors(server) > count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def resident(server: Server) -> int:
    """Return the bytes that the server has in memory."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
