"""Aliases over both protocols with the official clients: flips, canaries, shadows; and the commands around them."""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from axon.cli.alias import parse_shadow, parse_target
from models import mlp, save
from onnx.reference import ReferenceEvaluator
from scraping import scrape
from serving import PATIENCE_S, Ended, Server, run_axon, serving
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

PROTOCOLS: Final = ("http", "grpc", "stream")
VERSIONS: Final = (1, 2, 3)
ROW: Final = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, npt.NDArray[np.float32]]]:
    """Make a model `digits` of three versions, and say what each answers to `ROW`."""
    folder = tmp_path_factory.mktemp("aliased")
    answers = {}
    for version in VERSIONS:
        model = mlp((64, 32, 10), seed=version)
        save(model, folder / "digits" / str(version) / "model.onnx")
        outputs: Any = ReferenceEvaluator(model).run(None, {"x": ROW})
        answers[version] = outputs[0]
    (folder / "digits" / "model.toml").write_text('versions = "all"\n')
    save(mlp((64, 32, 10), seed=1), folder / "other" / "1" / "model.onnx")
    (folder / "aliases.toml").write_text('declared = "digits:1"\n')
    return folder, answers


@pytest.fixture(scope="module")
def server(expected: tuple[Path, dict[int, npt.NDArray[np.float32]]]) -> Iterator[Server]:
    options = ("--model-control-mode", "explicit", "--load-model", "*", "--load-check", "off")
    with serving(expected[0], *options) as server:
        yield server


def exchange(
    server: Server, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers or {})
        response = connection.getresponse()
        text = response.read()
        told = {name.lower(): value for name, value in response.getheaders()}
        return response.status, json.loads(text) if text else None, told
    finally:
        connection.close()


def set_alias(server: Server, name: str, alias: object) -> Any:  # noqa: ANN401 - JSON is anything
    status, told, _ = exchange(server, "PUT", f"/v2/aliases/{name}", alias)
    assert status == 200, told
    return told


def asker(server: Server, protocol: str) -> Callable[[str], tuple[str, str, npt.NDArray[np.float32]]]:
    """Return what asks an alias and tells who answered what."""
    if protocol == "http":
        http = http_client.InferenceServerClient(server.address)
        http_input = http_client.InferInput("x", [1, 64], "FP32")
        http_input.set_data_from_numpy(ROW)

        def ask(name: str) -> tuple[str, str, Any]:
            answer = http.infer(name, [http_input])
            told = answer.get_response()
            return told["model_name"], told["model_version"], answer.as_numpy("y")

        return ask
    client = grpc_client.InferenceServerClient(server.grpc_address)
    grpc_input = grpc_client.InferInput("x", [1, 64], "FP32")
    grpc_input.set_data_from_numpy(ROW)

    def tell(answer: Any) -> tuple[str, str, Any]:  # noqa: ANN401 - the client has no types
        told = answer.get_response()
        return told.model_name, told.model_version, answer.as_numpy("y")

    if protocol == "grpc":
        return lambda name: tell(client.infer(name, [grpc_input]))

    def ask_in_stream(name: str) -> tuple[str, str, Any]:
        answers: list[Any] = []
        has_come = threading.Event()

        def take(result: Any, error: Any) -> None:  # noqa: ANN401 - the client has no types
            answers.append(error or result)
            has_come.set()

        client.start_stream(callback=take)
        client.async_stream_infer(name, [grpc_input])
        assert has_come.wait(PATIENCE_S)
        client.stop_stream()
        if isinstance(answers[0], InferenceServerException):
            raise answers[0]
        return tell(answers[0])

    return ask_in_stream


def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_alias_answers_as_the_version_that_it_leads_to(
    server: Server, expected: tuple[Path, dict[int, npt.NDArray[np.float32]]], protocol: str
) -> None:
    ask = asker(server, protocol)
    for version in (1, 3, 2):
        set_alias(server, "prod", {"targets": [{"model": "digits", "version": str(version)}]})
        model, told, answer = ask("prod")
        assert (model, told) == ("digits", str(version))
        np.testing.assert_allclose(answer, expected[1][version], rtol=1e-3, atol=1e-4)


