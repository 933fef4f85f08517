"""Traces of streams: over gRPC for each question and for the stream, over HTTP for the stream of one event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx2 as httpx
import pytest
from collector import collecting, collector_environment
from grpc_asking import stub
from http2 import PATIENCE_S
from models import identity, save
from serving import serving, traced
from tracing import CALLER, PARENT, TRACE, assert_whole, call, read, traced_server
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from serving import Server

#: Another caller, whom questions name in their own parameters.
OWN_TRACE: Final = "ab" * 16
OWN: Final = f"00-{OWN_TRACE}-{'cd' * 8}-01"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(traced(identity("FP32")), tmp_path_factory.mktemp("model") / "echo.onnx")


def stream(server: Server, questions: list[Any], **metadata: str) -> tuple[dict[str, str], list[Any]]:
    """Ask all questions in one stream; return its first headers, and the answers."""
    with stub(server) as service:
        asked = service.ModelStreamInfer(iter(questions), metadata=tuple(metadata.items()), timeout=PATIENCE_S)
        return dict(asked.initial_metadata()), list(asked)


def with_trace(question: Any, parent: str, state: str = "") -> Any:  # noqa: ANN401 - the messages have no types
    """Have a question say whose it is."""
    question.parameters["traceparent"].string_param = parent
    if state:
        question.parameters["tracestate"].string_param = state
    return question


def told(answer: Any) -> dict[str, str]:  # noqa: ANN401
    """Return what an answer's parameters say of its trace."""
    parameters = answer.infer_response.parameters
    return {name: parameters[name].string_param for name in ("traceparent", "tracestate") if name in parameters}


def test_a_stream_gives_its_context_back_and_each_question_has_a_span_below_it(model: Path) -> None:
    with collecting("grpc") as collector, traced_server(model, collector, "--otlp-protocol", "grpc") as server:
        questions = [call("0"), pb.ModelInferRequest(model_name="echo", id="1"), call("2")]
        first, answers = stream(server, questions, traceparent=CALLER, tracestate="one=1")
        assert [bool(answer.error_message) for answer in answers] == [False, True, False]
        assert [told(answer) for answer in answers] == [{}] * 3
        trace, span, flags = read(first["traceparent"])
        assert (trace, flags, first["tracestate"]) == (TRACE, 1, "one=1")
        collector.wait(lambda spans: sum(span.is_server for span in spans) == 4)
        found = {span.attributes.get("axon.request.id"): span for span in collector.servers()}
        whole = found.pop(None)
        assert (whole.id, whole.parent, whole.state, whole.flags) == (span, PARENT, "one=1", 0x301)
        assert whole.name == "inference.GRPCInferenceService/ModelStreamInfer"
        assert whole.attributes["rpc.grpc.status_code"] == 0
        assert {(span.trace, span.parent, span.flags) for span in found.values()} == {(TRACE, whole.id, 0x101)}
        assert [found[name].attributes["rpc.grpc.status_code"] for name in "012"] == [0, 3, 0]
        assert found["1"].attributes["error.type"] == "INVALID_ARGUMENT"
        assert all(whole.start <= span.start <= span.end <= whole.end for span in found.values())


def test_a_stream_whose_caller_says_nothing_begins_a_trace(model: Path) -> None:
    with collecting("http/protobuf") as collector, traced_server(model, collector) as server:
        first, answers = stream(server, [call("0"), call("1")])
        assert len(answers) == 2
        trace, span, flags = read(first["traceparent"])
        assert flags & 1
        collector.wait(lambda spans: sum(one.is_server for one in spans) == 3)
        (whole,) = [one for one in collector.servers() if not one.parent]
        assert (whole.trace, whole.id) == (trace, span)
        assert {one.parent for one in collector.servers()} == {"", span}


def test_a_question_may_belong_to_a_trace_of_its_own(model: Path) -> None:
    with collecting("http/protobuf") as collector, traced_server(model, collector) as server:
        questions = [
            with_trace(call("own"), OWN, "two=2"),
            with_trace(pb.ModelInferRequest(model_name="none", id="bad"), OWN),
            with_trace(call("malformed"), "x"),
            call("plain"),
        ]
        _, answers = stream(server, questions, traceparent=CALLER)
        collector.wait(lambda spans: sum(span.is_server for span in spans) == 5)
        found = {span.attributes.get("axon.request.id"): span for span in collector.servers()}
        for name, trace in (("own", OWN_TRACE), ("bad", OWN_TRACE), ("malformed", TRACE), ("plain", TRACE)):
            assert found[name].trace == trace, name
        assert found["own"].state == "two=2"
        assert {found[name].parent for name in ("own", "bad")} == {"cd" * 8}
        assert {found[name].parent for name in ("malformed", "plain")} == {found[None].id}
        own, bad, malformed, plain = map(told, answers)
        # Who asks by parameters is answered by them, well or not.
        assert own == {"traceparent": f"00-{OWN_TRACE}-{found['own'].id}-01", "tracestate": "two=2"}
        assert bad == {"traceparent": f"00-{OWN_TRACE}-{found['bad'].id}-01"}
        assert malformed == {"traceparent": f"00-{TRACE}-{found['malformed'].id}-01"}
        assert plain == {}
        assert answers[1].error_message


def test_a_stream_that_its_caller_leaves_is_told_of(model: Path) -> None:
    with collecting("http/protobuf") as collector, traced_server(model, collector) as server:
        with stub(server) as service:
            asked = service.ModelStreamInfer(iter([call("0")]), metadata=(("traceparent", CALLER),), timeout=PATIENCE_S)
            next(asked)
            asked.cancel()
        collector.wait(lambda spans: any(span.parent == PARENT for span in spans))
        (whole,) = [span for span in collector.servers() if span.parent == PARENT]
        # One that had no time to leave was ended by the last question.
        assert whole.attributes.get("error.type", "CANCELLED") == "CANCELLED"


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_what_is_generated_over_http_carries_its_trace_in_headers(model: Path, verb: str) -> None:
    with collecting("http/protobuf") as collector, traced_server(model, collector) as server:
        url = f"http://{server.address}/v2/models/echo/{verb}"
        headers = {"traceparent": CALLER, "tracestate": "one=1"}
        answer = httpx.post(url, json={"id": "six", "INPUT0": [1, 2, 3]}, headers=headers, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        assert answer.text.startswith("data: ") == (verb == "generate_stream")
        trace, span, flags = read(answer.headers["traceparent"])
        assert (trace, flags, answer.headers["tracestate"]) == (TRACE, 1, "one=1")
        spans = collector.of_trace(TRACE)
        assert_whole(spans)
        whole = spans["server"]
        assert (whole.id, whole.parent, whole.attributes["axon.request.id"]) == (span, PARENT, "six")
        assert whole.name == f"POST /v2/models/{{model}}/{verb}"


def test_without_a_collector_a_streams_trace_is_handed_on_as_it_came(model: Path) -> None:
    with serving(model, env=collector_environment()) as server:
        first, answers = stream(server, [with_trace(call("0"), OWN), call("1")], traceparent=CALLER, tracestate="one=1")
        assert (first["traceparent"], first["tracestate"]) == (CALLER, "one=1")
        assert [told(answer) for answer in answers] == [{"traceparent": OWN}, {}]
        first, _ = stream(server, [call("0")])
        assert "traceparent" not in first
