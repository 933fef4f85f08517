"""`axon add`: makes models ready for this machine before they are first served."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from axon.cli.model_cache import add_cache_options, native_config
from axon.cli.sizes import show_size
from axon.errors import AxonError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from axon._axon import Cache
    from axon.cli.parser import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "add",
        help="import models: optimise them once, so that they load fast and share their memory",
        description="Import models into the model cache of this machine, as `axon serve` does by itself after it has "
        "first loaded them. A model that does not gain by it is left as it is.",
    )
    parser.add_argument("paths", metavar="MODEL", nargs="+", help="a model file, or a folder of models")
    parser.add_argument("--again", action="store_true", help="import what was imported, or left as it is, once more")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    add_cache_options(parser, may_be_off=False)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from axon._axon import Cache  # noqa: PLC0415 - the command line starts without what it does not need

    cache = Cache.open(native_config(chosen))
    results = list(_import_all(cache, chosen.paths, again=chosen.again, shows=not chosen.json))
    if chosen.json:
        print(json.dumps(results, indent=2))
    return 1 if any("error" in result for result in results) else 0


def _import_all(cache: Cache, paths: list[str], *, again: bool, shows: bool) -> Iterator[dict[str, Any]]:
    for path in paths:
        found = cache.find(path)
        if not found:
            hint = "hint: of one model's own folder, name the folder that it lies in"
            nothing: dict[str, Any] = {"name": path, "version": None, "error": f"no models here\n{hint}"}
            if shows:
                print(_line(nothing), flush=True)
            yield nothing
        for name, version, file, problem in found:
            result: dict[str, Any] = {"name": name, "version": version}
            if file is None:
                result["error"] = problem
            else:
                result |= _import_one(cache, name, file, again=again)
            if shows:
                print(_line(result), flush=True)
            yield result


def _import_one(cache: Cache, name: str, file: str, *, again: bool) -> dict[str, Any]:
    from pathlib import Path  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    # What is written has the weights as they are and as they are packed; where the file holds neither it is a guess.
    expected = 2 * Path(file).stat().st_size
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(name, total=expected)

        def watch(written: int) -> None:
            progress.update(task, completed=written, total=max(written, expected))

        try:
            kept: dict[str, Any] = json.loads(cache.add(file, again, watch))
        except AxonError as error:
            # What stands in the way of one model may not stand in that of the next.
            return {"error": str(error)}
    return {"key": kept["key"], "bytes": kept["bytes"], **kept["profile"]}


def _line(result: dict[str, Any]) -> str:
    subject = result["name"] if result["version"] is None else f"{result['name']} version {result['version']}"
    if "error" in result:
        return f"{subject}: not imported: {result['error']}"
    if result.get("left_alone"):
        return f"{subject}: left as it is: {result['left_alone']}"
    measured = result["measured"]
    return (
        f"{subject}: imported, {show_size(result['bytes'])}; loads in {measured['load_ms']:.0f} ms, "
        f"{measured['compared']} runs answered as before, bit for bit"
    )
