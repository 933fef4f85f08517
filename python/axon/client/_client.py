"""`Client` and `AsyncClient`: the plans of `axon.client._plan`, and the two ways to take their steps."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from axon._tls import Trust
from axon._url import shown
from axon.client._call import Question, Verb
from axon.client._plan import Plans, Settings, Wait, seconds_of
from axon.errors import InvalidRequest, ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from types import TracebackType
    from typing import Self

    from axon._tensors import Array, Inputs
    from axon.client._call import Codec, Parameter, SequenceStep
    from axon.client._plan import Plan

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")

_TIMEOUT_S = 60.0
_RETRIES = 2


class _Base:
    """What both clients are told when they are made."""

    def __init__(  # noqa: PLR0913 - each is one thing that may be said of a server
        self,
        url: str,
        *,
        timeout_s: float = _TIMEOUT_S,
        retries: int = _RETRIES,
        binary: bool | None = None,
        headers: Mapping[str, str] | None = None,
        ca: str | PathLike[str] | None = None,
        certificate: tuple[str | PathLike[str], str | PathLike[str]] | None = None,
    ) -> None:
        """Make a client of the server at `url`. It connects when it is first used.

        Args:
            url: `http://host:port`, `https://`, `grpc://` or `grpcs://`; without a scheme it is HTTP.
            timeout_s: Seconds for one call with all its attempts, where the call does not say; more than 0. The server
                is not told this one.
            retries: How often a call is made again that the server refused for now, or that could not be sent; from 0.
            binary: Whether tensors go as bytes and not as numbers; None asks the server once whether it can.
            headers: Sent with every call (as metadata over gRPC).
            ca: File of PEM certificates of which one has signed the server's, over TLS; None trusts those that the
                system trusts.
            certificate: Files of the client's own certificate and of its private key, for a server that asks for one.

        Raises:
            InvalidRequest: An argument is not what it should be.
            ImportError: The URL is for gRPC, and the extra `grpc` is not installed.
        """
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise InvalidRequest(f"retries: expected a whole number from 0, got {retries!r}", "retries")
        settings = Settings(timeout_s=seconds_of(timeout_s), retries=retries, binary=binary)
        trust = Trust(ca=ca, certificate=certificate)
        codec, self._sender = self._way(_split(url), dict(headers or {}), trust)
        self._plans: Plans[Any, Any] = Plans(codec, settings)
        self.url = url
        self._is_closed = False

    def _check_open(self) -> None:
        if self._is_closed:
            raise ServerError("the client is closed")

    def _way(self, address: tuple[str, str], headers: Mapping[str, str], trust: Trust) -> tuple[Codec[Any, Any], Any]:
        """Return the codec for a scheme, and who sends what it writes."""
        scheme, rest = address
        trust.check(f"{scheme}://{rest}")
        is_async = isinstance(self, AsyncClient)
        if scheme in ("http", "https"):
            from axon.client import _http  # noqa: PLC0415 - only the transport that is used is imported

            sender: Any = _http.AsyncHttpSender if is_async else _http.HttpSender
            return _http.HttpCodec(), sender(f"{scheme}://{rest}", headers, trust)
        from axon.client import _grpc  # noqa: PLC0415 - an optional dependency

        sender = _grpc.AsyncGrpcSender if is_async else _grpc.GrpcSender
        return _grpc.GrpcCodec(), sender(f"{scheme}://{rest}", rest, headers, trust if scheme == "grpcs" else None)


def _split(url: str) -> tuple[str, str]:
    """Split a URL into its scheme and the rest, without a slash at its end."""
    wanted = "expected http://host:port, https://, grpc:// or grpcs://"
    if not isinstance(url, str):
        raise InvalidRequest(f"url: {wanted}, got {url!r}", "url")
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        is_good = parts.hostname and (parts.port is None or parts.port > 0) and not (parts.query or parts.fragment)
    except ValueError:
        is_good = False
    is_grpc = whole.startswith(("grpc://", "grpcs://"))
    if (
        not is_good
        or parts.scheme not in ("http", "https", "grpc", "grpcs")
        or (is_grpc and (parts.path.strip("/") or "@" in parts.netloc))
    ):
        raise InvalidRequest(f"url: {wanted}, got {shown(url)!r}", "url")
    return parts.scheme, whole.partition("://")[2].rstrip("/")


class Client(_Base):
    """Asks a server of the Open Inference Protocol v2, and waits. Threads may share one.

    ```python
    with Client("grpc://localhost:8001") as client:
        outputs = client.infer("model", {"x": array}, timeout_s=0.5)
    ```
    """

    def infer(  # noqa: PLR0913 - what the protocol lets a request say
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        priority: int | None = None,
        sequence: SequenceStep | None = None,
    ) -> dict[str, Array]:
        """Run `model` once.

        Args:
            model: Its name.
            inputs: Arrays by input name, or one array for a model with one input. An array is NumPy's, or anything
                with `__dlpack__` or `__array__`; lists take the model's data type, for which its metadata is asked
                once. Strings and bytes make BYTES.
            version: Version to run; the server's choice when None.
            outputs: Names of the outputs that are wanted; all when None.
            timeout_s: Seconds for the whole call with its retries. The server is told what is left at each attempt.
                The client's own `timeout_s`, of which the server is not told, when None.
            parameters: Further parameters of the request.
            id: The request's, for the server's log.
            priority: From 1, the highest; the model's default when None.
            sequence: Which step of a sequence this is. It is not sent again once the server may have had it.

        Returns:
            Arrays by output name, in the server's order: views of what came where that is aligned. BYTES are object
            arrays of `bytes`; BF16 is `ml_dtypes.bfloat16`, or its bits as uint16 where `ml_dtypes` is not installed.

        Raises:
            InvalidRequest: An argument or an input is wrong; `field` says which, where the server does.
            ModelNotFound: The server has no such model or version.
            ModelNotReady: It is loading, or failed to.
            Overloaded: The server cannot answer in time; `retry_after_s` says when to try again.
            QuotaExceeded: This client has used up its own limit.
            DeadlineExceeded: There was no answer within the time.
            ConnectionFailed: The server cannot be reached, or the connection broke.
            ExecutionFailed: The model failed while it ran.
            ServerError: The server failed, or its answer is not the protocol's.
        """
        return self._take(
            self._plans.infer(
                Question(
                    model=model,
                    inputs=inputs,
                    version=version,
                    outputs=outputs,
                    timeout_s=timeout_s,
                    parameters=parameters,
                    id=id,
                    priority=priority,
                    sequence=sequence,
                )
            )
        )

    def metadata(self, model: str | None = None, *, version: str | int | None = None) -> dict[str, Any]:
        """Return what a model takes and gives, or what the server is, as the protocol's JSON.

        Raises:
            ModelNotFound: There is no such model or version.
        """
        return self._take(
            self._plans.describe(Verb.SERVER_METADATA if model is None else Verb.MODEL_METADATA, model, version)
        )

    def config(self, model: str, *, version: str | int | None = None) -> dict[str, Any]:
        """Return how a model is configured, as Triton's JSON.

        Raises:
            ModelNotFound: There is no such model or version.
        """
        return self._take(self._plans.describe(Verb.CONFIG, model, version))

    def statistics(self, model: str | None = None, *, version: str | int | None = None) -> dict[str, Any]:
        """Return what a model, or every model, has done so far, as Triton's JSON (`{"model_stats": [...]}`).

        Raises:
            ModelNotFound: There is no such model or version.
        """
        return self._take(self._plans.describe(Verb.STATISTICS, model, version))

    def is_live(self) -> bool:
        """Return whether the server answers that it is live; False when it cannot be reached."""
        return self._take(self._plans.is_live())

    def is_ready(self, model: str | None = None, *, version: str | int | None = None) -> bool:
        """Return whether the server, or a model, is ready; False when the server cannot be reached."""
        return self._take(self._plans.probe(model, version))

    def models(self) -> list[dict[str, Any]]:
        """Return every version of every model in the server's repository: `name`, `version`, `state`, `reason`."""
        return self._take(self._plans.index())

    def load(self, model: str, *, config: Mapping[str, Any] | str | None = None) -> None:
        """Load a model, or load it anew.

        Args:
            model: Its name in the repository.
            config: Its configuration, as Triton's JSON; the repository's when None.

        Raises:
            InvalidRequest: It cannot be loaded.
            ModelNotFound: It is not in the repository.
        """
        self._take(self._plans.load(model, config))

    def unload(self, model: str) -> None:
        """Unload every version of a model.

        Raises:
            ModelNotFound: It is not in the repository.
        """
        self._take(self._plans.unload(model))

    def close(self) -> None:
        """Close every connection. Closing twice does nothing more."""
        self._is_closed = True
        self._sender.close()

    def _take(self, plan: Plan[Any, Any, T]) -> T:
        self._check_open()
        got: Any = None
        while True:
            try:
                step = plan.send(got)
            except StopIteration as end:
                answer: T = end.value
                return answer
            got = None
            if isinstance(step, Wait):
                time.sleep(step.seconds)
            else:
                got = self._sender.send(step.request, step.seconds)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()


