"""What a client does for each of its calls, step by step, without doing any of it.

A plan is a generator: it yields what to send and how long to wait, gets what came back, and returns the answer. The
blocking client and the asyncio client differ only in how they take the steps, and a test takes them with a clock of
its own.

A call has one deadline over all of its attempts. It is asked again when the server refused it for now (503, 429,
UNAVAILABLE), or when nothing was sent; the wait is the server's `Retry-After`, else it doubles from 0.1 s with jitter.
An attempt whose wait would end after the deadline is not made: the caller gets the error at once.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, cast

from axon._tensors import is_text
from axon.client._call import Answer, Ask, Call, Codec, Failed, Got, Question, Retry, SequenceStep, Verb
from axon.client._wire import has_datatype, tensor
from axon.errors import ConnectionFailed, DeadlineExceeded, InvalidRequest, ModelNotFound, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from axon._tensors import Array, Inputs
    from axon.client._call import Parameter
    from axon.client._wire import Tensor

__all__ = ["Plan", "Plans", "Send", "Settings", "Wait", "seconds_of"]

T = TypeVar("T")

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
_BINARY: Final = "binary_tensor_data"
#: Parameters with a meaning of the protocol's own, and the argument that says each.
_RESERVED: Final = {
    "timeout": "timeout_s",
    "priority": "priority",
    "sequence_id": "sequence",
    "sequence_start": "sequence",
    "sequence_end": "sequence",
    "binary_data_output": "binary of the client",
}


@dataclass(frozen=True, slots=True)
class Send(Generic[Ask]):
    """Send `request`, and give up after `seconds`."""

    request: Ask
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for `seconds`."""

    seconds: float


