"""HTTP/2 frame by frame: what a well-behaved client can send, and what none would.

A `Connection` keeps the rules unless a test breaks them with `send`: it answers settings and pings, obeys the windows
of the server and opens its own again. Reading never waits longer than `PATIENCE_S`.

**Source:** RFC 9113; gRPC over HTTP2 for the five bytes before each message.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from hpack import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

__all__ = [
    "PATIENCE_S",
    "Connection",
    "Frame",
    "Headers",
    "Response",
    "block",
    "frame",
    "grpc_headers",
    "message",
    "post",
]

Headers: TypeAlias = "Sequence[tuple[str | bytes, str | bytes]]"

PATIENCE_S: Final = 30.0
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: What this client lets the server send of one response, and of all, before it says that it has read.
WINDOW: Final = (1 << 31) - 1
#: The windows and the longest frame until the server says otherwise.
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Response:
    """What has come of one stream.

    Attributes:
        headers: The first block of headers.
        trailers: The last one, where it came apart from the first.
        body: The data.
        ended: Whether the server has said that no more will come.
        reset: The code with which it took the stream back.
    """

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def is_over(self) -> bool:
        """True when nothing more will come."""
        return self.ended or self.reset is not None

    @property
    def status(self) -> str:
        """The status of HTTP."""
        return self.headers.get(":status", "")

    @property
    def metadata(self) -> dict[str, str]:
        """The headers and the trailers."""
        return {**self.headers, **self.trailers}

    def messages(self) -> list[tuple[int, bytes]]:
        """Return each message of gRPC with its flag; fails unless the body ends where the last one does."""
        found, left = [], bytes(self.body)
        while left:
            flag, length = struct.unpack_from(">BI", left)
            assert len(left) >= 5 + length, (flag, length, len(left))
            found.append((flag, left[5 : 5 + length]))
            left = left[5 + length :]
        return found


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def block(headers: Headers) -> bytes:
    """Return a block of headers as plain literals: nothing is indexed, so that any block may be sent any time."""

    def text(value: str | bytes) -> bytes:
        encoded = value.encode("latin-1") if isinstance(value, str) else value
        return integer(len(encoded)) + encoded

    return b"".join(b"\0" + text(name) + text(value) for name, value in headers)


def integer(value: int) -> bytes:
    """Return an integer of HPACK with a prefix of seven bits that are its own. **Source:** RFC 7541, 5.1."""
    if value < 127:
        return bytes([value])
    value, encoded = value - 127, [127]
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes([*encoded, value])


def message(payload: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """Return a message of gRPC as it goes on the wire."""
    return struct.pack(">BI", flag, len(payload) if length is None else length) + payload


def post(path: str, changes: Mapping[str, str | bytes | None] | None = None, method: str = "POST") -> Headers:
    """Return the headers of a request; `changes` adds, replaces or, by None, takes out."""
    headers: dict[str, str | bytes | None] = {
        ":method": method, ":scheme": "http", ":path": path, ":authority": "test",
    }  # fmt: skip
    headers.update(changes or {})
    return [(name, value) for name, value in headers.items() if value is not None]


def grpc_headers(path: str, changes: Mapping[str, str | bytes | None] | None = None) -> Headers:
    """Return the headers of a call."""
    return post(path, {"content-type": "application/grpc", "te": "trailers", **(changes or {})})


class Connection:
    """A connection to a server that speaks HTTP/2."""

    def __init__(self, address: str) -> None:
        """Connect to `host:port` and say the preface."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)  # noqa: FBT003 - the name of the method is the question
        #: The code and the text with which the server ended the connection.
        self.goaway: tuple[int, str] | None = None
        #: Whether the server has closed it.
        self.closed = False
        self.frames_read = 0
        self.max_frame = DEFAULT_FRAME
        self.streams: dict[int, Response] = {}
        self._next = 1
        self._decoder = Decoder()
        self._received = bytearray()
        self._outgoing = bytearray()
        self._pongs = 0
        self._block: tuple[int, bool, bytes] | None = None
        self._window = DEFAULT_WINDOW
        self._initial = DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        window = frame(SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, WINDOW))
        opened = frame(WINDOW_UPDATE, payload=struct.pack(">I", WINDOW - DEFAULT_WINDOW))
        self.send(PREFACE + window + opened)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.socket.close()

    def send(self, raw: bytes) -> None:
        """Send bytes as they are; what comes meanwhile is read. Stops where the server has closed."""
        self._outgoing += raw
        while self._outgoing and not self.closed:
            readable, writable, _ = select.select([self.socket], [self.socket], [], PATIENCE_S)
            assert readable or writable, "the server neither reads nor writes"
            if writable:
                self._flush()
            if readable:
                self._receive()

    def open(self, headers: Headers, *, end: bool = False) -> int:
        """Begin a request and return the number of its stream."""
        stream = self._next
        self._next += 2
        self.streams[stream] = Response()
        self._windows[stream] = self._initial
        encoded = block(headers)
        first, rest = encoded[: self.max_frame], encoded[self.max_frame :]
        flags = END_STREAM * end
        raw = [frame(HEADERS, flags | END_HEADERS * (not rest), stream, first)]
        while rest:
            piece, rest = rest[: self.max_frame], rest[self.max_frame :]
            raw.append(frame(CONTINUATION, END_HEADERS * (not rest), stream, piece))
        self.send(b"".join(raw))
        return stream

    def data(self, stream: int, payload: bytes, *, end: bool = True, size: int | None = None) -> None:
        """Send a body in frames of at most `size` bytes, as the windows allow; stops when the response has ended."""
        left = memoryview(payload)
        while (left or end) and not self.is_over(stream):
            room = min(self.max_frame, self.room(stream), size or len(left) or 1)
            if left and room <= 0:
                self.read()
                continue
            piece, left = left[:room], left[room:]
            self._window -= len(piece)
            self._windows[stream] -= len(piece)
            self.send(frame(DATA, END_STREAM * (end and not left), stream, bytes(piece)))
            if not left:
                return

    def room(self, stream: int) -> int:
        """Return how many bytes of a body the server takes now."""
        return min(self._window, self._windows[stream])

    def request(self, headers: Headers, body: bytes | None = None) -> Response:
        """Send a request and wait for the whole response."""
        stream = self.open(headers, end=body is None)
        if body is not None:
            self.data(stream, body)
        return self.wait(stream)

    def is_over(self, stream: int) -> bool:
        """Return whether nothing more will come of a stream."""
        return self.closed or self.streams[stream].is_over

    def wait(self, stream: int) -> Response:
        """Read until nothing more will come of a stream, and return what did."""
        self.read_until(lambda: self.is_over(stream))
        return self.streams[stream]

    def read_until(self, condition: Callable[[], bool]) -> None:
        """Read until a condition holds or the server has closed."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition() and not self.closed:
            assert time.monotonic() < deadline, "what was waited for did not come"
            self.read()

    def read(self) -> None:
        """Wait for bytes and take in what they say."""
        readable, _, _ = select.select([self.socket], [], [], PATIENCE_S)
        assert readable, "nothing came"
        self._receive()
        self.send(b"")

    def ping(self) -> None:
        """Return when the server has taken in all that was sent before, or has closed."""
        answered = self._pongs
        self.send(frame(PING, payload=b"synctest"))
        self.read_until(lambda: self._pongs > answered)

    def _flush(self) -> None:
        try:
            del self._outgoing[: self.socket.send(memoryview(self._outgoing)[: 1 << 18])]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            with suppress(OSError):
                while not self.closed and select.select([self.socket], [], [], 0)[0]:
                    self._receive()
            self.closed = True

    def _receive(self) -> None:
        try:
            piece = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionResetError:
            piece = b""
        self.closed |= not piece
        self._received += piece
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + length:
                return
            kind, flags, stream = struct.unpack_from(">BBI", self._received, 3)
            payload = bytes(self._received[9 : 9 + length])
            del self._received[: 9 + length]
            self.frames_read += 1
            self._take(Frame(kind, flags, stream, payload))

    def _take(self, came: Frame) -> None:
        if came.kind == SETTINGS and not came.flags & ACK:
            for name, value in struct.iter_unpack(">HI", came.payload):
                self._setting(name, value)
            self._outgoing += frame(SETTINGS, ACK)
        elif came.kind == PING and came.flags & ACK:
            self._pongs += 1
        elif came.kind == PING:
            self._outgoing += frame(PING, ACK, payload=came.payload)
        elif came.kind == GOAWAY:
            self.goaway = (int.from_bytes(came.payload[4:8], "big"), came.payload[8:].decode("latin-1"))
        elif came.kind == WINDOW_UPDATE:
            (more,) = struct.unpack(">I", came.payload)
            if came.stream:
                self._windows[came.stream] = self._windows.get(came.stream, self._initial) + more
            else:
                self._window += more
        elif came.kind in {HEADERS, CONTINUATION}:
            self._headers(came)
        elif came.kind in {DATA, RST_STREAM}:
            self._body(came)

    def _setting(self, name: int, value: int) -> None:
        if name == MAX_FRAME_SIZE:
            self.max_frame = value
        elif name == INITIAL_WINDOW_SIZE:
            grown, self._initial = value - self._initial, value
            self._windows = {stream: window + grown for stream, window in self._windows.items()}

    def _headers(self, came: Frame) -> None:
        _, ends, earlier = self._block or (came.stream, bool(came.flags & END_STREAM), b"")
        self._block = (came.stream, ends, earlier + came.payload)
        if not came.flags & END_HEADERS:
            return
        pairs = {str(name): str(value) for name, value in self._decoder.decode(self._block[2])}
        self._block = None
        response = self.streams.setdefault(came.stream, Response())
        if response.headers:
            response.trailers = pairs
        else:
            response.headers = pairs
        response.ended |= ends

    def _body(self, came: Frame) -> None:
        response = self.streams.setdefault(came.stream, Response())
        if came.kind == RST_STREAM:
            response.reset = int.from_bytes(came.payload, "big")
            return
        response.body += came.payload
        response.ended |= bool(came.flags & END_STREAM)
        if came.payload:
            opened = struct.pack(">I", len(came.payload))
            self._outgoing += frame(WINDOW_UPDATE, payload=opened)
            if not response.ended:
                self._outgoing += frame(WINDOW_UPDATE, stream=came.stream, payload=opened)
