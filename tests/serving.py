"""Starts what the tests watch from outside: the command `axon`, a server of it, a Python program.

Every process that is started here has ended when its function or its `with` block has.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

__all__ = [
    "AXON",
    "PATIENCE_S",
    "Ended",
    "Server",
    "environment",
    "rows_run",
    "run_axon",
    "run_python",
    "serving",
    "traced",
]

#: The command, as it was installed beside the interpreter that runs the tests.
AXON: Final = Path(sys.executable).with_name("axon")

#: Seconds after which a process is taken for hung. Nothing that works comes near it.
PATIENCE_S: Final = 30.0

_READY: Final = re.compile(rb"ready at https?://(\S+):(\d+)[^\n]*\n")


class Ended(NamedTuple):
    """What a process left behind."""

    returncode: int
    stdout: str
    stderr: str


def environment(**changes: str | None) -> dict[str, str]:
    """Copy the environment of the tests with `changes`; None takes a variable out."""
    changed = {**os.environ, **changes}
    return {name: value for name, value in changed.items() if value is not None}


def run_axon(*arguments: str | Path, **settings: Any) -> Ended:  # noqa: ANN401 - what `subprocess.run` takes
    """Run the command to its end."""
    return _run([AXON, *arguments], settings)


def run_python(program: str, *arguments: str | Path, flags: Sequence[str] = (), **settings: Any) -> Ended:  # noqa: ANN401
    """Run `program`, a text, with the interpreter of the tests and the interpreter's `flags` to its end."""
    return _run([sys.executable, *flags, "-c", program, *arguments], settings)


def _run(command: Sequence[str | Path], settings: Mapping[str, Any]) -> Ended:
    settings = {"timeout": PATIENCE_S, "stdin": subprocess.DEVNULL, **settings}
    done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8", errors="replace", **settings)
    return Ended(done.returncode, done.stdout, done.stderr)


@dataclass
class Server:
    """A server process that is ready.

    Attributes:
        process: The process; its standard output is a pipe that `stop` reads.
        host: Where it listens, without brackets.
        port: The port that it chose.
    """

    process: subprocess.Popen[bytes]
    host: str
    port: int
    _log: Path
    _printed: bytes
    _ended: Ended | None = None

    @property
    def address(self) -> str:
        """`host:port` as a URL has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def grpc_address(self) -> str:
        """`host:port` of the port for gRPC."""
        found = re.search(r" and grpcs?://(\S+) in ", self.printed)
        assert found, self.printed
        return found[1]

    @property
    def printed(self) -> str:
        """What it had printed when it was ready."""
        return self._printed.decode()

    def log(self) -> str:
        """Return what it has written to standard error so far."""
        return self._log.read_text(errors="replace")

    def stop(self) -> Ended:
        """Send SIGTERM, wait for the end and say what was left; the second call says it again."""
        if self._ended is None:
            self.process.terminate()
            rest, _ = self.process.communicate(timeout=PATIENCE_S)
            printed = (self._printed + rest).decode(errors="replace")
            self._ended = Ended(self.process.returncode, printed, self._log.read_text(errors="replace"))
        return self._ended


@contextmanager
def serving(path: str | Path, *options: str, **settings: Any) -> Iterator[Server]:  # noqa: ANN401
    """Serve `path` on a free port until the `with` block ends, which then asserts that the server ended well.

    `settings` are those of `subprocess.Popen`, as `env`. A server that is not ready in time fails the test with what it
    wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "stderr")
        command = [AXON, "serve", path, "--http-port", "0", "--metrics-port", "0", "--grpc-port", "0", *options]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, **settings
            )
        try:
            host, port, printed = _wait_until_ready(process, log)
            server = Server(process, host, port, log, printed)
            yield server
            assert server.stop().returncode == 0, server.stop()
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> tuple[str, int, bytes]:
    assert process.stdout is not None
    deadline = time.monotonic() + PATIENCE_S
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            piece = os.read(process.stdout.fileno(), 1 << 16)
            printed += piece
            if ready := _READY.search(printed):
                return ready[1].decode().strip("[]"), int(ready[2]), printed
            if not piece:
                process.wait(PATIENCE_S)
                break
    problem = f"the server is not ready, code {process.poll()}:\n{printed.decode()}\n{log.read_text(errors='replace')}"
    raise AssertionError(problem)


#: The output that `traced` adds, and what it adds to 1 for each row. Within the tolerance of the load-time probe, so
#: that the model counts as batchable, and exact in FP32.
TRACE: Final = "trace"
_STEP: Final = 2.0**-20


def traced(model: onnx.ModelProto, *, milliseconds: float = 4.0) -> onnx.ModelProto:
    """Give a batchable `model` an output that tells with how many rows it was run; see `rows_run`.

    A run also takes about `milliseconds` longer, whatever its rows: requests that come meanwhile form a batch, and the
    load-time probe finds that batches pay. (256x256 MatMuls, of which one takes about 0.29 ms.)
    """
    steps = max(1, round(milliseconds / 0.29))
    source = model.graph.input[0].name
    constants: dict[str, npt.NDArray[Any]] = {
        "trace_first": np.array([0], np.int64),
        "trace_second": np.array([1], np.int64),
        "trace_square": np.array([256, 256], np.int64),
        "trace_unit": np.eye(256, dtype=np.float32),
        "trace_step": np.array(_STEP, np.float32),
        "trace_one": np.array(1.0, np.float32),
    }
    nodes = [
        helper.make_node("Shape", [source], ["trace_shape"]),
        helper.make_node("Slice", ["trace_shape", "trace_first", "trace_second"], ["trace_rows"]),
        helper.make_node("Cast", ["trace_rows"], ["trace_count"], to=TensorProto.FLOAT),
        helper.make_node("Expand", ["trace_count", "trace_square"], ["trace_0"]),
        *(helper.make_node("MatMul", [f"trace_{at}", "trace_unit"], [f"trace_{at + 1}"]) for at in range(steps)),
        helper.make_node("Slice", [f"trace_{steps}", "trace_first", "trace_second"], ["trace_row"]),
        helper.make_node("Gather", ["trace_row", "trace_first"], ["trace_cell"], axis=1),
        helper.make_node("Reshape", ["trace_cell", "trace_second"], ["trace_value"]),
        helper.make_node("Mul", ["trace_value", "trace_step"], ["trace_scaled"]),
        helper.make_node("Add", ["trace_scaled", "trace_one"], ["trace_factor"]),
        helper.make_node("Expand", ["trace_factor", "trace_rows"], [TRACE]),
    ]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    result.graph.output.append(helper.make_tensor_value_info(TRACE, TensorProto.FLOAT, ["batch"]))
    return result


def rows_run(outputs: Mapping[str, npt.NDArray[Any]]) -> int:
    """Tell how many rows the run had that gave these outputs of a `traced` model."""
    return round((float(outputs[TRACE][0]) - 1.0) / _STEP)