def test_everything_that_takes_a_models_name_takes_an_alias(server: Server) -> None:
    set_alias(server, "prod", {"targets": [{"model": "digits", "version": 2}, {"model": "digits", "version": 1}]})
    http = http_client.InferenceServerClient(server.address)
    grpc = grpc_client.InferenceServerClient(server.grpc_address)
    assert http.is_model_ready("prod")
    assert grpc.is_model_ready("prod")
    assert http.get_model_metadata("prod")["versions"] == ["2"]
    assert grpc.get_model_metadata("prod").name == "digits"
    assert http.get_model_config("prod")["name"] == "digits"
    assert grpc.get_model_config("prod").config.name == "digits"
    told = http.get_inference_statistics("prod")["model_stats"]
    assert [one["version"] for one in told] == ["2", "1"]
    assert [one.version for one in grpc.get_inference_statistics("prod").model_stats] == ["2", "1"]
    for verb in ("explain", "recent", "trace/setting"):
        status, told, _ = exchange(server, "GET", f"/v2/models/prod/{verb}")
        assert status == 200, told
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": ROW.tolist()}]}
    status, told, headers = exchange(server, "POST", "/v2/models/prod/infer", body)
    assert (status, told["model_name"]) == (200, "digits")
    assert headers["x-axon-model"] == f"digits/{told['model_version']}"
    status, told, headers = exchange(server, "POST", "/v2/models/prod/generate", {"x": ROW[0].tolist()})
    assert (status, headers["x-axon-model"]) == (200, f"digits/{told['model_version']}")
    _, _, headers = exchange(server, "POST", "/v2/models/digits/infer", body)
    assert "x-axon-model" not in headers


def test_a_version_beside_an_alias_is_refused(server: Server) -> None:
    set_alias(server, "prod", {"targets": [{"model": "digits", "version": 2}]})
    for verb in ("/infer", "", "/ready", "/config"):
        method = "POST" if verb == "/infer" else "GET"
        path = f"/v2/models/prod/versions/2{verb}"
        status, told, _ = exchange(server, method, path, {} if method == "POST" else None)
        assert (status, told["field"]) == (400, "model_version"), path
        assert "`prod` is an alias of `digits:2`" in told["error"]
    grpc = grpc_client.InferenceServerClient(server.grpc_address)
    value = grpc_client.InferInput("x", [1, 64], "FP32")
    value.set_data_from_numpy(ROW)
    with pytest.raises(InferenceServerException, match="is an alias of `digits:2`") as refused:
        grpc.infer("prod", [value], model_version="2")
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_flips_under_load_give_no_error_and_no_mixed_answer(
    server: Server, expected: tuple[Path, dict[int, npt.NDArray[np.float32]]], protocol: str
) -> None:
    set_alias(server, "prod", {"targets": ["digits:1"]})
    is_over = threading.Event()
    counts = dict.fromkeys(VERSIONS, 0)

    def ask_on() -> int:
        ask, asked = asker(server, protocol), 0
        while not is_over.is_set():
            model, version, answer = ask("prod")
            assert model == "digits"
            np.testing.assert_allclose(answer, expected[1][int(version)], rtol=1e-3, atol=1e-4)
            counts[int(version)] += 1
            asked += 1
        return asked

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask_on) for _ in range(3)]
        try:
            for flip in range(30):
                version = VERSIONS[flip % len(VERSIONS)]
                before = counts[version]
                set_alias(server, "prod", {"targets": [{"model": "digits", "version": version}]})
                until(f"version {version} answers", lambda: counts[version] > before or asking[0].done())  # noqa: B023
        finally:
            is_over.set()
        assert all(one.result() > 0 for one in asking)


def test_a_canary_gets_exactly_its_part_and_a_key_stays(server: Server) -> None:
    alias = {
        "targets": [{"model": "digits", "version": 1, "weight": 90}, {"model": "digits", "version": 2, "weight": 10}]
    }
    set_alias(server, "canary", alias)
    ask = asker(server, "http")
    answered = [ask("canary")[1] for _ in range(100)]
    assert answered.count("2") == 10
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": ROW.tolist()}]}

    def by_key(key: str) -> str:
        _, told, _ = exchange(server, "POST", "/v2/models/canary/infer", body, {"X-Axon-Key": key})
        return str(told["model_version"])

    chosen = {key: by_key(key) for key in (f"user-{number}" for number in range(100))}
    # 10 are expected of a fair hash; the keys and the hash are always the same.
    assert 3 <= list(chosen.values()).count("2") <= 20
    grpc = grpc_client.InferenceServerClient(server.grpc_address)
    value = grpc_client.InferInput("x", [1, 64], "FP32")
    value.set_data_from_numpy(ROW)
    for key in list(chosen)[:20]:
        assert by_key(key) == chosen[key]
        told = grpc.infer("canary", [value], headers={"x-axon-key": key}).get_response()
        assert told.model_version == chosen[key]
    status, told, _ = exchange(server, "POST", "/v2/models/canary/infer", body, {"X-Axon-Key": "x" * 257})
    assert (status, told["field"]) == (400, "X-Axon-Key")


