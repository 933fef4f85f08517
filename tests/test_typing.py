"""The types that Axon ships are true: the native module's stub is held against its binary, and programs are checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import axon
from mypy import api
from serving import environment, run_python

if TYPE_CHECKING:
    from serving import Ended

#: What the stub has and the binary has not, and why.
ALLOWED: Final = r"""
# Shapes of arguments and results: names for type checkers only.
axon\._axon\.Native(Config|Error|Input|Output|Question|Replay|ReplayReport|Serve)
# A slot of the type that Python shows from 3.12 on.
axon\._axon\.Buffer\.__buffer__
"""

STUBTEST: Final = "from mypy import stubtest; import sys; sys.exit(stubtest.main())"

PROGRAM: Final = """
import asyncio
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import axon
from axon import InferenceServer, ModelConfig, ModelMetadata, ModelState, Overloaded, sync

Outputs = dict[str, np.ndarray[Any, np.dtype[Any]]]

async def main(path: Path) -> None:
    config = ModelConfig(max_batch_size=8, request_timeout_s=1.0)
    async with await InferenceServer.load(path, name="digits", config=config) as server:
        assert_type(server, InferenceServer)
        assert_type(await server.infer(np.zeros((1, 64), np.float32)), Outputs)
        assert_type(await server.infer({"x": [[1.0]]}, model="a", version=1, outputs=["y"], timeout_s=1.0), Outputs)
        assert_type(server.models(), list[ModelState])
        assert_type(server.metadata(), ModelMetadata)
        assert_type(server.metadata().inputs[0].shape, tuple[int, ...])
        assert_type(server.is_ready(), bool)
    opened = await InferenceServer.open("models")
    await opened.close()

def blocking(path: str) -> float:
    with sync.InferenceServer.load(path) as server:
        assert_type(server, sync.InferenceServer)
        try:
            return float(server.infer([1.0])["y"][0])
        except Overloaded as error:
            assert_type(error.retry_after_s, float | None)
            assert_type(error.field, str | None)
            raise
        except axon.DeadlineExceeded as error:
            assert_type(error, axon.DeadlineExceeded)
            raise TimeoutError from error

asyncio.run(main(Path("model.onnx")))
print(axon.__version__, blocking("model.onnx"))
"""


#: Lines that strict mypy must refuse, and with which error.
WRONG: Final = {
    "server.infer([1.0], 'name')": "call-arg",
    "server.infer([1.0], modle='name')": "call-arg",
    "server.infer([1.0], version='1')": "arg-type",
    "server.infer([1.0], timeout_s='1')": "arg-type",
    "server.infer([1.0])['y'].nothing": "attr-defined",
    "server.metadata().inputs[0].dtype": "attr-defined",
    "axon.InferenceServer.load('m.onnx').infer([1.0])": "attr-defined",
    "axon.ModelConfig(max_batch=1)": "call-arg",
    "axon.ModelConfig().device = 'cuda'": "misc",
    "axon.nothing": "attr-defined",
}

#: What is true in the stub, and what would be false in its place.
FALSE: Final = {
    "def close_all() -> None: ...": "def close_all(at_once: bool) -> None: ...",
    "def cancel(self, token: int)": "def cancel(self, number: int)",
    "    def is_ready(self) -> bool: ...": "    def is_paused(self) -> bool: ...",
    "    def fileno(self) -> int: ...\n": "",
}


def stubtest(folder: Path, **changes: str) -> Ended:
    """Hold the stub of the package that Python finds against its binary."""
    allowed = folder / "allowed"
    allowed.write_text(ALLOWED)
    options = ("--concise", "--ignore-unused-allowlist", "--allowlist", allowed)
    return run_python(STUBTEST, "axon._axon", *options, env=environment(**changes), cwd=folder)


def check(folder: Path, program: str) -> list[str]:
    """Return what strict mypy says of `program`, line by line."""
    path = folder / "program.py"
    path.write_text(program)
    said, trouble, _ = api.run(["--strict", "--config-file=", f"--cache-dir={folder / 'cache'}", str(path)])
    assert trouble == ""
    return said.splitlines()


def test_the_native_module_is_as_its_stub_says(tmp_path: Path) -> None:
    end = stubtest(tmp_path)
    assert end.returncode == 0, end.stdout


def test_what_is_wrong_in_a_stub_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(Path(axon.__file__).parent, copy / "axon", ignore=shutil.ignore_patterns("__pycache__"))
    stub = copy / "axon" / "_axon.pyi"
    text = stub.read_text()
    for true, false in FALSE.items():
        assert true in text
        text = text.replace(true, false)
    stub.write_text(text)
    end = stubtest(tmp_path, PYTHONPATH=str(copy), MYPYPATH=str(copy))
    found = sorted(line.split()[0].removeprefix("axon._axon.") for line in end.stdout.splitlines())
    assert set(found) == {"close_all", "Server.cancel", "Server.is_paused", "Server.is_ready", "Completions.fileno"}


def test_programs_are_checked(tmp_path: Path) -> None:
    assert check(tmp_path, PROGRAM) == ["Success: no issues found in 1 source file"]
    start = "import axon\nfrom axon import sync\nserver = sync.InferenceServer.load('m.onnx')"
    said = check(tmp_path, "\n".join([start, *WRONG]))
    for number, (line, code) in enumerate(WRONG.items(), start.count("\n") + 2):
        assert [one for one in said if f"program.py:{number}: error" in one and one.endswith(f"[{code}]")], line
