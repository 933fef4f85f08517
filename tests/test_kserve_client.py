"""KServe's own Python client against a real server process: every call that it has, over HTTP and gRPC."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from models import identity, save
from serving import PATIENCE_S, serving

if TYPE_CHECKING:
    from collections.abc import Mapping

CALLS: Final = Path(__file__).with_name("kserve_calls.py")
DATATYPES: Final = ("FP32", "INT64", "BOOL", "BYTES", "FP16")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("kserve") is None, reason="KServe's client is not there for this version of Python"
)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    folder = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        save(identity(datatype), folder / f"{datatype}.onnx")
    with serving(folder) as server:
        command = [sys.executable, str(CALLS), f"http://{server.address}", server.grpc_address]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_the_server_and_its_models_are_live_and_ready(said: Mapping[str, Any], protocol: str) -> None:
    of = said[protocol]
    assert (of["live"], of["ready"], of["model ready"], of["nobody ready"]) == (True, True, True, False)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_what_is_asked_in_json_or_binary_comes_back_value_for_value(said: Mapping[str, Any], protocol: str) -> None:
    answers = {call: same for call, same in said[protocol].items() if call.split()[0] in DATATYPES}
    assert len(answers) == {"rest": 4 * 2 * 3 + 3, "grpc": 4 * 2 + 1}[protocol]
    assert all(answers.values()), answers


def test_an_error_is_told_as_the_server_said_it(said: Mapping[str, Any]) -> None:
    status, text = said["rest"]["error"]
    assert (status, "model `nobody` is not here" in text) == (404, True), text
    code, details = said["grpc"]["error"]
    assert (code, "model `nobody` is not here" in details) == ("NOT_FOUND", True), details
