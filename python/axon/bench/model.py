"""The model that is asked, wherever it is: what it takes, and a target of prebuilt requests to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from axon._url import shown
from axon.bench.record import Failure
from axon.errors import AxonError, ServerError
from axon.metadata import TensorMetadata

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from axon._tensors import Array
    from axon._tls import Trust
    from axon.bench.load import Target
    from axon.client._call import Call

    Inputs: TypeAlias = "Mapping[str, Array]"

__all__ = ["ClosableTarget", "Model", "on_server", "open_in_process"]


@dataclass(frozen=True, slots=True)
class ClosableTarget:
    """A target, and how to close it."""

    target: Target
    close: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked.

    Attributes:
        name: Its name.
        version: The version that was chosen; None leaves it to the server.
        takes: Its inputs.
        protocol: "http", "grpc" or "in-process".
        address: The server's URL, or the path of what was opened.
        target: Makes a target, inside the loop that sends: of these inputs, and the seconds that the server is told it
            has; None tells it nothing.
        close: Closes what was opened.
    """

    name: str
    version: str | None
    takes: tuple[TensorMetadata, ...]
    protocol: str
    address: str
    target: Callable[[Inputs, float | None], ClosableTarget]
    close: Callable[[], None]


def on_server(url: str, name: str, version: str | None, trust: Trust) -> Model:
    """Ask the server at `url`, which `trust` is about, what a model takes.

    Raises:
        InvalidRequest: `url` is none; its field is "url".
        ImportError: It is for gRPC, and the extra `grpc` is not installed.
        AxonError: The server cannot be reached, has no such model, or answers something that is not the protocol's.
    """
    from axon.client import Client  # noqa: PLC0415 - and below: only the transport that is used is imported

    with Client(url, timeout_s=10.0, ca=trust.ca, certificate=trust.certificate) as client:
        is_grpc = url.startswith(("grpc://", "grpcs://"))
        said = client.metadata(name, version=version)
        is_binary = is_grpc or "binary_tensor_data" in (client.metadata().get("extensions") or ())
    try:
        takes = tuple(map(TensorMetadata.from_report, said["inputs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(f"the metadata of model {name!r} is not the protocol's: {error!r}") from error

    def call(inputs: Inputs) -> Call:
        from axon.client._call import Call, Verb  # noqa: PLC0415
        from axon.client._wire import tensor  # noqa: PLC0415

        datatypes = {each.name: each.datatype for each in takes}
        tensors = [tensor(at, put, array, datatypes.get(put)) for at, (put, array) in enumerate(inputs.items())]
        return Call(verb=Verb.INFER, model=name, version=version or "", tensors=tensors, binary=is_binary)

    def over_http(inputs: Inputs, told_s: float | None) -> ClosableTarget:
        from axon.bench.http import HttpTarget  # noqa: PLC0415
        from axon.client._http import HttpCodec  # noqa: PLC0415

        whole = url if "://" in url else f"http://{url}"
        target = HttpTarget(whole, HttpCodec().request(call(inputs), told_s), trust)
        return ClosableTarget(target, target.close)

    def over_grpc(inputs: Inputs, told_s: float | None) -> ClosableTarget:
        from axon.bench.grpc import GrpcTarget  # noqa: PLC0415
        from axon.client._grpc import GrpcCodec  # noqa: PLC0415

        message = GrpcCodec().request(call(inputs), told_s).message.SerializeToString()
        scheme, _, rest = url.partition("://")
        target = GrpcTarget(rest.rstrip("/"), message, trust if scheme == "grpcs" else None)
        return ClosableTarget(target, target.close)

    return Model(
        name=name,
        version=version,
        takes=takes,
        protocol="grpc" if is_grpc else "http",
        address=shown(url),
        target=over_grpc if is_grpc else over_http,
        close=lambda: None,
    )


def open_in_process(path: str, name: str | None) -> Model:
    """Open a model file, or a folder of models, in this process; `name` says which model of a folder.

    Raises:
        AxonError: It cannot be served, or the folder has no such model.
    """
    from axon import InferenceServer, sync  # noqa: PLC0415 - the engine, which only this needs

    is_folder = Path(path).is_dir()
    blocking = sync.InferenceServer.open(path) if is_folder else sync.InferenceServer.load(path, name=name)
    try:
        metadata = blocking.metadata(name)
    except AxonError:
        blocking.close()
        raise
    server = InferenceServer(blocking._native)  # noqa: SLF001 - the same server for asyncio

    def target(inputs: Inputs, told_s: float | None) -> ClosableTarget:
        return ClosableTarget(_InProcess(server, metadata.name, dict(inputs), told_s), _nothing)

    return Model(
        name=metadata.name,
        version=None,
        takes=metadata.inputs,
        protocol="in-process",
        address=path,
        target=target,
        close=blocking.close,
    )


class _InProcess:
    def __init__(self, server: Any, name: str, inputs: dict[str, Array], told_s: float | None) -> None:  # noqa: ANN401
        self._server = server
        self._name = name
        self._inputs = inputs
        self._told_s = told_s

    async def send(self) -> Failure | None:
        try:
            await self._server.infer(self._inputs, model=self._name, timeout_s=self._told_s)
        except AxonError as error:
            return Failure(type(error).__name__, error.message)
        return None


async def _nothing() -> None:
    return
