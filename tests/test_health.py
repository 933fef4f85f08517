"""Live, ready and per-model ready tell the truth during load, drain, overload and failure, and why."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import tritonclient.grpc as triton
from models import SLEEPER, identity, save
from serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from serving import Server

PATIENCE_S: Final = 30.0
LIVE: Final = "/v2/health/live"
READY: Final = "/v2/health/ready"
VERBOSE: Final = "/v2/health/ready?verbose=1"


class Answer(NamedTuple):
    """A status and what was said."""

    status: int
    said: Any


def ask(server: Server, path: str, body: object = None, method: str | None = None) -> Answer:
    """Ask on a connection of its own."""
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)) as connection:
        text = None if body is None else json.dumps(body)
        connection.request(method or ("GET" if text is None else "POST"), path, text)
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read() or b"null"))


def sleep(server: Server, milliseconds: int) -> Answer:
    """Have the model `sleeper` run for so long."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    parameters = {"execute_delay_ms": milliseconds}
    return ask(server, "/v2/models/sleeper/infer", {"inputs": [tensor], "parameters": parameters})


def until(what: str, holds: Callable[[], bool]) -> None:
    """Look until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"


def sleeper(folder: Path) -> Path:
    """Write the model `sleeper`."""
    (folder / "sleeper" / "1").mkdir(parents=True)
    (folder / "sleeper" / "model.toml").write_text(SLEEPER)
    return folder


def test_a_server_whose_models_are_there_is_ready_and_says_so(tmp_path: Path) -> None:
    save(identity("FP32"), tmp_path / "fp32.onnx")
    with serving(tmp_path) as server:
        assert ask(server, VERBOSE) == (
            200,
            {
                "live": True,
                "ready": True,
                "not_ready_because": [],
                "loading": [],
                "failed": [],
                "overloaded": [],
                "stale": [],
            },
        )
        for query in ("?verbose=0", "?verbose=false", "?other", ""):
            assert ask(server, READY + query) == (200, {"ready": True}), query
        wrong = ask(server, READY + "?verbose=maybe")
        assert (wrong.status, wrong.said["field"]) == (400, "verbose")


def test_a_model_that_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    save(identity("FP32"), tmp_path / "fp32.onnx")
    (tmp_path / "broken.onnx").write_text("not a model")
    with serving(tmp_path, "--log-level", "off") as server:
        status, said = ask(server, VERBOSE)
        assert (status, said["ready"], said["not_ready_because"]) == (503, False, ["failed"])
        (failed,) = said["failed"]
        assert (failed["name"], failed["version"]) == ("broken", "1")
        assert "broken" not in failed["reason"]
        assert failed["reason"]
        assert ask(server, READY).status == 503
        assert ask(server, LIVE).status == 200
        statuses = [ask(server, f"/v2/models/{name}/ready").status for name in ("fp32", "broken", "none")]
        assert statuses == [200, 503, 404]


def test_a_model_that_serves_an_earlier_load_is_told_as_stale(tmp_path: Path) -> None:
    path = save(identity("FP32"), tmp_path / "m" / "1" / "model.onnx")
    options = ["--model-control-mode", "explicit", "--load-model", "m", "--log-level", "off"]
    with serving(tmp_path, *options) as server:
        path.write_text("not a model")
        assert ask(server, "/v2/repository/models/m/load", {}).status == 400
        status, said = ask(server, VERBOSE)
        assert (status, said["ready"]) == (200, True)
        (stale,) = said["stale"]
        assert (stale["name"], stale["version"]) == ("m", "1")
        assert "an earlier load goes on serving" in stale["reason"]
        assert ask(server, "/v2/models/m/ready").status == 200


def test_overload_is_told_and_is_no_reason_not_to_be_ready(tmp_path: Path) -> None:
    with (
        serving(sleeper(tmp_path), "--max-queue-size", "1", "--instances", "1", "--log-level", "off") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = [pool.submit(sleep, server, 500) for _ in range(8)]
        until("it refuses", lambda: bool(ask(server, VERBOSE).said["overloaded"]))
        status, said = ask(server, VERBOSE)
        assert (status, said["ready"], said["not_ready_because"]) == (200, True, [])
        (overloaded,) = said["overloaded"]
        assert (overloaded["name"], overloaded["reason"]) == ("sleeper", "queue_full")
        assert ask(server, "/v2/models/sleeper/ready").status == 200
        statuses = sorted(answer.result().status for answer in answers)
        assert set(statuses) == {200, 503}
        until("that is over", lambda: not ask(server, VERBOSE).said["overloaded"])


def test_while_it_drains_it_lives_and_nothing_is_ready(tmp_path: Path) -> None:
    with (
        serving(sleeper(tmp_path), "--log-level", "off") as server,
        ThreadPoolExecutor(1) as pool,
        closing(triton.InferenceServerClient(server.grpc_address)) as client,
    ):
        assert client.is_model_ready("sleeper")
        running = pool.submit(sleep, server, 3000)
        until("it runs", lambda: in_flight(server) == 1)
        server.process.send_signal(signal.SIGTERM)
        until("it drains", lambda: ask(server, READY).status == 503)
        status, said = ask(server, VERBOSE)
        assert (status, said["not_ready_because"]) == (503, ["draining"])
        assert ask(server, LIVE).status == 200
        assert ask(server, "/v2/models/sleeper/ready").status == 503
        assert not client.is_model_ready("sleeper")
        assert not client.is_server_ready()
        assert client.is_server_live()
        assert sleep(server, 0).status == 503, "what is ready is what takes requests"
        assert running.result().status == 200
        # A second signal would end it at once.
        assert server.process.wait(PATIENCE_S) == 0


def in_flight(server: Server) -> int:
    """Count the requests that the server runs."""
    return int(ask(server, "/v2/models/sleeper/explain").said["load"]["running"])


def test_while_it_loads_the_models_are_named(tmp_path: Path) -> None:
    """A load on request holds up nobody else; what is loaded again goes on being ready."""
    for number in range(12):
        save(identity("FP32"), tmp_path / f"m{number}" / "1" / "model.onnx")
    with serving(tmp_path, "--model-control-mode", "explicit", "--log-level", "off") as server:
        stop = threading.Event()
        seen: list[Answer] = []

        def watch() -> None:
            while not stop.is_set():
                seen.append(ask(server, VERBOSE))

        with ThreadPoolExecutor(3) as pool:
            watching = pool.submit(watch)
            loads = [pool.submit(ask, server, f"/v2/repository/models/m{number}/load", {}) for number in range(12)]
            assert {load.result().status for load in loads} == {200}
            stop.set()
            watching.result()
        loading = [answer for answer in seen if answer.said["loading"]]
        assert loading, "no load was seen"
        for status, said in loading:
            assert (status, said["not_ready_because"]) == (503, ["loading"])
            assert all(model["name"].startswith("m") for model in said["loading"])
        assert all(answer.status == (200 if answer.said["ready"] else 503) for answer in seen)
        assert ask(server, VERBOSE).status == 200
