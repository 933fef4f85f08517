"""Every command and program in README.md does what it says: each is run as it stands, or is what CI runs.

They run in a scratch folder that has what they name. The port is a free one, put in for the one that is printed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from serving import AXON, PATIENCE_S, environment, run_axon, run_python, serving

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE: Final = (ROOT / "Makefile").read_text(encoding="utf-8")
PRINTED: Final = "127.0.0.1:8000"

BLOCKS: Final = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
#: What follows each `$ `, with the lines that go on with it.
COMMANDS: Final = [
    command.strip()
    for language, block in BLOCKS
    if language == "console"
    for command in re.split(r"^\$ ", block, flags=re.MULTILINE)
    if command.strip()
]
PYTHON: Final = [block for language, block in BLOCKS if language == "python"]
RUST: Final = [block for language, block in BLOCKS if language == "rust"]


def starting_with(*starts: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(tuple(f"{start} " for start in starts))]


MAKE: Final = starting_with("make")
PIP: Final = starting_with("pip")
SERVE: Final = starting_with("axon serve")
CURL: Final = starting_with("curl")
INSPECT: Final = starting_with("axon inspect")
CARGO: Final = starting_with("cargo")


@pytest.fixture
def scratch(tmp_path: Path, digits: Path) -> Path:
    """Return a folder with the files that README.md names."""
    (tmp_path / "models").mkdir()
    for name in ("model.onnx", "models/digits.onnx"):
        shutil.copy(digits, tmp_path / name)
    shutil.copytree(digits.parent, tmp_path / "examples" / "digits")
    return tmp_path


@pytest.fixture(scope="module")
def first_labels(digits: Path) -> list[int]:
    return [int(label) for label in np.load(digits.with_name("predictions.npy"))[:8]]


def recipe(target: str) -> str:
    """Return what the Makefile says below `target`."""
    found = re.search(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)*)", MAKEFILE, re.MULTILINE)
    assert found, f"the Makefile has no target {target}"
    return found[0]


def test_no_block_is_left_out() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "python", "rust"}
    assert sorted([*MAKE, *PIP, *SERVE, *CURL, *INSPECT, *CARGO]) == sorted(COMMANDS)
    assert all([MAKE, PIP, SERVE, CURL, INSPECT, CARGO, PYTHON, RUST])


def test_two_commands_do_all_and_ci_runs_the_one_that_tests() -> None:
    assert MAKE == ["make demo", "make test"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ci.splitlines()[-1] == "make test"
    assert "examples/digits/demo.py" in recipe("demo")
    assert "pytest tests" in recipe("test-python")
    assert "cargo test --workspace" in recipe("test-rust")
    assert {"test-rust", "test-python"} <= set(recipe("test").split())
    # Both begin with the set-up.
    assert "$(STAMP)" in recipe("demo").splitlines()[0]
    assert "setup" in recipe("test").splitlines()[0]


def test_installing_is_what_the_set_up_does() -> None:
    assert PIP == ["pip install ."]
    assert re.search(r"-m pip install (?:--\S+ |constraints\.txt )*'\.\[dev\]'", MAKEFILE)


@pytest.mark.parametrize("command", SERVE)
def test_it_serves_and_curl_gets_an_answer(scratch: Path, command: str, first_labels: list[int]) -> None:
    _, _, path, *options = shlex.split(command)
    with serving(path, *options, cwd=scratch) as server:
        for curl in CURL:
            assert PRINTED in curl
            said = sh(curl.replace(PRINTED, server.address), scratch)
            outputs = {output["name"]: output["data"] for output in json.loads(said)["outputs"]}
            assert outputs["label"] == first_labels[:1]
            assert len(outputs["probabilities"]) == 10
        assert server.stop().stderr == ""


def test_the_line_to_try_that_the_server_prints_works_when_pasted(scratch: Path) -> None:
    with serving("examples/digits/digits.onnx", cwd=scratch) as server:
        (line,) = re.findall(r"^try it: (.*)$", server.printed, re.MULTILINE)
        outputs = json.loads(sh(line, scratch))["outputs"]
        assert [output["name"] for output in outputs] == ["label", "probabilities"]


def sh(line: str, folder: Path) -> str:
    """Run a line in a shell, with the command `axon` on its path, and return what it printed."""
    if "curl " in line and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    env = environment(PATH=f"{AXON.parent}:{environment()['PATH']}", no_proxy="*")
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize("command", INSPECT)
def test_it_inspects(scratch: Path, command: str) -> None:
    said = sh(command, scratch)
    for promised in ("pixels", "batchable", "run time", "rows"):
        assert promised in said


@pytest.mark.parametrize("program", PYTHON)
def test_a_python_program_prints_the_first_labels(scratch: Path, program: str, first_labels: list[int]) -> None:
    end = run_python(program, cwd=scratch, flags=["-W", "error"])
    assert (end.returncode, end.stderr) == (0, "")
    assert [int(number) for number in re.findall(r"\d+", end.stdout)] == first_labels


def test_the_rust_is_compiled_with_the_tests() -> None:
    """Either README.md itself is a documentation test of a crate, or its code stands in a file that is compiled."""
    sources = [path for path in (ROOT / "crates").rglob("*.rs") if "target" not in path.parts]
    compiled = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    included = re.search(r'doc = include_str!\("[./]*README\.md"\)', compiled)
    assert included or all(block in compiled for block in RUST), "no crate compiles README.md's Rust"


def test_the_binary_is_there_and_takes_the_flags_of_the_command() -> None:
    source = ROOT / "crates" / "axon-server"
    fields = re.findall(
        r"#\[arg\(long.*?\)\]\s+(\w+):", (source / "src" / "main.rs").read_text(encoding="utf-8"), re.DOTALL
    )
    flags = {"--" + field.replace("_", "-") for field in fields}
    own = {"--help"}
    said = run_axon("serve", "--help").stdout
    assert "takes the same flags as `axon serve`" in README
    assert flags == set(re.findall(r"--[a-z-]+", said)) - own
    (command,) = CARGO
    words = shlex.split(command)
    assert words[: words.index("--")] == ["cargo", "run", "--release", "-p", "axon-server"]
    assert 'name = "axon-server"' in (source / "Cargo.toml").read_text(encoding="utf-8")
    assert [ROOT / path for path in words[words.index("--") + 1 :] if not (ROOT / path).exists()] == []


def test_every_option_file_and_folder_that_is_named_is_there() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    options = set(re.findall(r"`(--[a-z-]+)`", text))
    assert options <= set(re.findall(r"--[a-z-]+", run_axon("serve", "--help").stdout))
    files = set(re.findall(r"`([\w/.-]+\.md|docs/[\w/]+)`", text)) | set(re.findall(r"\]\((?!http)([^)]+)\)", text))
    assert files
    assert [name for name in files if not (ROOT / name).exists()] == []
