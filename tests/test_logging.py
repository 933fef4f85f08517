"""The log of the real server: its forms, levels at run time, the access log, and that nobody waits for its reader."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
import httpx2 as httpx
import models
import numpy as np
import pytest
from collector import collector_environment
from grpc_asking import stub
from http2 import PATIENCE_S
from serving import AXON, run_axon, serving
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from serving import Server

INFER: Final = "/v2/models/echo/infer"
QUESTION: Final = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER: Final = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"}
#: What every line of text begins with.
TEXT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (ERROR| WARN| INFO|DEBUG|TRACE) \S")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(models.identity("FP32"), tmp_path_factory.mktemp("model") / "echo.onnx")


@contextmanager
def logging(model: Path, *options: str) -> Iterator[tuple[Server, httpx.Client]]:
    with (
        serving(model, "--instances", "1", *options, env=collector_environment()) as server,
        httpx.Client(base_url=f"http://{server.address}", timeout=PATIENCE_S) as client,
    ):
        yield server, client


def lines(server: Server) -> list[dict[str, Any]]:
    """Stop a server whose log is JSON and return its lines."""
    found = [json.loads(line) for line in server.stop().stderr.splitlines()]
    assert all({"time", "level", "message"} <= line.keys() for line in found)
    return found


def access(server: Server) -> list[dict[str, Any]]:
    return [line for line in lines(server) if line["message"] == "access"]


def ask(client: httpx.Client, **members: Any) -> httpx.Response:  # noqa: ANN401
    return client.post(INFER, json={**QUESTION, **members}, headers=CALLER)


def call(request_id: str) -> Any:  # noqa: ANN401 - the messages have no types
    given = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3]}
    raw = np.zeros((1, 3), np.float32).tobytes()
    return pb.ModelInferRequest(model_name="echo", id=request_id, inputs=[given], raw_input_contents=[raw])


def test_each_event_is_a_line_of_text_or_a_json_object(model: Path) -> None:
    for form in ("text", "json"):
        with logging(model, "--log-format", form, "--log-level", "info") as (server, _):
            written = server.stop().stderr.splitlines()
        assert len(written) >= 2
        if form == "text":
            assert all(TEXT.match(line) for line in written), written
            assert written[-1].endswith(" INFO bye")
        else:
            last = json.loads(written[-1])
            assert (last["level"], last["message"]) == ("INFO", "bye")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", last["time"])
            # Numbers are numbers.
            assert any(isinstance(value, int) for line in written for value in json.loads(line).values())


def test_levels_are_switched_while_the_server_runs(model: Path) -> None:
    with logging(model, "--log-format", "json", "--log-level", "warn") as (server, client):

        def refuse(request_id: str) -> None:
            assert ask(client, id=request_id, outputs=[{"name": "nope"}]).status_code == 400

        def change(**settings: Any) -> dict[str, Any]:  # noqa: ANN401
            answer = client.post("/v2/logging", json=settings)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        refuse("before")
        assert change(log_verbose_level=1)["log_verbose_level"] == 1
        refuse("during")
        assert change(log_verbose_level=0)["log_verbose_level"] == 0
        refuse("after")
        change(log_info=True)
        told = lines(server)
    assert [line["request_id"] for line in told if line["level"] == "DEBUG" and "request_id" in line] == ["during"]
    assert told[-1]["message"] == "bye"


def test_each_request_that_is_refused_has_one_line_with_whose_it_was(model: Path) -> None:
    with logging(model, "--log-format", "json", "--log-level", "debug") as (server, client):
        # Refused by the codec, by the model, and since there is no model.
        assert client.post(INFER, content="{", headers=CALLER).status_code == 400
        assert ask(client, id="two", outputs=[{"name": "nope"}]).status_code == 400
        assert client.post(INFER.replace("echo", "nope"), json=QUESTION, headers=CALLER).status_code == 404
        assert client.get("/v2/models/nope").status_code == 404
        assert client.get("/nowhere").status_code == 404
        wrong = pb.ModelInferRequest(model_name="echo", id="four")
        with stub(server) as service:
            with pytest.raises(grpc.RpcError):
                service.ModelInfer(wrong, metadata=tuple(CALLER.items()), timeout=PATIENCE_S)
            answers = service.ModelStreamInfer(iter([wrong]), metadata=tuple(CALLER.items()), timeout=PATIENCE_S)
            assert next(answers).error_message
        told = [line for line in lines(server) if line["level"] == "DEBUG" and line.get("model")]
    trace = CALLER["traceparent"].split("-")[1]
    said = [(line["model"], line.get("request_id"), line.get("trace_id")) for line in told]
    assert said == [
        ("echo", None, trace),
        ("echo", "two", trace),
        ("nope", None, trace),
        ("nope", None, None),
        ("echo", "four", trace),
        ("echo", "four", trace),
    ]


def test_the_access_log_tells_of_each_request_whose_and_how_it_was_run(model: Path) -> None:
    with logging(model, "--log-format", "json", "--log-level", "off", "--access-log", "1") as (server, client):
        assert ask(client, id="one").status_code == 200
        assert ask(client, id="two", outputs=[{"name": "nope"}]).status_code == 400
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/nowhere").status_code == 404
        fresh = client.post(INFER, json=QUESTION).headers["traceparent"].split("-")
        with stub(server) as service:
            service.ModelInfer(call("three"), metadata=tuple(CALLER.items()), timeout=PATIENCE_S)
            with pytest.raises(grpc.RpcError):
                service.ModelInfer(pb.ModelInferRequest(model_name="nope", id="four"), timeout=PATIENCE_S)
            service.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S)
        told = access(server)
    asked = [(line["protocol"], line["request"], line["status"]) for line in told]
    assert asked == [
        ("http", f"POST {INFER}", 200),
        ("http", f"POST {INFER}", 400),
        ("http", "GET /v2/health/live", 200),
        ("http", "GET /nowhere", 404),
        ("http", f"POST {INFER}", 200),
        ("grpc", "/inference.GRPCInferenceService/ModelInfer", 0),
        ("grpc", "/inference.GRPCInferenceService/ModelInfer", 5),
        ("grpc", "/inference.GRPCInferenceService/ServerLive", 0),
    ]
    assert [line.get("request_id") for line in told] == ["one", "two", None, None, None, "three", "four", None]
    assert [told[at]["trace_id"] for at in (0, 1, 5)] == [TRACE] * 3
    # A request of no trace is given one, which its caller is told.
    assert (told[4]["trace_id"], told[4]["span_id"]) == (fresh[1], fresh[2])
    for at in (0, 4, 5):
        line = told[at]
        assert (line["model"], line["version"], line["batch_rows"]) == ("echo", 1, 1)
        assert 0 <= line["queue_ms"] + line["compute_ms"] <= line["total_ms"]
    assert (told[1]["code"], told[6]["code"]) == ("INVALID_ARGUMENT", "NOT_FOUND")
    assert "`nope`" in told[1]["error"]


@pytest.mark.parametrize(("share", "expected"), [("errors", range(1)), ("0", range(1)), ("0.5", range(50, 151))])
def test_the_access_log_is_sampled_and_tells_of_all_errors(model: Path, share: str, expected: range) -> None:
    options = ("--log-format", "json", "--log-level", "off", "--access-log", share)
    with logging(model, *options) as (server, client):
        for at in range(200):
            assert ask(client).status_code == 200
            if at % 10 == 0:
                assert ask(client, outputs=[{"name": "nope"}]).status_code == 400
        told = [line["status"] for line in access(server)]
    assert told.count(400) == 20
    # Of a half of 200 outside of 50 to 150 once in a trillion runs.
    assert told.count(200) in expected


def test_without_it_there_is_no_access_log(model: Path) -> None:
    with logging(model, "--log-format", "json", "--log-level", "trace") as (server, client):
        assert ask(client).status_code == 200
        assert access(server) == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_client_sends_cannot_forge_a_line(model: Path, form: str) -> None:
    """T09."""
    forged = "\r\n2026-01-01T00:00:00.000000Z ERROR forged\u2028\x1b[31m\u202e"
    wrong = {"name": "nope" + forged, "datatype": "FP32" + forged, "shape": [1, 3], "data": [1, 2, 3]}
    with logging(model, "--log-format", form, "--log-level", "trace", "--access-log", "1") as (server, client):
        assert client.post(INFER, json={"id": "x", "inputs": [wrong]}).status_code == 400
        assert client.post(INFER, json={**QUESTION, "outputs": [{"name": forged}]}).status_code == 400
        assert client.get("/v2/models/%0d%0aERROR forged").status_code in {400, 404}
        assert client.post("/v2/logging", json={"log_file": "x"}).status_code == 501
        written = server.stop().stderr
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", written)
    for line in written.removesuffix("\n").split("\n"):
        assert TEXT.match(line) if form == "text" else isinstance(json.loads(line), dict), line
        assert not line.startswith("2026-01-01T00:00:00.000000Z ERROR forged")


@contextmanager
def unread(model: Path, *, blocks: bool = True) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, int]]:
    """Serve with a pipe for a log; yield the process, a client, and the end of the pipe that nobody reads so far."""
    read, write = os.pipe()
    os.set_blocking(write, blocks)
    command = [str(AXON), "serve", str(model), "--http-port", "0", "--no-grpc", "--log-level", "trace"]
    command += ["--access-log", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write, stdin=subprocess.DEVNULL)
    os.close(write)
    try:
        assert process.stdout is not None
        found = (re.search(rb"ready at http://(\S+?:\d+)", line) for line in iter(process.stdout.readline, b""))
        address = next(match[1].decode() for match in found if match)
        with httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_S) as client:
            yield process, client, read
    finally:
        process.kill()
        process.communicate()
        os.close(read)


#: A path whose line in the access log is as long as that.
LONG: Final = "/" + "x" * 8000


@pytest.mark.parametrize("blocks", [True, False], ids=["a pipe", "a pipe that does not block"])
def test_a_log_that_nobody_reads_holds_up_no_answer_and_its_lost_lines_are_counted(
    model: Path, *, blocks: bool
) -> None:
    """F-38."""
    with unread(model, blocks=blocks) as (process, client, log):
        # The pipe holds 64 KiB and the queue 1 MiB: less than a third of this.
        for _ in range(500):
            assert client.get(LONG).status_code == 404
        assert ask(client).status_code == 200
        told = read_until(log, rb"lines of the log were dropped: nobody read them dropped=(\d+)\n")
        lost, kept = int(told[1]), told.string.count(b" access ")
        assert lost > 100
        # Each request has a line, and a few lines tell of other things.
        assert kept <= 501 <= lost + kept <= 600
        # What comes from now on is told again.
        assert client.get("/again").status_code == 404
        read_until(log, b'request="GET /again"')
        process.terminate()
        while os.read(log, 1 << 16):
            pass
        assert process.wait(PATIENCE_S) == 0


def test_a_server_whose_log_nobody_reads_ends(model: Path) -> None:
    with unread(model) as (process, client, _):
        for _ in range(30):
            assert client.get(LONG).status_code == 404
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def read_until(descriptor: int, wanted: bytes) -> re.Match[bytes]:
    """Read until a pattern has come; return its match in all that came."""
    came = b""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := re.search(wanted, came)):
        assert time.monotonic() < deadline, came[-1000:]
        came += os.read(descriptor, 1 << 20)
    return found


def test_the_runtimes_own_messages_are_limited(save_model: Any) -> None:  # noqa: ANN401 - a fixture's own protocol
    path = save_model(models.gather())
    wrong = {"inputs": [{"name": "index", "datatype": "INT64", "shape": [1], "data": [77]}]}
    with (
        serving(path, "--log-level", "debug", "--log-format", "json") as server,
        httpx.Client(base_url=f"http://{server.address}", timeout=PATIENCE_S) as client,
    ):
        began = time.monotonic()
        for _ in range(200):
            assert client.post("/v2/models/model/infer", json=wrong).status_code == 400
        seconds = time.monotonic() - began
        told = [line for line in lines(server) if line["message"].startswith("ONNX Runtime: ")]
    left_out = [line["left_out"] for line in told if "left_out" in line]
    messages = [line for line in told if "idx=77" in line["message"]]
    # At most twenty for each second that was begun, those of the load among them.
    assert 0 < len(messages) <= 20 * (int(seconds) + 3)
    assert len(messages) + sum(left_out) <= 600


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--log-format", "xml"), "invalid choice: 'xml'"),
        (("--access-log", "2"), "expected off, errors or a number from 0.0 to 1.0, got '2'"),
        (("--access-log", "all"), "expected off, errors or a number from 0.0 to 1.0, got 'all'"),
    ],
)
def test_what_is_wrong_is_said(model: Path, options: tuple[str, ...], problem: str) -> None:
    end = run_axon("serve", model, *options)
    assert (end.returncode, problem in end.stderr) == (2, True), end
