"""What a newcomer meets first: the set-up, the demo, the package that is installed, the licence."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from serving import PATIENCE_S, environment

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parent.parent

#: Building may come first where sources are newer than the package; from nothing it takes minutes.
BUILD_S: Final = 900.0


def make(target: str, folder: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    # Without what an outer `make` hands down: a newcomer has no outer one.
    clean = {name: value for name, value in (env or environment()).items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", target]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=BUILD_S, check=False)


def test_the_demo_classifies_every_image_as_scikit_learn_does() -> None:
    done = make("demo")
    assert (done.returncode, done.stderr) == (0, "")
    table = dict(re.findall(r"│ ([a-zA-Z0-9/ -]+?) +│ +([\d.,]+)", done.stdout))
    assert table["answers that differ from scikit-learn"] == "0"
    assert table["accuracy"] == table["accuracy of scikit-learn"]
    assert {"requests/s", "p50", "p99", "mean batch"} <= set(table)


def test_serve_is_the_same_server_in_the_foreground() -> None:
    with subprocess.Popen(
        ["make", "--no-print-directory", "serve"],
        cwd=ROOT,
        env={name: value for name, value in environment().items() if not name.startswith("MAKE")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "ready at" in line)
        assert "ready at http://127.0.0.1:8000 " in line
        # Ctrl-C in a terminal reaches the whole group; `make` then dies of it, once its server has ended.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_S) in (0, 2, -signal.SIGINT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the set-up needs, with nothing built."""
    copy = tmp_path / "axon"
    copy.mkdir()
    for name in ("Makefile", "Cargo.toml", "Cargo.lock", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    for name in ("scripts", "crates", "python"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("target", "__pycache__"))
    return copy


@pytest.mark.parametrize(
    ("tool", "says", "wanted"),
    [("cargo", "cargo 1.70.0 (old)", "1.88"), ("rustc", "rustc 1.87.1 (old)", "1.88"), ("python3", "3.10.1", "3.11")],
)
def test_a_tool_that_is_missing_is_named_in_one_line(
    checkout: Path, tmp_path: Path, tool: str, says: str, wanted: str
) -> None:
    """One that is too old is as good as missing, and can be had on every machine that runs this."""
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / tool).write_text(f"#!/bin/sh\necho '{says}'\nexit {int(tool == 'python3')}\n")
    (shims / tool).chmod(0o755)
    env = environment(PATH=f"{shims}:{environment()['PATH']}", PYTHON=None)
    done = make("demo", checkout, env)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, done.stderr
    assert tool in said[0]
    assert wanted in said[0]
    assert not (checkout / ".venv").exists()


def test_what_only_tests_need_may_be_missing_and_is_named(tmp_path: Path) -> None:
    command = ["/bin/bash", str(ROOT / "scripts" / "setup.sh"), "tests", str(tmp_path)]
    # Nothing is on the path, apt-get neither.
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    wanted = [f"setup: there is no {tool}: the tests that need it are skipped" for tool in ("chromium", "promtool")]
    assert done.stderr.splitlines() == wanted


def test_the_package_fits_every_python_and_carries_no_runtime() -> None:
    package = metadata.distribution("axon")
    wheel = package.read_text("WHEEL") or ""
    assert re.search(r"^Tag: cp311-abi3-", wheel, re.MULTILINE)
    files = [str(file) for file in package.files or []]
    assert any(file.endswith("_axon.abi3.so") for file in files)
    assert {"axon/py.typed", "axon/_axon.pyi"} <= set(files)
    assert [file for file in files if "onnxruntime" in file] == []
    requires = package.requires or []
    assert any(re.match(r"onnxruntime>=1\.24$", requirement) for requirement in requires)
    assert any(re.match(r"onnxruntime-gpu.*extra == .gpu.", requirement) for requirement in requires)


def test_the_licence_has_its_parameters() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith("Business Source License 1.1")
    for parameter, value in {"Licensed Work": "Axon", "Change Date": "2029-11-27", "Change License": "MIT"}.items():
        assert re.search(rf"^{parameter}: +{value}", text, re.MULTILINE), parameter
    assert "ML inference offerings" in text
