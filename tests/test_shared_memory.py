"""Bad uses of shared memory, row by row: each is refused, and the next good request is answered."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bad_input_rows import Case
from models import identity, save
from serving import Server, serving
from shared_memory_rows import (
    INFERENCES,
    KEY,
    OBJECT_SIZE,
    REGISTRATIONS,
    Inference,
    Registration,
)
from test_bad_input import ask, assert_one_honest_error

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "/v2/systemsharedmemory/region"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    save(identity("FP32"), folder / "fp32.onnx")
    with serving(folder, "--allow-client-shm", "--log-level", "off") as started:
        yield started


@pytest.fixture
def key(server: Server) -> Iterator[str]:
    """Make an object of its own for a test, and forget what was registered."""
    name = f"axon-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm", name)  # noqa: S108 - where POSIX shared memory lies
    path.write_bytes(bytes(OBJECT_SIZE))
    yield f"/{name}"
    with suppress(FileNotFoundError):
        path.unlink()
    assert ask(server, "/v2/systemsharedmemory/unregister", method="POST").status == 200


def register(server: Server, region: str, key: str, offset: int, byte_size: int) -> Any:  # noqa: ANN401
    body = json.dumps({"key": key, "offset": offset, "byte_size": byte_size}).encode()
    return ask(server, f"{REGION}/{region}/register", body)


def expected(row: str, at: str | None, words: str, status: int = 400, code: str = "INVALID_ARGUMENT") -> Case:
    return Case(row, "shared memory", b"", at, words, status=status, code=code)


@pytest.mark.parametrize("case", REGISTRATIONS, ids=lambda case: f"{case.row} {case.name}")
def test_a_region_that_cannot_be_is_not_registered(server: Server, key: str, case: Registration) -> None:
    if case.twice:
        assert register(server, "r", key, 0, OBJECT_SIZE).status == 200
    answer = register(server, case.region, key if case.key == KEY else case.key, case.offset, case.byte_size)
    assert_one_honest_error(answer, expected(case.row, case.at, case.words, case.status, case.code))
    assert register(server, "next", key, 0, OBJECT_SIZE).status == 200


@pytest.mark.parametrize("case", INFERENCES, ids=lambda case: f"{case.row} {case.name}")
def test_a_tensor_that_is_not_in_its_region_is_refused(server: Server, key: str, case: Inference) -> None:
    assert register(server, "r", key, 0, OBJECT_SIZE).status == 200
    if case.shrunk_to is not None:
        Path("/dev/shm", key[1:]).write_bytes(bytes(case.shrunk_to))  # noqa: S108
    given: dict[str, Any] = {"name": "INPUT0", "datatype": "FP32", "shape": [4, 3]}
    given |= {"data": [0] * 12} if case.input is None else {"parameters": case.input}
    document: dict[str, Any] = {"inputs": [given]}
    if case.output is not None:
        document["outputs"] = [{"name": "OUTPUT0", "parameters": case.output}]
    answer = ask(server, "/v2/models/fp32/infer", json.dumps(document).encode())
    assert_one_honest_error(answer, expected(case.row, case.at, case.words))
    good = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    answer = ask(server, "/v2/models/fp32/infer", json.dumps(good).encode())
    assert json.loads(answer.body)["outputs"][0]["data"] == [1, 2, 3]
