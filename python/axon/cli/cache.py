"""`axon cache`: what is kept of models on this machine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from axon.cli.model_cache import add_cache_options, cache_folder, native_config
from axon.cli.sizes import show_size
from axon.errors import InvalidRequest

if TYPE_CHECKING:
    import argparse

    from axon._axon import Cache
    from axon.cli.parser import Commands

__all__ = ["add_to"]

#: The digits of a key that are shown; as many tell entries apart.
_SHOWN: Final = 12
_LEAST_DIGITS: Final = 4


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "cache",
        help="list, check or remove what is kept of models on this machine",
        description="The models that `axon serve` and `axon add` have made ready for this machine.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="list what is kept", description="List what is kept.")
    removing = actions.add_parser(
        "rm",
        help="remove what is kept of models",
        description="Remove what is kept of models. A server that has one loaded keeps it until it unloads it.",
    )
    removing.add_argument("keys", metavar="KEY", nargs="*", help="what `axon cache ls` shows; some digits suffice")
    removing.add_argument("--all", action="store_true", help="everything")
    verifying = actions.add_parser(
        "verify",
        help="compare every byte with what was written",
        description="Compare every byte of what is kept with what was written; exit with 1 when one differs.",
    )
    verifying.add_argument("keys", metavar="KEY", nargs="*", help="what to compare (default: everything)")
    verifying.add_argument("--remove", action="store_true", help="remove what is broken, to be imported again")
    for action, run in ((listing, _list), (removing, _remove), (verifying, _verify)):
        action.add_argument("--json", action="store_true", help="print a JSON array")
        add_cache_options(action, may_be_off=False)
        action.set_defaults(run=run)


def _open(chosen: argparse.Namespace) -> tuple[Cache | None, list[dict[str, Any]]]:
    """Return the cache and what is in it; None and nothing where there is no folder: none is made to look into it."""
    from axon._axon import Cache  # noqa: PLC0415 - the command line starts without what it does not need

    folder = cache_folder(chosen)
    if folder is not None and not (folder / "entries").is_dir():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            message = f"{folder} is no model cache of Axon's: it has no folder named entries"
            raise InvalidRequest(message)
        return None, []
    cache = Cache.open(native_config(chosen))
    listed: list[dict[str, Any]] = json.loads(cache.list())
    return cache, listed


def _list(chosen: argparse.Namespace) -> int:
    _, listed = _open(chosen)
    if chosen.json:
        print(json.dumps(listed, indent=2))
        return 0
    from datetime import datetime  # noqa: PLC0415

    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE)
    for column in ("key", "model", "size", "loads in", "used", ""):
        table.add_column(column, justify="right" if column in {"size", "loads in"} else "left")
    for entry in listed:
        profile = entry["profile"] or {}
        measured = profile.get("measured") or {}
        used = datetime.fromtimestamp(entry["used"]).astimezone().isoformat(" ", "minutes") if entry["used"] else ""
        remark = entry["problem"] or profile.get("left_alone") or ""
        loads = f"{measured['load_ms']:.0f} ms" if measured else ""
        row = (entry["key"][:_SHOWN], profile.get("model", "?"), show_size(entry["bytes"]), loads, used, remark)
        table.add_row(*(escape(cell) for cell in row))
    # Written here and not by rich, which ends the process with 1 when the reader has gone.
    console = Console()
    with console.capture() as capture:
        console.print(table)
    total = show_size(sum(entry["bytes"] for entry in listed))
    print(f"{capture.get()}{len(listed)} kept, {total} of {show_size(chosen.model_cache_size)}")
    return 0


def _remove(chosen: argparse.Namespace) -> int:
    if bool(chosen.keys) == chosen.all:
        print("axon cache rm: expected KEY, or --all for everything", file=sys.stderr)
        return 2
    cache, listed = _open(chosen)
    keys = _resolve(chosen.keys, listed)
    if keys is None:
        return 2
    removed: list[dict[str, Any]] = [{"key": key, "removed": cache is not None and cache.remove(key)} for key in keys]
    if chosen.json:
        print(json.dumps(removed, indent=2))
    else:
        print(f"removed {sum(one['removed'] for one in removed)}")
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    cache, listed = _open(chosen)
    keys = _resolve(chosen.keys, listed)
    if keys is None:
        return 2
    results: list[dict[str, Any]] = []
    for key in keys:
        problem = cache.verify(key) if cache is not None else None
        removed = cache is not None and problem is not None and chosen.remove and cache.remove(key)
        results.append({"key": key, "problem": problem, "removed": removed})
        if not chosen.json:
            print(f"{key[:_SHOWN]}: {problem or 'as it was written'}{', removed' if removed else ''}")
    if chosen.json:
        print(json.dumps(results, indent=2))
    return 1 if any(result["problem"] for result in results) else 0


def _resolve(wanted: list[str], listed: list[dict[str, Any]]) -> list[str] | None:
    """Return the whole keys that are meant; None, once it has been said, when one is meant by none or by several."""
    known = [entry["key"] for entry in listed]
    if not wanted:
        return known
    keys = []
    for text in wanted:
        found = [key for key in known if key.startswith(text)]
        if len(text) < _LEAST_DIGITS or len(found) != 1:
            what = f"{len(found)} entries" if len(text) >= _LEAST_DIGITS else f"fewer than {_LEAST_DIGITS} digits"
            print(f"axon cache: expected the key of one entry, got {text!r}: {what}", file=sys.stderr)
            return None
        keys += found
    return keys
