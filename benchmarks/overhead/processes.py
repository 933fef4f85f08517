"""The processes that are measured and those that ask them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from axon._runtime import find_library

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["HERE", "ROOT", "BenchError", "Process", "Server", "Worker", "environment"]

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
READY: Final = re.compile(r"ready at http://(\S+:\d+)")
GRPC: Final = re.compile(r" and grpc://(\S+:\d+)")
PATIENCE_S: Final = 20.0


class BenchError(Exception):
    """What went wrong, for the user to read."""


def environment() -> dict[str, str]:
    """Return the environment of every process: one ONNX Runtime for all, which reports to nobody."""
    library = find_library()
    found = {} if library is None else {"ORT_DYLIB_PATH": library}
    return os.environ | found | {"ORT_DISABLE_TELEMETRY": "1"}


class Process:
    """A process that is told what to do on its standard input and answers on its standard output, line by line."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        """Start it; `started` is the moment before."""
        self._name = " ".join(str(word) for word in command[:2])
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(),
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def read_line(self) -> str:
        """Wait for its next line.

        Raises:
            BenchError: It ended instead; says what it logged.
        """
        output = self._process.stdout
        line = output.readline() if output else ""
        if not line:
            self._log.seek(0)
            log = self._log.read().decode(errors="replace").strip()
            message = f"{self._name} ended with code {self._process.wait()}: {log or 'it said nothing'}"
            raise BenchError(message)
        return line

    def write_line(self, line: str) -> None:
        """Give it a line."""
        if self._process.stdin:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def close(self) -> int:
        """End it, by SIGTERM first, and return its exit code. Closing twice does nothing more."""
        self._process.terminate()
        try:
            return self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            for stream in (self._process.stdin, self._process.stdout, self._log):
                if stream:
                    stream.close()

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.close()


class Server(Process):
    """An HTTP server on a free port.

    Attributes:
        address: Its `host:port`.
        grpc_address: The same for gRPC; empty where it has none.
        ready_s: Seconds from just before its start to the line that says it is ready.
    """

    def __init__(self, command: Sequence[str | Path]) -> None:
        """Start it and wait until it is ready."""
        super().__init__(command)
        while not (match := READY.search(line := self.read_line())):
            pass
        grpc = GRPC.search(line)
        self.grpc_address = grpc[1] if grpc else ""
        self.ready_s = time.perf_counter() - self.started
        self.address = match[1]


class Worker(Process):
    """A process that asks: `load` or `callers.py`."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        """Start it and wait until it has checked an answer."""
        super().__init__(command)
        self.read_line()

    @classmethod
    def in_python(cls, *arguments: str | Path) -> Self:
        """Start `callers.py`."""
        return cls([sys.executable, HERE / "callers.py", *arguments])

    def window(self, *, callers: int, rows: int, warm_up_s: float, seconds: float) -> dict[str, Any]:
        """Let it ask for `seconds` and return its report.

        Raises:
            BenchError: It ended, or a request failed.
        """
        window = {"callers": callers, "rows": rows, "warm_up_s": warm_up_s, "seconds": seconds}
        self.write_line(json.dumps(window))
        report: dict[str, Any] = json.loads(self.read_line())
        if report["failed"] or not report["requests"]:
            message = (
                f"{self._name}: {report['failed']} of {report['all_requests']} requests failed: "
                f"{report['first_failure'] or 'none was answered in time'}"
            )
            raise BenchError(message)
        return report
