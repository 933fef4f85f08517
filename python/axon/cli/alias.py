"""`axon alias`: names that stand for models of a running server."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from axon.cli.ask import URL, ask, tell
from axon.cli.options import add_trust_options, trust
from axon.cli.parser import bounded, model_name

if TYPE_CHECKING:
    from axon.cli.parser import Commands

__all__ = ["add_to", "lines", "parse_shadow", "parse_target"]

_HOUR_S: Final = 3600.0
_MODEL: Final = r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})(?::([1-9]\d{0,18}))?"
_COLUMNS: Final = ("ALIAS", "LEADS TO", "WEIGHT", "ANSWERED", "UNANSWERED", "MEAN")


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "alias",
        help="show and change the names that stand for models of a server",
        description="Names that stand for models: which version answers, how a canary shares the requests, where "
        "copies of them go. docs/aliases.md has it all.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="list every alias", description="List every alias.")
    showing = actions.add_parser("show", help="show one alias", description="Show one alias and its shadow.")
    setting = actions.add_parser(
        "set",
        help="add an alias, or lead it elsewhere at one moment",
        description="Add an alias, or lead it elsewhere at one moment. Every model must be ready, or in mode auto is "
        "loaded; else the alias stays as it was.",
    )
    removing = actions.add_parser("rm", help="remove an alias", description="Remove an alias.")
    rereading = actions.add_parser(
        "reload",
        help="have the server read its file of aliases again",
        description="Have the server read its file of aliases again; it takes effect as a whole or not at all.",
    )
    for action in (showing, setting, removing):
        action.add_argument("name", metavar="ALIAS", type=model_name, help="the name that stands for models")
    setting.add_argument(
        "targets",
        metavar="MODEL[:VERSION][=WEIGHT]",
        nargs="+",
        type=parse_target,
        help="who answers; without a version the newest that is ready; weights are 1 to 1000 (default: 1)",
    )
    setting.add_argument(
        "--shadow",
        metavar="MODEL[:VERSION][@SHARE]",
        type=parse_shadow,
        help="who gets copies, whose answers are compared; the share is 10%% or 0.1 (default: 100%%)",
    )
    for action, run in ((listing, _list), (showing, _show), (setting, _set), (removing, _remove), (rereading, _reread)):
        action.add_argument("--url", default=URL, help=f"the server (default: {URL})")
        add_trust_options(action)
        action.set_defaults(run=run)
    for action in (listing, showing):
        action.add_argument("--json", action="store_true", help="print JSON as the server has it (/v2/aliases)")
    for action in (setting, rereading):
        action.add_argument(
            "--timeout",
            type=bounded(float, "seconds", 0.1, _HOUR_S),
            default=600.0,
            metavar="SECONDS",
            help="how long to wait for models that are loaded for it (default: 600)",
        )


def parse_target(text: str) -> dict[str, Any]:
    """Parse `MODEL[:VERSION][=WEIGHT]` into the protocol's target."""
    found = re.fullmatch(rf"{_MODEL}(?:=(\d{{1,4}}))?", text)
    weight = int(found[3]) if found and found[3] else 1
    most = 1000
    if found is None or not 1 <= weight <= most:
        message = f"expected MODEL[:VERSION][=WEIGHT] with a weight from 1 to {most}, as digits:3=95, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return {"model": found[1], "version": found[2], "weight": weight}


def parse_shadow(text: str) -> dict[str, Any]:
    """Parse `MODEL[:VERSION][@SHARE]` into the protocol's shadow."""
    found = re.fullmatch(rf"{_MODEL}(?:@(\d+\.?\d*|\.\d+)(%)?)?", text)
    share = 1.0
    if found and found[3]:
        share = float(found[3]) / (100 if found[4] else 1)
    if found is None or not 0 < share <= 1:
        message = f"expected MODEL[:VERSION][@SHARE] with a share as 10% or 0.1, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return {"model": found[1], "version": found[2], "share": share}


