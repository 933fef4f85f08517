"""Counters under everything at once: a minute of good, bad, abandoned and refused requests, and a flood of names."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
import pytest
from bad_input_rows import CASES
from grpc_asking import stub
from models import identity, save, slow
from scraping import HISTOGRAMS, OPENMETRICS, TEXT, adds_up, scrape, wait_for
from serving import serving
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bad_input_rows import Case
    from scraping import Scrape
    from serving import Server

PATIENCE_S: Final = 30.0
#: How long the mixed run lasts.
RUN_S: Final = 60.0
#: Of what is asked, and of the names that no model has: each run asks the same.
SEED: Final = 20_261_201
RANDOM_NAMES: Final = 100_000
#: So many are on their way at once on one connection.
PIPELINED: Final = 200
GOOD: Final = json.dumps({"inputs": [{"name": "INPUT0", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
SLOW: Final = json.dumps({"inputs": [{"name": "x", "shape": [1, 256], "datatype": "FP32", "data": [0] * 256}]})
#: What is wrong with requests to the model `fp32`, small ones: whole rows of robustness.md.
BAD: Final = [case for case in CASES if case.path.startswith("/v2/models/fp32/") and isinstance(case.body, bytes)]


class Caller:
    """Asks in every way there is, at random, and counts the answers by what it was told."""

    def __init__(self, server: Server, seed: int) -> None:
        """Ask `server`; the same `seed` asks the same."""
        self.server = server
        self.choose = np.random.default_rng(seed)
        self.told: Counter[tuple[str, str]] = Counter()
        self.left = 0

    def over_http(self) -> None:
        """Ask once."""
        infer = "/v2/models/fp32/infer"
        ways: list[Callable[[], None]] = [
            lambda: self.post(infer, GOOD),
            lambda: self.post("/v2/models/fp32/generate_stream", json.dumps({"INPUT0": [1, 2, 3]})),
            lambda: self.post("/v2/models/slow/infer", SLOW),
            lambda: self.post("/v2/models/coming/infer", GOOD),
            lambda: self.post("/v2/models/none/infer", GOOD),
            lambda: self.post(infer, GOOD, **{"X-Request-Timeout": "0"}),
            lambda: self.send(BAD[self.choose.integers(len(BAD))]),
            self.leave,
        ]
        ways[self.choose.integers(len(ways))]()

    def post(self, path: str, body: str, **headers: str) -> None:
        """Ask on a connection of its own."""
        with closing(http.client.HTTPConnection(self.server.host, self.server.port, timeout=PATIENCE_S)) as connection:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read()
            self.told["http", str(response.status)] += 1

    def send(self, case: Case) -> None:
        """Send what is wrong as it stands."""
        body = case.payload()
        framing = "Transfer-Encoding: chunked" if case.chunked else f"Content-Length: {len(body)}"
        head = [f"{case.method} {case.path} HTTP/1.1", f"Host: {self.server.address}", framing]
        head += [f"{name}: {value}" for name, value in case.headers]
        if case.chunked:
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        with socket.create_connection((self.server.host, self.server.port), timeout=PATIENCE_S) as connection:
            # A server that has refused may have closed its end.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1") + body)
            with http.client.HTTPResponse(connection, method=case.method) as response:
                response.begin()
                response.read()
                self.told["bad", str(response.status)] += 1

    def leave(self) -> None:
        """Go away before the answer is there: at once, or half way through the body, or while the model runs."""
        body = SLOW if self.choose.integers(2) else SLOW[: len(SLOW) // 2]
        head = f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SLOW)}\r\n\r\n"
        with socket.create_connection((self.server.host, self.server.port), timeout=PATIENCE_S) as connection:
            connection.sendall((head + body).encode())
            time.sleep(self.choose.uniform(0.0, 0.01))
        self.left += 1

    def over_grpc(self, service: Any) -> None:  # noqa: ANN401 - the stub has no types
        """Ask once, or in one stream."""
        ways: list[Callable[[], None]] = [
            lambda: self.call(service, question("fp32")),
            lambda: self.call(service, question("fp32", width=4)),
            lambda: self.call(service, question("none")),
            lambda: self.call(service, question("slow", width=256, name="x")),
            lambda: self.call(service, question("coming")),
            lambda: self.cancel(service),
            lambda: self.stream(service),
        ]
        ways[self.choose.integers(len(ways))]()

    def call(self, service: Any, message: Any) -> None:  # noqa: ANN401
        """Ask once."""
        try:
            service.ModelInfer(message, timeout=PATIENCE_S)
            self.told["grpc", "OK"] += 1
        except grpc.RpcError as error:
            self.told["grpc", error.code().name] += 1

    def cancel(self, service: Any) -> None:  # noqa: ANN401
        """Take a call back before its answer is there."""
        called = service.ModelInfer.future(question("slow", width=256, name="x"), timeout=PATIENCE_S)
        time.sleep(self.choose.uniform(0.0, 0.01))
        called.cancel()
        self.left += 1

    def stream(self, service: Any) -> None:  # noqa: ANN401
        """Ask some questions in one stream, good and bad."""
        messages = [question("fp32", width=3 + number % 2) for number in range(6)]
        for answer in service.ModelStreamInfer(iter(messages), timeout=PATIENCE_S):
            self.told["stream", "error" if answer.error_message else "OK"] += 1


def question(model: str, width: int = 3, name: str = "INPUT0") -> Any:  # noqa: ANN401
    given = {"name": name, "datatype": "FP32", "shape": [1, width]}
    raw = np.ones((1, width), np.float32).tobytes()
    return pb.ModelInferRequest(model_name=model, inputs=[given], raw_input_contents=[raw])


def come_and_go(server: Server, stop: threading.Event) -> int:
    """Load and unload a model again and again; return how often."""
    rounds = 0
    while not stop.is_set():
        for verb in ("load", "unload"):
            with closing(http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)) as connection:
                connection.request("POST", f"/v2/repository/models/coming/{verb}", "{}")
                response = connection.getresponse()
                assert response.status == 200, response.read()
                response.read()
        rounds += 1
    return rounds


def scrapes_for(server: Server, seconds: float) -> Iterator[Scrape]:
    """Scrape for so long, by turns in both texts."""
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        yield scrape(server, OPENMETRICS if number % 2 else TEXT)
        number += 1


def test_every_scrape_of_a_minute_of_everything_adds_up(tmp_path: Path) -> None:
    """Received is answered, refused, cancelled and in flight at each scrape, and histograms count what was answered."""
    save(slow(5.0), tmp_path / "slow.onnx")
    for name in ("fp32", "coming"):
        save(identity("FP32"), tmp_path / f"{name}.onnx")
    options = ["--max-queue-size", "4", "--batching", "off", "--max-batch-size", "32", "--load-check", "off"]
    control = ["--model-control-mode", "explicit", "--load-model", "fp32", "--load-model", "slow"]
    with serving(tmp_path, *options, *control, "--log-level", "off") as server, stub(server) as service:
        stop = threading.Event()
        callers = [Caller(server, SEED + number) for number in range(10)]

        def keep_asking(caller: Caller, over: Callable[[Caller], None]) -> None:
            while not stop.is_set():
                over(caller)

        def over_grpc(caller: Caller) -> None:
            caller.over_grpc(service)

        with ThreadPoolExecutor(len(callers) + 1) as pool:
            asking = [pool.submit(keep_asking, caller, Caller.over_http) for caller in callers[:7]]
            asking += [pool.submit(keep_asking, caller, over_grpc) for caller in callers[7:]]
            coming = pool.submit(come_and_go, server, stop)
            count, before = 0, 0.0
            try:
                for told in scrapes_for(server, RUN_S):
                    assert adds_up(told), told.samples
                    received = told.of("axon_requests_received_total")
                    assert received >= before
                    count, before = count + 1, received
            finally:
                stop.set()
            for one in asking:
                one.result()
            assert coming.result() > 0
        wait_for(server, "nothing is in flight", lambda told: told.of("axon_requests_in_flight") == 0)
        end = scrape(server)
    assert count >= RUN_S, "less than a scrape a second"
    assert adds_up(end)
    seen = sum((caller.told for caller in callers), Counter[tuple[str, str]]())
    left = sum(caller.left for caller in callers)
    assert_told_alike(end, seen, left)


def assert_told_alike(end: Scrape, seen: Counter[tuple[str, str]], left: int) -> None:
    """Check that the server has counted what its callers have seen; who left may have been answered or not read."""
    answered = end.by("axon_requests_total", "protocol", "code")
    # Some of the bad requests are refused before it is known that they ask a model.
    bad = sum(count for (way, _), count in seen.items() if way == "bad")
    total = end.of("axon_requests_received_total")
    assert seen.total() - bad <= total <= seen.total() + left
    for code in ("200", "400", "404", "503", "504"):
        least = seen["http", code]
        assert least <= answered["http", code] <= least + seen["bad", code] + left, code
    ok = seen["grpc", "OK"] + seen["stream", "OK"]
    assert ok <= answered["grpc", "OK"] <= ok + left
    failed = sum(count for (way, code), count in seen.items() if way in {"grpc", "stream"} and code != "OK")
    told = sum(count for (protocol, code), count in answered.items() if protocol == "grpc" and code != "OK")
    assert failed <= told <= failed + left
    assert (seen["stream", "OK"] + seen["stream", "error"]) % 6 == 0
    reasons = end.by("axon_requests_refused_total", "reason")
    wanted = {"invalid", "unknown_model", "queue_full", "cancelled", "expired"}
    assert wanted <= set(reasons), reasons
    good = answered["http", "200"] + answered["grpc", "OK"]
    for name in HISTOGRAMS:
        assert end.of(f"{name}_count") == good, name
    # Each request that was answered has its place in each bucket of its histogram once.
    for name in HISTOGRAMS:
        assert end.of(f"{name}_bucket", le="+Inf") == good, name


def flood(server: Server, seed: int, count: int) -> Counter[str]:
    """Ask models and versions that nobody has, many at a time on one connection; return the statuses."""
    choose = np.random.default_rng(seed)
    statuses: Counter[str] = Counter()
    tail = f" HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: {len(GOOD)}\r\n\r\n{GOOD}"
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as connection:
        answers = connection.makefile("rb")
        for _ in range(count // PIPELINED):
            names = choose.integers(1 << 62, size=PIPELINED)
            paths = (f"m{name:x}" if name % 2 else f"fp32/versions/{name}" for name in names)
            connection.sendall("".join(f"POST /v2/models/{path}/infer{tail}" for path in paths).encode())
            for _ in range(PIPELINED):
                status, length = answers.readline(), 0
                while (line := answers.readline().lower()) != b"\r\n":
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                answers.read(length)
                statuses[status.split()[1].decode()] += 1
    return statuses


@pytest.mark.parametrize("count", [RANDOM_NAMES])
def test_a_hundred_thousand_random_names_make_no_series(tmp_path: Path, count: int) -> None:
    save(identity("FP32"), tmp_path / "fp32.onnx")
    with serving(tmp_path, "--log-level", "off") as server:
        # So that what is told of codes is there already.
        assert flood(server, SEED, PIPELINED) == {"404": PIPELINED}
        before = scrape(server)
        with ThreadPoolExecutor(2) as pool:
            halves = [pool.submit(flood, server, SEED + 1 + number, count // 2) for number in range(2)]
            assert sum((half.result() for half in halves), Counter[str]()) == {"404": count}
        after = scrape(server)
    assert after.series() == before.series()
    assert after.of("axon_requests_total", code="404") == count + PIPELINED
    assert adds_up(after)
