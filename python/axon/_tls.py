"""Whom a client trusts over TLS, and by what it says who it is."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from axon._url import shown
from axon.errors import InvalidRequest

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Trust"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The files of a client, all PEM.

    Attributes:
        ca: Certificates of which one has signed the server's; None trusts those that the system trusts.
        certificate: The client's own certificate, with those that lead from it to one that the server trusts, and its
            private key; None shows none.
    """

    ca: str | PathLike[str] | None = None
    certificate: tuple[str | PathLike[str], str | PathLike[str]] | None = None

    @property
    def is_default(self) -> bool:
        """Whether nothing is said."""
        return self.ca is None and self.certificate is None

    def check(self, url: str) -> None:
        """Check that what is said is of use for `url`.

        Raises:
            InvalidRequest: Something is said, and the URL is for a connection without TLS.
        """
        if not self.is_default and not url.startswith(("https://", "grpcs://")):
            field = "certificate" if self.ca is None else "ca"
            raise InvalidRequest(
                f"{field}: expected a URL that begins with https:// or grpcs://, got {shown(url)!r}", field
            )

    def context(self) -> ssl.SSLContext:
        """Make what Python's sockets ask for.

        Raises:
            InvalidRequest: A file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise InvalidRequest(f"ca: `{self.ca}` cannot be used: {_reason(error)}", "ca") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(*self.certificate)
            except OSError as error:
                files = "` and `".join(map(str, self.certificate))
                raise InvalidRequest(
                    f"certificate: `{files}` cannot be used: {_reason(error)}", "certificate"
                ) from error
        return context

    def texts(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Read what gRPC asks for: the authorities, the key, the certificate.

        Raises:
            InvalidRequest: A file cannot be used.
        """
        # The library says nothing of why it cannot use a file.
        self.context()
        certificate, key = (None, None) if self.certificate is None else map(_read, self.certificate)
        return None if self.ca is None else _read(self.ca), key, certificate


def _read(path: str | PathLike[str]) -> bytes:
    return Path(path).read_bytes()


def _reason(error: OSError) -> str:
    # OpenSSL's own words, as `no start line`, are of more use than the code before them.
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or str(error)
