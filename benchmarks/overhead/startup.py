"""How long the server takes to be ready, and what it holds when nobody asks."""

from __future__ import annotations

import http.client
import sys
import time
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.overhead.machine import memory_mib
from benchmarks.overhead.processes import BenchError, Server

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RUNS", "WAYS", "measure_startup"]

RUNS: Final = 11
#: Memory is read this long after the server is ready.
SETTLE_S: Final = 0.3
#: What is started, by the name it is given.
WAYS: Final = {
    "binary-empty": "axon-server, an empty folder",
    "binary-mlp": "axon-server, the tiny MLP",
    "command-empty": "axon serve, an empty folder",
    "command-mlp": "axon serve, the tiny MLP",
}


def measure_startup(
    server: Path, empty: Path, model: Path, advance: Callable[[], None]
) -> dict[str, dict[str, list[Any]]]:
    """Start each of `WAYS` `RUNS` times, in turn, and return by way the seconds to ready and the memory when idle.

    Raises:
        BenchError: A server was not ready when it said so, or did not end with code 0.
    """
    axon = Path(sys.executable).with_name("axon")
    commands: dict[str, list[str | Path]] = {
        "binary-empty": [server, empty],
        "binary-mlp": [server, model],
        "command-empty": [axon, "serve", empty],
        "command-mlp": [axon, "serve", model],
    }
    measured: dict[str, dict[str, list[Any]]] = {way: {"ready_s": [], "memory_mib": []} for way in commands}
    for run in range(RUNS):
        for way, command in commands.items():
            with Server([*command, "--http-port", "0", "--metrics-port", "0", "--grpc-port", "0"]) as started:
                measured[way]["ready_s"].append(started.ready_s)
                check_ready(started.address)
                if run == 0:
                    time.sleep(SETTLE_S)
                    measured[way]["memory_mib"].append(memory_mib(started.pid))
                code = started.close()
            if code != 0:
                message = f"{WAYS[way]} ended with code {code}"
                raise BenchError(message)
            advance()
    return measured


def check_ready(address: str) -> None:
    """Check that a server says over HTTP what it said on its standard output.

    Raises:
        BenchError: It does not.
    """
    with closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        connection.request("GET", "/v2/health/ready")
        status = connection.getresponse().status
    if status != HTTPStatus.OK:
        message = f"http://{address}/v2/health/ready answered {status}"
        raise BenchError(message)
