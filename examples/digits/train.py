"""Trains the digit classifier that `demo.py` serves, and writes it as ONNX.

Run as `python examples/digits/train.py`; it needs scikit-learn, onnx and onnxruntime. Beside itself it writes the
model, and the held-out images with their true labels and what scikit-learn predicts for them. The demo needs no new
training: its files are kept with it.

The run fails unless ONNX Runtime gives scikit-learn's label for every held-out image, and unless a row of a batch gets
exactly the bytes it gets alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import sklearn
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE: Final = Path(__file__).parent
SEED: Final = 0
HELD_OUT: Final = 360
HIDDEN: Final = 64
PIXEL_MAX: Final = 16.0
BATCHES: Final = (2, 3, 7, 16, 64)
# Opset 17 and IR version 8 are older than any ONNX Runtime that Axon supports (1.24 and newer).
OPSET: Final = 17
IR_VERSION: Final = 8

Pixels: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]


def train(pixels: Pixels, labels: Labels) -> MLPClassifier:
    """Fit one hidden layer on `pixels` (`[images, 64]`, 0 to 16) and `labels` (`[images]`, 0 to 9)."""
    classifier = MLPClassifier(hidden_layer_sizes=(HIDDEN,), max_iter=400, random_state=SEED)
    return classifier.fit(pixels / PIXEL_MAX, labels)


def to_onnx(classifier: MLPClassifier) -> onnx.ModelProto:
    """Write `classifier` as a graph from `pixels` (`[batch, 64]`, 0 to 16) to `label` and `probabilities`.

    `Gemm` with constant weights, `Relu`, `Softmax` and `ArgMax` each treat a row alone and in one order, so that an
    answer does not depend on what else is in its batch.
    """
    constants = {"scale": np.float32(1.0 / PIXEL_MAX)}
    for layer, (weight, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True)):
        constants[f"weight_{layer}"] = weight.astype(np.float32)
        constants[f"bias_{layer}"] = bias.astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "weight_0", "bias_0"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "weight_1", "bias_1"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        initializer=[numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="axon/examples/digits",
        producer_version=sklearn.__version__,
        model_version=1,
        doc_string="Names the handwritten digit in an 8x8 scan: 64 pixels of 0 (paper) to 16 (ink), row by row.",
    )
    helper.set_model_props(
        model,
        {"trained_with": f"scikit-learn {sklearn.__version__} MLPClassifier", "data": "sklearn.datasets.load_digits"},
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def verify(model: onnx.ModelProto, pixels: Pixels, predictions: Labels) -> Labels:
    """Run `model` on every row of `pixels`, alone and in batches.

    Returns:
        ONNX Runtime's label of each row, `[rows]`.

    Raises:
        RuntimeError: A label is not the one in `predictions`, or a row's bytes depend on its batch.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(batch: int) -> tuple[bytes, bytes, Labels]:
        answers = [session.run(None, {"pixels": pixels[at : at + batch]}) for at in range(0, len(pixels), batch)]
        labels, probabilities = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return labels.tobytes(), probabilities.tobytes(), labels

    *alone, labels = run(1)
    for batch in BATCHES:
        *together, _ = run(batch)
        if together != alone:
            message = f"a row's answer in a batch of {batch} is not the one it gets alone"
            raise RuntimeError(message)
    if differing := int(np.count_nonzero(labels != predictions)):
        message = f"ONNX Runtime and scikit-learn differ on {differing} of {len(labels)} images"
        raise RuntimeError(message)
    return labels


def main() -> None:
    """Train, export, verify, and write `digits.onnx`, `images.npy`, `labels.npy` and `predictions.npy`."""
    pixels, labels = load_digits(return_X_y=True)
    train_pixels, pixels, train_labels, labels = train_test_split(
        pixels.astype(np.float32), labels.astype(np.int64), test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    classifier = train(train_pixels, train_labels)
    predictions = classifier.predict(pixels / PIXEL_MAX).astype(np.int64)
    model = to_onnx(classifier)
    answers = verify(model, pixels, predictions)

    onnx.save(model, HERE / "digits.onnx")
    for name, array in {"images": pixels, "labels": labels, "predictions": predictions}.items():
        np.save(HERE / f"{name}.npy", array)
    print(f"trained on {len(train_labels)} images, held out {len(labels)}; accuracy on the held-out images:")
    print(f"  scikit-learn {np.mean(predictions == labels):.4f}")
    print(f"  ONNX Runtime {np.mean(answers == labels):.4f}, the same label for every image")
    print(f"  rows of batches of {', '.join(map(str, BATCHES))} are bit for bit the rows run alone")
    print(f"digits.onnx: {(HERE / 'digits.onnx').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
