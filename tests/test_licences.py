"""`scripts/check_licences.py` holds the dependency tree to `deny.toml`, and says so when it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
SCRIPT: Final = ROOT / "scripts" / "check_licences.py"

REGISTRY: Final = "registry+somewhere"


def run(*arguments: str, metadata: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the check as `make lint` does, on `metadata` where it is given."""
    command = [sys.executable, str(SCRIPT), *arguments]
    if metadata is None:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    command += ["--metadata", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=json.dumps(metadata))


def tree(**crates: dict[str, Any]) -> dict[str, Any]:
    """Write what `cargo metadata` prints for `crates`: by name (`_` for `-`), what differs from a good crate."""
    packages = []
    nodes = []
    for key, crate in crates.items():
        name = key.replace("_", "-")
        packages.append({"id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": REGISTRY} | crate)
        nodes.append({"id": name, "deps": [{"pkg": dependency} for dependency in crate.get("deps", ())]})
    return {"packages": packages, "resolve": {"nodes": nodes}}


def test_the_tree_is_as_deny_toml_asks() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("crates", "violation"),
    [
        ({"foreign": {"license": "GPL-3.0-only"}}, "licence: foreign 1.0.0 is `GPL-3.0-only`"),
        ({"foreign": {"license": "BUSL-1.1"}}, "licence: foreign 1.0.0 is `BUSL-1.1`"),
        ({"foreign": {"license": "MIT AND GPL-3.0-only"}}, "licence: foreign 1.0.0 is `MIT AND GPL-3.0-only`"),
        ({"foreign": {"license": "GPL-2.0 WITH LLVM-exception"}}, "licence: foreign 1.0.0 is `GPL-2.0 WITH"),
        ({"foreign": {"license": None}}, "licence: foreign 1.0.0 names none"),
        ({"foreign": {"license": "(MIT OR"}}, "licence: foreign 1.0.0: `(MIT OR` is not an SPDX expression"),
        ({"foreign": {"license": "MIT; Zlib"}}, "licence: foreign 1.0.0: `MIT; Zlib` is not an SPDX expression"),
        ({"foreign": {"source": "git+somewhere"}}, "source: foreign 1.0.0 comes from `git+somewhere`"),
        ({"openssl": {}, "tls": {"deps": ["openssl"]}}, "ban: openssl 1.0.0 is in the tree (through tls)"),
        ({"ort": {}, "axon_server": {"deps": ["ort"]}}, "wall: axon-server depends on ort 1.0.0, and only axon may"),
        ({"pyo3": {}, "axon": {"deps": ["pyo3"]}}, "wall: axon depends on pyo3 1.0.0, and only axon-python and"),
        ({"hyper": {}, "axon": {"deps": ["hyper"]}}, "wall: axon depends on hyper 1.0.0, and only axon-server and"),
    ],
)
def test_a_violation_is_one_line_and_exit_code_1(crates: dict[str, Any], violation: str) -> None:
    result = run(metadata=tree(**crates))
    lines = result.stderr.splitlines()
    assert result.returncode == 1
    assert len(lines) == 1
    assert lines[0].startswith(violation)


@pytest.mark.parametrize(
    "crates",
    [
        {"axon": {"license": "BUSL-1.1", "source": None}},
        {"foreign": {"license": "GPL-3.0-only OR MIT"}},
        {"foreign": {"license": "MIT/Apache-2.0"}},
        {"foreign": {"license": "Apache-2.0 WITH LLVM-exception"}},
        {"foreign": {"license": "(MIT OR GPL-3.0-only) AND Unicode-3.0"}},
        {"foreign": {"license": "GPL-3.0-only AND GPL-2.0-only OR MIT"}},
        {"ort": {}, "axon": {"deps": ["ort"]}},
        {"hyper": {}, "hyper_util": {"deps": ["hyper"]}, "axon_server": {"deps": ["hyper", "hyper-util"]}},
    ],
)
def test_what_deny_toml_allows_passes(crates: dict[str, Any]) -> None:
    result = run(metadata=tree(**crates))
    assert (result.returncode, result.stderr) == (0, "")


def test_every_violation_is_told() -> None:
    result = run(metadata=tree(one={"license": "GPL-3.0-only"}, two={"source": "git+somewhere"}, openssl={}))
    assert result.returncode == 1
    assert sorted(line.split(":")[0] for line in result.stderr.splitlines()) == ["ban", "licence", "source"]


def test_a_rule_that_nobody_would_enforce_is_refused(tmp_path: Path) -> None:
    rules = tmp_path / "deny.toml"
    text = (ROOT / "deny.toml").read_text(encoding="utf-8")
    rules.write_text(text.replace("[licenses]", "[licenses]\nclarify = []"), encoding="utf-8")
    result = run("--rules", str(rules), metadata=tree(foreign={}))
    assert result.returncode == 1
    assert result.stderr == "deny.toml: [licenses] has `clarify`, which scripts/check_licences.py does not enforce\n"