def test_a_shadow_is_compared_and_told(server: Server) -> None:
    told = set_alias(server, "watched", {"targets": ["digits:1"], "shadow": {"model": "digits", "version": 2}})
    assert told["shadow"]["compared"] == 0
    ask = asker(server, "grpc")

    def shadow() -> Any:  # noqa: ANN401 - JSON is anything
        return exchange(server, "GET", "/v2/aliases/watched")[1]["shadow"]

    def another() -> bool:
        assert ask("watched")[:2] == ("digits", "1")
        return bool(shadow()["different"] >= 3)

    until("some answers are compared", another)
    found = shadow()
    assert (found["equal"], found["failed"]) == (0, 0)
    assert found["outputs"]["y"]["largest_absolute"] > 0
    assert found["shadow_mean_ms"] > 0
    assert found["primary_mean_ms"] > 0
    # The same weights under another name.
    set_alias(server, "watched", {"targets": ["digits:1"], "shadow": "other"})
    until("some answers are equal", lambda: ask("watched")[1] == "1" and shadow()["equal"] >= 3)
    shown = run_axon("alias", "show", "watched", "--url", server.address)
    assert shown.returncode == 0, shown
    assert "shadow other (now 1): " in shown.stdout
    assert "y: always the same" in shown.stdout or "y" not in shown.stdout.split("shadow other")[1]
    metrics = scrape(server)
    labels = {"alias": "watched", "model": "other", "version": "newest"}
    assert metrics.of("axon_shadow_answers_total", **labels, outcome="equal") >= 3
    assert metrics.of("axon_shadow_answers_total", **labels, outcome="different") == 0
    assert metrics.of("axon_shadow_duration_seconds_count", **labels) >= 3
    answered = {"alias": "watched", "model": "digits", "version": "1", "outcome": "answered"}
    assert metrics.of("axon_alias_requests_total", **answered) >= 6


def test_what_cannot_be_an_alias_is_refused_and_the_old_stays(server: Server) -> None:
    set_alias(server, "prod", {"targets": ["digits:1"]})

    def check(name: str, alias: object, status: int, field: str) -> None:
        got, told, _ = exchange(server, "PUT", f"/v2/aliases/{name}", alias)
        assert (got, told.get("field")) == (status, field), told
        assert exchange(server, "GET", "/v2/aliases/prod")[1]["targets"][0]["version"] == "1"

    check("prod", {"targets": ["digits:9"]}, 404, "targets[0]")
    check("prod", {"targets": ["nowhere"]}, 404, "targets[0]")
    check("prod", {"targets": ["digits:1"], "shadow": "nowhere"}, 404, "shadow")
    check("prod", {"targets": []}, 400, "targets")
    check("prod", {"targets": [{"model": "digits", "weight": 0}]}, 400, "targets[0].weight")
    check("prod", {"targets": ["digits"], "weights": 1}, 400, "alias")
    check("digits", {"targets": ["other"]}, 400, "alias")
    check("..", {"targets": ["other"]}, 400, "alias")
    status, told, _ = exchange(server, "DELETE", "/v2/aliases/nowhere")
    assert (status, told["field"]) == (404, "alias")
    assert exchange(server, "GET", "/v2/aliases/nowhere")[0] == 404
    # A page of another site may not change where requests go.
    for method, path in (("PUT", "/v2/aliases/prod"), ("DELETE", "/v2/aliases/prod"), ("POST", "/v2/aliases")):
        headers = {"Origin": "https://other.example"}
        status, told, _ = exchange(server, method, path, {"targets": ["digits:2"]}, headers)
        assert (status, told["field"]) == (403, "Origin")


