"""What a model's configuration says, over the wire: a repository as Triton has it, served unchanged."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import models
import numpy as np
import pytest
from serving import PATIENCE_S, serving

if TYPE_CHECKING:
    from pathlib import Path

    from serving import Server

#: Three versions of one classifier, as a Triton set-up describes it.
CLASSIFIER = """
name: "classifier"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  {
    name: "x"
    data_type: TYPE_FP32
    dims: [ 64 ]
  }
]
output [
  {
    name: "y"
    data_type: TYPE_FP32
    dims: [ 10 ]
    label_filename: "labels.txt"
  }
]
version_policy: { all { } }
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
"""
LABELS = ("cat", "dog", "horse", "", "a bird")
VERSIONS = (1, 2, 3)


def ask(server: Server, path: str, body: object = None) -> tuple[int, Any]:
    """GET `path`, or POST `body` to it; the status and the JSON of the answer."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    with closing(connection):
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.load(answer)


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str = "FP32") -> dict[str, Any]:
    """Write an input as the protocol's JSON."""
    return {"name": name, "shape": array.shape, "datatype": datatype, "data": array.ravel().tolist()}


def write(path: Path, text: str) -> None:
    """Write a file and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Lay out the classifier."""
    for version in VERSIONS:
        models.save(models.mlp(seed=version), tmp_path / "classifier" / str(version) / "model.onnx")
    write(tmp_path / "classifier" / "config.pbtxt", CLASSIFIER)
    write(tmp_path / "classifier" / "labels.txt", "\n".join(LABELS) + "\n")
    return tmp_path


def test_a_repository_of_triton_is_served_unchanged(repository: Path) -> None:
    rows = np.random.default_rng(20260101).random((2, 64), np.float32)
    with serving(repository) as server:
        status, metadata = ask(server, "/v2/models/classifier")
        assert status == 200
        assert metadata["versions"] == [str(version) for version in VERSIONS]
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
        assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}]
        answers = {}
        for version in VERSIONS:
            path = f"/v2/models/classifier/versions/{version}/infer"
            status, answers[version] = ask(server, path, {"inputs": [tensor("x", rows)]})
            assert (status, answers[version]["model_version"]) == (200, str(version))
        assert len({json.dumps(answer["outputs"]) for answer in answers.values()}) == len(VERSIONS)
        assert ask(server, "/v2/models/classifier/infer", {"inputs": [tensor("x", rows)]}) == (200, answers[3])
        scores = np.array(answers[3]["outputs"][0]["data"]).reshape(2, 10)
        check_classes(server, rows, scores)
        too_many = np.zeros((9, 64), np.float32)
        status, refused = ask(server, "/v2/models/classifier/infer", {"inputs": [tensor("x", too_many)]})
        assert status == 400
        assert "inputs[0].shape[0]: 9 > 8" in refused["error"]  # B-18
        assert ask(server, "/v2/models/classifier/versions/4")[0] == 404


def check_classes(server: Server, rows: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> None:
    """Check that every class has its label, where there is one."""
    question = {
        "inputs": [tensor("x", rows)],
        "outputs": [{"name": "y", "parameters": {"classification": 10}}],
    }
    status, answer = ask(server, "/v2/models/classifier/infer", question)
    assert status == 200
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 10])
    expected = []
    for row in scores:
        for index in np.argsort(-row, kind="stable"):
            label = f":{LABELS[index]}" if index < len(LABELS) and LABELS[index] else ""
            expected.append(f"{row[index]:.6f}:{index}{label}")
    assert output["data"] == expected


def test_the_newest_version_is_served_where_nothing_is_said(repository: Path) -> None:
    (repository / "classifier" / "config.pbtxt").unlink()
    with serving(repository) as server:
        assert ask(server, "/v2/models/classifier")[1]["versions"] == ["3"]
        assert ask(server, "/v2/models/classifier/versions/1")[0] == 404


