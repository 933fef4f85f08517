"""The models that are asked, each with one question and its right answer, in every form that a subject takes."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime
from models import identity, mlp, save, slow

from benchmarks.overhead.processes import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    import onnx

    Row = npt.NDArray[np.float32]

__all__ = ["MODELS", "Question", "make_questions"]

#: What is asked, by the name it is given.
MODELS: Final = {
    "noop": "no-op: Identity, FP32 [batch, 4]",
    "mlp": "tiny MLP: 64, 128, 64, 10, FP32",
    "slow": "slow: 20 MatMul of 256 by 256, at least 5 ms of one core a row",
}
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
TOLERANCE: Final = 1e-5


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row for a model, and its answer by ONNX Runtime's own Python package.

    Attributes:
        name: The model's.
        model: Its file.
        input: A file of the row's values.
        expected: A file of the answer's values.
        binary: A file of the HTTP body with a binary tensor, which asks for a binary answer.
        binary_headers: The headers that belong to it.
        json: A file of the HTTP body in JSON, which asks for an answer in JSON.
    """

    name: str
    model: Path
    input: Path
    expected: Path
    binary: Path
    binary_headers: dict[str, str]
    json: Path

    @property
    def path(self) -> str:
        """The path to POST to."""
        return f"/v2/models/{self.name}/infer"

    def check_binary(self, address: str) -> int:
        """Ask a server once, in binary, and return the length of its right answer in bytes.

        Raises:
            BenchError: The answer is not right.
        """
        answer, at = post(address, self.path, self.binary.read_bytes(), self.binary_headers)
        self._check(np.frombuffer(answer[at:], "<f4"))
        return len(answer)

    def check_json(self, address: str) -> None:
        """Ask a server once, in JSON.

        Raises:
            BenchError: The answer is not right.
        """
        answer, _ = post(address, self.path, self.json.read_bytes(), {"Content-Type": "application/json"})
        self._check(np.array(json.loads(answer)["outputs"][0]["data"], np.float32).ravel())

    def _check(self, got: Row) -> None:
        expected = np.frombuffer(self.expected.read_bytes(), "<f4")
        tolerance = TOLERANCE * float(np.abs(expected).max())
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=0, atol=tolerance):
            message = f"a wrong answer from {self.name}: {got}"
            raise BenchError(message)


def make_questions(folder: Path) -> Iterator[Question]:
    """Build the models in `folder`, and a question for each."""
    random = np.random.default_rng(0)
    built: dict[str, onnx.ModelProto] = {"noop": identity("FP32", ("batch", 4)), "mlp": mlp(), "slow": slow()}
    for name in MODELS:
        path = save(built[name], folder / name / f"{name}.onnx")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        spec = session.get_inputs()[0]
        row = random.random((1, spec.shape[1]), dtype=np.float32)
        answer: Row = session.run(None, {spec.name: row})[0]
        header = json.dumps(
            {
                "inputs": [tensor(spec.name, row) | {"parameters": {"binary_data_size": row.nbytes}}],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        body = json.dumps({"inputs": [tensor(spec.name, row) | {"data": row.ravel().tolist()}]}).encode()
        yield Question(
            name=name,
            model=path,
            input=written(path.with_suffix(".input"), row.tobytes()),
            expected=written(path.with_suffix(".expected"), answer.tobytes()),
            binary=written(path.with_suffix(".binary"), header + row.tobytes()),
            binary_headers={HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"},
            json=written(path.with_suffix(".json"), body),
        )


def tensor(name: str, row: Row) -> dict[str, Any]:
    """Describe a tensor as the Open Inference Protocol does."""
    return {"name": name, "shape": list(row.shape), "datatype": "FP32"}


def written(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path


def post(address: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, int]:
    """Ask once; return the answer and the length of its JSON part, 0 when that is all.

    Raises:
        BenchError: The status is not 200.
    """
    with closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
    if response.status != HTTPStatus.OK:
        message = f"http://{address}{path} answered {response.status}: {answer.decode(errors='replace')}"
        raise BenchError(message)
    return answer, int(response.headers.get(HEADER_LENGTH, 0))
