"""The code keeps to the table in ARCHITECTURE.md: who may use whom, and which crate only one module may name.

It reads sources as text, so it sees what is written, not what a macro makes of it. Tests inside a module
(`#[cfg(test)]`) may use what they like.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT: Final = Path(__file__).resolve().parent.parent
# The crate whose modules have rows of their own.
ENGINE: Final = "axon"
STD_ONLY: Final = "std only"

NOT_CODE: Final = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?r(?P<hashes>\#*)".*?"(?P=hashes) | b?"(?:\\.|[^"\\])*"
    | b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])'""",
    re.DOTALL | re.VERBOSE,
)
CFG_TEST: Final = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*")
ROOT_PATH: Final = re.compile(r"(?<!\w)(?:crate|(?P<supers>super(?:\s*::\s*super)*))\s*::\s*")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one module may use."""

    uses: frozenset[str]
    crates: frozenset[str]
    std_only: bool


def read_table(text: str) -> dict[str, Row]:
    """Read the rows of ARCHITECTURE.md by module, as they are written there (`axon::batcher`)."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    rows = {}
    for line in lines:
        module, uses, crates = (cell.strip() for cell in line.strip("|").split("|"))
        rows[module.strip("`")] = Row(
            uses=frozenset(re.findall(r"`([^`]+)`", uses)),
            crates=frozenset(re.findall(r"`([^`]+)`", crates)),
            std_only=crates == STD_ONLY,
        )
    return rows


