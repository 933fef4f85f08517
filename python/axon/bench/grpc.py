"""One prebuilt message over gRPC, sent over and over. Only this module here names `grpc`; see the extra `grpc`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from axon._optional import needed
from axon.bench.record import CONNECTION, Failure

with needed("grpc"):
    import grpc
    import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Callable

    from axon._tls import Trust

__all__ = ["GrpcTarget"]

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
#: Connections: a server allows so many calls on each, and the library would hold the rest back.
_CHANNELS: Final = 8
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Each channel has a connection of its own only where they do not share them.
    ("grpc.use_local_subchannel_pool", 1),
)
#: What the library says of a connection that it could not make, or lost; the code is one that servers send too.
#: **Source:** gRPC 1.85, as observed.
_CONNECTION_TEXTS: Final = (
    "failed to connect",
    "resolution",
    "connections to all backends failing",
    "socket closed",
    "connection reset",
    "broken pipe",
    "goaway",
)


class GrpcTarget:
    """A server that is asked over gRPC."""

    def __init__(self, target: str, message: bytes, trust: Trust | None) -> None:
        """Send `message`, a `ModelInferRequest`, to `target`, `host:port`, over TLS where `trust` is not None.

        Make it inside the loop that sends.
        """
        self._message = message
        self._next = 0
        self._channels = [_channel(target, trust) for _ in range(_CHANNELS)]
        # The bytes go as they are, and an answer's are not read.
        self._calls: list[Callable[..., Any]] = [channel.unary_unary(_METHOD) for channel in self._channels]

    async def send(self) -> Failure | None:
        """Send the message on the next connection in turn; see `Target.send`."""
        call = self._calls[self._next]
        self._next = (self._next + 1) % _CHANNELS
        try:
            await call(self._message)
        except grpc.RpcError as error:
            code, text = error.code(), error.details() or ""
            lost = code is grpc.StatusCode.UNAVAILABLE and any(words in text.lower() for words in _CONNECTION_TEXTS)
            return Failure(CONNECTION if lost else code.name, text)
        return None

    async def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            await channel.close()


def _channel(target: str, trust: Trust | None) -> Any:  # noqa: ANN401 - the library has no types
    if trust is not None:
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(*trust.texts()), options=_OPTIONS)
    return grpc.aio.insecure_channel(target, options=_OPTIONS)
