"""`axon top` and `/v2/axon/overview`: on a real server, in a pipe and in a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from axon._url import shown
from axon.cli.top_view import SORTS, Shown, view
from rich.console import Console
from serving import AXON, PATIENCE_S, Server, environment, run_axon, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROW: Final = {"pixels": [1] * 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "digits.onnx").write_bytes(digits.read_bytes())
    (folder / "broken.onnx").write_bytes(b"no model")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


def fetch(server: Server, path: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"http://{server.address}/{path}", data)) as response:
        document: dict[str, Any] = json.load(response)
    return document


def digits_of(overview: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = next(model for model in overview["models"] if model["name"] == "digits")
    return model


def wait_for(server: Server, path: str, is_there: str) -> dict[str, Any]:
    """Return the document at `path` as soon as it has something true at the key `is_there`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        document = fetch(server, path)
        if document[is_there]:
            return document
        time.sleep(0.05)
    raise AssertionError(document)


def test_the_overview_counts_what_was_asked(server: Server) -> None:
    before = digits_of(fetch(server, "v2/axon/overview"))
    for _ in range(7):
        fetch(server, "v2/models/digits/generate", ROW)
    overview = fetch(server, "v2/axon/overview")
    model = digits_of(overview)
    assert model["requests"] - before["requests"] == 7
    assert (model["state"], model["line_ms"], model["latency_target_ms"]) == ("READY", 10.0, None)
    assert set(model["refused"].values()) == {0}
    broken = next(model for model in overview["models"] if model["name"] == "broken")
    assert broken["state"] == "UNAVAILABLE"
    assert broken["reason"]
    assert overview["server"]["ready"] is False
    assert "broken" in overview["server"]["not_ready_because"]
    assert overview["server"]["control"] == "none"


def test_latencies_are_those_of_what_was_answered(server: Server) -> None:
    for _ in range(20):
        fetch(server, "v2/models/digits/generate", ROW)
    # The counters are looked at once a second.
    deadline = time.monotonic() + PATIENCE_S
    while True:
        overview = fetch(server, "v2/axon/overview")
        latency, model = overview["latency"], digits_of(overview)
        if answered(latency) == model["requests"]:
            break
        assert time.monotonic() < deadline, overview
        time.sleep(0.05)
    assert model["requests"] >= 20
    assert {len(slot["counts"]) for slot in latency["slots"]} == {len(latency["bounds_ms"]) + 1}
    assert [slot["start_ms"] for slot in latency["slots"]] == sorted(slot["start_ms"] for slot in latency["slots"])
    assert 0 < latency["p50_ms"] <= latency["p99_ms"]
    # Nothing but digits was asked.
    assert (model["p50_ms"], model["p99_ms"]) == (latency["p50_ms"], latency["p99_ms"])
    recent = fetch(server, "v2/models/digits/recent")
    assert answered(recent["latency"]) == model["requests"]


def answered(latency: dict[str, Any]) -> int:
    return sum(sum(slot["counts"]) for slot in latency["slots"])


def test_what_is_slow_is_told_with_its_stages(server: Server) -> None:
    fetch(server, "v2/models/digits/generate", ROW)
    recent = wait_for(server, "v2/models/digits/recent", "batches")
    assert sum(batch["count"] for batch in recent["batches"]) >= 1
    totals = [request["total_ms"] for request in recent["slowest"]]
    assert totals == sorted(totals, reverse=True)
    assert 1 <= len(totals) <= 16
    for request in recent["slowest"]:
        stages = sum(request[stage] for stage in ("queue_ms", "input_ms", "run_ms", "output_ms"))
        # Splitting the outputs goes on a little while the clock of the request has not been read.
        assert 0 < stages <= request["total_ms"] * 1.001
        assert request["rows"] <= request["batch_rows"]


def test_a_pipe_gets_the_figures_once(server: Server) -> None:
    end = run_axon("top", "--url", f"http://{server.address}")
    assert (end.returncode, end.stderr) == (0, "")
    for expected in ("digits 1", "ready", "broken 1", "unavailable: ", "requests/s", "KiB"):
        assert expected in end.stdout
    assert "\x1b" not in end.stdout


