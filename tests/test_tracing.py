"""Traces, as a collector gets them from the real server: the official messages of OpenTelemetry, over HTTP and gRPC."""

from __future__ import annotations

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx2 as httpx
import pytest
from collector import collecting, collector_environment
from grpc_asking import stub
from http2 import PATIENCE_S
from models import identity, save
from serving import run_axon, serving, traced
from tracing import CALLER, PARENT, TRACE, assert_whole, call, read, traced_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collector import Collector, Span
    from serving import Server

INFER: Final = "/v2/models/echo/infer"
QUESTION: Final = {
    "id": "seven",
    "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}],
}
PROTOCOLS: Final = ["http/protobuf", "grpc"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that takes 4 ms for any number of rows, so that what comes meanwhile shares a run."""
    return save(traced(identity("FP32")), tmp_path_factory.mktemp("model") / "echo.onnx")


def ask(server: Server, question: Any = None, **headers: str) -> httpx.Response:  # noqa: ANN401
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"http://{server.address}{INFER}", json=question or QUESTION, headers=named, timeout=PATIENCE_S)


def set_trace(server: Server, model: str | None = None, **settings: Any) -> dict[str, Any]:  # noqa: ANN401
    of = f"/v2/models/{model}/trace/setting" if model else "/v2/trace/setting"
    answer = httpx.post(f"http://{server.address}{of}", json=settings, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_over_http_becomes_spans_of_its_callers_trace(model: Path, protocol: str) -> None:
    with collecting(protocol) as collector, traced_server(model, collector, "--otlp-protocol", protocol) as server:
        answer = ask(server, traceparent=CALLER, tracestate="one=1,two=2")
        assert answer.status_code == 200, answer.text
        trace, span, flags = read(answer.headers["traceparent"])
        assert (trace, flags, answer.headers["tracestate"]) == (TRACE, 1, "one=1,two=2")
        spans = collector.of_trace(TRACE)
        whole = spans["server"]
        assert_whole(spans)
        assert (whole.id, whole.parent, whole.state) == (span, PARENT, "one=1,two=2")
        assert whole.name == "POST /v2/models/{model}/infer"
        assert whole.flags == 0x301
        assert whole.status == 0
        said = whole.attributes
        assert (said["http.response.status_code"], said["http.route"]) == (200, "/v2/models/{model}/infer")
        assert (said["axon.model.name"], said["axon.model.version"], said["axon.request.id"]) == ("echo", 1, "seven")
        (batch,) = [span for span in collector.spans if span.name == "batch"]
        assert batch.links == (whole.place,)
        assert spans["compute"].links == (batch.place,)
        assert batch.start <= spans["compute"].start <= spans["compute"].end <= batch.end
        assert batch.attributes["axon.batch.requests"] == 1
        assert batch.resource["service.name"] == "axon"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_of_grpc_carries_its_trace_in_metadata(model: Path, protocol: str) -> None:
    with (
        collecting(protocol) as collector,
        traced_server(model, collector, OTEL_EXPORTER_OTLP_PROTOCOL=protocol) as server,
        stub(server) as service,
    ):
        metadata = (("traceparent", CALLER), ("tracestate", "one=1"))
        _, ended = service.ModelInfer.with_call(call("nine"), metadata=metadata, timeout=PATIENCE_S)
        trailers = dict(ended.trailing_metadata())
        trace, span, flags = read(trailers["traceparent"])
        assert (trace, flags, trailers["tracestate"]) == (TRACE, 1, "one=1")
        spans = collector.of_trace(TRACE)
        assert_whole(spans)
        whole = spans["server"]
        assert (whole.id, whole.parent) == (span, PARENT)
        assert whole.name == "inference.GRPCInferenceService/ModelInfer"
        said = whole.attributes
        assert (said["rpc.system"], said["rpc.grpc.status_code"], said["axon.request.id"]) == ("grpc", 0, "nine")


def test_one_span_tells_of_a_batch_and_is_linked_to_its_requests(model: Path) -> None:
    # A batch is told of after that time, with its requests that have ended: here all, on a busy machine too.
    patient = {"OTEL_BSP_SCHEDULE_DELAY": "3000"}
    with collecting("http/protobuf") as collector, traced_server(model, collector, **patient) as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(server), range(64)))
        places = {read(answer.headers["traceparent"])[:2] for answer in answers}

        def linked(spans: list[Span]) -> int:
            return sum(len(span.links) for span in spans if span.name == "batch")

        spans = collector.wait(lambda spans: linked(spans) == len(answers))
        batches = {span.place: span for span in spans if span.name == "batch"}
        assert max(len(batch.links) for batch in batches.values()) > 1, "no two requests shared a run"
        assert Counter(link for batch in batches.values() for link in batch.links) == Counter(places)
        for batch in batches.values():
            assert batch.attributes["axon.batch.requests"] == batch.attributes["axon.batch.rows"] == len(batch.links)
        for compute in (span for span in spans if span.name == "compute"):
            (link,) = compute.links
            assert (compute.trace, compute.parent) in batches[link].links


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        CALLER.upper(),
        CALLER + "-",
        CALLER.replace(TRACE, "0" * 32),
        CALLER.replace(PARENT, "0" * 16),
        CALLER.replace("00-", "ff-", 1),
    ],
)
def test_a_malformed_traceparent_is_none(running: tuple[Server, Collector], wrong: str) -> None:
    server, collector = running
    answer = ask(server, traceparent=wrong, tracestate="one=1")
    assert answer.status_code == 200
    assert "tracestate" not in answer.headers
    trace, _, flags = read(answer.headers["traceparent"])
    assert trace != TRACE
    # Chosen here, and at random.
    assert flags == 3
    assert collector.of_trace(trace)["server"].parent == ""


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[tuple[Server, Collector]]:
    with collecting("http/protobuf") as collector, traced_server(model, collector) as server:
        yield server, collector


def test_the_callers_decision_is_followed_and_a_ratio_decides_for_others(model: Path) -> None:
    with (
        collecting("http/protobuf") as collector,
        traced_server(model, collector, "--trace-ratio", "0.5") as server,
        httpx.Client(base_url=f"http://{server.address}", timeout=PATIENCE_S) as client,
    ):
        told = [read(client.post(INFER, json=QUESTION).headers["traceparent"]) for _ in range(200)]
        sampled = {trace for trace, _, flags in told if flags & 1}
        # A share of a half of 200: outside of 60 to 140 once in ten million runs.
        assert 60 <= len(sampled) <= 140
        for index in range(20):
            caller = f"00-{index + 1:032x}-{PARENT}-0{index % 2}"
            answer = client.post(INFER, json=QUESTION, headers={"traceparent": caller})
            assert read(answer.headers["traceparent"])[2] == index % 2
        sampled |= {f"{index + 1:032x}" for index in range(20) if index % 2}
        collector.wait(lambda spans: {span.trace for span in spans if span.is_server} >= sampled)
    assert {span.trace for span in collector.servers()} == sampled


def test_what_is_slow_or_failed_is_kept_whatever_the_ratio(model: Path) -> None:
    options = ("--trace-ratio", "0")
    with collecting("http/protobuf") as collector, traced_server(model, collector, *options) as server:
        assert ask(server).status_code == 200
        assert ask(server, {"inputs": []}).status_code == 400
        late = ask(server, X_Request_Timeout="0")
        assert late.status_code == 504
        trace, _, flags = read(late.headers["traceparent"])
        assert flags & 1 == 0
        failed = collector.of_trace(trace)["server"]
        assert (failed.status, failed.attributes["error.type"]) == (2, "DEADLINE")
        assert "timeout" in failed.message
    assert [span.trace for span in collector.servers()] == [trace]
    with (
        collecting("http/protobuf") as collector,
        traced_server(model, collector, *options, "--trace-slow-ms", "1") as server,
    ):
        # No run of this model takes less than a millisecond.
        slow = {read(ask(server).headers["traceparent"])[0] for _ in range(3)}
        collector.wait(lambda spans: {span.trace for span in spans if span.is_server} == slow)


def test_the_trace_settings_are_acted_on(model: Path) -> None:
    with collecting("http/protobuf") as collector, traced_server(model, collector, "--trace-ratio", "0.25") as server:

        def sampled(count: int) -> int:
            return sum(read(ask(server).headers["traceparent"])[2] & 1 for _ in range(count))

        before = set_trace(server)
        assert (before["trace_level"], before["trace_rate"]) == (["TIMESTAMPS"], "4")
        assert before["trace_mode"] == "opentelemetry"
        assert set_trace(server, trace_rate="3")["trace_rate"] == "3"
        assert sampled(9) == 3
        assert set_trace(server, "echo", trace_rate="1", trace_count="2")["trace_count"] == "2"
        assert sampled(5) == 2
        assert set_trace(server, "echo")["trace_count"] == "0"
        assert set_trace(server)["trace_count"] == "-1"
        # What the model had of its own is given back: the server's settings hold again.
        set_trace(server, "echo", trace_rate=None, trace_count=None)
        assert sampled(9) == 3
        set_trace(server, "echo", trace_level=["TIMESTAMPS", "TENSORS"])
        answer = ask(server, traceparent=CALLER)
        whole = collector.of_trace(TRACE)["server"]
        assert whole.attributes["axon.inputs"] == ["INPUT0 FP32 [1, 3]"]
        assert "OUTPUT0 FP32 [1, 3]" in whole.attributes["axon.outputs"]
        count = len(collector.wait(lambda spans: sum(span.is_server for span in spans) == 9))
        set_trace(server, "echo", trace_level="OFF")
        answer = ask(server, traceparent=CALLER)
        # Nobody here has a span of it: the caller's is handed on.
        assert answer.headers["traceparent"] == CALLER
    assert len(collector.spans) == count


def test_without_a_collector_the_trace_is_handed_on_as_it_came(model: Path) -> None:
    with serving(model, env=collector_environment()) as server:
        assert set_trace(server)["trace_level"] == ["OFF"]
        answer = ask(server, traceparent=CALLER, tracestate="one=1")
        assert (answer.headers["traceparent"], answer.headers["tracestate"]) == (CALLER, "one=1")
        assert "traceparent" not in ask(server).headers
        with stub(server) as service:
            _, ended = service.ModelInfer.with_call(call(), metadata=(("traceparent", CALLER),), timeout=PATIENCE_S)
            assert dict(ended.trailing_metadata())["traceparent"] == CALLER


def test_the_environment_says_where_traces_go_and_whose_they_are(model: Path) -> None:
    with collecting("grpc") as collector:
        env = collector_environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b,other=c",
            OTEL_SERVICE_NAME="shop",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        )
        with serving(model, env=env) as server:
            assert ask(server, traceparent=CALLER).status_code == 200
            whole = collector.of_trace(TRACE)["server"]
            assert (whole.resource["service.name"], whole.resource["deployment.environment"]) == ("shop", "test")
            assert (collector.headers[0]["api-key"], collector.headers[0]["other"]) == ("a b", "c")


def test_spans_that_wait_are_sent_at_the_end(model: Path) -> None:
    with collecting("http/protobuf") as collector:
        with traced_server(model, collector, OTEL_BSP_SCHEDULE_DELAY="60000") as server:
            trace, _, _ = read(ask(server).headers["traceparent"])
            assert collector.spans == []
        assert {span.trace for span in collector.servers()} == {trace}
        assert [span.name for span in collector.spans if span.links and span.name == "batch"] == ["batch"]


def until_told(server: Server, sample: str) -> None:
    """Wait until the metrics have this line."""
    deadline = time.monotonic() + PATIENCE_S
    while sample not in (told := httpx.get(f"http://{server.address}/metrics", timeout=PATIENCE_S).text.splitlines()):
        assert time.monotonic() < deadline, told


def test_a_collector_that_is_gone_costs_a_count_and_no_answer(model: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with serving(model, "--otlp-endpoint", endpoint, env=collector_environment()) as server:
            assert [ask(server).status_code for _ in range(20)] == [200] * 20
            until_told(server, "axon_trace_spans_dropped_total 120")
            log = server.stop().stderr
    assert log.count("traces cannot be sent") == 1, log
    assert "spans of traces were dropped dropped=120 exported=0" in log


def test_a_collector_that_never_answers_keeps_nothing_waiting(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(model, "--otlp-endpoint", endpoint, env=collector_environment()) as server:
            assert [ask(server).status_code for _ in range(20)] == [200] * 20
            # `stop` fails the test when the server does not end.
            assert "spans of traces were dropped" in server.stop().stderr


def test_a_collector_that_is_busy_is_asked_again(model: Path) -> None:
    with collecting("http/protobuf") as collector, traced_server(model, collector) as server:
        collector.refusals += [503, 429]
        trace, _, _ = read(ask(server).headers["traceparent"])
        assert_whole(collector.of_trace(trace))
        assert "dropped" not in server.stop().stderr


def test_what_a_collector_refuses_is_counted(model: Path) -> None:
    with collecting("http/protobuf") as collector:
        collector.rejected = 2
        with traced_server(model, collector) as server:
            trace, _, _ = read(ask(server).headers["traceparent"])
            collector.of_trace(trace)
            log = server.stop().stderr
        assert "dropped=2 exported=4" in log, log


@pytest.mark.parametrize(
    ("options", "variables", "problem"),
    [
        (("--otlp-endpoint", "https://collector"), {}, "without TLS"),
        (("--otlp-endpoint", "collector:4318"), {}, "expected a URL"),
        ((), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:secret@x"}, "without a user's name"),
        (
            ("--otlp-endpoint", "http://x"),
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "expected http/protobuf or grpc",
        ),
        (("--trace-ratio", "1.5"), {}, "expected a number from 0 to 1"),
        (("--trace-slow-ms", "0"), {}, "expected an integer from 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(
    model: Path, options: tuple[str, ...], variables: dict[str, str], problem: str
) -> None:
    env = collector_environment(**variables)
    end = run_axon("serve", model, "--http-port", "0", "--grpc-port", "0", *options, env=env)
    assert end.returncode == 2, end
    assert problem in end.stderr
    assert "secret" not in end.stderr
