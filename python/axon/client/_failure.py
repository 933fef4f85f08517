"""From what a server says of a failure to an exception of `axon.errors`.

gRPC's codes are first turned into the HTTP statuses that mean the same, so that there is one table.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from axon.client._call import Failed, Retry, Verb
from axon.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    QuotaExceeded,
    ServerError,
)

if TYPE_CHECKING:
    from axon.client._call import Call
    from axon.errors import AxonError

__all__ = ["STATUSES", "Said", "failed", "read_body", "seconds"]

#: HTTP statuses by the names of gRPC's codes. RESOURCE_EXHAUSTED is a quota only where the server says when to come
#: again; else it is a message that is too large. **Source:** the gRPC mapping of the HTTP status codes.
STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "ALREADY_EXISTS": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_BAD_REQUEST, _NOT_FOUND, _SERVER = 400, 404, 500
_TOO_MANY, _UNAVAILABLE = 429, 503
_ALWAYS: Final[dict[int, type[AxonError]]] = {
    408: DeadlineExceeded,
    _TOO_MANY: QuotaExceeded,
    504: DeadlineExceeded,
}

#: What servers say in their texts and not in their codes. **Source:** Triton's error texts, and Axon's own.
_TEXTS: Final[tuple[tuple[int, str, type[AxonError]], ...]] = (
    (_BAD_REQUEST, "request for unknown model", ModelNotFound),
    (_UNAVAILABLE, "request timeout expired", DeadlineExceeded),
    (_UNAVAILABLE, "not ready", ModelNotReady),
    (_UNAVAILABLE, "ready state", ModelNotReady),
    (_UNAVAILABLE, "queue", Overloaded),
    (_UNAVAILABLE, "shutting down", ServerError),
    (_UNAVAILABLE, "stopping", ServerError),
)


class Said(NamedTuple):
    """What a server said of a failure.

    Attributes:
        status: The HTTP status that it means.
        message: Its text.
        field: The part of the request that is wrong; None when it does not say.
        retry_after_s: When it asked to come again; None when it did not. Negative is never.
    """

    status: int
    message: str
    field: str | None = None
    retry_after_s: float | None = None


def failed(call: Call, said: Said) -> Failed:
    """Make the exception, and say whether the call may be repeated."""
    status, message, field, retry_after_s = said
    never = retry_after_s is not None and retry_after_s < 0
    error = _class(call, said)(message, field, None if never else retry_after_s)
    # Not after a deadline that the server itself saw pass, and not a verb that the server refuses for good.
    may = status in (_TOO_MANY, _UNAVAILABLE) and not isinstance(error, DeadlineExceeded) and not never
    return Failed(error, Retry.REFUSED if may else Retry.NEVER)


def _class(call: Call, said: Said) -> type[AxonError]:
    status = said.status
    text = said.message.lower()
    for known, words, leaf in _TEXTS:
        if status == known and words in text:
            return leaf
    if status in _ALWAYS:
        return _ALWAYS[status]
    if status == _UNAVAILABLE and call.verb not in (Verb.LOAD, Verb.UNLOAD):
        return ModelNotReady if said.retry_after_s is None else Overloaded
    if status == _NOT_FOUND:
        # Without a model, it is the call that the server does not have.
        return ServerError if call.model is None else ModelNotFound
    if _BAD_REQUEST <= status < _SERVER:
        return InvalidRequest
    return ExecutionFailed if status == _SERVER and call.verb is Verb.INFER else ServerError


def read_body(status: int, body: bytes) -> tuple[str, str | None]:
    """Read the text and the field of an error's body, which may be anything."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("error"), str):
        text = body.decode(errors="replace").strip()[:500]
        return f"the server answered {status}{f': {text}' if text else ''}", None
    field = said.get("field")
    return said["error"], field if isinstance(field, str) else None


def seconds(text: str | None, scale: float = 1.0) -> float | None:
    """Read a number of seconds (after `scale`); None when there is none, as in a `Retry-After` with a date."""
    try:
        number = float(text) * scale if text is not None else None
    except ValueError:
        return None
    return number if number is not None and number == number and abs(number) != float("inf") else None  # noqa: PLR0124
