"""`axon models` and `axon check`: what a repository holds, and what is wrong with it, without serving it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from axon import _axon
from axon.cli.options import add_model_options, model_config
from axon.config import Loading

if TYPE_CHECKING:
    import argparse

    from axon.cli.parser import Commands

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "models",
        help="list the models of a file or folder, without loading any",
        description="List what `axon serve` would find: each model, its version, its file, and what cannot be served.",
    )
    _add_path(parser)
    add_model_options(parser)
    parser.set_defaults(run=_models)
    parser = commands.add_parser(
        "check",
        help="find everything that is wrong with a repository, without serving it",
        description="Read and load each model as `axon serve` would, in a process of its own first, and let it go "
        "again. Every problem is printed with its file, its line where there is one, and what to do; exit code 1 if "
        "there is one.",
    )
    _add_path(parser)
    parser.add_argument("--no-load", action="store_true", help="read names, folders and configurations only")
    add_model_options(parser)
    parser.set_defaults(run=_check)


def _add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", help="a folder of models, or a model file")
    parser.add_argument("--json", action="store_true", help="print JSON, an array")


def _examine(chosen: argparse.Namespace, *, loads: bool) -> list[dict[str, Any]]:
    loading = Loading(check="always" if loads else "off")
    native = model_config(chosen).native(chosen.name, loading=loading)
    fields = ("name", "version", "path", "bytes", "problem", "cause", "warnings")
    rows = _axon.examine(chosen.path, native, loads)
    return [dict(zip(fields, (*row[:2], str(row[2]), *row[3:]), strict=True)) for row in rows]


def _models(chosen: argparse.Namespace) -> int:
    rows = _examine(chosen, loads=False)
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        if row["version"] is None:
            continue
        state = "cannot be served: " + row["problem"].splitlines()[0] if row["problem"] else f"{row['bytes']:,} bytes"
        print(f"{row['name']}  version {row['version']}  {row['path']}  {state}")
    if not any(row["version"] is not None for row in rows):
        print("no models here")
    return 0


def _check(chosen: argparse.Namespace) -> int:
    rows = _examine(chosen, loads=not chosen.no_load)
    wrong = sum(row["problem"] is not None for row in rows)
    good = sum(row["version"] is not None and row["problem"] is None for row in rows)
    is_well = good > 0 and not wrong
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return 0 if is_well else 1
    for row in rows:
        what = f"{row['path']}: {row['name']}" + (f" version {row['version']}" if row["version"] is not None else "")
        if row["problem"]:
            print(f"error: {what}: {row['problem']}")
            if row["cause"]:
                print(f"  cause: {row['cause']}")
        for warning in row["warnings"]:
            print(f"warning: {what}: {warning}")
    if not good and not wrong:
        print(
            f"{chosen.path}: no models here; of one model's own folder, name the folder that it lies in",
            file=sys.stderr,
        )
        return 1
    print(f"{good} can be served, {wrong} cannot", file=sys.stderr if wrong else sys.stdout)
    return 0 if is_well else 1
