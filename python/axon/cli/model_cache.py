"""The options of the model cache, for the commands that use it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from axon.cli.parser import size
from axon.config import Loading, ModelConfig

if TYPE_CHECKING:
    from axon._axon import NativeConfig

__all__ = ["add_cache_options", "cache_folder", "cache_settings", "native_config"]

_OFF: Final = "off"


def add_cache_options(parser: argparse.ArgumentParser, *, may_be_off: bool) -> None:
    """Add the options that say where the model cache is and how large it may be."""
    parser.add_argument(
        "--model-cache",
        type=str if may_be_off else _folder,
        metavar="DIR|off" if may_be_off else "DIR",
        help="where models are kept as they are made ready for this machine, to load faster"
        + (", or off" if may_be_off else "")
        + " (default: $XDG_CACHE_HOME/axon/models)",
    )
    parser.add_argument(
        "--model-cache-size",
        type=size,
        default=16 << 30,
        metavar="SIZE",
        help="most bytes of it, such as 512MiB or 20GB; what was used longest ago is removed first (default: 16GiB)",
    )


def _folder(text: str) -> str:
    if text in {"", _OFF}:
        message = (
            f"expected a folder, got {text!r}: without a model cache there is nothing to do (./{_OFF} is a folder)"
        )
        raise argparse.ArgumentTypeError(message)
    return text


def cache_folder(chosen: argparse.Namespace) -> Path | None:
    """Return the folder of the model cache, which need not be there; None when nothing says which it is."""
    if chosen.model_cache is not None:
        return Path(chosen.model_cache)
    variables = ((os.environ.get("XDG_CACHE_HOME"), ""), (os.environ.get("HOME"), ".cache"))
    return next((Path(base) / below / "axon" / "models" for base, below in variables if base), None)


def cache_settings(chosen: argparse.Namespace, *, may_be_off: bool) -> Loading:
    """Return the settings of the model cache, and no others."""
    is_on = not (may_be_off and chosen.model_cache == _OFF)
    return Loading(
        model_cache=is_on,
        model_cache_folder=chosen.model_cache if is_on else None,
        model_cache_bytes=chosen.model_cache_size,
    )


def native_config(chosen: argparse.Namespace) -> NativeConfig:
    """Return what the native module takes to open the cache."""
    return ModelConfig().native(None, loading=cache_settings(chosen, may_be_off=False))
