"""A model that comes and goes leaves nothing: sixty cycles here, a thousand in `benchmarks/residency/cycles.py`."""

from __future__ import annotations

import http.client
import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from models import mlp, save
from serving import PATIENCE_S, serving

if TYPE_CHECKING:
    from collections.abc import Callable

CYCLES: Final = 60
#: What comes with the first loads and stays: the runtime, threads of the server's own, arenas of the allocator.
SETTLED: Final = 10
#: Some 12 MB of weights: one copy that stayed in every fourth cycle would show.
SIZES: Final = (256, 1600, 1600, 10)
LEEWAY_MIB: Final = 32
QUESTION: Final = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256], "data": np.linspace(-1, 1, 256).tolist()}]}
)


class Held(NamedTuple):
    """What a process has."""

    threads: list[str]
    descriptors: list[str]
    #: Files that are mapped, by path.
    mapped: list[str]
    resident_mib: float


def held(pid: int) -> Held:
    process = Path(f"/proc/{pid}")
    maps = [line.split(maxsplit=5) for line in (process / "maps").read_text().splitlines()]
    resident = re.search(r"^VmRSS:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)
    assert resident is not None
    threads, descriptors = [], []
    # Some end while they are looked at.
    for thread in process.glob("task/*/comm"):
        with suppress(OSError):
            threads.append(thread.read_text().strip())
    for descriptor in process.glob("fd/*"):
        with suppress(OSError):
            descriptors.append(re.sub(r"\d+", "n", str(descriptor.readlink())))
    return Held(
        sorted(threads),
        sorted(descriptors),
        sorted(fields[5] for fields in maps if len(fields) > 5 and fields[5].startswith("/")),
        int(resident[1]) / 1024,
    )


def wait_until(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def test_sixty_loads_and_unloads_leave_no_thread_no_descriptor_no_mapping_and_no_memory(tmp_path: Path) -> None:
    save(mlp(SIZES), tmp_path / "m.onnx")
    options = ("--model-control-mode", "explicit", "--load-check", "off", "--no-batching", "--instances", "1")
    with serving(tmp_path, *options) as server:
        connection = http.client.HTTPConnection(server.address, timeout=PATIENCE_S)

        def post(path: str, body: str = "") -> bytes:
            connection.request("POST", path, body)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            return content

        def cycle() -> bytes:
            post("/v2/repository/models/m/load")
            answer = post("/v2/models/m/infer", QUESTION)
            post("/v2/repository/models/m/unload")
            return answer

        first = json.loads(cycle())["outputs"]
        for _ in range(SETTLED):
            cycle()
        # What an unload leaves is given back on a thread of the server's own.
        instances = re.compile(r"ax\d+-|axon-(load|control)")
        pid = server.process.pid
        wait_until(lambda: not any(map(instances.match, held(pid).threads)), lambda: held(pid).threads)
        before = held(pid)
        for _ in range(CYCLES):
            assert json.loads(cycle())["outputs"] == first
        wait_until(
            lambda: held(pid)[:3] == before[:3] and held(pid).resident_mib < before.resident_mib + LEEWAY_MIB,
            lambda: (before, held(pid)),
        )
        connection.close()