def _path(chosen: argparse.Namespace) -> str:
    return f"v2/aliases/{quote(chosen.name, safe='')}"


def _list(chosen: argparse.Namespace) -> int:
    document = ask(chosen.url, "v2/aliases", "aliases", trust(chosen))
    print(json.dumps(document, indent=2) if chosen.json else "\n".join(lines(document["aliases"])))
    return 0


def _show(chosen: argparse.Namespace) -> int:
    alias = ask(chosen.url, _path(chosen), "targets", trust(chosen))
    print(json.dumps(alias, indent=2) if chosen.json else "\n".join([*lines([alias]), *_shadow_lines(alias)]))
    return 0


def _set(chosen: argparse.Namespace) -> int:
    body: dict[str, Any] = {"targets": chosen.targets}
    if chosen.shadow:
        body["shadow"] = chosen.shadow
    alias = tell(chosen.url, _path(chosen), timeout_s=chosen.timeout, trust=trust(chosen), method="PUT", body=body)
    print("\n".join(lines([alias])))
    return 0


def _remove(chosen: argparse.Namespace) -> int:
    tell(chosen.url, _path(chosen), timeout_s=_HOUR_S, trust=trust(chosen), method="DELETE")
    print(f"{chosen.name}: removed")
    return 0


def _reread(chosen: argparse.Namespace) -> int:
    document = tell(chosen.url, "v2/aliases", timeout_s=chosen.timeout, trust=trust(chosen))
    print("\n".join(lines(document["aliases"])))
    return 0


def lines(aliases: list[dict[str, Any]]) -> list[str]:
    """Return what `/v2/aliases` answers, for people."""
    if not aliases:
        return ["no aliases: `axon alias set NAME MODEL:VERSION` adds one"]
    table = [_COLUMNS]
    problems = []
    for alias in aliases:
        for index, target in enumerate(alias["targets"]):
            table.append(
                (
                    "" if index else alias["name"],
                    _told(target),
                    str(target["weight"]),
                    str(target["answered"]),
                    str(target["unanswered"]),
                    _milliseconds(target["mean_ms"]),
                )
            )
            problems.append((_told(target), target["not_ready_because"]))
        if shadow := alias["shadow"]:
            compared = f"{shadow['compared']} compared, {shadow['different']} different"
            table.append(("", f"{_told(shadow)} (shadow)", f"{100 * shadow['share']:g}%", compared, "", ""))
            problems.append((_told(shadow), shadow["not_ready_because"]))
    widths = [max(len(row[index]) for row in table) for index in range(len(_COLUMNS))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return shown + [f"{name}: {problem}" for name, problem in problems if problem]


def _shadow_lines(alias: dict[str, Any]) -> list[str]:
    shadow = alias["shadow"]
    if not shadow:
        return []
    dropped = ", ".join(f"{count} {cause}" for cause, count in shadow["dropped"].items() if count)
    found = f"{shadow['equal']} equal, {shadow['different']} different, {shadow['failed']} failed"
    means = [_milliseconds(shadow[mean]) for mean in ("shadow_mean_ms", "primary_mean_ms")]
    told = [
        "",
        f"shadow {_told(shadow)}: {found}; not sent: {dropped or 'none'}",
        f"  mean {means[0]}, where callers waited {means[1]}",
    ]
    for name, output in shadow["outputs"].items():
        if not output["different"]:
            told.append(f"  {name}: always the same")
            continue
        form = f"; {output['form']}" if output["form"] else ""
        told.append(
            f"  {name}: {output['different']} different, by {_number(output['largest_absolute'])} at most, "
            f"{_number(output['largest_relative'])} of its size{form}"
        )
    if shadow["last_failure"]:
        told.append(f"  last failure: {shadow['last_failure']}")
    return told


def _told(target: dict[str, Any]) -> str:
    if target["version"] is not None:
        return f"{target['model']}:{target['version']}"
    newest = target["ready_version"]
    return f"{target['model']} (now {newest})" if newest else str(target["model"])


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"