@pytest.mark.parametrize(
    ("row", "name", "text", "error"),
    [
        ("B-96", "config.pbtxt", "max_bath_size: 8", "config.pbtxt:1:1: `max_bath_size`: unknown field; did you mean"),
        ("B-100", "config.pbtxt", "max_batch_size: -1", "config.pbtxt:1:1: max_batch_size: expected 0 to 1048576, got"),
        ("B-100", "config.pbtxt", "\nmax_batch_size: 2147483648", "config.pbtxt:2:17: max_batch_size: expected an int"),
        ("B-100", "model.toml", 'max_batch_size = "8"', "model.toml:1:18: max_batch_size: expected an integer"),
        ("B-101", "model.toml", "max_batch_size = 2\n[inputs.x]\ndatatype = 'FP32'\nshape = [63]", "[63], model [64]"),
        ("B-101", "config.pbtxt", 'input { name: "w" data_type: TYPE_FP32 dims: 3 }', "input[0].name: config `w`"),
        ("B-102", "config.pbtxt", "instance_group { count: 10000 }", "instance_group[0].count: expected 1 to 256"),
        ("B-102", "model.toml", "max_queue_size = -1", "model.toml:1:18: max_queue_size: expected an integer from 0"),
        ("B-102", "config.pbtxt", "ensemble_scheduling { }", "ensemble_scheduling: Axon does not support this"),
        ("B-103", "model.toml", "a = 1\na = 2", "model.toml:2:1: expected TOML: duplicate key"),
        ("B-103", "config.pbtxt", "\ufeffname: 'x'", "config.pbtxt:1:1: expected a field name, got a byte order mark"),
        ("B-103", "config.pbtxt", "x" * (1 << 20), "config.pbtxt:1:1: `xxx"),
        ("B-104", "config.pbtxt", 'default_model_filename: "../../etc/passwd"', "expected a path inside the model's"),
    ],
)
def test_what_is_wrong_is_told_and_the_others_are_served(
    repository: Path, row: str, name: str, text: str, error: str
) -> None:
    models.save(models.mlp(), repository / "bad" / "1" / "model.onnx")
    write(repository / "bad" / name, text)
    question = {"inputs": [tensor("x", np.zeros((1, 64), np.float32))]}
    with serving(repository) as server:
        status, refused = ask(server, "/v2/models/bad/infer", question)
        assert (status, error in refused["error"]) == (503, True), (row, refused)
        assert ask(server, "/v2/models/classifier/infer", question)[0] == 200


def test_a_tensor_has_the_shape_that_the_configuration_gives_it(tmp_path: Path) -> None:
    models.save(models.gather(), tmp_path / "gather" / "1" / "model.onnx")
    write(tmp_path / "gather" / "config.pbtxt", 'backend: "onnxruntime"')
    index = np.array([[2], [0]])
    with serving(tmp_path) as server:
        assert ask(server, "/v2/models/gather")[1]["inputs"][0]["shape"] == [-1, 1]
        status, answer = ask(server, "/v2/models/gather/infer", {"inputs": [tensor("index", index, "INT64")]})
        assert (status, answer["outputs"][0]["shape"]) == (200, [2, 2])
        assert answer["outputs"][0]["data"] == [20, 21, 0, 1]


def test_the_test_backend_makes_a_queue(tmp_path: Path) -> None:
    text = """
        backend = "identity"
        max_batch_size = 1
        max_queue_size = 1
        [inputs.a]
        datatype = "FP32"
        shape = [2]
        [outputs.b]
        datatype = "FP32"
        shape = [2]
        [parameters]
        execute_delay_ms = 1000
    """
    write(tmp_path / "same" / "model.toml", text)
    (tmp_path / "same" / "1").mkdir()
    question: dict[str, Any] = {"inputs": [tensor("a", np.array([[1.5, -2]], np.float32))]}
    with serving(tmp_path) as server:
        status, answer = ask(server, "/v2/models/same/infer", question)
        assert status == 200
        assert answer["outputs"] == [{"name": "b", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2]}]
        assert ask(server, "/v2/models/same")[1]["inputs"][0]["shape"] == [-1, 2]
        # One runs, one waits; which ones is chance, and that the others come within their second is not.
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: ask(server, "/v2/models/same/infer", question), range(6)))
        assert {status for status, _ in answers} == {200, 503}
        refused = [answer["error"] for status, answer in answers if status == 503]
        assert all("max_queue_size is 1" in error for error in refused), refused
