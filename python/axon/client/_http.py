"""The protocol over HTTP: calls to requests, replies to answers, and the two ways to send.

The binary extension puts the tensors' bytes after the JSON, whose length `Inference-Header-Content-Length` says. What
is copied: a request's tensors once, into its body; a reply once, from the socket's chunks into the memory that its
arrays are views of.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import quote

import httpx2

from axon._url import shown
from axon.client import _failure
from axon.client._call import Answer, Call, Codec, Failed, Retry, Verb
from axon.client._wire import array_of_bytes, array_of_numbers
from axon.errors import ConnectionFailed, DeadlineExceeded, ServerError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from axon._tensors import Array
    from axon._tls import Trust

__all__ = ["AsyncHttpSender", "HttpCodec", "HttpReply", "HttpRequest", "HttpSender"]

_JSON_LENGTH: Final = "Inference-Header-Content-Length"
_TIMEOUT: Final = "X-Request-Timeout"
_OK: Final = 200
#: Bytes: what NumPy's widest element asks for, and what memory for a reply is aligned to.
_ALIGNMENT: Final = 16
#: Identity: packing and unpacking tensors costs more than it saves on most networks.
_HEADERS: Final = {"User-Agent": "axon-client", "Accept": "*/*", "Accept-Encoding": "identity"}
_LIMITS: Final = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=30.0)

_PATHS: Final[Mapping[Verb, tuple[str, str]]] = {
    Verb.LIVE: ("GET", "/v2/health/live"),
    Verb.READY: ("GET", "/v2/health/ready"),
    Verb.MODEL_READY: ("GET", "{model}/ready"),
    Verb.SERVER_METADATA: ("GET", "/v2"),
    Verb.MODEL_METADATA: ("GET", "{model}"),
    Verb.CONFIG: ("GET", "{model}/config"),
    Verb.STATISTICS: ("GET", "{model}/stats"),
    Verb.INDEX: ("POST", "/v2/repository/index"),
    Verb.LOAD: ("POST", "/v2/repository/models/{name}/load"),
    Verb.UNLOAD: ("POST", "/v2/repository/models/{name}/unload"),
    Verb.INFER: ("POST", "{model}/infer"),
}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, less the server's address."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A reply, whole; `headers` are found by any case of their name."""

    status: int
    headers: Mapping[str, str]
    body: memoryview


class HttpCodec(Codec[HttpRequest, HttpReply]):
    """Writes and reads the protocol's HTTP form."""

    binary_is_an_extension = True

    def request(self, call: Call, timeout_s: float | None) -> HttpRequest:
        """Write a call; see `Codec.request`."""
        method, pattern = _PATHS[call.verb]
        name = quote(call.model or "", safe="")
        version = f"/versions/{quote(call.version, safe='')}" if call.version else ""
        path = pattern.format(name=name, model=f"/v2/models/{name}{version}" if name else "/v2/models")
        headers = {} if timeout_s is None else {_TIMEOUT: f"{timeout_s:.6f}"}
        if call.verb is Verb.INFER:
            return _infer_request(call, timeout_s, path, headers)
        if call.verb in (Verb.LOAD, Verb.UNLOAD):
            body = _json({"parameters": dict(call.parameters)} if call.parameters else {})
            return HttpRequest(method, path, headers | {"Content-Type": "application/json"}, body)
        return HttpRequest(method, path, headers)

    def failure(self, call: Call, reply: HttpReply) -> Failed | None:
        """Read how a call failed; see `Codec.failure`."""
        if reply.status == _OK:
            return None
        message, named = _failure.read_body(reply.status, bytes(reply.body))
        retry_after_s = _failure.seconds(reply.headers.get("Retry-After"))
        return _failure.failed(call, _failure.Said(reply.status, message, named, retry_after_s))

    def answer(self, call: Call, reply: HttpReply) -> Answer:
        """Read the answer; see `Codec.answer`."""
        if call.verb in (Verb.LIVE, Verb.READY, Verb.MODEL_READY):
            return True
        if call.verb in (Verb.LOAD, Verb.UNLOAD):
            return {}
        try:
            if call.verb is Verb.INFER:
                return _outputs(reply)
            said: Answer = json.loads(bytes(reply.body))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            message = f"the server's answer is not the protocol's: {type(error).__name__}: {error}"
            raise ServerError(message) from error
        if not isinstance(said, list if call.verb is Verb.INDEX else dict):
            raise ServerError(f"the server's answer is not the protocol's: got {type(said).__name__}")
        return said


