"""Every example in docs/client.md is run as it stands, against the server that its first command starts.

The ports are free ones, put in for those that are printed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import axon
import numpy as np
import pytest
from serving import AXON, PATIENCE_S, environment, run_axon, run_python, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving import Server

ROOT: Final = Path(__file__).resolve().parent.parent
TEXT: Final = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS: Final = [line[2:] for language, block in BLOCKS if language == "console" for line in block.splitlines()]
PROGRAMS: Final = [block for language, block in BLOCKS if language == "python"]
PRINTED: Final = "localhost:8000"
#: What the first eight images are, in the programs that classify them.
LABELS: Final = "examples/digits/predictions.npy"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    shutil.copytree(digits.parent, folder / "examples" / "digits")
    return folder


@pytest.fixture(scope="module")
def server(scratch: Path) -> Iterator[Server]:
    command, serve, path, *options = shlex.split(COMMANDS[0])
    assert (command, serve) == ("axon", "serve")
    with serving(path, *options, cwd=scratch) as started:
        yield started


def test_no_block_is_left_out() -> None:
    assert {language for language, _ in BLOCKS} == {"console", "python"}
    assert [line for line in COMMANDS[1:] if not line.startswith("axon infer ")] == []
    assert len(PROGRAMS) == 4


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_prints_what_is_right(server: Server, scratch: Path, program: str) -> None:
    assert PRINTED in program
    end = run_python(program.replace(PRINTED, server.address), cwd=scratch, flags=["-W", "error"])
    assert (end.returncode, end.stderr) == (0, "")
    if "images" in program:
        labels = [int(label) for label in np.load(scratch / LABELS)[:8]]
        assert [int(number) for number in re.findall(r"\d+", end.stdout)] == labels
    else:
        assert end.stdout == "FP32 [-1, 64] 1\n"


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_a_command_answers(server: Server, scratch: Path, command: str) -> None:
    line = command.replace("axon infer digits ", f"axon infer digits --url http://{server.address} ")
    env = environment(PATH=f"{AXON.parent}:{environment()['PATH']}")
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=scratch, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done
    assert "probabilities" in done.stdout
    if "--output" in command:
        with np.load(scratch / "outputs.npz") as arrays:
            assert arrays.files == ["label", "probabilities"]


def test_every_option_and_name_is_there() -> None:
    text = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    options = set(re.findall(r"`(--[a-z-]+)", text))
    assert options <= set(re.findall(r"--[a-z-]+", run_axon("infer", "--help").stdout))
    for name in ("Client", "AsyncClient", "SequenceStep", "ConnectionFailed"):
        assert name in TEXT
        assert hasattr(axon, name)
