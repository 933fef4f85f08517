"""The model that ships with Axon: in process, its answers are those of scikit-learn and, bit for bit, of ONNX Runtime.

`examples/digits/train.py` trained it; the held-out images and scikit-learn's predictions for them lie beside it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
import pytest
from axon import InferenceServer, ModelConfig, sync
from onnx import numpy_helper
from serving import rows_run, traced
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from conftest import SaveModel

    Array: TypeAlias = npt.NDArray[Any]
    Arrays: TypeAlias = dict[str, Array]

OUTPUTS = ("label", "probabilities")


@pytest.fixture(scope="module")
def images(digits: Path) -> Array:
    array: Array = np.load(digits.with_name("images.npy"))
    return array


@pytest.fixture(scope="module")
def predictions(digits: Path) -> Array:
    array: Array = np.load(digits.with_name("predictions.npy"))
    return array


@pytest.fixture(scope="module")
def expected(digits: Path, images: Array) -> Arrays:
    """Return what ONNX Runtime answers when it is called directly, on one thread, image by image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(digits, options, providers=["CPUExecutionProvider"])
    return joined([dict(zip(OUTPUTS, session.run(OUTPUTS, {"pixels": image[None]}), strict=True)) for image in images])


def joined(answers: list[Arrays]) -> Arrays:
    return {name: np.concatenate([answer[name] for answer in answers]) for name in OUTPUTS}


def same_bits(answers: list[Arrays], expected: Arrays) -> bool:
    return all(array.tobytes() == expected[name].tobytes() for name, array in joined(answers).items())


def test_every_label_is_scikit_learns(digits: Path, images: Array, predictions: Array) -> None:
    with sync.InferenceServer.load(digits) as server:
        labels = server.infer(images)["label"]
    assert labels.dtype == np.int64
    assert labels.tolist() == predictions.tolist()


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 360])
def test_requests_of_any_size_are_onnx_runtimes_bit_for_bit(
    digits: Path, images: Array, expected: Arrays, rows: int
) -> None:
    with sync.InferenceServer.load(digits) as server:
        answers = [server.infer(images[at : at + rows]) for at in range(0, len(images), rows)]
    assert same_bits(answers, expected)


def test_concurrent_requests_are_onnx_runtimes_bit_for_bit(digits: Path, images: Array, expected: Arrays) -> None:
    async def asked() -> list[Arrays]:
        async with await InferenceServer.load(digits) as server:
            return await asyncio.gather(*(server.infer(image[None]) for image in images))

    assert same_bits(asyncio.run(asked()), expected)


def test_images_that_shared_a_run_have_the_answers_that_they_have_alone(
    digits: Path, save_model: SaveModel, images: Array, expected: Arrays
) -> None:
    """The same model with an output that tells how many rows its run had, and time for requests to gather."""
    path = save_model(traced(onnx.load(digits)))

    async def asked() -> list[Arrays]:
        async with await InferenceServer.load(path, config=ModelConfig(instances=1)) as server:
            return await asyncio.gather(*(server.infer({"pixels": image[None]}) for image in images))

    answers = asyncio.run(asked())
    assert same_bits(answers, expected)
    sizes = Counter(map(rows_run, answers))
    print(f"images by the rows of their run: {dict(sizes)}")  # noqa: T201 - shown when the test fails
    assert all(images_of_size % size == 0 for size, images_of_size in sizes.items())
    assert sum(images_of_size for size, images_of_size in sizes.items() if size > 1) > len(images) / 2


def test_the_weights_in_the_model_are_a_scikit_learn_classifier_that_predicts_the_same(
    digits: Path, images: Array, expected: Arrays, predictions: Array
) -> None:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(digits).graph.initializer}
    classifier = MLPClassifier(hidden_layer_sizes=(64,))
    # What `fit` would have set.
    classifier.coefs_ = [weights["weight_0"], weights["weight_1"]]
    classifier.intercepts_ = [weights["bias_0"], weights["bias_1"]]
    classifier.n_layers_, classifier.n_outputs_, classifier.out_activation_ = 3, 10, "softmax"
    classifier.n_features_in_, classifier.classes_ = 64, np.arange(10)
    classifier._label_binarizer = LabelBinarizer().fit(np.arange(10))  # noqa: SLF001
    scaled = images * weights["scale"]
    assert classifier.predict(scaled).tolist() == predictions.tolist()
    np.testing.assert_allclose(classifier.predict_proba(scaled), expected["probabilities"], rtol=1e-4, atol=1e-6)
    assert np.mean(predictions == np.load(digits.with_name("labels.npy"))) > 0.96
