"""The spans of requests that have no answer: where each ended, and why."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx2 as httpx
from collector import collecting
from http2 import PATIENCE_S
from models import SLEEPER, gather, save
from tracing import read, traced_server

if TYPE_CHECKING:
    from pathlib import Path

    from collector import Collector, Span
    from serving import Server

ERROR: Final = 2


def sleeper(folder: Path) -> Path:
    (folder / "sleeper" / "1").mkdir(parents=True)
    (folder / "sleeper" / "model.toml").write_text(SLEEPER)
    return folder


def ask(server: Server, model: str, body: Any, **headers: str) -> httpx.Response:  # noqa: ANN401 - JSON
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://{server.address}/v2/models/{model}/infer"
    return httpx.post(url, json=body, headers=named, timeout=PATIENCE_S)


def sleep(server: Server, milliseconds: int, **headers: str) -> httpx.Response:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
    return ask(server, "sleeper", {"inputs": [tensor], "parameters": {"execute_delay_ms": milliseconds}}, **headers)


def spans_of(collector: Collector, answer: httpx.Response) -> dict[str, Span]:
    return collector.of_trace(read(answer.headers["traceparent"])[0])


def assert_in_order(spans: dict[str, Span], parts: list[str]) -> None:
    """Check that exactly these parts lie in a request, one after the other."""
    assert sorted(spans) == sorted([*parts, "server"])
    moments = [moment for part in parts for moment in (spans[part].start, spans[part].end)]
    assert moments == sorted(moments)
    assert all(spans[part].parent == spans["server"].id for part in parts)


def test_a_request_that_expires_in_the_queue_has_waited_there(tmp_path: Path) -> None:
    with (
        collecting("http/protobuf") as collector,
        traced_server(sleeper(tmp_path), collector) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(sleep, server, 1500)
        until_running(server)
        late = sleep(server, 0, X_Request_Timeout="0.2")
        assert late.status_code == 504, late.text
        spans = spans_of(collector, late)
        assert_in_order(spans, ["receive", "queue", "send"])
        queue = spans["queue"]
        assert (queue.status, queue.attributes["error.type"]) == (ERROR, "expired")
        assert "timeout" in queue.message
        # Nothing expires before its time.
        assert queue.end - queue.start >= 200e6
        assert running.result().status_code == 200


def until_running(server: Server) -> None:
    url = f"http://{server.address}/v2/models/sleeper/explain"
    while not httpx.get(url, timeout=PATIENCE_S).json()["load"]["running"]:
        pass


def test_a_request_that_is_refused_at_the_queue_says_so_there(tmp_path: Path) -> None:
    options = ("--max-queue-size", "1")
    with (
        collecting("http/protobuf") as collector,
        traced_server(sleeper(tmp_path), collector, *options) as server,
        ThreadPoolExecutor(6) as pool,
    ):
        answers = list(pool.map(lambda _: sleep(server, 300), range(6)))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert refused
        for answer in refused:
            spans = spans_of(collector, answer)
            assert_in_order(spans, ["receive", "queue", "send"])
            assert (spans["queue"].status, spans["queue"].attributes["error.type"]) == (ERROR, "queue_full")
        for answer in (answer for answer in answers if answer.status_code == 200):
            spans = spans_of(collector, answer)
            assert_in_order(spans, ["receive", "queue", "compute", "send"])
            assert spans["queue"].status == 0


def test_a_run_that_fails_is_told_with_what_it_took(tmp_path: Path) -> None:
    with (
        collecting("http/protobuf") as collector,
        traced_server(save(gather(), tmp_path / "gather.onnx"), collector) as server,
    ):
        wanted = httpx.get(f"http://{server.address}/v2/models/gather", timeout=PATIENCE_S).json()["inputs"]
        (tensor,) = [
            {"name": one["name"], "datatype": one["datatype"], "shape": [1] * len(one["shape"]), "data": [99]}
            for one in wanted
        ]
        failed = ask(server, "gather", {"inputs": [tensor]})
        assert failed.status_code == 400, failed.text
        spans = spans_of(collector, failed)
        assert_in_order(spans, ["receive", "queue", "compute", "send"])
        # It waited as others do; what failed is the run, and the batch that it was.
        assert spans["queue"].status == 0
        compute = spans["compute"]
        assert (compute.status, compute.attributes["error.type"]) == (ERROR, "invalid")
        collector.wait(lambda found: any(span.name == "batch" for span in found))
        (batch,) = [span for span in collector.spans if span.name == "batch"]
        assert compute.links == (batch.place,)
        assert (batch.links, batch.status) == ((spans["server"].place,), ERROR)


def test_a_request_that_is_no_request_never_waited(tmp_path: Path) -> None:
    with collecting("http/protobuf") as collector, traced_server(sleeper(tmp_path), collector) as server:
        wrong = ask(server, "sleeper", {"inputs": []})
        assert wrong.status_code == 400
        unknown = ask(server, "none", {"inputs": []})
        assert unknown.status_code in {400, 404}
        for answer in (wrong, unknown):
            spans = spans_of(collector, answer)
            assert "queue" not in spans
            assert "compute" not in spans