def _infer_request(call: Call, timeout_s: float | None, path: str, headers: Mapping[str, str]) -> HttpRequest:
    parameters = dict(call.parameters)
    if timeout_s is not None:
        # The protocol's unit is the microsecond; 0 would be no limit.
        parameters["timeout"] = max(int(timeout_s * 1e6), 1)
    parts: list[bytes | memoryview] = []
    inputs = []
    for index, tensor in enumerate(call.tensors):
        described: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        if call.binary:
            parts.append(tensor.to_bytes())
            described["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            described["data"] = tensor.to_numbers(f"inputs[{index}]")
        inputs.append(described)
    asked: dict[str, Any] = {} if call.id is None else {"id": call.id}
    asked["inputs"] = inputs
    if call.outputs is not None:
        wanted = {"parameters": {"binary_data": True}} if call.binary else {}
        asked["outputs"] = [{"name": name, **wanted} for name in call.outputs]
    elif call.binary:
        parameters["binary_data_output"] = True
    if parameters:
        asked["parameters"] = parameters
    text = _json(asked)
    if not call.binary:
        return HttpRequest("POST", path, {**headers, "Content-Type": "application/json"}, text)
    headers = {**headers, "Content-Type": "application/octet-stream", _JSON_LENGTH: str(len(text))}
    return HttpRequest("POST", path, headers, b"".join([text, *parts]))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _outputs(reply: HttpReply) -> dict[str, Array]:
    length = reply.headers.get(_JSON_LENGTH)
    at = len(reply.body) if length is None else int(length)
    answer = json.loads(bytes(reply.body[:at]))
    outputs = {}
    for output in answer["outputs"]:
        _check_shape(output)
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[output["name"]] = array_of_numbers(output, output["data"])
        elif not 0 <= size <= len(reply.body) - at:
            raise ValueError(f"output {output['name']!r} has {size} bytes, of which {len(reply.body) - at} came")
        else:
            outputs[output["name"]] = array_of_bytes(output, reply.body[at : at + size])
            at += size
    return outputs


def _check_shape(output: Mapping[str, Any]) -> None:
    if not all(isinstance(size, int) and size >= 0 for size in output["shape"]):
        raise ValueError(f"output {output['name']!r} has shape {output['shape']}")


class _Budget(dict[str, float]):
    """The timeouts of one request as the transport asks for them: always what is left of the whole."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds

    def get(self, _phase: str, _default: object = None) -> float:
        # Zero would be a socket that does not wait at all, which is another kind of error.
        return max(self.deadline - time.monotonic(), 1e-3)

    @property
    def is_spent(self) -> bool:
        return time.monotonic() >= self.deadline

    def exceeded(self) -> Failed:
        return Failed(DeadlineExceeded(f"no answer within {self.seconds:.3g} s"))


def _reply(reply: httpx2.Response, chunks: list[bytes]) -> HttpReply:
    """Put a reply's chunks together, so that the bytes after the JSON are aligned."""
    try:
        before = -int(reply.headers.get(_JSON_LENGTH, "0")) % _ALIGNMENT
    except ValueError:
        before = 0
    body = bytearray(before + sum(map(len, chunks)))
    at = before
    for chunk in chunks:
        body[at : at + len(chunk)] = chunk
        at += len(chunk)
    return HttpReply(reply.status_code, reply.headers, memoryview(body)[before:])


def _failed(error: httpx2.HTTPError, budget: _Budget, url: str) -> Failed:
    if isinstance(error, httpx2.TimeoutException):
        return budget.exceeded()
    unsent = isinstance(error, httpx2.ConnectError)
    what = "cannot be reached" if unsent else "broke the connection"
    message = f"{shown(url)} {what}: {str(error) or type(error).__name__}"
    return Failed(ConnectionFailed(message), Retry.UNSENT if unsent else Retry.NEVER)


def _verify(trust: Trust) -> ssl.SSLContext | bool:
    return True if trust.is_default else trust.context()


_Sent: TypeAlias = "HttpReply | Failed"


class HttpSender:
    """Sends, and waits."""

    def __init__(self, url: str, headers: Mapping[str, str], trust: Trust) -> None:
        """Keep connections to `url`; none is opened yet."""
        self._url = url
        self._client = httpx2.Client(headers={**_HEADERS, **headers}, limits=_LIMITS, verify=_verify(trust))

    def send(self, request: HttpRequest, seconds: float) -> _Sent:
        """Send a request and return its reply, or how it failed, within `seconds`."""
        budget = _Budget(seconds)
        asked = _build(self._client, self._url, request, budget)
        chunks = []
        try:
            reply = self._client.send(asked, stream=True)
            try:
                for chunk in reply.iter_bytes():
                    if budget.is_spent:
                        return budget.exceeded()
                    chunks.append(chunk)
            finally:
                reply.close()
        except httpx2.HTTPError as error:
            return _failed(error, budget, self._url)
        return _reply(reply, chunks)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()


class AsyncHttpSender:
    """Sends, and lets other tasks run meanwhile."""

    def __init__(self, url: str, headers: Mapping[str, str], trust: Trust) -> None:
        """Keep connections to `url`; none is opened yet."""
        self._url = url
        self._client = httpx2.AsyncClient(headers={**_HEADERS, **headers}, limits=_LIMITS, verify=_verify(trust))

    async def send(self, request: HttpRequest, seconds: float) -> _Sent:
        """Send a request and return its reply, or how it failed, within `seconds`."""
        budget = _Budget(seconds)
        asked = _build(self._client, self._url, request, budget)
        try:
            async with asyncio.timeout(seconds):
                reply = await self._client.send(asked, stream=True)
                try:
                    chunks = [chunk async for chunk in reply.aiter_bytes()]
                finally:
                    await reply.aclose()
        except TimeoutError:
            return budget.exceeded()
        except httpx2.HTTPError as error:
            return _failed(error, budget, self._url)
        return _reply(reply, chunks)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def _build(
    client: httpx2.Client | httpx2.AsyncClient, url: str, request: HttpRequest, budget: _Budget
) -> httpx2.Request:
    return client.build_request(
        request.method,
        url + request.path,
        headers=dict(request.headers),
        content=request.body,
        extensions={"timeout": budget},
    )
