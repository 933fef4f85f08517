"""`axon ps`, and the commands that change which models a running server has in memory."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from axon.cli.ask import URL, ask, tell
from axon.cli.options import add_trust_options, trust
from axon.cli.parser import bounded, model_name
from axon.cli.sizes import show_size
from axon.errors import AxonError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from axon.cli.parser import Commands

__all__ = ["add_to", "lines"]

_HOUR_S: Final = 3600.0
_COLUMNS: Final = (
    "MODEL",
    "VERSION",
    "STATE",
    "SIZE",
    "RATE/s",
    "SCORE",
    "USED",
    "RELOAD",
    "PINNED",
    "UNTIL",
)
#: Command, verb of the protocol, what it does.
_ACTIONS: Final = (
    ("load", "load", "load a model, or load it again"),
    ("reload", "load", "load a model again; what serves goes on until the new one does"),
    ("unload", "unload", "unload a model; what it has taken is answered"),
    ("warm", "warm", "load a model if it is not loaded (mode auto)"),
    ("pin", "pin", "load a model and have it stay (mode auto)"),
    ("unpin", "unpin", "let a model go like any other (mode auto)"),
)


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=URL, help=f"the server (default: {URL})")
    add_trust_options(parser)


def add_to(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "ps",
        help="show which models a server has in memory, and what they are worth",
        description="Ask a running server which models are in memory: what each takes, how often it is asked, what it "
        "is worth, how long it takes to load again. docs/residency.md says how that decides what stays.",
    )
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="print JSON as the server has it (/v2/residency)")
    parser.add_argument("--watch", action="store_true", help="print it again every --every seconds, until Ctrl-C")
    parser.add_argument(
        "--every",
        type=bounded(float, "seconds", 0.1, _HOUR_S),
        default=2.0,
        metavar="SECONDS",
        help="time between two looks with --watch (default: 2)",
    )
    parser.set_defaults(run=_ps)
    for command, verb, what in _ACTIONS:
        parser = commands.add_parser(
            command, help=f"have a server {what}", description=f"Have a running server {what}."
        )
        parser.add_argument("model", type=model_name, metavar="MODEL", help="a model in the server's repository")
        _add_url(parser)
        parser.add_argument(
            "--timeout",
            type=bounded(float, "seconds", 0.1, _HOUR_S),
            default=600.0,
            metavar="SECONDS",
            help="how long to wait for it (default: 600)",
        )
        parser.set_defaults(run=_act, verb=verb, command=command)


def _act(chosen: argparse.Namespace) -> int:
    if chosen.command == "reload":
        _check_loaded(chosen)
    path = f"v2/repository/models/{quote(chosen.model, safe='')}/{chosen.verb}"
    tell(chosen.url, path, timeout_s=chosen.timeout, trust=trust(chosen))
    print(f"{chosen.model}: {chosen.command} done")
    return 0


def _check_loaded(chosen: argparse.Namespace) -> None:
    rows, model = _report(chosen)["models"], chosen.model
    if not any(row["name"] == model and row["state"] == "READY" for row in rows):
        raise AxonError(f"model `{model}` is not loaded, so it cannot be loaded again\nhint: axon load {model}")


def _report(chosen: argparse.Namespace) -> dict[str, Any]:
    return ask(chosen.url, "v2/residency", "models", trust(chosen))


def _ps(chosen: argparse.Namespace) -> int:
    try:
        while True:
            document = _report(chosen)
            print(json.dumps(document, indent=2) if chosen.json else "\n".join(lines(document)), flush=True)
            if not chosen.watch:
                return 0
            time.sleep(chosen.every)
            if not chosen.json and sys.stdout.isatty():
                # The next look takes the place of this one.
                print("\033[H\033[2J", end="")
            else:
                print()
    except KeyboardInterrupt:
        return 0


def lines(document: dict[str, Any]) -> list[str]:
    """Return what `/v2/residency` answers, for people."""
    table = [_COLUMNS, *(_row(model) for model in document["models"])]
    widths = [max(len(row[index]) for row in table) for index in range(len(_COLUMNS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    shown += [f"{model['name']}: {model['reason']}" for model in document["models"] if model.get("reason")]
    if document["budget_bytes"] is None:
        return [*shown, "every model stays until it is unloaded: `--model-control-mode auto` keeps those worth it"]
    allowed, budget = document["allowed_bytes"], document["budget_bytes"]
    less = f", of which the host has {show_size(allowed)} now" if allowed < budget else ""
    return [
        *shown,
        f"{show_size(document['charged_bytes'])} of {show_size(budget)}{less}; {document['evictions']} made way",
    ]


def _row(model: dict[str, Any]) -> Sequence[str]:
    rate, score = model.get("requests_per_second"), model.get("score")
    bytes_taken = model.get("bytes")
    return (
        model["name"],
        ",".join(model["versions"]) or "-",
        model["state"],
        "-" if bytes_taken is None else show_size(bytes_taken),
        "-" if rate is None else f"{rate:.2f}",
        "-" if score is None else f"{score:.2g}",
        _ago(model.get("idle_s")),
        _seconds(model.get("reload_s")),
        "yes" if model.get("pinned") else "no",
        _until(model),
    )


def _until(model: dict[str, Any]) -> str:
    if model.get("retry_s") is not None:
        return f"retry in {_seconds(model['retry_s'])}"
    return _seconds(model.get("until_s"))


def _ago(seconds: float | None) -> str:
    return "-" if seconds is None else f"{_seconds(seconds)} ago"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minute = 60.0
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < minute:
        return f"{seconds:.1f} s"
    return f"{seconds / minute:.0f} min" if seconds < _HOUR_S else f"{seconds / _HOUR_S:.1f} h"
