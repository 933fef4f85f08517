"""What is asked of a server, whichever way it goes: values that the two codecs turn into HTTP and gRPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from axon._tensors import Array, Inputs
    from axon.client._wire import Tensor
    from axon.errors import AxonError

__all__ = ["Answer", "Ask", "Call", "Codec", "Failed", "Got", "Parameter", "Question", "Retry", "SequenceStep", "Verb"]

#: What a request's parameter may be.
Parameter: TypeAlias = "str | int | bool | float"

#: A JSON object or array, arrays by name, or whether a server or model is live or ready.
Answer: TypeAlias = "dict[str, Any] | list[dict[str, Any]] | dict[str, Array] | bool"

Ask = TypeVar("Ask")
Got = TypeVar("Got")


class Verb(Enum):
    """The calls of the protocol that a client makes."""

    LIVE = auto()
    READY = auto()
    MODEL_READY = auto()
    SERVER_METADATA = auto()
    MODEL_METADATA = auto()
    CONFIG = auto()
    STATISTICS = auto()
    EXPLAIN = auto()
    INDEX = auto()
    LOAD = auto()
    UNLOAD = auto()
    INFER = auto()


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """Which step of a sequence a request is, for models that keep state between requests.

    Attributes:
        id: The sequence: a number from 1 on, or a text of 1 to 128 characters.
        start: Whether this is its first request.
        end: Whether this is its last.
    """

    id: int | str
    start: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request to run a model, as the caller wrote it; `Client.infer` says what each part is."""

    model: str
    inputs: Inputs
    version: str | int | None = None
    outputs: Sequence[str] | None = None
    timeout_s: float | None = None
    parameters: Mapping[str, Parameter] | None = None
    id: str | None = None
    priority: int | None = None
    sequence: SequenceStep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, ready to be written.

    Attributes:
        verb: Which.
        model: The model that it is about; None for the server.
        version: The version; "" leaves it to the server.
        parameters: Of `INFER` the request's, of `LOAD` and `UNLOAD` theirs.
        tensors: The inputs.
        outputs: The outputs that are wanted; None for all.
        id: The request's; None for none.
        binary: Whether tensors go and come as bytes, else as numbers.
        repeatable: Whether it may be asked again when the server has had it and refused.
    """

    verb: Verb
    model: str | None = None
    version: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    tensors: Sequence[Tensor] = ()
    outputs: Sequence[str] | None = None
    id: str | None = None
    binary: bool = True
    repeatable: bool = True


class Retry(Enum):
    """Whether a failed call may be asked again."""

    NEVER = auto()
    #: The server has had it, and refused to do it now.
    REFUSED = auto()
    #: Nothing was sent.
    UNSENT = auto()


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that failed.

    Attributes:
        error: What the caller gets if it is not asked again.
        retry: Whether it may be.
    """

    error: AxonError
    retry: Retry = Retry.NEVER


class Codec(ABC, Generic[Ask, Got]):
    """Writes calls for one transport (`Ask`) and reads what comes back (`Got`). It is pure: nothing is sent here."""

    #: Whether a server must say that it takes tensors as bytes, before it is sent any.
    binary_is_an_extension: bool

    @abstractmethod
    def request(self, call: Call, timeout_s: float | None) -> Ask:
        """Write a call.

        Args:
            call: The call.
            timeout_s: What is left of the time that the caller allowed, to tell the server; None when it set none.
        """

    @abstractmethod
    def failure(self, call: Call, reply: Got) -> Failed | None:
        """Read how a call failed; None when it did not."""

    @abstractmethod
    def answer(self, call: Call, reply: Got) -> Answer:
        """Read the answer of a call that did not fail.

        Raises:
            ServerError: The answer is not the protocol's.
        """
