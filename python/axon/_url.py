"""URLs as they may be shown: on a terminal, in a message, in a report."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["shown"]

#: A host that may have a port, and nobody's name.
_PLACE: Final = re.compile(r"(\[[^\]@]*\]|[^:/?#@\[\]]*)(:\d*)?")


def shown(url: str) -> str:
    """Return `url` without the user's name and password, which are nobody else's business."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # An @ behind a whole place is part of the path. Where the place is none, whatever stands before an @ may be secret.
    if "@" not in rest or _PLACE.fullmatch(place):
        return url
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
