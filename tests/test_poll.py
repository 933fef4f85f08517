"""Mode `poll`: the server follows the folder of its models, over the wire."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from models import mlp, save
from serving import PATIENCE_S, Server, environment, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

INPUTS: Final = [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}]


def _ask(server: Server, method: str, path: str, body: Any = None) -> tuple[int, Any]:  # noqa: ANN401 - JSON
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request(method, path, json.dumps(body) if body is not None else b"")
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def _infer(server: Server, name: str) -> tuple[int, Any]:
    status, answer = _ask(server, "POST", f"/v2/models/{name}/infer", {"inputs": INPUTS})
    return status, answer["outputs"][0]["data"] if status == http.client.OK else answer


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def _put(folder: Path, version: int, content: bytes) -> None:
    """Write a version beside its place and move it there."""
    target = folder / str(version) / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name("unfinished")
    unfinished.write_bytes(content)
    unfinished.rename(target)


@pytest.fixture(params=["events", "timer"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path / "models"
    _put(folder / "m", 1, mlp(seed=1).SerializeToString())
    seconds = "0" if request.param == "events" else "1"
    options = ("--model-control-mode", "poll", "--repository-poll-secs", seconds, "--log-level", "off")
    with serving(folder, *options, env=environment(XDG_CACHE_HOME=str(tmp_path / "cache"))) as server:
        yield server, folder


def test_a_model_appears_changes_and_goes(served: tuple[Server, Path]) -> None:
    server, folder = served
    save(mlp(seed=2), folder / "new.onnx")
    _until(lambda: _infer(server, "new")[0] == 200)
    before = _infer(server, "new")[1]
    save(mlp(seed=3), folder / "new.onnx")
    _until(lambda: _infer(server, "new")[1] != before)
    (folder / "new.onnx").unlink()
    _until(lambda: _infer(server, "new")[0] == 503)
    shutil.rmtree(folder / "m")
    _until(lambda: _infer(server, "m")[0] == 503)


def test_f_09_and_f_10_no_request_is_lost_when_a_version_comes_or_is_broken(served: tuple[Server, Path]) -> None:
    server, folder = served
    old = _infer(server, "m")
    assert old[0] == 200
    seen = [old[1]]

    def reason() -> str:
        _, index = _ask(server, "POST", "/v2/repository/index", {})
        status, answer = _infer(server, "m")
        assert status == 200, answer
        if answer != seen[-1]:
            seen.append(answer)
        return next(
            (entry.get("reason", "") for entry in index if entry["name"] == "m" and entry["version"] == "1"), ""
        )

    _put(folder / "m", 1, b"broken")
    _until(lambda: "an earlier load goes on serving" in reason())
    assert seen == [old[1]]
    _put(folder / "m", 2, mlp(seed=5).SerializeToString())
    _until(lambda: reason() == "unloaded")
    assert len(seen) == 2, "the new version took over once"


def test_a_copy_that_takes_its_time_is_never_answered_from_half(served: tuple[Server, Path]) -> None:
    server, folder = served
    whole = mlp(seed=7).SerializeToString()
    target = folder / "m" / "1" / "model.onnx"
    old = _infer(server, "m")[1]
    with target.open("r+b") as file:
        file.truncate(0)
        for start in range(0, len(whole), max(1, len(whole) // 8)):
            file.write(whole[start : start + max(1, len(whole) // 8)])
            file.flush()
            os.fsync(file.fileno())
            assert _infer(server, "m") == (200, old)
            time.sleep(0.1)
    _until(lambda: _infer(server, "m")[1] != old)
