"""Mode `auto`: more models than the memory budget holds, over both protocols; and the commands around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from models import mlp, save
from onnx.reference import ReferenceEvaluator
from serving import AXON, Ended, Server, run_axon, serving
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

MIB: Final = 1 << 20
MODELS: Final = 16
BUDGET: Final = 24 * MIB
ROW: Final = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)


def name_of(number: int) -> str:
    return f"m{number:02}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[npt.NDArray[np.float32]]]:
    """Make a folder of models of some 1.3 MB, and say what each answers to `ROW`."""
    folder = tmp_path_factory.mktemp("many")
    answers = []
    for number in range(MODELS):
        model = mlp((64, 1024, 256, 10), seed=number)
        save(model, folder / f"{name_of(number)}.onnx")
        outputs: Any = ReferenceEvaluator(model).run(None, {"x": ROW})
        answers.append(outputs[0])
    return folder, answers


@pytest.fixture(scope="module")
def server(expected: tuple[Path, list[npt.NDArray[np.float32]]]) -> Iterator[Server]:
    # The trials of the load check are measured elsewhere and would only take time here.
    options = ("--model-control-mode", "auto", "--memory-budget", str(BUDGET), "--load-check", "off")
    with serving(expected[0], *options) as server:
        yield server


def get(server: Server, path: str) -> Any:  # noqa: ANN401 - JSON is anything
    with urllib.request.urlopen(f"http://{server.address}{path}") as response:
        return json.load(response)


def post(server: Server, path: str) -> tuple[int, dict[str, str]]:
    """Return the status and the headers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{server.address}{path}", b"")) as response:
            return response.status, dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def asker(server: Server, protocol: str) -> Any:  # noqa: ANN401 - the two clients have no common type
    if protocol == "http":
        client = http_client.InferenceServerClient(server.address)
        inputs = [http_client.InferInput("x", [1, 64], "FP32")]
    else:
        client = grpc_client.InferenceServerClient(server.grpc_address)
        inputs = [grpc_client.InferInput("x", [1, 64], "FP32")]
    inputs[0].set_data_from_numpy(ROW)
    return lambda model: client.infer(model, inputs).as_numpy("y")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_more_models_than_fit_give_right_answers_or_honest_refusals(
    server: Server, expected: tuple[Path, list[npt.NDArray[np.float32]]], protocol: str
) -> None:
    answers = expected[1]
    weights = 1 / np.arange(1, MODELS + 1)
    seed = 7

    def ask_many(caller: int) -> tuple[int, int]:
        ask = asker(server, protocol)
        random = np.random.default_rng((seed, caller))
        right = refused = 0
        for number in random.choice(MODELS, size=60, p=weights / weights.sum()):
            try:
                answer = ask(name_of(number))
            except InferenceServerException as error:
                if not any(code in str(error.status()) for code in ("503", "UNAVAILABLE")):
                    raise
                refused += 1
            else:
                np.testing.assert_allclose(answer, answers[number], rtol=1e-3, atol=1e-4)
                right += 1
        return right, refused

    done = threading.Event()
    charged = []

    def watch() -> None:
        while not done.wait(0.02):
            charged.append(get(server, "/v2/residency")["charged_bytes"])

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(ask_many, range(4)))
    done.set()
    watching.join()
    right, refused = (sum(column) for column in zip(*counts, strict=True))
    report = get(server, "/v2/residency")
    ready = [model for model in report["models"] if model["state"] == "READY"]
    assert right > refused, f"seed {seed}: {right} answered, {refused} refused"
    assert report["evictions"] > 0
    assert 0 < len(ready) < MODELS
    # A load that turns out larger than was foretold is noted as what it takes, and others leave for it at once.
    largest = max(model["bytes"] for model in report["models"])
    assert max(charged) <= BUDGET + largest


def test_what_is_loaded_is_shown_and_changed_by_commands(server: Server) -> None:
    url = ("--url", server.address)
    assert run_axon("pin", "m15", *url) == Ended(0, "m15: pin done\n", "")
    shown = {model["name"]: model for model in json.loads(run_axon("ps", "--json", *url).stdout)["models"]}
    assert (shown["m15"]["state"], shown["m15"]["pinned"], shown["m15"]["versions"]) == ("READY", True, ["1"])
    assert shown["m15"]["bytes"] > MIB
    table = run_axon("ps", *url).stdout
    assert table.splitlines()[0].split()[:4] == ["MODEL", "VERSION", "STATE", "SIZE"]
    assert "m15    1        READY" in table
    assert f"of {BUDGET / MIB:.1f} MiB" in table
    assert run_axon("unpin", "m15", *url).returncode == 0
    assert run_axon("reload", "m15", *url) == Ended(0, "m15: reload done\n", "")
    assert run_axon("unload", "m15", *url) == Ended(0, "m15: unload done\n", "")
    again = run_axon("reload", "m15", *url)
    assert again.returncode == 1
    assert "hint: axon load m15" in again.stderr
    assert run_axon("warm", "m15", *url).returncode == 0
    assert run_axon("load", "m15", *url).returncode == 0
    missing = run_axon("warm", "missing", *url)
    assert missing.returncode == 1
    assert "404" in missing.stderr


def test_a_table_is_shown_again_until_it_is_interrupted(server: Server) -> None:
    # A shell that starts tests in the background has its children ignore SIGINT.
    command: list[str | Path] = [
        "env",
        "--default-signal=INT",
        AXON,
        "ps",
        "--watch",
        "--every",
        "0.1",
        "--url",
        server.address,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += line.startswith("MODEL")
            if seen == 2:
                break
        os.kill(process.pid, signal.SIGINT)
        process.communicate()
    assert process.returncode == 0


def test_asking_what_a_model_is_loads_it(server: Server) -> None:
    assert post(server, "/v2/repository/models/m09/unload")[0] == 200
    assert get(server, "/v2/models/m09")["inputs"][0]["name"] == "x"
    ready = [model["name"] for model in get(server, "/v2/residency")["models"] if model["state"] == "READY"]
    assert "m09" in ready


def test_in_another_mode_models_are_shown_and_not_kept(expected: tuple[Path, list[npt.NDArray[np.float32]]]) -> None:
    with serving(expected[0] / "m00.onnx") as server:
        report = get(server, "/v2/residency")
        assert report["budget_bytes"] is None
        assert [(model["name"], model["state"]) for model in report["models"]] == [("m00", "READY")]
        status, _ = post(server, "/v2/repository/models/m00/pin")
        assert status == 503
        assert "every model stays" in run_axon("ps", "--url", server.address).stdout


@pytest.mark.parametrize("size", ["0", "5 MB", "many", "-1"])
def test_a_budget_is_a_size(size: str, tmp_path: Path) -> None:
    ended = run_axon("serve", tmp_path, "--model-control-mode", "auto", f"--memory-budget={size}")
    assert ended.returncode == 2
    assert "8GiB" in ended.stderr
