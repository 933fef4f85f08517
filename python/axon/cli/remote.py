"""Asking a running server over HTTP, for the commands that do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from axon.errors import AxonError

if TYPE_CHECKING:
    import argparse

__all__ = ["URL", "add_url", "ask"]

URL: Final = "http://127.0.0.1:8000"


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which server."""
    parser.add_argument("--url", default=URL, help=f"the server (default: {URL})")


def ask(url: str, path: str, *, post: bool = False, timeout_s: float = 10.0) -> Any:  # noqa: ANN401 - JSON is anything
    """Ask the server at `url` for `path`.

    Args:
        url: The server's address; `http://` may be left out.
        path: From the first slash on, escaped.
        post: Whether something is to be done; an empty body is sent.
        timeout_s: Seconds to wait.

    Returns:
        The JSON of the answer; None when it is empty.

    Raises:
        AxonError: The server cannot be asked or refuses; the message says what it answered.
    """
    import httpx2  # noqa: PLC0415 - the command line starts without it

    base = url if "://" in url else f"http://{url}"
    target = f"{base.rstrip('/')}{path}"
    try:
        response = httpx2.post(target, timeout=timeout_s) if post else httpx2.get(target, timeout=timeout_s)
    except httpx2.HTTPError as error:
        raise AxonError(f"cannot ask {base}: {error or type(error).__name__}") from error
    if not response.content and response.status_code == httpx2.codes.OK:
        return None
    try:
        document = response.json()
    except ValueError:
        document = None
    if response.status_code != httpx2.codes.OK:
        told = document.get("error") if isinstance(document, dict) else None
        again = response.headers.get("retry-after")
        hint = f"\nhint: try again in {again} s" if again else ""
        raise AxonError(f"{base} answered {response.status_code}: {told or 'it is no Axon server'}{hint}")
    if document is None:
        raise AxonError(f"{base} answered with something else: it is no Axon server")
    return document