def test_a_target_that_was_unloaded_is_named_with_its_alias(server: Server) -> None:
    set_alias(server, "gone", {"targets": ["other"]})
    exchange(server, "POST", "/v2/repository/models/other/unload")
    try:
        for protocol in PROTOCOLS:
            with pytest.raises(InferenceServerException, match="alias `gone` leads to `other`"):
                asker(server, protocol)("gone")
        assert exchange(server, "GET", "/v2/models/gone/ready")[0] == 503
        assert exchange(server, "GET", "/v2/aliases/gone")[1]["targets"][0]["ready_version"] is None
        status, told, _ = exchange(server, "PUT", "/v2/aliases/prod", {"targets": ["other"]})
        assert (status, told["field"]) == (503, "targets[0]")
    finally:
        exchange(server, "POST", "/v2/repository/models/other/load")


def test_commands_list_set_show_and_remove(
    server: Server, expected: tuple[Path, dict[int, npt.NDArray[np.float32]]]
) -> None:
    url = ("--url", server.address)
    done = run_axon("alias", "set", "cli", "digits:3=95", "digits:2=5", "--shadow", "digits:2@10%", *url)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0].split() == ["ALIAS", "LEADS", "TO", "WEIGHT", "ANSWERED", "UNANSWERED", "MEAN"]
    told = exchange(server, "GET", "/v2/aliases/cli")[1]
    assert [(target["version"], target["weight"]) for target in told["targets"]] == [("3", 95), ("2", 5)]
    assert (told["shadow"]["version"], told["shadow"]["share"], told["origin"]) == ("2", 0.1, "request")
    assert json.loads(run_axon("alias", "show", "cli", "--json", *url).stdout) == told
    listed = json.loads(run_axon("alias", "ls", "--json", *url).stdout)["aliases"]
    assert {"cli", "declared"} <= {alias["name"] for alias in listed}
    refused = run_axon("alias", "set", "cli", "digits:9", *url)
    assert refused.returncode == 1
    assert "answered 404: targets[0]" in refused.stderr
    wrong = run_axon("alias", "set", "cli", "digits:3=0", *url)
    assert wrong.returncode == 2
    assert "a weight from 1 to 1000" in wrong.stderr
    assert run_axon("alias", "rm", "cli", *url) == Ended(0, "cli: removed\n", "")
    assert run_axon("alias", "show", "cli", *url).returncode == 1
    (expected[0] / "aliases.toml").write_text('declared = "digits:2"\nnew = "digits"\n')
    again = run_axon("alias", "reload", *url)
    assert again.returncode == 0, again
    assert "new " in again.stdout
    assert asker(server, "http")("declared")[1] == "2"


def test_a_file_that_is_wrong_stops_the_start(tmp_path: Path) -> None:
    save(mlp((64, 32, 10), seed=1), tmp_path / "digits" / "1" / "model.onnx")
    file = tmp_path / "elsewhere.toml"
    file.write_text('prod = "digit"\n')
    ended = run_axon("serve", tmp_path, "--aliases", file, "--http-port", "0", "--no-grpc", "--metrics-port", "0")
    assert ended.returncode == 1
    assert "prod.targets[0]: `digit` is not in the repository" in ended.stderr


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("digits", {"model": "digits", "version": None, "weight": 1}),
        ("digits:3=95", {"model": "digits", "version": "3", "weight": 95}),
        ("a.b-c_1=1000", {"model": "a.b-c_1", "version": None, "weight": 1000}),
    ],
)
def test_a_target_is_written_short(text: str, target: dict[str, object]) -> None:
    assert parse_target(text) == target


def test_what_is_no_target_and_no_shadow_is_refused() -> None:
    for text in ("", ":3", "m:", "m:0", "m:x", "m=0", "m=1001", "m=-1", "../m", "m:3=1.5", "m@10%"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_target(text)
    for text in ("", "m@", "m@0", "m@0%", "m@101%", "m@1.1", "m@x", "m=5"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_shadow(text)
    assert parse_shadow("m:4@10%") == {"model": "m", "version": "4", "share": 0.1}
    assert parse_shadow("m@.5") == {"model": "m", "version": None, "share": 0.5}
    assert parse_shadow("m")["share"] == 1.0
