"""Asks a running server about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from axon._url import shown
from axon.errors import AxonError

if TYPE_CHECKING:
    from axon._tls import Trust

__all__ = ["TIMEOUT_S", "URL", "ask", "base_of", "tell"]

#: Where `axon serve` listens if nothing else is said.
URL: Final = "http://127.0.0.1:8000"

#: How long a question to a server may take.
TIMEOUT_S: Final = 10.0


def base_of(url: str) -> str:
    """Return the address of a server as it is asked: with a scheme, without a slash at the end."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def ask(url: str, path: str, member: str, trust: Trust) -> dict[str, Any]:
    """Return the JSON object that the server at `url` has at `path`.

    Args:
        url: The server, with or without a scheme.
        path: Below the server's address, without a slash in front.
        member: One that an Axon server's answer has.
        trust: Whom to take for it over TLS.

    Raises:
        InvalidRequest: `trust` is of no use for `url`.
        AxonError: The server cannot be asked, refuses, or is none of Axon's.
    """
    base = base_of(url)
    document = _exchange(base, "GET", path, TIMEOUT_S, trust)
    if not isinstance(document, dict) or member not in document:
        raise AxonError(f"{shown(base)} answered with something else: it is no Axon server")
    return document


def tell(  # noqa: PLR0913 - what may be said
    url: str, path: str, *, timeout_s: float, trust: Trust, method: str = "POST", body: object = None
) -> Any:  # noqa: ANN401 - JSON is anything
    """Have the server at `url` do what `path` says, and wait `timeout_s` seconds for it at most; return its JSON.

    Args:
        url: The server, with or without a scheme.
        path: Below the server's address, without a slash in front.
        timeout_s: Seconds to wait for the answer.
        trust: Whom to take for it over TLS.
        method: The method of HTTP.
        body: What is sent as JSON; nothing when None.

    Raises:
        InvalidRequest: `trust` is of no use for `url`.
        AxonError: The server cannot be asked or refuses.
    """
    return _exchange(base_of(url), method, path, timeout_s, trust, body)


def _exchange(  # noqa: PLR0913, PLR0917 - what an exchange is made of
    base: str, method: str, path: str, timeout_s: float, trust: Trust, body: object = None
) -> Any:  # noqa: ANN401 - JSON is anything
    import httpx2  # noqa: PLC0415 - the command line starts without it

    trust.check(base)
    verify = True if trust.is_default else trust.context()
    try:
        response = httpx2.request(method, f"{base}/{path}", timeout=timeout_s, json=body, verify=verify)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise AxonError(f"cannot ask {shown(base)}: {error or type(error).__name__}") from error
    try:
        document = response.json()
    except ValueError:
        document = {}
    if response.status_code != httpx2.codes.OK:
        told = document.get("error") if isinstance(document, dict) else None
        again = response.headers.get("retry-after")
        hint = f"\nhint: try again in {again} s" if again else ""
        raise AxonError(f"{shown(base)} answered {response.status_code}: {told or 'it is no Axon server'}{hint}")
    return document
