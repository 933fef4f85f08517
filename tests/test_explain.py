"""`axon explain`, deadlines and latency targets, on a real server with the backend that waits."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx2
import pytest
from axon import Client, InvalidRequest, ModelNotFound
from models import SLEEPER
from serving import AXON, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from serving import Server

    Ask = Callable[..., httpx2.Response]

#: A run takes 100 ms, however many rows it has; one instance, one row a batch.
SLOW: Final = SLEEPER + "[parameters]\nexecute_delay_ms = 100\n"
QUESTION: Final[dict[str, Any]] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
CALLERS: Final = 20
#: One after the other they take 6.4 of the 10 s that a request may wait.
MANY: Final = 64


def save(folder: Path, name: str, text: str) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "model.toml").write_text(text)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    save(tmp_path, "slow", SLOW)
    save(tmp_path, "held", "latency_target_ms = 500\n" + SLOW)
    with serving(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=60) as opened:
        yield opened


@pytest.fixture
def ask(client: httpx2.Client, server: Server) -> Ask:
    def asked(model: str, **headers: str) -> httpx2.Response:
        return client.post(f"http://{server.address}/v2/models/{model}/infer", json=QUESTION, headers=headers)

    return asked


def explain(server: Server, model: str) -> dict[str, Any]:
    document: dict[str, Any] = httpx2.get(f"http://{server.address}/v2/models/{model}/explain").json()
    return document


def test_a_closed_loop_on_a_slow_model_gets_all_its_answers(server: Server, ask: Ask) -> None:
    with ThreadPoolExecutor(MANY) as pool:
        answers = list(pool.map(lambda _: ask("slow"), range(MANY)))
    assert {answer.status_code for answer in answers} == {200}
    assert set(explain(server, "slow")["refused"].values()) == {0}


def test_a_target_is_held_by_refusing_at_once_what_would_be_late(server: Server, ask: Ask) -> None:
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(lambda _: ask("held"), range(CALLERS)))
    good = [answer for answer in answers if answer.status_code == httpx2.codes.OK]
    refused = [answer for answer in answers if answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE]
    assert len(good) + len(refused) == CALLERS
    # Within 500 ms there is time for five runs of 100 ms; more only for who came later.
    assert good
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all("the model is overloaded: " in answer.json()["error"] for answer in refused)
    told = explain(server, "held")
    assert told["latency_target_ms"] == 500
    assert told["refused"]["predicted_miss"] == len(refused)
    assert told["refused"]["expired"] == 0
    assert told["run_time"]["runs"] == len(good)


def test_a_deadline_shorter_than_a_run_is_told_apart_from_load(server: Server, ask: Ask) -> None:
    answer = ask("slow", **{"X-Request-Timeout": "0.02"})
    assert answer.status_code == httpx2.codes.GATEWAY_TIMEOUT
    assert "shorter than a run, which takes about 100 ms" in answer.json()["error"]
    assert "retry-after" not in answer.headers
    assert explain(server, "slow")["run_time"]["runs"] == 0


def test_the_command_prints_what_the_server_says(server: Server, ask: Ask) -> None:
    ask("slow")
    command = [str(AXON), "explain", "slow", "--url", f"http://{server.address}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "1 instance of 1 thread," in told
    assert "refused    nothing" in told
    document = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    assert document["run_time"]["runs"] == 1
    assert document["load"]["capacity_rows_per_second"] == pytest.approx(10, rel=0.5)


@pytest.mark.parametrize(
    ("model", "url", "said"),
    [("none", None, "answered 404"), ("slow", "http://127.0.0.1:9", "cannot ask http://127.0.0.1:9")],
)
def test_what_cannot_be_explained_is_one_line_and_exit_code_1(
    server: Server, model: str, url: str | None, said: str
) -> None:
    command = [str(AXON), "explain", model, "--url", url or f"http://{server.address}"]
    end = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith("axon explain: ")
    assert said in end.stderr
    assert end.stderr.count("\n") == 1


def unmoved(document: dict[str, Any]) -> dict[str, Any]:
    """Return what does not depend on the moment at which it is asked."""
    return {name: value for name, value in document.items() if name != "load"}


def test_grpc_explains_what_http_does(server: Server, ask: Ask) -> None:
    ask("held")
    with Client(f"grpc://{server.grpc_address}") as client, Client(f"http://{server.address}") as other:
        told = client.explain("held")
        assert unmoved(told) == unmoved(other.explain("held")) == unmoved(explain(server, "held"))
        assert set(told["load"]) == set(explain(server, "held")["load"])
        assert told["run_time"]["runs"] == 1
        assert client.explain("held", version=1)["model_version"] == "1"
        for missing in ({"model": "none"}, {"model": "held", "version": 2}):
            with pytest.raises(ModelNotFound):
                client.explain(**missing)
        with pytest.raises(InvalidRequest):
            client.explain("held", version="one")
    command = [str(AXON), "explain", "held", "--url", f"grpc://{server.grpc_address}", "--json"]
    document = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert unmoved(document) == unmoved(told)


def test_a_lone_request_is_foretold_one_run(server: Server, ask: Ask) -> None:
    ask("slow")
    time = explain(server, "slow")["load"]["predicted_p99_ms"]
    # At one request in the last second, of which ten can be run, a second one may come meanwhile.
    assert time is not None
    assert 95 <= time < 1000
