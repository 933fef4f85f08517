"""Finds ONNX Runtime's library without importing the package, which would load a second copy of it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

__all__ = ["find_library"]

_VARIABLE = "ORT_DYLIB_PATH"


def find_library() -> str | None:
    """Return the path of libonnxruntime, or None to let the native module look for it.

    `ORT_DYLIB_PATH` comes first, then the installed `onnxruntime` or `onnxruntime-gpu`.
    """
    if os.environ.get(_VARIABLE):
        return None
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        libraries = sorted(Path(folder, "capi").glob("libonnxruntime.so*"))
        if libraries:
            return str(libraries[-1])
    return None
