"""The protocol over gRPC: calls to messages, messages to answers, and the two ways to send.

Only this module names `grpc`, which the extra `grpc` installs. Tensors go as `raw_input_contents`, or as typed contents
where a client was made with `binary=False`. They come as `raw_output_contents`, of which the outputs are views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from axon._optional import needed
from axon._url import shown
from axon.client import _failure
from axon.client._call import Answer, Call, Codec, Failed, Retry, Verb
from axon.client._messages import message_class
from axon.client._wire import array_of_bytes, array_of_numbers
from axon.errors import ConnectionFailed, DeadlineExceeded, InvalidRequest, ServerError

with needed("grpc"):
    import grpc
    import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from axon._tensors import Array
    from axon._tls import Trust
    from axon.client._wire import Tensor

__all__ = ["AsyncGrpcSender", "GrpcCodec", "GrpcReply", "GrpcRequest", "GrpcSender"]

Message: TypeAlias = Any  # protobuf makes the classes at run time

_SERVICE: Final = "inference.GRPCInferenceService"
_METHODS: Final[Mapping[Verb, str]] = {
    Verb.LIVE: "ServerLive",
    Verb.READY: "ServerReady",
    Verb.MODEL_READY: "ModelReady",
    Verb.SERVER_METADATA: "ServerMetadata",
    Verb.MODEL_METADATA: "ModelMetadata",
    Verb.CONFIG: "ModelConfig",
    Verb.STATISTICS: "ModelStatistics",
    Verb.INDEX: "RepositoryIndex",
    Verb.LOAD: "RepositoryModelLoad",
    Verb.UNLOAD: "RepositoryModelUnload",
    Verb.INFER: "ModelInfer",
}
#: The answers that are one field of their message.
_ONLY_FIELD: Final = {
    Verb.LIVE: "live",
    Verb.READY: "ready",
    Verb.MODEL_READY: "ready",
    Verb.CONFIG: "config",
    Verb.INDEX: "models",
}
_CONTENTS: Final = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_LARGEST_INT64: Final = 2**63 - 1
#: What the library itself says of a deadline, of a connection that it could not make, and of one that it lost. The code
#: is the one that a server sends when it refuses. **Source:** gRPC 1.85, as observed.
_OUT_OF_TIME: Final = ("Deadline Exceeded", "")
_UNREACHED: Final = ("failed to connect", "name resolution", "dns resolution", "connections to all backends failing")
_BROKEN: Final = ("socket closed", "connection reset", "broken pipe", "recvmsg", "sendmsg", "goaway", "endpoint")
_OPTIONS: Final = (
    # The sizes of tensors are the server's business: it has a limit and says so.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that is restarted is found again within the waits of the retries.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
)


@dataclass(frozen=True, slots=True)
class GrpcRequest:
    """A request: which method, and its message."""

    method: str
    message: Message


@dataclass(frozen=True, slots=True)
class GrpcReply:
    """A reply: the message, or the code (its name), the text and the metadata of a failure."""

    message: Message = None
    code: str | None = None
    text: str = ""
    metadata: Sequence[tuple[str, Any]] = ()


class GrpcCodec(Codec[GrpcRequest, GrpcReply]):
    """Writes and reads the protocol's gRPC form."""

    binary_is_an_extension = False

    def request(self, call: Call, timeout_s: float | None) -> GrpcRequest:
        """Write a call; see `Codec.request`."""
        method = _METHODS[call.verb]
        message = message_class(f"{method}Request")()
        if call.verb is Verb.INFER:
            _fill_infer(message, call, timeout_s)
        elif call.verb in (Verb.LOAD, Verb.UNLOAD):
            message.model_name = call.model
            _fill_parameters(message.parameters, call.parameters)
        elif call.model is not None:
            message.name = call.model
            message.version = call.version
        return GrpcRequest(method, message)

    def failure(self, call: Call, reply: GrpcReply) -> Failed | None:
        """Read how a call failed; see `Codec.failure`."""
        if reply.code is None:
            return None
        metadata = {name: value for name, value in reply.metadata if isinstance(value, str)}
        retry_after_s = _failure.seconds(metadata.get("grpc-retry-pushback-ms"), 1e-3)
        if retry_after_s is None:
            retry_after_s = _failure.seconds(metadata.get("retry-after"))
        status = _failure.STATUSES.get(reply.code, 500)
        if reply.code == "RESOURCE_EXHAUSTED" and retry_after_s is not None:
            status = 429
        return _failure.failed(call, _failure.Said(status, reply.text, metadata.get("axon-field"), retry_after_s))

    def answer(self, call: Call, reply: GrpcReply) -> Answer:
        """Read the answer; see `Codec.answer`."""
        if call.verb is Verb.INFER:
            return _outputs(reply.message)
        said: dict[str, Any] = _plain(reply.message)
        answer: Answer = said[_ONLY_FIELD[call.verb]] if call.verb in _ONLY_FIELD else said
        return answer


def _fill_infer(message: Message, call: Call, timeout_s: float | None) -> None:
    message.model_name = call.model
    message.model_version = call.version
    message.id = call.id or ""
    parameters = dict(call.parameters)
    if timeout_s is not None:
        # The protocol's unit is the microsecond; 0 would be no limit.
        parameters["timeout"] = max(int(timeout_s * 1e6), 1)
    _fill_parameters(message.parameters, parameters)
    for index, tensor in enumerate(call.tensors):
        put = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if call.binary:
            message.raw_input_contents.append(bytes(tensor.to_bytes()))
        else:
            _fill_contents(put.contents, tensor, f"inputs[{index}]")
    for name in call.outputs or ():
        message.outputs.add(name=name)


