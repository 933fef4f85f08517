"""Triton's queue policies over the wire: answers in order, and requests that wait on behind the others."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx2
import pytest
from models import SLEEPER
from serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from serving import Server

PATIENCE_S: Final = 30.0


def save(folder: Path, settings: str) -> Path:
    (folder / "m" / "1").mkdir(parents=True)
    (folder / "m" / "model.toml").write_text(settings + SLEEPER)
    return folder


def running(server: Server) -> int:
    return int(httpx2.get(f"http://{server.address}/v2/models/m/explain").json()["load"]["running"])


def runs(server: Server) -> int:
    (stats,) = httpx2.get(f"http://{server.address}/v2/models/m/stats").json()["model_stats"]
    return int(stats["execution_count"])


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def ask(server: Server, delay_ms: int = 0) -> int:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    question: dict[str, Any] = {"inputs": [tensor], "parameters": {"execute_delay_ms": delay_ms}}
    url = f"http://{server.address}/v2/models/m/infer"
    return httpx2.post(url, json=question, timeout=PATIENCE_S).status_code


@pytest.mark.parametrize("ordered", [True, False])
def test_an_answer_waits_for_an_earlier_one_where_the_order_is_preserved(*, tmp_path: Path, ordered: bool) -> None:
    settings = f"instances = 2\npreserve_ordering = {str(ordered).lower()}\n"
    with serving(save(tmp_path, settings), "--lanes", "2") as server, ThreadPoolExecutor(2) as pool:
        slow = pool.submit(ask, server, 2000)
        until(lambda: running(server) == 1)
        quick = pool.submit(ask, server)
        if ordered:
            until(lambda: runs(server) == 1)
            assert not quick.done(), "it has been run, and is held"
            assert not slow.done()
        else:
            assert quick.result() == 200
            assert not slow.done()
        assert (slow.result(), quick.result()) == (200, 200)


@pytest.mark.parametrize(("action", "status"), [("delay", 200), ("reject", 504)])
def test_a_request_whose_time_is_over_waits_on_or_is_refused(tmp_path: Path, action: str, status: int) -> None:
    settings = f'instances = 1\ntimeout_ms = 50\ntimeout_action = "{action}"\n'
    with serving(save(tmp_path, settings)) as server, ThreadPoolExecutor(2) as pool:
        busy = pool.submit(ask, server, 500)
        until(lambda: running(server) == 1)
        assert ask(server) == status
        assert busy.result() == 200


def test_a_time_longer_than_any_clock_has_is_no_trouble(tmp_path: Path) -> None:
    settings = 'instances = 1\ntimeout_ms = 50\ntimeout_action = "delay"\n'
    with serving(save(tmp_path, settings)) as server:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
        url = f"http://{server.address}/v2/models/m/infer"
        for seconds in ("1e19", "18446744073709549568"):
            answer = httpx2.post(url, json={"inputs": [tensor]}, headers={"X-Request-Timeout": seconds})
            assert answer.status_code == 200
        assert ask(server) == 200
