"""One prebuilt request over HTTP/1.1, sent over and over on connections that are kept.

The bytes of the request are made once, and an answer is read only as far as it must be to know where it ends: a
general client would take more time for both than a fast server does, and its time would be measured as the server's.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from axon.bench.record import CONNECTION, Failure
from axon.client._failure import read_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from axon._tls import Trust
    from axon.client._http import HttpRequest

__all__ = ["HttpTarget"]

_LONGEST_HEAD: Final = 64 << 10
#: How much of an answer that is an error is kept, to tell what it says.
_KEPT: Final = 4 << 10
_OK: Final = 200
_NO_BODY: Final = (204, 304)
_LENGTH: Final = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding[ \t]*:[^\r]*chunked", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection[ \t]*:[^\r]*close", re.IGNORECASE)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


class _Broken(Exception):  # noqa: N818
    """What came is no HTTP/1.1."""


class _Answer:
    """Reads one answer, fed with the bytes as they come."""

    def __init__(self) -> None:
        self.status = 0
        self.keeps = True
        self.kept = b""
        self._head = b""
        #: Bytes of the body, or of the chunk, that have not come; None is until the connection is closed.
        self._left: int | None = 0
        self._chunks: _Chunks | None = None

    def feed(self, data: bytes) -> bool:
        """Take bytes and return whether the answer is whole."""
        if not self.status:
            data = self._head + data
            while True:
                at = data.find(b"\r\n\r\n")
                if at < 0:
                    if len(data) > _LONGEST_HEAD:
                        raise _Broken(f"the answer's head is longer than {_LONGEST_HEAD} bytes")
                    self._head = data
                    return False
                self._read_head(data[: at + 2])
                data = data[at + 4 :]
                if self.status >= _OK:
                    break
                # An interim answer, as 100 Continue.
                self.status = 0
        if self._chunks is not None:
            return self._chunks.feed(data, self._keep)
        self._keep(data)
        if self._left is None:
            return False
        self._left -= len(data)
        if self._left < 0:
            raise _Broken("more bytes came than the answer has")
        return self._left == 0

    def ends_with_connection(self) -> bool:
        """Return whether the answer is whole now that the connection has been closed."""
        return self.status >= _OK and self._left is None and self._chunks is None

    def _read_head(self, head: bytes) -> None:
        found = _STATUS.match(head)
        if found is None:
            raise _Broken(f"expected an answer of HTTP/1.1, got {head[:40]!r}")
        self.status = int(found[1])
        self.keeps = _CLOSE.search(head) is None and head.startswith(b"HTTP/1.1")
        if self.status in _NO_BODY:
            self._left = 0
        elif _CHUNKED.search(head):
            self._chunks = _Chunks()
        else:
            length = _LENGTH.search(head)
            self._left = None if length is None else int(length[1])

    def _keep(self, data: bytes) -> None:
        if self.status != _OK and len(self.kept) < _KEPT:
            self.kept += data[: _KEPT - len(self.kept)]


class _Chunks:
    """Finds the end of a chunked body. **Source:** RFC 9112, section 7.1."""

    def __init__(self) -> None:
        self._line = b""
        #: Bytes of the chunk that have not come, its line end included; 0 is before a chunk's size.
        self._left = 0
        self._is_trailer = False

    def feed(self, data: bytes, keep: Callable[[bytes], None]) -> bool:
        """Take bytes, give those of the body to `keep`, and return whether the body is whole."""
        at = 0
        while at < len(data):
            if self._left:
                take = min(self._left, len(data) - at)
                keep(data[at : at + min(take, max(self._left - 2, 0))])
                self._left -= take
                at += take
                continue
            end = data.find(b"\n", at)
            self._line += data[at : end + 1] if end >= 0 else data[at:]
            if len(self._line) > _LONGEST_HEAD:
                raise _Broken("the line of a chunk's size is too long")
            if end < 0:
                return False
            at = end + 1
            line, self._line = self._line.strip(), b""
            if self._is_trailer:
                if not line:
                    return True
                continue
            size = line.partition(b";")[0].strip()
            if re.fullmatch(rb"[0-9a-fA-F]{1,15}", size) is None:
                raise _Broken(f"expected a chunk's size, got {line[:20]!r}")
            self._is_trailer = int(size, 16) == 0
            self._left = 0 if self._is_trailer else int(size, 16) + 2
        return False


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, idle: list[_Connection], every: set[_Connection]) -> None:
        self._idle = idle
        self._every = every
        self._transport: asyncio.Transport | None = None
        self._answer = _Answer()
        self._waiting: asyncio.Future[_Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP and TLS are streams
        self._transport = transport
        self._every.add(self)

    def ask(self, request: bytes) -> asyncio.Future[_Answer]:
        assert self._transport is not None  # noqa: S101 - it is made before anyone has this
        self._answer = _Answer()
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        try:
            is_whole = self._waiting is not None and self._answer.feed(data)
        except _Broken as error:
            self._fail(ConnectionError(str(error)))
            self.abort()
            return
        if self._waiting is None:
            self.abort()
        elif is_whole:
            self._end()
            if self._answer.keeps:
                self._idle.append(self)
            else:
                self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._every.discard(self)
        if self in self._idle:
            self._idle.remove(self)
        if self._waiting is not None and self._answer.ends_with_connection():
            self._end()
        else:
            self._fail(error or ConnectionResetError("the server closed the connection"))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(self._answer)

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)


class HttpTarget:
    """A server that is asked over HTTP/1.1, with a connection for each request that is under way."""

    def __init__(self, url: str, request: HttpRequest, trust: Trust) -> None:
        """Ask the server at `url`, which has a scheme and a host; nothing is opened yet."""
        parts = urlsplit(url)
        is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if is_secure else 80)
        self._tls = trust.context() if is_secure else None
        self._idle: list[_Connection] = []
        self._every: set[_Connection] = set()
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "User-Agent": "axon-bench",
            "Accept": "*/*",
            "Content-Length": str(len(request.body)),
            **request.headers,
        }
        lines = [f"{request.method} {parts.path.rstrip('/')}{request.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = "\r\n".join([*lines, "", ""]).encode() + request.body

    async def send(self) -> Failure | None:
        """Send the request on a connection that is kept, or a new one; see `Target.send`."""
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                answer = await connection.ask(self._request)
            except asyncio.CancelledError:
                # Hanging up is how a server is told over HTTP/1.1.
                connection.abort()
                raise
        except OSError as error:
            # The text that Python makes has the address, which is known.
            return Failure(CONNECTION, error.strerror or str(error) or type(error).__name__)
        if answer.status == _OK:
            return None
        message, _ = read_body(answer.status, answer.kept)
        return Failure(str(answer.status), message)

    async def close(self) -> None:
        """Close every connection."""
        for connection in list(self._every):
            connection.abort()
        # The transports close their sockets in the loop's next round.
        await asyncio.sleep(0)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._idle, self._every), self._host, self._port, ssl=self._tls
        )
        return connection
