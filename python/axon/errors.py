"""What can go wrong, as exceptions. Only the leaves are raised.

```text
Exception
└── AxonError
    ├── InvalidRequest     (ValueError)     an input's name, shape or data type is wrong: do not retry
    ├── ModelNotFound      (LookupError)    no such model or version: do not retry
    ├── InvalidModel       (ValueError)     the model file cannot be served
    ├── ModelNotReady                       it is loading, or failed to: retry
    ├── Overloaded                          the queue is full: retry after `retry_after_s`
    ├── QuotaExceeded                       this client's own limit: retry after `retry_after_s`
    ├── DeadlineExceeded   (TimeoutError)   not run within the timeout
    ├── ConnectionFailed (ConnectionError)  a client cannot reach its server, or lost it
    ├── ExecutionFailed    (RuntimeError)   the model failed while it ran
    └── ServerError        (RuntimeError)   shutting down, closed, or a defect
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from axon._axon import NativeError

__all__ = [
    "AxonError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "ExecutionFailed",
    "InvalidModel",
    "InvalidRequest",
    "ModelNotFound",
    "ModelNotReady",
    "Overloaded",
    "QuotaExceeded",
    "ServerError",
]


class AxonError(Exception):
    """Any failure of Axon.

    Attributes:
        message: What came, what was wanted, and a hint on a line of its own.
        field: The part of the request that is wrong, as `inputs[0].shape[1]`; None when there is none.
        retry_after_s: Seconds after which to try again; None when that would not help.
    """

    def __init__(self, message: str, field: str | None = None, retry_after_s: float | None = None) -> None:
        """Describe the failure; the attributes say how."""
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[AxonError], tuple[str, str | None, float | None]]:
        """Pickle with every attribute, so that it crosses processes whole."""
        return type(self), (self.message, self.field, self.retry_after_s)


class InvalidRequest(AxonError, ValueError):  # noqa: N818 - the field's word
    """The request is wrong; the same request will be refused again."""


class ModelNotFound(AxonError, LookupError):  # noqa: N818
    """The model or the version is not here."""


class InvalidModel(AxonError, ValueError):  # noqa: N818
    """The model file cannot be served."""


class ModelNotReady(AxonError):  # noqa: N818
    """The model is here but cannot answer: it is loading, or failed to load."""


class Overloaded(AxonError):  # noqa: N818
    """The queue is full; `retry_after_s` says when to try again."""


class QuotaExceeded(AxonError):  # noqa: N818
    """A client has used up its own limit."""


class DeadlineExceeded(AxonError, TimeoutError):  # noqa: N818
    """The request was not run within its timeout."""


class ConnectionFailed(AxonError, ConnectionError):  # noqa: N818
    """The server cannot be reached, or the connection to it broke."""


class ExecutionFailed(AxonError, RuntimeError):  # noqa: N818
    """The model failed while it ran."""


class ServerError(AxonError, RuntimeError):
    """The server is shutting down or closed, or has a defect."""


_CLASSES = {leaf.__name__: leaf for leaf in AxonError.__subclasses__()}


def from_native(error: NativeError) -> AxonError:
    """Make the exception of an error of the native module."""
    name, message, field, retry_after_s = error
    return _CLASSES[name](message, field, retry_after_s)
