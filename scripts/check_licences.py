"""Holds the dependency tree to `deny.toml`: licences, bans, walls and sources.

`make lint` runs this instead of cargo-deny, which takes minutes to build and checks the same rules from the same file.
It reads a subset of cargo-deny's configuration, and a key outside of that subset is an error rather than a rule that
nobody enforces.

Exits with 0 when nothing is wrong, else with 1 and one line for each violation on standard error.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).resolve().parent.parent
# What is understood of each table; `multiple-versions`, `wildcards` and the like are left to cargo-deny.
KNOWN_KEYS: Final = {
    "graph": {"all-features", "targets"},
    "licenses": {"allow", "exceptions", "unused-allowed-license"},
    "bans": {"allow-wildcard-paths", "deny", "multiple-versions", "wildcards"},
    "sources": {"unknown-git", "unknown-registry"},
}
KNOWN_BAN_KEYS: Final = {"crate", "reason", "wrappers"}
SPDX_TOKEN: Final = re.compile(r"\s*([()]|[A-Za-z0-9.+-]+)")


class RulesError(Exception):
    """The rules, or a licence expression, cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Ban:
    """A crate that nothing but `wrappers` may depend on; with none, it may not be there at all."""

    wrappers: frozenset[str]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The part of `deny.toml` that is enforced here."""

    targets: tuple[str, ...]
    allowed: frozenset[str]
    allowed_for: Mapping[str, frozenset[str]]
    bans: Mapping[str, Ban]

    @classmethod
    def read(cls, text: str) -> Rules:
        """Parse `deny.toml`.

        Raises:
            RulesError: A key is not one of those understood here.
        """
        document = tomllib.loads(text)
        for table, values in document.items():
            _refuse_unknown(f"[{table}]", values, KNOWN_KEYS.get(table, set()))
        for ban in document["bans"]["deny"]:
            _refuse_unknown(f"the ban of `{ban.get('crate')}`", ban, KNOWN_BAN_KEYS)
        return cls(
            targets=tuple(document["graph"]["targets"]),
            allowed=frozenset(document["licenses"]["allow"]),
            allowed_for={
                exception["crate"]: frozenset(exception["allow"]) for exception in document["licenses"]["exceptions"]
            },
            bans={
                ban["crate"]: Ban(wrappers=frozenset(ban.get("wrappers", ())), reason=ban["reason"])
                for ban in document["bans"]["deny"]
            },
        )


def _refuse_unknown(place: str, table: Mapping[str, object], known: set[str]) -> None:
    if unknown := sorted(table.keys() - known):
        message = f"deny.toml: {place} has `{unknown[0]}`, which scripts/check_licences.py does not enforce"
        raise RulesError(message)


def satisfies(expression: str, allowed: frozenset[str]) -> bool:
    """Say whether the licences in `allowed` are enough for the SPDX `expression`.

    `AND` binds tighter than `OR`, and `X WITH Y` is one licence. The slash of old manifests (`MIT/Apache-2.0`) is `OR`.

    Raises:
        RulesError: It is not an SPDX expression.
    """
    spelled_out = expression.replace("/", " OR ")
    tokens = deque(SPDX_TOKEN.findall(spelled_out))
    complete = "".join(tokens) == "".join(spelled_out.split())
    try:
        result = _any_of(tokens, allowed)
    except IndexError:
        complete = False
    if not complete or tokens:
        message = f"`{expression}` is not an SPDX expression"
        raise RulesError(message)
    return result


# Each takes its part from the front of `tokens`, and lets an `IndexError` say that they ended too soon.
def _any_of(tokens: deque[str], allowed: frozenset[str]) -> bool:
    result = _all_of(tokens, allowed)
    while tokens and tokens[0] == "OR":
        tokens.popleft()
        result = _all_of(tokens, allowed) or result
    return result


def _all_of(tokens: deque[str], allowed: frozenset[str]) -> bool:
    result = _one(tokens, allowed)
    while tokens and tokens[0] == "AND":
        tokens.popleft()
        result = _one(tokens, allowed) and result
    return result


def _one(tokens: deque[str], allowed: frozenset[str]) -> bool:
    licence = tokens.popleft()
    if licence == "(":
        result = _any_of(tokens, allowed)
        if tokens.popleft() != ")":
            raise IndexError
        return result
    if tokens and tokens[0] == "WITH":
        tokens.popleft()
        licence += f" WITH {tokens.popleft()}"
    return licence in allowed


def violations(metadata: Mapping[str, Any], rules: Rules) -> Iterator[str]:
    """Yield one line for each rule that the graph in `metadata` (`cargo metadata`, version 1) breaks."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    dependants: dict[str, set[str]] = {package_id: set() for package_id in nodes}
    for node in nodes.values():
        for dependency in node["deps"]:
            dependants[dependency["pkg"]].add(packages[node["id"]]["name"])
    for package_id in sorted(nodes):
        package = packages[package_id]
        yield from _licence_violations(package, rules)
        yield from _source_violations(package)
        if ban := rules.bans.get(package["name"]):
            yield from _ban_violations(package, ban, dependants[package_id])


def _licence_violations(package: Mapping[str, Any], rules: Rules) -> Iterator[str]:
    name, expression = package["name"], package["license"]
    if not expression:
        yield f"licence: {_called(package)} names none"
        return
    try:
        if not satisfies(expression, rules.allowed | rules.allowed_for.get(name, frozenset())):
            yield f"licence: {_called(package)} is `{expression}`, which deny.toml does not allow"
    except RulesError as error:
        yield f"licence: {_called(package)}: {error}"


def _source_violations(package: Mapping[str, Any]) -> Iterator[str]:
    source = package["source"]
    if source is not None and not source.startswith("registry+"):
        yield f"source: {_called(package)} comes from `{source}`, not from the registry or this workspace"


def _ban_violations(package: Mapping[str, Any], ban: Ban, dependants: set[str]) -> Iterator[str]:
    if not ban.wrappers:
        yield f"ban: {_called(package)} is in the tree (through {', '.join(sorted(dependants))}): {ban.reason}"
        return
    for dependant in sorted(dependants - ban.wrappers):
        may = " and ".join(sorted(ban.wrappers))
        yield f"wall: {dependant} depends on {_called(package)}, and only {may} may: {ban.reason}"


def _called(package: Mapping[str, Any]) -> str:
    return f"{package['name']} {package['version']}"


def _cargo_metadata(rules: Rules) -> str:
    platforms = [argument for target in rules.targets for argument in ("--filter-platform", target)]
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--all-features", *platforms]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Check the workspace, or the metadata given."""
    parser = argparse.ArgumentParser(description="Hold the dependency tree to deny.toml.")
    parser.add_argument("--rules", type=Path, default=ROOT / "deny.toml", help="default: the deny.toml of this project")
    parser.add_argument(
        "--metadata",
        type=argparse.FileType(encoding="utf-8"),
        help="what `cargo metadata --format-version=1` printed, `-` for standard input; default: run it",
    )
    arguments = parser.parse_args()
    try:
        rules = Rules.read(arguments.rules.read_text(encoding="utf-8"))
    except RulesError as error:
        sys.exit(str(error))
    metadata = json.loads(arguments.metadata.read() if arguments.metadata else _cargo_metadata(rules))
    if found := list(violations(metadata, rules)):
        sys.exit("\n".join(found))
    sys.stdout.write(f"licences, bans and sources: {len(metadata['resolve']['nodes'])} crates are as deny.toml asks\n")


if __name__ == "__main__":
    main()
