"""How a model is run on the cores it is granted, as `axon inspect` shows it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, Final

import models
import pytest
from serving import AXON, PATIENCE_S, environment, run_axon

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import SaveModel

CORES: Final = sorted(os.sched_getaffinity(0))


def inspect(path: Path, *options: str, cores: list[int] | None = None) -> Any:  # noqa: ANN401 - JSON
    """Inspect a model, on some of the cores."""
    bound = ["taskset", "-c", ",".join(map(str, CORES if cores is None else cores))]
    command = [*bound, str(AXON), "inspect", "--json", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True, env=environment())
    return json.loads(done.stdout)


def splits(report: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the splits that were compared."""
    return [(one["instances"], one["threads"]) for one in report["candidates"]]


@pytest.mark.parametrize("profile", ["throughput", "latency"])
def test_a_plan_for_one_core_is_one_instance_of_one_thread(save_model: SaveModel, profile: str) -> None:
    report = inspect(save_model(models.slow(5)), "--profile", profile, cores=CORES[:1])
    assert (report["instances"], report["threads"], splits(report)) == (1, 1, [(1, 1)])
    assert (report["profile"], report["chosen_because"]) == (profile, "one core is granted")


def test_instances_that_are_asked_for_are_cut_to_one_core(save_model: SaveModel) -> None:
    report = inspect(save_model(models.slow(5)), "--instances", "64", cores=CORES[:1])
    assert (report["instances"], report["threads"]) == (1, 1)


@pytest.mark.skipif(len(CORES) < 2, reason="one core leaves nothing to compare")
@pytest.mark.parametrize("profile", ["throughput", "latency"])
def test_a_plan_is_chosen_among_splits_of_the_cores(save_model: SaveModel, profile: str) -> None:
    report = inspect(save_model(models.slow(2)), "--profile", profile, cores=CORES[:2])
    assert splits(report) == [(2, 1), (1, 2)]
    chosen = [one for one in report["candidates"] if one["is_chosen"]]
    assert [(one["instances"], one["threads"]) for one in chosen] == [(report["instances"], report["threads"])]
    assert all(one["rows_per_second"] > 0 for one in report["candidates"])
    assert all(one["batch_milliseconds"] >= one["single_milliseconds"] > 0 for one in report["candidates"])


def test_a_tiny_model_is_not_compared(save_model: SaveModel) -> None:
    report = inspect(save_model(models.mlp()))
    assert (report["threads"], len(report["candidates"])) == (1, 1)


def test_a_models_own_profile_comes_before_the_servers(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    models.save(models.mlp(), folder / "1" / "model.onnx")
    (folder / "model.toml").write_text('profile = "latency"\n', encoding="utf-8")
    (report,) = inspect(folder.parent, "--profile", "throughput")
    assert report["profile"] == "latency"


def test_the_table_says_what_was_chosen_and_why(save_model: SaveModel) -> None:
    end = run_axon("inspect", save_model(models.mlp()), "--instances", "1")
    assert (end.returncode, end.stderr) == (0, "")
    lines = [line.split() for line in end.stdout.splitlines()]
    assert ["plans"] in lines
    assert [line[:3] for line in lines if line[:1] == ["chosen"]] == [["chosen", "1", "1"]]
    assert ["profile", "throughput"] in lines