def _fill_contents(contents: Message, tensor: Tensor, field: str) -> None:
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        message = f"{field}: {tensor.datatype} has no typed contents in gRPC\nhint: send it as bytes, with binary=True"
        raise InvalidRequest(message, field)
    getattr(contents, name).extend(tensor.data if isinstance(tensor.data, list) else tensor.to_numbers(field))


def _fill_parameters(fields: Message, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        field = fields[name]
        if isinstance(value, bool):
            field.bool_param = value
        elif isinstance(value, str):
            field.string_param = value
        elif isinstance(value, float):
            field.double_param = value
        else:
            _fill_integer(field, name, value)


def _fill_integer(field: Message, name: str, value: int) -> None:
    try:
        # Servers read a priority as unsigned, and take any other whole number signed.
        if name == "priority" or value > _LARGEST_INT64:
            field.uint64_param = value
        else:
            field.int64_param = value
    except ValueError as error:
        raise InvalidRequest(f"parameters.{name}: expected 64 bits, got {value}", f"parameters.{name}") from error


def _outputs(message: Message) -> dict[str, Array]:
    raw = message.raw_output_contents
    outputs = {}
    for index, put in enumerate(message.outputs):
        output = {"name": put.name, "datatype": put.datatype, "shape": put.shape}
        if any(size < 0 for size in put.shape):
            raise ServerError(f"output {put.name!r} has shape {list(put.shape)}")
        if index < len(raw):
            outputs[put.name] = array_of_bytes(output, memoryview(raw[index]))
        elif put.datatype in _CONTENTS:
            outputs[put.name] = array_of_numbers(output, getattr(put.contents, _CONTENTS[put.datatype]))
        else:
            raise ServerError(f"output {put.name!r} of {put.datatype} came without its bytes")
    return outputs


def _plain(message: Message) -> dict[str, Any]:
    """Return a message as the JSON that HTTP has for it: unset numbers and lists too, and integers as integers."""
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            is_message = field.message_type.fields_by_name["value"].message_type is not None
            values[field.name] = {key: _plain(each) if is_message else each for key, each in value.items()}
        elif field.is_repeated:
            values[field.name] = [_plain_value(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            values[field.name] = _plain_value(field, value)
    return values


def _plain_value(field: Any, value: Any) -> Any:  # noqa: ANN401 - a descriptor, and what its field holds
    if field.message_type is not None:
        return _plain(value)
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value


def _reply_of(error: grpc.RpcError, url: str, seconds: float) -> GrpcReply | Failed:
    """Tell a server's own refusal from a connection that failed, for which gRPC has the same code."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and text in _OUT_OF_TIME:
        return Failed(DeadlineExceeded(f"no answer within {seconds:.3g} s"))
    if code is grpc.StatusCode.UNAVAILABLE:
        if any(words in text.lower() for words in _UNREACHED):
            return Failed(ConnectionFailed(f"{shown(url)} cannot be reached: {text}"), Retry.UNSENT)
        if any(words in text.lower() for words in _BROKEN):
            return Failed(ConnectionFailed(f"{shown(url)} broke the connection: {text}"), Retry.REFUSED)
    return GrpcReply(code=code.name, text=text, metadata=tuple(error.trailing_metadata() or ()))


class _Channel:
    """What both senders have: one channel, and its methods by name, each made when it is first used."""

    def __init__(self, url: str, target: str, headers: Mapping[str, str], trust: Trust | None) -> None:
        self._url = url
        self._target = target
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._credentials = None if trust is None else grpc.ssl_channel_credentials(*trust.texts())
        self._channel: Any = None
        self._methods: dict[str, Callable[..., Any]] = {}

    def _method(self, name: str, api: Any) -> Callable[..., Any]:  # noqa: ANN401 - `grpc` or `grpc.aio`
        method = self._methods.get(name)
        if method is None:
            if self._channel is None:
                self._channel = self._open(api)
            method = self._methods[name] = self._channel.unary_unary(
                f"/{_SERVICE}/{name}",
                request_serializer=message_class(f"{name}Request").SerializeToString,
                response_deserializer=message_class(f"{name}Response").FromString,
            )
        return method

    def _open(self, api: Any) -> Any:  # noqa: ANN401
        if self._credentials is not None:
            return api.secure_channel(self._target, self._credentials, options=_OPTIONS)
        return api.insecure_channel(self._target, options=_OPTIONS)


class GrpcSender(_Channel):
    """Sends, and waits."""

    def __init__(self, url: str, target: str, headers: Mapping[str, str], trust: Trust | None) -> None:
        """Make a channel to `target`; it connects when it is first used."""
        super().__init__(url, target, headers, trust)
        # Made now: two threads that make it at once would lose one of two.
        self._channel = self._open(grpc)

    def send(self, request: GrpcRequest, seconds: float) -> GrpcReply | Failed:
        """Send a request and return its reply, or how it failed, within `seconds`."""
        method = self._method(request.method, grpc)
        try:
            return GrpcReply(method(request.message, timeout=seconds, metadata=self._metadata))
        except grpc.RpcError as error:
            return _reply_of(error, self._url, seconds)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncGrpcSender(_Channel):
    """Sends, and lets other tasks run meanwhile. The channel belongs to the loop that runs when it is first used."""

    async def send(self, request: GrpcRequest, seconds: float) -> GrpcReply | Failed:
        """Send a request and return its reply, or how it failed, within `seconds`."""
        method = self._method(request.method, grpc.aio)
        try:
            return GrpcReply(await method(request.message, timeout=seconds, metadata=self._metadata))
        except grpc.RpcError as error:
            return _reply_of(error, self._url, seconds)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()