class AsyncClient(_Base):
    """Asks a server of the Open Inference Protocol v2 from asyncio; the twin of `Client`, call for call.

    ```python
    async with AsyncClient("http://localhost:8000") as client:
        outputs = await client.infer("model", {"x": array})
    ```
    """

    async def infer(  # noqa: PLR0913 - what the protocol lets a request say
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int | None = None,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        priority: int | None = None,
        sequence: SequenceStep | None = None,
    ) -> dict[str, Array]:
        """Run `model` once; see `Client.infer`. Cancelling the task gives the request up."""
        return await self._take(
            self._plans.infer(
                Question(
                    model=model,
                    inputs=inputs,
                    version=version,
                    outputs=outputs,
                    timeout_s=timeout_s,
                    parameters=parameters,
                    id=id,
                    priority=priority,
                    sequence=sequence,
                )
            )
        )

    async def metadata(self, model: str | None = None, *, version: str | int | None = None) -> dict[str, Any]:
        """Return what a model takes and gives, or what the server is; see `Client.metadata`."""
        return await self._take(
            self._plans.describe(Verb.SERVER_METADATA if model is None else Verb.MODEL_METADATA, model, version)
        )

    async def config(self, model: str, *, version: str | int | None = None) -> dict[str, Any]:
        """Return how a model is configured; see `Client.config`."""
        return await self._take(self._plans.describe(Verb.CONFIG, model, version))

    async def statistics(self, model: str | None = None, *, version: str | int | None = None) -> dict[str, Any]:
        """Return what a model, or every model, has done so far; see `Client.statistics`."""
        return await self._take(self._plans.describe(Verb.STATISTICS, model, version))

    async def is_live(self) -> bool:
        """Return whether the server is live; see `Client.is_live`."""
        return await self._take(self._plans.is_live())

    async def is_ready(self, model: str | None = None, *, version: str | int | None = None) -> bool:
        """Return whether the server, or a model, is ready; see `Client.is_ready`."""
        return await self._take(self._plans.probe(model, version))

    async def models(self) -> list[dict[str, Any]]:
        """Return every version of every model in the server's repository; see `Client.models`."""
        return await self._take(self._plans.index())

    async def load(self, model: str, *, config: Mapping[str, Any] | str | None = None) -> None:
        """Load a model, or load it anew; see `Client.load`."""
        await self._take(self._plans.load(model, config))

    async def unload(self, model: str) -> None:
        """Unload every version of a model; see `Client.unload`."""
        await self._take(self._plans.unload(model))

    async def close(self) -> None:
        """Close every connection. Closing twice does nothing more."""
        self._is_closed = True
        await self._sender.close()

    async def _take(self, plan: Plan[Any, Any, T]) -> T:
        self._check_open()
        got: Any = None
        while True:
            try:
                step = plan.send(got)
            except StopIteration as end:
                answer: T = end.value
                return answer
            got = None
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
            else:
                got = await self._sender.send(step.request, step.seconds)

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()