def test_a_password_in_the_address_is_not_shown(server: Server) -> None:
    end = run_axon("top", "--url", f"http://someone:secret@{server.address}")
    assert end.returncode == 0, end.stderr
    assert f" at http://{server.address}, up for " in end.stdout
    assert "secret" not in end.stdout + end.stderr
    assert "someone" not in end.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["top"],
        ["ps"],
        ["explain", "digits"],
        ["load", "digits"],
        ["pin", "digits"],
        ["infer", "digits"],
        ["bench", "digits"],
    ],
    ids=lambda command: command[0],
)
def test_no_command_shows_a_password(command: list[str], server: Server) -> None:
    for url in ("http://someone:secret@127.0.0.1:9", f"http://someone:secret@{server.address}/nowhere"):
        end = run_axon(*command, "--url", url)
        assert end.returncode != 0
        assert "secret" not in end.stdout + end.stderr
    for url in ("http://someone:secret@[::1", "http://someone:secret@x:y", "grpc://someone:secret@127.0.0.1:9"):
        end = run_axon(*command, "--url", url)
        assert end.returncode != 0
        assert "secret" not in end.stdout + end.stderr, end


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host:8000", "http://host:8000"),
        ("host:8000", "host:8000"),
        ("http://user:pw@host:8000/x", "http://host:8000/x"),
        ("user:pw@host", "host"),
        ("grpc://pw@[::1]:8001", "grpc://[::1]:8001"),
        ("http://user:p/w@host", "http://host"),
        ("http://user:p@w@host", "http://host"),
        ("http://user:p?w#@host", "http://host"),
        ("http://host/x@y", "http://host/x@y"),
        ("http://[::1]:8000/a@b", "http://[::1]:8000/a@b"),
        ("", ""),
    ],
)
def test_what_is_shown_of_an_address_has_nobodys_name(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_json_is_the_servers_answer(server: Server) -> None:
    end = run_axon("top", "--json", "--url", server.address)
    assert {model["name"] for model in json.loads(end.stdout)["models"]} == {"digits", "broken"}


def test_what_cannot_be_asked_is_one_line(tmp_path: Path) -> None:
    end = run_axon("top", "--url", "http://127.0.0.1:9", cwd=tmp_path)
    assert end.returncode == 1
    assert end.stderr.startswith("axon top: cannot ask http://127.0.0.1:9: ")
    assert len(end.stderr.splitlines()) == 1
    assert run_axon("top", "--interval", "0").returncode == 2


@contextmanager
def terminal(server: Server, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run the command in a terminal of 120 columns; what it writes and what is typed go through the descriptor."""
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm", COLUMNS="120", LINES="40", NO_COLOR=None)
    command = [str(AXON), "top", "--url", server.address, "--interval", "100ms", *options]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        try:
            yield ours, process
        finally:
            process.kill()
            os.close(ours)


def read_until(descriptor: int, wanted: str) -> str:
    """Read what is written until `wanted` has come."""
    text = ""
    deadline = time.monotonic() + PATIENCE_S
    while wanted not in text and select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]:
        text += os.read(descriptor, 1 << 16).decode(errors="replace")
    assert wanted in text, text
    return text


def test_a_terminal_follows_until_q(server: Server) -> None:
    with terminal(server) as (descriptor, process):
        read_until(descriptor, "model ^")
        os.write(descriptor, b"s")
        read_until(descriptor, "rate v")
        os.write(descriptor, b"r")
        read_until(descriptor, "rate ^")
        before = digits_of(fetch(server, "v2/axon/overview"))["requests"]
        fetch(server, "v2/models/digits/generate", ROW)
        assert digits_of(fetch(server, "v2/axon/overview"))["requests"] == before + 1
        os.write(descriptor, b"q")
        # The screen that was there before comes back.
        read_until(descriptor, "\x1b[?1049l")
        assert process.wait(PATIENCE_S) == 0


def test_a_server_that_goes_is_told_above_what_was_known(folder: Path) -> None:
    with serving(folder) as server, terminal(server) as (descriptor, process):
        read_until(descriptor, "digits 1")
        server.stop()
        assert "digits 1" in read_until(descriptor, "cannot ask") + read_until(descriptor, "digits 1")
        os.write(descriptor, b"q")
        assert process.wait(PATIENCE_S) == 0


def overview_of(*models: dict[str, Any], counts: list[int] | None = None) -> dict[str, Any]:
    ready = {
        "version": "1",
        "state": "READY",
        "reason": None,
        "bytes": 1,
        "latency_target_ms": None,
        "line_ms": 10.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "requests_per_s": 1.0,
        "refused_per_s": 0.0,
        "mean_batch_rows": 1.0,
        "waiting": 0,
        "running": 0,
        "refused": {"queue_full": 0},
        "refusing_because": None,
    }
    slots = [{"start_ms": 0, "counts": counts or [0, 0, 0]}]
    return {
        "server": {
            "name": "axon",
            "version": "1",
            "ready": True,
            "not_ready_because": None,
            "uptime_s": 3661.0,
            "control": "none",
        },
        "models": [{**ready, **model} for model in models],
        "latency": {"slot_s": 10, "bounds_ms": [1.0, 2.0], "slots": slots, "p50_ms": 1.0, "p99_ms": None},
    }


def printed(overview: dict[str, Any], height: int = 0, **settings: Any) -> str:  # noqa: ANN401 - as `Shown` has them
    console = Console(width=150, height=height or 25)
    with console.capture() as capture:
        console.print(view(Shown(overview=overview, url="x", **settings), height=height, ascii_only=True))
    return capture.get()


@pytest.mark.parametrize(
    ("sort", "turned", "expected"),
    [
        ("name", False, "abc"),
        ("name", True, "cba"),
        ("rate", False, "cab"),
        ("p99", False, "bac"),
        ("waiting", True, "bca"),
        ("refused", False, "abc"),
        ("size", False, "bca"),
    ],
)
def test_models_are_sorted(sort: str, turned: bool, expected: str) -> None:  # noqa: FBT001 - a row of data
    rows: dict[str, dict[str, Any]] = {
        "a": {"requests_per_s": 5.0, "p99_ms": 20.0, "waiting": 9, "refused": {"late": 3}, "bytes": 1},
        "b": {"requests_per_s": 1.0, "p99_ms": 30.0, "waiting": 0, "refused": {"late": 2}, "bytes": 30},
        "c": {"requests_per_s": 9.0, "p99_ms": None, "waiting": 1, "refused": {"late": 1}, "bytes": 2},
    }
    text = printed(overview_of(*({"name": name, **row} for name, row in rows.items())), sort=sort, turned=turned)
    assert "".join(re.findall(r"^\W*([abc]) 1\b", text, re.MULTILINE)) == expected
    assert sort in SORTS


def test_text_of_a_server_neither_moves_the_cursor_nor_is_markup() -> None:
    reason = "\x1b[2J\r[bold]x[/bold]\n\u202ey"
    text = printed(overview_of({"name": "m", "state": "UNAVAILABLE", "reason": reason}))
    assert "\\x1b[2J\\r[bold]x[/bold]\\n\\u202ey" in text


def test_a_small_screen_names_how_many_are_left_out() -> None:
    overview = overview_of(*({"name": f"m{number}"} for number in range(30)))
    text = printed(overview, height=20)
    assert "and 18 more" in text
    assert len(text.splitlines()) <= 20


def test_memory_is_told_where_it_has_a_limit() -> None:
    models = [{"state": "READY"}, {"state": "ABSENT"}]
    residency = {"budget_bytes": 4 << 20, "charged_bytes": 3 << 20, "evictions": 5, "models": models}
    told = "memory: 3.0 MiB of 4.0 MiB, 1 of 2 models loaded, 5 evictions"
    assert told in printed({**overview_of({"name": "m"}), "residency": residency})
    assert "memory" not in printed({**overview_of({"name": "m"}), "residency": {**residency, "budget_bytes": None}})


def test_the_heat_map_is_darker_where_more_were_answered() -> None:
    lines = printed(overview_of({"name": "m"}, counts=[1, 0, 4000])).splitlines()
    heat = [line[10:].rstrip() for line in lines if line.startswith(("     more", "     2 ms", "     1 ms"))]
    assert heat == ["#", "", "."]
