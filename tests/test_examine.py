"""`axon models` and `axon check`: what a repository holds, and everything that is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest
from models import identity, mlp, save
from serving import run_axon

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make a folder with models that can be served, and with every kind of trouble."""
    for folder in ("good/1", "typo/1", "empty", "broken/1", "wrong/2"):
        (tmp_path / folder).mkdir(parents=True)
    save(mlp(), tmp_path / "good/1/model.onnx")
    save(identity("FP32"), tmp_path / "lone.onnx")
    save(identity("FP32"), tmp_path / "bad name.onnx")
    save(mlp(), tmp_path / "typo/1/model.onnx")
    (tmp_path / "typo/config.pbtxt").write_text('name: "typo"\nmax_bath_size: 1\n')
    (tmp_path / "broken/1/model.onnx").write_bytes(b"no model")
    save(mlp(), tmp_path / "wrong/2/model.onnx")
    (tmp_path / "wrong/model.toml").write_text('[[inputs]]\nname = "y"\ndatatype = "FP32"\nshape = [3]\n')
    return tmp_path


def test_models_are_listed_without_being_loaded(repository: Path) -> None:
    ended = run_axon("models", repository)
    assert ended.returncode == 0, ended.stderr
    shown = {line.split()[0]: line for line in ended.stdout.splitlines()}
    assert set(shown) == {"broken", "good", "lone", "typo", "wrong"}
    assert shown["good"].startswith(f"good  version 1  {repository}/good/1/model.onnx  ")
    assert "cannot be served" in shown["typo"]
    assert shown["broken"].endswith(" bytes"), "nobody has read it"
    rows = json.loads(run_axon("models", repository, "--json").stdout)
    assert [row["name"] for row in rows if row["version"] is None] == ["bad name", "empty"]


def test_weights_beside_a_model_count_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    onnx.save_model(mlp(), folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == 2
    (row,) = json.loads(run_axon("models", tmp_path, "--json").stdout)
    assert row["bytes"] == sum(sizes)


def test_every_problem_is_told_with_its_file_and_what_to_do(repository: Path) -> None:
    ended = run_axon("check", repository)
    assert ended.returncode == 1
    errors = [line for line in ended.stdout.splitlines() if line.startswith("error: ")]
    told = {line.split(": ")[2].split(" version")[0]: line for line in errors}
    assert set(told) == {"bad name", "broken", "typo", "wrong"}
    assert "config.pbtxt:2:1" in told["typo"]
    assert "max_batch_size" in told["typo"], "what may have been meant"
    assert f"{repository}/broken/1/model.onnx" in told["broken"]
    assert "hint: rename it" in ended.stdout
    assert "warning: " in ended.stdout
    assert "empty" in ended.stdout
    assert "2 can be served, 4 cannot" in ended.stderr


def test_a_good_repository_passes(repository: Path) -> None:
    ended = run_axon("check", repository / "good/1/model.onnx")
    assert (ended.returncode, ended.stdout) == (0, "1 can be served, 0 cannot\n")
    assert run_axon("check", repository / "missing").returncode == 1
    only_read = run_axon("check", repository, "--no-load", "--json")
    rows = {row["name"]: row["problem"] for row in json.loads(only_read.stdout)}
    assert rows["broken"] is None, "what only a load finds"
    assert rows["typo"] is not None
    assert only_read.returncode == 1


@pytest.mark.parametrize("command", ["check", "add"])
def test_a_folder_without_models_is_an_error(command: str, tmp_path: Path) -> None:
    refused = run_axon(command, tmp_path)
    assert refused.returncode == 1
    assert "no models here" in refused.stdout + refused.stderr
