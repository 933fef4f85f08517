"""Fixtures: the files that tests serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import models
import pytest

if TYPE_CHECKING:
    import onnx

ROOT = Path(__file__).resolve().parent.parent


class SaveModel(Protocol):
    """Writes a model below the test's own folder, and returns its path."""

    def __call__(self, model: onnx.ModelProto, name: str = "model") -> Path:
        """Write it to `name.onnx`."""
        ...


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    def save(model: onnx.ModelProto, name: str = "model") -> Path:
        return models.save(model, tmp_path / f"{name}.onnx")

    return save


@pytest.fixture(scope="session")
def digits() -> Path:
    """Return the classifier of handwritten digits; its images and labels lie beside it."""
    return ROOT / "examples" / "digits" / "digits.onnx"
