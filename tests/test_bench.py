"""`axon bench` against real servers over HTTP and gRPC, and in process. What is asserted are counts, never times."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import threading
import time
import xml.dom.minidom
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import models
import PIL.Image
import pytest
from axon import Client
from serving import AXON, PATIENCE_S, run_axon, run_python, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import SaveModel
    from serving import Ended, Server

ROOT: Final = Path(__file__).resolve().parent.parent
WAYS: Final = ("http", "grpc", "in-process")
#: An identity whose runs take some time, and that needs no ONNX Runtime.
CONFIG: Final = """
backend: "identity"
max_batch_size: 1
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
parameters { key: "execute_delay_ms" value { string_value: "DELAY" } }
"""
#: 100 requests count and 20 do not; half a step lies between the last of each and the end.
CONSTANT: Final = ("--rate", "200", "--arrivals", "constant", "--warmup", "99ms", "--duration", "500ms")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name, delay in (("same", "0"), ("slow", "100")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(CONFIG.replace("DELAY", delay))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as started:
        yield started


@pytest.fixture
def places(server: Server, repository: Path) -> dict[str, tuple[str, ...]]:
    return {
        "http": ("--url", f"http://{server.address}"),
        "grpc": ("--url", f"grpc://{server.grpc_address}"),
        "in-process": ("--in-process", str(repository)),
    }


def bench(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    end = run_axon("bench", *arguments, "--json")
    assert end.returncode == code, end
    assert "Traceback" not in end.stderr
    report: dict[str, Any] = json.loads(end.stdout)
    requests = report["requests"]
    assert requests["due"] == sum(requests[name] for name in ("answered", "failed", "not_sent", "unfinished"))
    assert requests["failed"] == sum(error["count"] for error in report["errors"])
    return report


# What is sent.


@pytest.mark.parametrize("way", WAYS)
def test_an_open_loop_sends_what_is_due(places: dict[str, tuple[str, ...]], way: str) -> None:
    report = bench("same", *places[way], *CONSTANT, "--limit", "10s")
    assert (report["protocol"], report["address"], report["model"]) == (way, places[way][1], "same")
    assert report["requests"] == {
        "due": 100, "answered": 100, "failed": 0, "not_sent": 0, "unfinished": 0, "warm_up": 20
    }  # fmt: skip
    assert report["goodput"]["share"] == 1.0
    latency = report["latency_ms"]
    values = [latency["min"], *(latency[name]["value"] for name in ("p50", "p90", "p99", "p99.9")), latency["max"]]
    assert values == sorted(values)
    assert latency["p50"]["low"] <= latency["p50"]["value"] <= latency["p50"]["high"]
    assert latency["p99.9"]["high"] is None
    assert report["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_every_request_reaches_the_server(repository: Path, way: str) -> None:
    with serving(repository) as started:
        url = f"http://{started.address}" if way == "http" else f"grpc://{started.grpc_address}"
        requests = bench("same", "--url", url, "--concurrency", "4", "--duration", "300ms")["requests"]
        assert requests["failed"] == 0
        with Client(f"http://{started.address}") as client:
            (statistics,) = client.statistics("same")["model_stats"]
    done = int(statistics["inference_stats"]["success"]["count"])
    assert 0 < requests["answered"] + requests["warm_up"] <= done + 4
    assert done <= requests["due"] + requests["warm_up"]


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_is_replayed_whole(places: dict[str, tuple[str, ...]], way: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("".join(f"{1000 + 0.01 * at}\n" for at in range(20)) + '{"at_s": 1000.3}\n')
    report = bench("same", *places[way], "--trace", path)
    assert (report["requests"]["answered"], report["requests"]["warm_up"]) == (21, 0)
    assert report["load"]["trace"] == str(path)


def test_the_seed_is_told_and_gives_the_same_moments_again(places: dict[str, tuple[str, ...]]) -> None:
    load = ("--rate", "300", "--arrivals", "bursty", "--duration", "400ms", "--warmup", "0s")
    once = bench("same", *places["http"], *load)
    again = bench("same", *places["http"], *load, "--seed", str(once["load"]["seed"]))
    assert again["requests"]["due"] == once["requests"]["due"]
    assert again["load"] == once["load"]


def test_a_file_is_run_in_this_process(save_model: SaveModel) -> None:
    path = save_model(models.two_inputs())
    report = bench(path, *CONSTANT, "--input", "a=1,2,3", "--input", "b=random", "--batch", "2")
    assert [put["shape"] for put in report["inputs"]] == [[2, 3], [2, 3]]
    assert report["requests"]["answered"] == 100


# What goes wrong.


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_sent_is_counted(places: dict[str, tuple[str, ...]], way: str) -> None:
    requests = bench("slow", *places[way], *CONSTANT, "--max-in-flight", "1")["requests"]
    assert requests["due"] == 100
    assert requests["answered"] > 0
    # A run takes 100 ms, and so at most 6 can begin.
    assert requests["not_sent"] >= 94


@pytest.mark.parametrize("way", WAYS)
def test_no_answer_in_time_is_an_error_and_exit_code_1(places: dict[str, tuple[str, ...]], way: str) -> None:
    report = bench("slow", *places[way], *CONSTANT, "--timeout", "20ms", code=1)
    assert (report["requests"]["failed"], report["requests"]["answered"]) == (100, 0)
    assert {error["code"] for error in report["errors"]} & {"timeout", "504", "DEADLINE_EXCEEDED", "DeadlineExceeded"}
    assert report["latency_ms"] is None


class Peer(BaseHTTPRequestHandler):
    """A server of the protocol that is not Axon, and that answers as its class says."""

    manner = ""
    refusals = 0
    numbers: Iterator[int] = iter(())

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer with metadata: this server has no binary extension."""
        put = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
        self.answer(200, json.dumps({"name": "m", "extensions": [], "inputs": [put], "outputs": [put]}).encode())

    def do_POST(self) -> None:
        """Answer an inference."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert len(asked["inputs"][0]["data"]) == 2
        # Taken from an iterator: threads that add to a number may lose one.
        number = next(self.numbers)
        if number < self.refusals:
            self.answer(503, json.dumps({"error": f"{number} wait"}).encode())
        elif self.manner == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (b'5;x=y\r\n{"a":', b"\r\n", b"4\r\n[1]}\r", b"\n0\r\nTrailer: x\r\n", b"\r\n"):
                self.wfile.write(piece)
                self.wfile.flush()
        elif self.manner == "until closed":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n{}")
            self.close_connection = True
        elif self.manner == "broken":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")
            self.close_connection = True
        elif self.manner == "no HTTP":
            self.wfile.write(b"hello\r\n\r\n")
            self.close_connection = True
        else:
            self.answer(200, b"{}")

    def answer(self, status: int, body: bytes) -> None:
        """Send a whole answer."""
        if self.manner == "closing":
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.manner == "closing":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def peer(manner: str = "", refusals: int = 0, version: str = "HTTP/1.1") -> Iterator[str]:
    settings = {"manner": manner, "refusals": refusals, "numbers": itertools.count(), "protocol_version": version}
    handler = type("Handler", (Peer,), settings)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as started:
        thread = threading.Thread(target=started.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{started.server_port}"
        finally:
            started.shutdown()
            thread.join()


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("manner", ["", "closing", "until closed"])
def test_a_server_may_end_its_answers_as_it_likes(manner: str, version: str) -> None:
    with peer(manner, version=version) as url:
        report = bench("m", "--url", url, *CONSTANT)
    assert report["errors"] == []
    assert report["requests"]["answered"] == 100


def test_a_server_may_send_chunks() -> None:
    with peer("chunked") as url:
        assert bench("m", "--url", url, *CONSTANT)["requests"]["answered"] == 100


@pytest.mark.parametrize(
    ("manner", "reason"),
    [("broken", "the server closed the connection"), ("no HTTP", "expected an answer of HTTP/1.1, got b'hello\\r\\n'")],
)
def test_a_broken_answer_is_an_error(manner: str, reason: str) -> None:
    with peer(manner) as url:
        report = bench("m", "--url", url, *CONSTANT, code=1)
    assert report["errors"] == [{"code": "connection", "reason": reason, "count": 100}]


def test_errors_are_counted_by_code_and_reason() -> None:
    with peer(refusals=50) as url:
        report = bench("m", "--url", url, *CONSTANT)
    (error,) = report["errors"]
    # The first 20 refusals are of the warm-up; which is first of the others is chance.
    assert (error["code"], error["count"]) == ("503", 30)
    assert re.fullmatch(r"\d+ wait", error["reason"])
    assert report["requests"]["answered"] == 70


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_cannot_be_reached_is_exit_code_1(scheme: str) -> None:
    end = run_axon("bench", "m", "--url", f"{scheme}://127.0.0.1:1")
    assert (end.returncode, end.stdout) == (1, "")
    assert "cannot be reached" in end.stderr


def test_an_interrupt_ends_early_and_shows_what_was_measured(repository: Path) -> None:
    with serving(repository) as started:
        url = f"http://{started.address}"
        options = ["--concurrency", "3", "--warmup", "0s", "--duration", "1h", "--json"]
        with (
            subprocess.Popen(
                [AXON, "bench", "slow", "--url", url, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process,
            Client(url) as client,
        ):
            deadline = time.monotonic() + PATIENCE_S
            while not client.statistics("slow")["model_stats"][0]["inference_stats"]["success"]["count"]:
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 1), err
    report = json.loads(out)
    assert report["interrupted"]
    assert report["requests"]["unfinished"] == 3
    assert b"Traceback" not in err


# The search, and what is shown.


def test_the_highest_rate_is_searched_step_by_step(places: dict[str, tuple[str, ...]]) -> None:
    options = ("--find-rate", "--p99", "10s", "--rate", "400", "--arrivals", "constant", "--max-in-flight", "1")
    end = run_axon("bench", "slow", *places["http"], *options, "--duration", "300ms", "--warmup", "0s", "--json")
    assert end.returncode == 0, end
    report = json.loads(end.stdout)
    steps = report["search"]["steps"]
    held = [step["rate"] for step in steps if step["holds"]]
    assert steps[0]["rate"] == 400.0
    # One at a time, and 100 ms each: the first rate cannot hold.
    assert not steps[0]["holds"]
    assert steps[0]["p99_ms"]["value"] is None
    assert report["search"]["rate"] == max(held) == report["load"]["rate"]
    assert len(re.findall(r"^ +[\d,.]+/s +p99 .* requests  ", end.stderr, re.MULTILINE)) == len(steps)


def test_a_table_and_bars_are_shown(places: dict[str, tuple[str, ...]]) -> None:
    end = run_axon("bench", "same", *places["http"], *CONSTANT, "--limit", "10s", "--plot", "terminal", "--seed", "5")
    assert end.returncode == 0, end
    for text in ("p99.9", "100.00% of those due", "--seed 5", "answered", "throughput", "█"):
        assert text in end.stdout
    assert len(re.findall(r" ms +[\d.]+%", end.stdout)) == 16


def test_pictures_are_drawn(places: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    plots = [tmp_path / "out.svg", tmp_path / "out.png"]
    bench("same", *places["http"], *CONSTANT, "--limit", "1s", *(word for path in plots for word in ("--plot", path)))
    picture = xml.dom.minidom.parse(str(plots[0]))  # noqa: S318 - our own
    lines = picture.getElementsByTagName("polyline")
    assert max(len(line.getAttribute("points").split()) for line in lines) > 100
    texts = [text.firstChild.data for text in picture.getElementsByTagName("text")]  # type: ignore[union-attr]
    assert "limit 1000 ms" in texts
    with PIL.Image.open(plots[1]) as image:
        image.load()
        assert image.size == (1680, 920)
        colours = image.getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 3


def test_a_bar_shows_on_a_terminal(places: dict[str, tuple[str, ...]]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [AXON, "bench", "same", *places["http"], *CONSTANT], stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    assert process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0
    assert b"same" in os.read(ours, 1 << 16)
    os.close(ours)


# The command line.


def refused(end: Ended) -> str:
    assert (end.returncode, end.stdout) == (2, ""), end
    assert "Traceback" not in end.stderr
    return end.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--rate", "0"], "argument --rate: expected requests a second from 0.01 to 1000000.0, got '0'"),
        (["--rate", "nan"], "argument --rate: expected requests a second"),
        (["--rate", "1", "--concurrency", "1"], "argument --concurrency: not allowed with argument --rate"),
        (["--concurrency", "0"], "argument --concurrency: expected an integer from 1"),
        (["--arrivals", "constant"], "--arrivals: expected with --rate or --find-rate, got neither"),
        (["--arrivals", "poison"], "argument --arrivals: invalid choice: 'poison'"),
        (["--p99", "10"], "argument --limit/--p99: expected a duration from 1us to 24h, as 10ms, got '10'"),
        (["--duration", "-1s"], "argument --duration: expected"),
        (["--duration", "ten"], "argument --duration: expected a duration from 10ms to 24h, as 10ms or 5s, got 'ten'"),
        (["--find-rate"], "--find-rate: expected --p99 with it, as --p99 10ms, got none"),
        (["--find-rate", "--p99", "1ms", "--concurrency", "2"], "it chooses the rate itself, got --concurrency too"),
        (["--trace", "none.txt"], "--trace: cannot read `none.txt`: No such file"),
        (["--trace", "model.onnx"], "--trace: `model.onnx`: "),
        (["--plot", "out.gif"], "argument --plot: expected terminal, FILE.svg or FILE.png, got 'out.gif'"),
        (["--plot", "/nowhere/out.svg"], "--plot: cannot write `/nowhere/out.svg`: no folder `/nowhere`"),
        (["--url", "http://localhost:1"], "--url: `model.onnx` is a file, which is run in this process"),
        (["--in-process", "x"], "--in-process: expected the name of a model in it as MODEL, got the file `model.onnx`"),
        (["--model-version", "1"], "--model-version: expected with a server"),
        (["--input", "a=1,2", "--input", "b=random"], "--input: `a` has shape [2]; model `model` takes [?, 3]"),
    ],
)
def test_a_command_line_that_is_wrong_says_what_is_wanted(
    tmp_path: Path, save_model: SaveModel, arguments: list[str], problem: str
) -> None:
    save_model(models.two_inputs())
    assert problem in refused(run_axon("bench", "model.onnx", *arguments, cwd=tmp_path))


def test_the_document_names_every_key_and_option(places: dict[str, tuple[str, ...]], server: Server) -> None:
    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    # At random moments there may be none in so short a time.
    steady = ("--rate", "5", "--arrivals", "constant", "--duration", "200ms")
    search = ("--find-rate", "--p99", "10s", *steady, "--max-in-flight", "1")
    report = bench("slow", *places["http"], *search)
    with peer(refusals=60) as url:
        report["errors"] = bench("m", "--url", url, *CONSTANT)["errors"]
    assert keys(report) - set(re.findall(r"`([\w.]+)`", text)) == set()
    options = set(re.findall(r"`(--[a-z0-9-]+)", text))
    assert options <= set(re.findall(r"--[a-z0-9-]+", run_axon("bench", "--help").stdout))
    commands = [
        line[2:] for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
    ]
    assert commands[0] == "axon serve examples/digits/digits.onnx"
    for command in commands[1:]:
        axon, *words = shlex.split(command)
        assert axon == "axon"
        short = ("--url", f"http://{server.address}", "--duration", "100ms", "--warmup", "0s")
        assert run_axon(words[0], "same", *words[2:], *short).returncode in (0, 1)


def keys(value: object) -> set[str]:
    """Collect the keys of an object and of what is in it."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_a_url_that_is_none_is_refused() -> None:
    assert "--url: expected http://host:port" in refused(run_axon("bench", "m", "--url", "ftp://x"))


def test_pillow_that_is_not_installed_names_the_extra_before_anything_is_sent() -> None:
    program = """
import sys
sys.modules["PIL"] = None
from axon.cli import main
sys.exit(main(sys.argv[1:]))
"""
    end = run_python(program, "bench", "m", "--url", "http://127.0.0.1:1", "--plot", "out.png")
    assert refused(end).endswith("hint: pip install 'axon[image]'\n")
