"""A server under measurement: its process, a connection to it, and what the kernel says it has."""

from __future__ import annotations

import http.client
import json
import os
import platform
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

__all__ = ["AXON", "Answer", "Connection", "Held", "held", "keep", "percentile", "question", "serving", "wait_until"]

AXON: Final = Path(sys.executable).with_name("axon")
ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 60.0
_READY: Final = re.compile(rb"ready at http://(\S+)")
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def tensor(self) -> npt.NDArray[np.float32]:
        """Return the only output, which came in binary."""
        return np.frombuffer(self.body[int(self.headers["inference-header-content-length"]) :], np.float32)

    def version(self) -> str:
        """Return the version that the answer names."""
        head: dict[str, Any] = json.loads(self.body[: int(self.headers["inference-header-content-length"])])
        return str(head["model_version"])


class Connection:
    """One kept-alive connection."""

    def __init__(self, address: str) -> None:
        """Connect with the first request."""
        self._connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Post `body` and return what was answered."""
        return self._ask("POST", path, body, headers or {})

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON is anything
        """Return the JSON at `path`."""
        answer = self._ask("GET", path, b"", {})
        if answer.status != http.client.OK:
            raise RuntimeError(answer.body[:500])
        return json.loads(answer.body)

    def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self._connection.request(method, path, body, dict(headers))
        response = self._connection.getresponse()
        content = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def close(self) -> None:
        """Close it."""
        self._connection.close()


@contextmanager
def serving(folder: Path, cache: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Serve `folder`, for a user whose cache folder is `cache`; yield the address and the process id."""
    ports = ("--http-port", "0", "--metrics-port", "0", "--no-grpc", "--log-level", "error")
    command: list[str | Path] = [AXON, "serve", folder, *ports, *options]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            found = next(filter(None, map(_READY.search, process.stdout or ())), None)
            if found is None:
                problem = "the server did not start"
                raise SystemExit(problem)
            yield found[1].decode(), process.pid
        finally:
            process.terminate()


def question(row: npt.NDArray[np.float32], **parameters: float) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers that ask for the answer to `row` of an input `x`, in binary both ways."""
    raw = row.tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": list(row.shape), "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, **parameters}}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


@dataclass(frozen=True, slots=True)
class Held:
    """What a process has: bytes in MiB, and counts."""

    resident_mib: float
    threads: int
    descriptors: int
    mappings: int


def held(pid: int) -> Held:
    """Read what a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    threads = re.search(r"^Threads:\s+(\d+)", status, re.MULTILINE)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    with Path(f"/proc/{pid}/maps").open("rb") as maps:
        mappings = sum(1 for _ in maps)
    resident = pages * os.sysconf("SC_PAGE_SIZE") / _MIB
    return Held(resident, int(threads[1]) if threads else 0, len(list(Path(f"/proc/{pid}/fd").iterdir())), mappings)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Look again and again until `holds`; a minute at most."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(what)
        time.sleep(0.002)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of `values` do not exceed; nan without any."""
    if not values:
        return float("nan")
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def keep(name: str, path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures, with the machine and the commit, to `path`, or print where they could go."""
    if path is None:
        return
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    about = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "processor": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    path.write_text(json.dumps({**about, **figures}, indent=1) + "\n")
    print(f"written to {path}")