def violations(root: Path) -> list[str]:
    """Check the tree under `root` against its own ARCHITECTURE.md; one line for each violation."""
    rows = read_table((root / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    checks = (check_rows, check_manifests, check_modules, check_python)
    return sorted({violation for check in checks for violation in check(root, rows)})


def check_rows(root: Path, rows: Mapping[str, Row]) -> Iterator[str]:
    """Check that every row is about something that is there."""
    for name in rows:
        crate, _, module = name.partition("::")
        source = root / "crates" / crate / "src"
        if name.startswith("python/"):
            there = (root / name).is_dir() or (root / f"{name}.py").exists()
        else:
            there = any(module_files(source, module)) if module else source.is_dir()
        if not there:
            yield f"ARCHITECTURE.md has a row for `{name}`, which is not there"


def check_manifests(root: Path, rows: Mapping[str, Row]) -> Iterator[str]:
    """Check that crates depend on each other, and on what the table keeps for some of them, only as it says."""
    for crate in sorted(path.name for path in (root / "crates").iterdir()):
        own_rows = [row for name, row in rows.items() if name.partition("::")[0] == crate]
        if not own_rows:
            yield f"crate `{crate}` has no row in ARCHITECTURE.md"
            continue
        uses = frozenset[str]().union(*(row.uses for row in own_rows))
        crates = frozenset[str]().union(*(row.crates for row in own_rows))
        manifest = read_manifest(root, crate)
        for dependency in dependencies(manifest, "dependencies", "build-dependencies"):
            if dependency in own_crates(rows) - uses:
                yield f"crate `{crate}` depends on `{dependency}`"
            elif dependency in kept_crates(rows) - crates:
                yield f"crate `{crate}` depends on `{dependency}`, which is kept for {keepers(rows, dependency)}"


def read_manifest(root: Path, crate: str) -> dict[str, Any]:
    """Read a crate's Cargo.toml."""
    return tomllib.loads((root / "crates" / crate / "Cargo.toml").read_text(encoding="utf-8"))


def dependencies(manifest: Mapping[str, Any], *kinds: str) -> set[str]:
    """Collect the crates of these kinds, on any target; a renamed one under both of its names."""
    names = set()
    for table in (manifest, *manifest.get("target", {}).values()):
        for kind in kinds:
            for name, value in table.get(kind, {}).items():
                names |= {name, value.get("package", name)} if isinstance(value, dict) else {name}
    return names


def own_crates(rows: Mapping[str, Row]) -> set[str]:
    """Collect the crates of this project."""
    return {name.partition("::")[0] for name in rows if not name.startswith("python/")}


def kept_crates(rows: Mapping[str, Row]) -> frozenset[str]:
    """Collect the crates that only some modules may name."""
    return frozenset[str]().union(*(row.crates for row in rows.values()))


def keepers(rows: Mapping[str, Row], crate: str) -> str:
    """Name the modules that may name `crate`."""
    return ", ".join(f"`{name}`" for name, row in rows.items() if crate in row.crates)


def check_modules(root: Path, rows: Mapping[str, Row]) -> Iterator[str]:
    """Check that the modules of the engine use each other, and crates, only as the table says."""
    source = root / "crates" / ENGINE / "src"
    modules = {name.partition("::")[2]: row for name, row in rows.items() if name.startswith(f"{ENGINE}::")}
    crates = dependencies(read_manifest(root, ENGINE), "dependencies") | kept_crates(rows) | own_crates(rows)
    lib = source / "lib.rs"
    exported = root_exports(code_of(lib)) if lib.exists() else {}
    for path in sorted(source.iterdir()):
        if path.stem not in {*modules, "lib"}:
            yield f"module `{path.stem}` has no row in ARCHITECTURE.md"
    for module, row in modules.items():
        for path in module_files(source, module):
            code = code_of(path)
            depth = len(module_path(source, path))
            used = {exported.get(name, name) for name in names_from_root(code, depth)} - {module}
            for name in sorted(used - row.uses):
                known = "" if name in {*modules, *own_crates(rows)} else ", which is not a module of the table"
                yield f"module `{module}` uses `{name}`{known}"
            for crate in sorted(name for name in crates if names_crate(code, name)):
                if row.std_only:
                    yield f"module `{module}` names the crate `{crate}`, and may use only std"
                elif crate in own_crates(rows) - row.uses:
                    yield f"module `{module}` uses `{crate}`"
                elif crate in kept_crates(rows) - row.crates:
                    yield f"module `{module}` names the crate `{crate}`, which is kept for {keepers(rows, crate)}"


def module_files(source: Path, module: str) -> Iterator[Path]:
    """Find the files of a top-level module: `x.rs`, or `x/mod.rs`, and `x/**/*.rs` without its test modules."""
    files = [path for path in (source / f"{module}.rs", *sorted((source / module).rglob("*.rs"))) if path.exists()]
    tests = {
        (*module_path(source, path), name)
        for path in files
        for name in re.findall(CFG_TEST.pattern + r"mod\s+(\w+)\s*;", without_text(path))
    }
    for path in files:
        parts = module_path(source, path)
        if not any(parts[: len(test)] == test for test in tests):
            yield path


def module_path(source: Path, path: Path) -> tuple[str, ...]:
    """Name the module that a file holds, from the crate's root: `x/mod.rs` is `("x",)`."""
    parts = path.relative_to(source).with_suffix("").parts
    return parts[:-1] if parts[-1] == "mod" else parts


def without_text(path: Path) -> str:
    """Read Rust source without its comments, and with its strings and characters empty."""
    return NOT_CODE.sub(lambda match: '""' if match[0][0] != "/" else " ", path.read_text(encoding="utf-8"))


def code_of(path: Path) -> str:
    """Read what of a Rust source file is in the product: no comments, no strings, no `#[cfg(test)]` items."""
    code = without_text(path)
    while match := CFG_TEST.search(code):
        code = code[: match.start()] + code[end_of_item(code, match.end()) :]
    return code


def end_of_item(code: str, start: int) -> int:
    """Find the end of the item at `start`: past its `;`, or past the brace that closes it."""
    depth = 0
    for position in range(start, len(code)):
        character = code[position]
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in ";}":
            return position + 1
    return len(code)


def names_from_root(code: str, depth: int) -> set[str]:
    """Collect the items of the crate's root that `code`, `depth` modules below it, takes a path through.

    It understands `crate::a::B`, `crate::{a::B, c}` and `super::a` where that reaches the root; `*` is a glob of it.
    """
    names = set()
    for match in ROOT_PATH.finditer(code):
        supers = match["supers"]
        if supers is None or supers.count("super") >= depth:
            names |= heads(code, match.end())
    return names


def heads(code: str, start: int) -> set[str]:
    """Collect the first name of each path in the `use` tree at `start`."""
    if code[start] != "{":
        match = re.compile(r"\w+|\*").match(code, start)
        return {match[0]} if match else set()
    group = code[start + 1 : end_of_item(code, start) - 1]
    while "{" in group:
        group = re.sub(r"\{[^{}]*\}", "", group)
    return {path.split("::")[0].split()[0] for path in group.split(",") if path.strip()}


def root_exports(lib: str) -> dict[str, str]:
    """Map what `lib.rs` re-exports to the module that it comes from."""
    exports: dict[str, str] = {}
    for module, tree in re.findall(r"\buse\s+(?:(?:crate|self)::)?(\w+)::([^;]+);", lib):
        exports |= dict.fromkeys(re.findall(r"(\w+)\s*(?=[,}]|$)", tree), module)
    return exports


def names_crate(code: str, crate: str) -> bool:
    """Say whether `code` has a path into `crate`."""
    name = crate.replace("-", "_")
    return bool(re.search(rf"(?<![\w:]){name}\s*::|(?<!\w)::\s*{name}\b|\b(?:use|crate)\s+{name}\b", code))


def check_python(root: Path, rows: Mapping[str, Row]) -> Iterator[str]:
    """Check that the Python package imports the standard library, itself, and what the table says."""
    for path in sorted((root / "python").rglob("*.py")):
        name = path.relative_to(root).with_suffix("").as_posix()
        parents = [row for row in rows if f"{name}/".startswith(f"{row}/")]
        if not parents:
            yield f"`{name}` has no row in ARCHITECTURE.md"
            continue
        # The row of a module comes before that of the package it is in.
        row = rows[max(parents, key=len)]
        for imported in sorted(imports(path, root / "python")):
            package = imported.partition(".")[0]
            extension = imported == "axon._axon" or imported.startswith("axon._axon.")
            own = package == "axon" and (not extension or "axon._axon" in row.uses)
            if not own and package not in row.crates and package not in sys.stdlib_module_names:
                yield f"`{name}` imports `{imported if extension else package}`"


def imports(path: Path, root: Path) -> set[str]:
    """Collect the modules, or names in them, that a Python file imports, each in full."""
    package = path.relative_to(root).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def test_the_code_keeps_to_the_table() -> None:
    assert violations(ROOT) == []


TABLE: Final = """
| module | may use | crates only it may name |
|---|---|---|
| `synapse` | - | - |
| `axon::error` | `synapse` | - |
| `axon::batcher` | `error` | std only |
| `axon::onnx` | `synapse`, `error` | `ort` |
| `axon::scheduler` | `error`, `batcher` | - |
| `axon-server` | `axon` | `hyper` |
| `python/axon` | `axon._axon` | `numpy` |
| `python/axon/client` | - | - |
"""
GOOD_TREE: Final = {
    "ARCHITECTURE.md": TABLE,
    "crates/synapse/Cargo.toml": "[dependencies]\nhalf = '2'",
    "crates/synapse/src/lib.rs": "",
    "crates/axon/Cargo.toml": "[dependencies]\nhalf = '2'\nort = '2'\nsynapse = { path = '../synapse' }",
    "crates/axon-server/Cargo.toml": "[dependencies]\naxon = { path = '../axon' }\nhyper = '1'",
    "crates/axon-server/src/lib.rs": "",
    "crates/axon/src/lib.rs": "mod error; mod batcher; mod onnx; mod scheduler; pub use error::{Error, Result as R};",
    "crates/axon/src/error.rs": "use synapse::Tensor; fn f<'a>(text: &'a str) -> char { 'x' }",
    "crates/axon/src/batcher.rs": "use std::time::Instant;\nuse crate::error::Error;",
    "crates/axon/src/onnx/mod.rs": "mod session; use ort::Session; use half::f16; use crate::{error::{Error, R}};",
    "crates/axon/src/onnx/session.rs": "use super::Library; use super::super::error::Error; use crate::onnx::X;",
    "crates/axon/src/scheduler.rs": '//! Not [`crate::onnx`].\nuse crate::Error; const A: &str = "crate::onnx";',
    "python/axon/__init__.py": "import json\nimport numpy as np\nfrom axon import _axon\nfrom ._axon import Server",
    "python/axon/client.py": "from axon.errors import AxonError\nfrom . import errors",
}


def plant(root: Path, changes: dict[str, str]) -> Path:
    """Write the good tree with `changes` to it under `root`."""
    for name, text in (GOOD_TREE | changes).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


BATCHER: Final = "crates/axon/src/batcher.rs"
SCHEDULER: Final = "crates/axon/src/scheduler.rs"
SESSION: Final = "crates/axon/src/onnx/session.rs"


@pytest.mark.parametrize(
    ("name", "text", "violation"),
    [
        (BATCHER, "use crate::scheduler::Scheduler;", "module `batcher` uses `scheduler`"),
        (BATCHER, "fn f() { crate::scheduler::run() }", "module `batcher` uses `scheduler`"),
        (BATCHER, "use crate::{error::{Error, R}, scheduler::S};", "module `batcher` uses `scheduler`"),
        (BATCHER, "use super::scheduler;", "module `batcher` uses `scheduler`"),
        (BATCHER, "use half::f16;", "module `batcher` names the crate `half`, and may use only std"),
        (BATCHER, "fn f(t: synapse::Tensor) {}", "module `batcher` names the crate `synapse`, and may use only std"),
        (BATCHER, "use crate::*;", "module `batcher` uses `*`, which is not a module of the table"),
        (BATCHER, "#[cfg(test)] mod tests { use a::{b}; }\nuse crate::onnx;", "module `batcher` uses `onnx`"),
        (BATCHER, "const Q: char = '\"'; use crate::onnx; // \"", "module `batcher` uses `onnx`"),
        (BATCHER, "fn f<'a>(x: &'a u8) { crate::onnx::g(x, 'a') }", "module `batcher` uses `onnx`"),
        (SCHEDULER, "use ort::Session;", "module `scheduler` names the crate `ort`, which is kept for `axon::onnx`"),
        (SCHEDULER, "fn f() { ::ort::init() }", "module `scheduler` names the crate `ort`, which is kept for"),
        (SCHEDULER, "use synapse::Tensor;", "module `scheduler` uses `synapse`"),
        (SCHEDULER, "use crate::shortcut;", "module `scheduler` uses `shortcut`, which is not a module of the table"),
        (SESSION, "use crate::batcher::Batch;", "module `onnx` uses `batcher`"),
        (SESSION, "use super::super::batcher::Batch;", "module `onnx` uses `batcher`"),
        ("crates/axon/src/extra.rs", "", "module `extra` has no row in ARCHITECTURE.md"),
        ("crates/extra/Cargo.toml", "", "crate `extra` has no row in ARCHITECTURE.md"),
        ("crates/synapse/Cargo.toml", "[dependencies]\naxon = '1'", "crate `synapse` depends on `axon`"),
        (
            "crates/synapse/Cargo.toml",
            "[target.'cfg(unix)'.dependencies]\nweb = { package = 'hyper', version = '1' }",
            "crate `synapse` depends on `hyper`, which is kept for `axon-server`",
        ),
        ("ARCHITECTURE.md", TABLE + "| `axon::ghost` | - | - |\n", "ARCHITECTURE.md has a row for `axon::ghost`"),
        ("python/axon/__init__.py", "import onnxruntime.capi", "`python/axon/__init__` imports `onnxruntime`"),
        ("python/axon/deep/x.py", "def f():\n    import torch", "`python/axon/deep/x` imports `torch`"),
        ("python/axon/client.py", "from axon import _axon", "`python/axon/client` imports `axon._axon`"),
        ("python/axon/client.py", "from ._axon import Server", "`python/axon/client` imports `axon._axon.Server`"),
        ("python/axon/client.py", "import numpy", "`python/axon/client` imports `numpy`"),
        ("python/other.py", "", "`python/other` has no row in ARCHITECTURE.md"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, violation: str) -> None:
    found = violations(plant(tmp_path, {name: text}))
    assert len(found) == 1
    assert found[0].startswith(violation)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {BATCHER: '/// Like [`crate::onnx`].\n/* crate::onnx */ const A: &str = r#"use crate::onnx; ""#;'},
        {BATCHER: "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::onnx; fn f() { half::x() } }"},
        {BATCHER: "#[cfg(all(test, unix))] use crate::onnx::{A, B};\npub(crate) struct Batch;"},
        {
            "crates/axon/src/onnx/mod.rs": "#[cfg(test)] mod tests;",
            "crates/axon/src/onnx/tests.rs": "use crate::batcher;",
        },
        {"crates/axon/src/error.rs": "pub(in crate::error) fn half_of(half: u8) -> u8 { half }"},
    ],
)
def test_what_the_table_allows_is_not_a_violation(tmp_path: Path, changes: dict[str, str]) -> None:
    assert violations(plant(tmp_path, changes)) == []
