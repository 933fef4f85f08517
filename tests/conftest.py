"""Fixtures: the files that tests serve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import models
import pytest
from authority import Authority, Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

ROOT = Path(__file__).resolve().parent.parent


class SaveModel(Protocol):
    """Writes a model below the test's own folder, and returns its path."""

    def __call__(self, model: onnx.ModelProto, name: str = "model") -> Path:
        """Write it to `name.onnx`."""
        ...


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what servers find out about models in a folder of this run: nothing comes from an earlier one."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    def save(model: onnx.ModelProto, name: str = "model") -> Path:
        return models.save(model, tmp_path / f"{name}.onnx")

    return save


@pytest.fixture(scope="session")
def digits() -> Path:
    """Return the classifier of handwritten digits; its images and labels lie beside it."""
    return ROOT / "examples" / "digits" / "digits.onnx"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return who signs the certificates of a file of tests."""
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture(scope="module")
def own(authority: Authority) -> Pair:
    """Return the server's certificate and key."""
    return authority.sign("server")
