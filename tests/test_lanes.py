"""Several models on one lane of a real server, with the backend that waits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx2
import pytest
from serving import run_axon, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from serving import Server

#: A run takes so long, however many rows it has.
IDENTITY: Final = """
backend = "identity"
max_batch_size = {rows}
instances = {instances}
weight = {weight}
[inputs.x]
datatype = "FP32"
shape = [1]
[outputs.y]
datatype = "FP32"
shape = [1]
[parameters]
execute_delay_ms = {delay}
"""
QUESTION: Final[dict[str, Any]] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
#: Answers that are counted; with weights 3 and 1 a quarter of them are the lighter model's.
COUNTED: Final = 400
CALLERS: Final = 8


def save(folder: Path, name: str, **settings: int) -> None:
    chosen = {"rows": 1, "instances": 1, "weight": 1, "delay": 8} | settings
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "model.toml").write_text(IDENTITY.format(**chosen))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    save(tmp_path, "light", weight=1)
    save(tmp_path, "heavy", weight=3)
    with serving(tmp_path, "--lanes", "1") as running:
        yield running


def explain(server: Server, model: str) -> dict[str, Any]:
    document: dict[str, Any] = httpx2.get(f"http://{server.address}/v2/models/{model}/explain").json()
    return document


def test_models_that_always_have_work_share_the_lane_by_weight(server: Server) -> None:
    order: list[str] = []
    lock, is_over = threading.Lock(), threading.Event()

    def call(model: str) -> None:
        with httpx2.Client(timeout=60) as client:
            while not is_over.is_set():
                answer = client.post(
                    f"http://{server.address}/v2/models/{model}/infer",
                    json=QUESTION,
                    headers={"X-Request-Timeout": "0.4"},
                )
                if answer.status_code == httpx2.codes.OK:
                    with lock:
                        order.append(model)
                        if len(order) >= COUNTED:
                            is_over.set()

    with ThreadPoolExecutor(2 * CALLERS) as pool:
        list(pool.map(call, ["light", "heavy"] * CALLERS))
    # The first are those of the time in which one was alone, or ahead.
    light = order[COUNTED // 4 : COUNTED].count("light")
    share = light / (COUNTED - COUNTED // 4)
    assert 0.17 <= share <= 0.35, f"{share:.3f} of {order}"
    device = explain(server, "heavy")["device"]
    assert (device["lanes"], device["is_shared"], device["weight"]) == (1, True, 3)
    assert device["longest_run_ms"] <= 200


def test_explain_says_how_a_model_stands_on_its_device(server: Server) -> None:
    told = run_axon("explain", "light", "--url", f"http://{server.address}").stdout
    assert "device     1 lane shared with other models; weight 1, 100 % sure, runs of any length" in told


def test_a_lone_model_has_the_lanes_that_it_uses(tmp_path: Path) -> None:
    save(tmp_path, "wide", instances=64)
    with serving(tmp_path) as server:
        device = explain(server, "wide")["device"]
        told = run_axon("explain", "wide", "--url", f"http://{server.address}").stdout
    assert (device["lanes"], device["is_shared"], device["share"]) == (64, False, 1)
    assert "device     64 lanes, all its own" in told