Plan: TypeAlias = Generator[Send[Ask] | Wait, Got | Failed | None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a client was told once, for all of its calls; `Client` says what each part is."""

    timeout_s: float
    retries: int
    binary: bool | None


@dataclass(frozen=True, slots=True)
class _Limit:
    """When a call must have ended, and whether the caller said so itself, so that the server is told."""

    deadline: float
    seconds: float
    is_told: bool


class Plans(Generic[Ask, Got]):
    """Makes the plans of one client."""

    def __init__(self, codec: Codec[Ask, Got], settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        """Write and read with `codec`; nothing is known of the server yet."""
        self._codec = codec
        self._settings = settings
        self._now = now
        self._is_binary = settings.binary if codec.binary_is_an_extension else settings.binary is not False
        self._signatures: dict[tuple[str, str], dict[str, str]] = {}

    def infer(self, asked: Question) -> Plan[Ask, Got, dict[str, Array]]:
        """Run a model; see `Client.infer`."""
        limit = self._limit(asked.timeout_s)
        model, version = _name(asked.model), _version(asked.version)
        signature: Mapping[str, str] = {}
        if _needs_signature(asked.inputs):
            signature = yield from self._signature(model, version, limit)
        tensors = _tensors(asked.inputs, signature)
        binary = self._is_binary
        if binary is None:
            binary = self._is_binary = yield from self._takes_binary(limit)
        call = Call(
            verb=Verb.INFER,
            model=model,
            version=version,
            parameters=_parameters(asked),
            tensors=tensors,
            outputs=_output_names(asked.outputs),
            id=asked.id,
            binary=binary,
            repeatable=asked.sequence is None,
        )
        try:
            answer = yield from self._exchange(call, limit)
        except (InvalidRequest, ModelNotFound):
            # The model may be another one by now than its signature says.
            self._signatures.pop((model, version), None)
            raise
        return cast("dict[str, Array]", answer)

    def probe(self, model: str | None, version: str | int | None) -> Plan[Ask, Got, bool]:
        """Ask whether the server (`model` None) or a model is ready."""
        verb = Verb.READY if model is None else Verb.MODEL_READY
        return self._probe(Call(verb=verb, model=model and _name(model), version=_version(version)))

    def is_live(self) -> Plan[Ask, Got, bool]:
        """Ask whether the server is live."""
        return self._probe(Call(verb=Verb.LIVE))

    def describe(self, verb: Verb, model: str | None, version: str | int | None) -> Plan[Ask, Got, dict[str, Any]]:
        """Ask what the server says of itself or of a model."""
        call = Call(verb=verb, model=None if model is None else _name(model), version=_version(version))
        answer = yield from self._exchange(call, self._limit(None))
        return cast("dict[str, Any]", answer)

    def index(self) -> Plan[Ask, Got, list[dict[str, Any]]]:
        """Ask for every model and its state."""
        answer = yield from self._exchange(Call(verb=Verb.INDEX), self._limit(None))
        return cast("list[dict[str, Any]]", answer)

    def load(self, model: str, config: Mapping[str, Any] | str | None) -> Plan[Ask, Got, None]:
        """Ask the server to load a model."""
        text = config if config is None or isinstance(config, str) else json.dumps(config)
        return self._change(Verb.LOAD, model, {} if text is None else {"config": text})

    def unload(self, model: str) -> Plan[Ask, Got, None]:
        """Ask the server to unload a model."""
        return self._change(Verb.UNLOAD, model, {"unload_dependents": False})

    def _change(self, verb: Verb, model: str, parameters: Mapping[str, Parameter]) -> Plan[Ask, Got, None]:
        call = Call(verb=verb, model=_name(model), parameters=parameters, repeatable=False)
        self._signatures.clear()
        yield from self._exchange(call, self._limit(None))

    def _probe(self, call: Call) -> Plan[Ask, Got, bool]:
        limit = self._limit(None)
        reply = yield Send(self._codec.request(call, None), limit.seconds)
        if isinstance(reply, Failed):
            if isinstance(reply.error, ConnectionFailed | DeadlineExceeded):
                return False
            raise reply.error
        assert reply is not None  # noqa: S101 - whoever takes the step sends what came of it
        return self._codec.failure(call, reply) is None and bool(self._codec.answer(call, reply))

    def _signature(self, model: str, version: str, limit: _Limit) -> Plan[Ask, Got, dict[str, str]]:
        """Return the data types of the model's inputs by name, asked for once."""
        key = (model, version)
        if key not in self._signatures:
            call = Call(verb=Verb.MODEL_METADATA, model=model, version=version)
            answer = cast("dict[str, Any]", (yield from self._exchange(call, limit)))
            try:
                self._signatures[key] = {put["name"]: put["datatype"] for put in answer["inputs"]}
            except (KeyError, TypeError) as error:
                raise ServerError(f"the metadata of model {model!r} has no inputs") from error
        return self._signatures[key]

    def _takes_binary(self, limit: _Limit) -> Plan[Ask, Got, bool]:
        """Return whether the server says that it takes tensors as bytes; one that says nothing does not."""
        try:
            answer = yield from self._exchange(Call(verb=Verb.SERVER_METADATA), limit)
        except (InvalidRequest, ServerError):
            return False
        extensions = cast("dict[str, Any]", answer).get("extensions")
        return isinstance(extensions, list) and _BINARY in extensions

    def _exchange(self, call: Call, limit: _Limit) -> Plan[Ask, Got, Answer]:
        attempt = 0
        while True:
            left = limit.deadline - self._now()
            if left <= 0:
                raise DeadlineExceeded(f"no answer within {limit.seconds:.3g} s")
            reply = yield Send(self._codec.request(call, left if limit.is_told else None), left)
            assert reply is not None  # noqa: S101 - as above
            failed = reply if isinstance(reply, Failed) else self._codec.failure(call, reply)
            if failed is None:
                return self._codec.answer(call, cast("Got", reply))
            may = failed.retry is Retry.UNSENT or (failed.retry is Retry.REFUSED and call.repeatable)
            wait = _wait(failed.error.retry_after_s, attempt)
            if not may or attempt >= self._settings.retries or self._now() + wait >= limit.deadline:
                raise failed.error
            yield Wait(wait)
            attempt += 1

    def _limit(self, timeout_s: float | None) -> _Limit:
        seconds = self._settings.timeout_s if timeout_s is None else seconds_of(timeout_s)
        return _Limit(self._now() + seconds, seconds, timeout_s is not None)


def seconds_of(timeout_s: float) -> float:
    """Check a length of time.

    Raises:
        InvalidRequest: It is none, or not more than zero.
    """
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not math.isfinite(timeout_s) or timeout_s <= 0:
        raise InvalidRequest(f"timeout_s: expected seconds, more than 0, got {timeout_s!r}", "timeout_s")
    return float(timeout_s)


def _wait(asked_s: float | None, attempt: int) -> float:
    if asked_s is not None:
        return asked_s
    # Half of it by chance, so that clients that were refused together do not come again together.
    longest: float = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


def _name(model: str) -> str:
    if not isinstance(model, str) or not model or not is_text(model):
        raise InvalidRequest(f"model: expected a name, got {model!r}", "model_name")
    return model


def _version(version: str | int | None) -> str:
    if version is not None and (isinstance(version, bool) or not isinstance(version, str | int)):
        raise InvalidRequest(f"version: expected a number or a text, got {version!r}", "model_version")
    return "" if version is None else str(version)


def _output_names(outputs: object) -> tuple[str, ...] | None:
    if outputs is None:
        return None
    if isinstance(outputs, str) or not hasattr(outputs, "__iter__"):
        raise InvalidRequest(f"outputs: expected a sequence of names, got {outputs!r}", "outputs")
    names = tuple(outputs)
    for index, name in enumerate(names):
        if not isinstance(name, str) or not is_text(name):
            field = f"outputs[{index}].name"
            raise InvalidRequest(f"{field}: expected text, got {name!r}", field)
    return names


def _parameters(asked: Question) -> dict[str, Parameter]:
    parameters: dict[str, Parameter] = {}
    for name, value in (asked.parameters or {}).items():
        field = f"parameters.{name}"
        if name in _RESERVED:
            raise InvalidRequest(f"{field}: it has a meaning of its own; use the argument `{_RESERVED[name]}`", field)
        if not isinstance(name, str) or not isinstance(value, str | int | bool | float):
            raise InvalidRequest(f"{field}: expected a text, a number or a boolean, got {value!r}", field)
        parameters[name] = value
    if asked.priority is not None:
        parameters["priority"] = asked.priority
    step = asked.sequence
    if step is not None:
        if not isinstance(step, SequenceStep):
            raise InvalidRequest(f"sequence: expected a SequenceStep, got {step!r}", "parameters.sequence_id")
        parameters |= {"sequence_id": step.id, "sequence_start": step.start, "sequence_end": step.end}
    return parameters


def _needs_signature(inputs: Inputs) -> bool:
    return not isinstance(inputs, Mapping) or not all(has_datatype(value) for value in inputs.values())


def _tensors(inputs: Inputs, signature: Mapping[str, str]) -> list[Tensor]:
    if not isinstance(inputs, Mapping):
        if len(signature) != 1:
            names = ", ".join(map(repr, signature))
            raise InvalidRequest(f"inputs: expected arrays by name ({names}), got one value", "inputs")
        inputs = {next(iter(signature)): inputs}
    return [tensor(at, name, value, signature.get(name)) for at, (name, value) in enumerate(inputs.items())]
