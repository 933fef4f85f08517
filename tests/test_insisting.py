"""Batches of a model whose rows influence each other: never, unless its owner insists, who is told what it costs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from axon import ModelConfig
from axon.errors import InvalidRequest
from models import fixed_batch, mixing_mean, save
from serving import serving, traced
from test_bad_input import ask

if TYPE_CHECKING:
    from pathlib import Path

    from serving import Server

BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode()


def most_rows_together(server: Server) -> int:
    """Ask from many clients at once until rows of several share a run, or for long enough to see that they never do."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            for answer in pool.map(lambda _: ask(server, "/v2/models/mix/infer", BODY), range(16)):
                assert answer.status == 200, answer.body
            (stats,) = json.loads(ask(server, "/v2/models/mix/stats").body)["model_stats"]
            most = max(batch["batch_size"] for batch in stats["batch_stats"])
            if most > 1:
                break
    return int(most)


@pytest.mark.parametrize("options", [(), ("--batching", "auto"), ("--batching", "off"), ("--no-batching",)])
def test_rows_that_influence_each_other_share_no_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = save(traced(mixing_mean()), tmp_path / "mix.onnx")
    with serving(path, "--instances", "1", *options) as server:
        assert most_rows_together(server) == 1
        assert "always" not in server.stop().stderr


@pytest.mark.parametrize("where", ["command", "model.toml", "config.pbtxt"])
def test_an_owner_who_insists_gets_batches_and_a_loud_warning(tmp_path: Path, where: str) -> None:
    path = save(traced(mixing_mean()), tmp_path / "mix" / "1" / "model.onnx")
    if where == "model.toml":
        (tmp_path / "mix" / where).write_text('batching = "always"\n', encoding="utf-8")
    if where == "config.pbtxt":
        text = 'parameters { key: "axon_batching" value { string_value: "always" } }\nmax_batch_size: 8\n'
        (tmp_path / "mix" / where).write_text(text, encoding="utf-8")
    options = ("--batching", "always") if where == "command" else ()
    for _ in range(8):
        with serving(path.parents[2], "--instances", "1", *options) as server:
            most = most_rows_together(server)
            left = server.stop()
        assert "answers depend on who asks at the same time: rows influence each other" in left.stderr
        # On a machine that is busy, the measurement at load may take a batch to be no gain.
        if most > 1:
            return
    pytest.fail("requests never shared a run")


def test_no_one_can_insist_on_what_the_model_does_not_take(tmp_path: Path) -> None:
    with serving(save(fixed_batch(1), tmp_path / "fixed.onnx"), "--batching", "always") as server:
        left = server.stop()
    assert "the model is not batched: dimension 0 of input" in left.stderr


def test_a_way_of_batching_has_a_name() -> None:
    assert ModelConfig().native()["batching"] == ModelConfig(batching=True).native()["batching"] == "auto"
    assert ModelConfig(batching=False).native()["batching"] == "off"
    assert ModelConfig(batching="auto").native()["batching"] == "auto"
    assert ModelConfig(batching="off").native()["batching"] == "off"
    assert ModelConfig(batching="always").native()["batching"] == "always"


@pytest.mark.parametrize("batching", ["on", "", 2, None, []])
def test_another_way_of_batching_is_refused(batching: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ModelConfig(batching=batching)  # type: ignore[arg-type]
    assert caught.value.field == "batching"
