"""When a client asks again, how long it waits, and when it gives up.

The plans are taken step by step with a clock of the test's own. Nothing is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from axon.client._call import Call, Failed, Question, Retry, SequenceStep, Verb
from axon.client._http import HttpCodec, HttpReply, HttpRequest
from axon.client._plan import Plans, Send, Settings, Wait
from axon.errors import (
    AxonError,
    ConnectionFailed,
    DeadlineExceeded,
    ExecutionFailed,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    QuotaExceeded,
    ServerError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ANSWER: Final = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[2.5]}]}'
UNSENT: Final = Failed(ConnectionFailed("refused"), Retry.UNSENT)
BROKEN: Final = Failed(ConnectionFailed("reset"))


def reply(status: int, body: bytes = b'{"error":"no"}', **headers: str) -> HttpReply:
    return HttpReply(status, {name.replace("_", "-"): value for name, value in headers.items()}, memoryview(body))


GOOD: Final = reply(200, ANSWER)


class Taken:
    """What came of a plan: its requests, its waits, and its answer or error. A request takes `seconds`."""

    def __init__(
        self,
        replies: Sequence[HttpReply | Failed],
        *,
        retries: int = 2,
        seconds: float = 0.0,
        **asked: Any,  # noqa: ANN401 - what a `Question` has
    ) -> None:
        """Take a plan to its end with these replies."""
        self.now = 100.0
        self.sent: list[Send[HttpRequest]] = []
        self.waits: list[float] = []
        self.answer: Any = None
        self.error: AxonError | None = None
        settings = Settings(timeout_s=60.0, retries=retries, binary=True)
        plans = Plans(HttpCodec(), settings, lambda: self.now)
        plan = plans.infer(Question(**{"model": "m", "inputs": {"x": np.ones(1, np.float32)}, **asked}))
        left = list(replies)
        got: HttpReply | Failed | None = None
        try:
            while True:
                step = plan.send(got)
                got = None
                if isinstance(step, Wait):
                    self.waits.append(step.seconds)
                    self.now += step.seconds
                else:
                    self.sent.append(step)
                    self.now += seconds
                    got = left.pop(0)
        except StopIteration as end:
            self.answer = end.value
        except AxonError as error:
            self.error = error
        assert left == []


@pytest.mark.parametrize("refusal", [reply(503), reply(429), reply(503, Retry_After="1"), UNSENT])
def test_what_is_refused_for_now_is_asked_again(refusal: HttpReply | Failed) -> None:
    taken = Taken([refusal, refusal, GOOD])
    assert taken.answer["y"].tolist() == [2.5]
    assert len(taken.waits) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 415, 500, 501, 502, 504])
def test_what_would_be_refused_again_is_not_asked_again(status: int) -> None:
    taken = Taken([reply(status)])
    assert taken.waits == []
    assert taken.error is not None


def test_a_connection_that_breaks_is_not_used_again_for_the_same_request() -> None:
    assert isinstance(Taken([BROKEN]).error, ConnectionFailed)


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
def test_it_is_asked_again_only_so_often(retries: int) -> None:
    taken = Taken([reply(503, Retry_After="0")] * (retries + 1), retries=retries)
    assert isinstance(taken.error, Overloaded)
    assert len(taken.sent) == retries + 1


def test_a_wait_is_the_servers() -> None:
    assert Taken([reply(503, Retry_After="7"), reply(429, Retry_After="0.5"), GOOD]).waits == [7.0, 0.5]


@pytest.mark.parametrize("said", ["soon", "Wed, 21 Oct 2026 07:28:00 GMT", "nan", "inf", ""])
def test_a_wait_that_is_no_number_is_the_clients_own(said: str) -> None:
    (wait,) = Taken([reply(503, Retry_After=said), GOOD]).waits
    assert 0.05 <= wait <= 0.1


def test_a_server_that_says_never_is_not_asked_again() -> None:
    taken = Taken([reply(503, Retry_After="-1")])
    assert taken.error is not None
    assert taken.error.retry_after_s is None


def test_waits_double_up_to_a_bound_with_jitter() -> None:
    waits = Taken([reply(503)] * 9, retries=8).waits
    for attempt, wait in enumerate(waits):
        longest = min(0.1 * 2**attempt, 5.0)
        assert longest / 2 <= wait <= longest
    assert len({wait / min(0.1 * 2**at, 5.0) for at, wait in enumerate(waits)}) > 1


def test_a_sequence_is_sent_once_unless_nothing_was_sent() -> None:
    step = SequenceStep(5, start=True)
    assert isinstance(Taken([reply(503)], sequence=step).error, ModelNotReady)
    taken = Taken([UNSENT, GOOD], sequence=step)
    assert b'"sequence_id":5,"sequence_start":true,"sequence_end":false' in taken.sent[1].request.body


def test_a_wait_that_would_end_after_the_deadline_is_not_begun() -> None:
    taken = Taken([reply(503, Retry_After="3")], timeout_s=3.0)
    assert taken.waits == []
    assert isinstance(taken.error, Overloaded)
    assert taken.error.retry_after_s == 3.0


def test_each_attempt_is_told_what_is_left() -> None:
    taken = Taken([reply(503, Retry_After="1"), reply(503, Retry_After="2"), GOOD], seconds=0.5, timeout_s=10.0)
    left = [10.0, 8.5, 6.0]
    assert [send.seconds for send in taken.sent] == left
    assert [send.request.headers["X-Request-Timeout"] for send in taken.sent] == [f"{each:.6f}" for each in left]
    for send, seconds in zip(taken.sent, left, strict=True):
        assert f'"timeout":{int(seconds * 1e6)}'.encode() in send.request.body


def test_no_attempt_begins_after_the_deadline() -> None:
    """The metadata that a list needs has taken all of the time."""
    metadata = reply(200, b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}')
    taken = Taken([metadata], inputs=[1.0], timeout_s=1.0, seconds=2.0)
    assert isinstance(taken.error, DeadlineExceeded)
    assert len(taken.sent) == 1


def test_a_server_is_told_no_time_that_the_caller_did_not_say() -> None:
    (send,) = Taken([GOOD]).sent
    assert send.seconds == 60.0
    assert "X-Request-Timeout" not in send.request.headers
    assert b"timeout" not in send.request.body


def body(text: str) -> bytes:
    return f'{{"error":"{text}"}}'.encode()


@pytest.mark.parametrize(
    ("answer", "leaf"),
    [
        (reply(400), InvalidRequest),
        (reply(401), InvalidRequest),
        (reply(413), InvalidRequest),
        (reply(415), InvalidRequest),
        (reply(404), ModelNotFound),
        (reply(408), DeadlineExceeded),
        (reply(429), QuotaExceeded),
        (reply(500), ExecutionFailed),
        (reply(501), ServerError),
        (reply(502, b"<html>Bad Gateway</html>"), ServerError),
        (reply(503), ModelNotReady),
        (reply(503, Retry_After="1"), Overloaded),
        (reply(504), DeadlineExceeded),
        (reply(302), ServerError),
        # Axon's texts.
        (reply(503, body("model `m` version 1 is not ready: state LOADING"), Retry_After="1"), ModelNotReady),
        (reply(503, body("the queue is full: 3 requests wait"), Retry_After="1"), Overloaded),
        (reply(503, body("the server is shutting down"), Retry_After="1"), ServerError),
        # Triton's.
        (reply(400, body("Request for unknown model: 'm' is not found")), ModelNotFound),
        (reply(503, body("Request for unknown model: 'm' version 1 is not at ready state")), ModelNotReady),
        (reply(503, body("Exceeds maximum queue size")), Overloaded),
        (reply(503, body("Request timeout expired")), DeadlineExceeded),
    ],
)
def test_each_status_is_an_exception_of_its_kind(answer: HttpReply, leaf: type[AxonError]) -> None:
    error = Taken([answer], retries=0).error
    assert type(error) is leaf


@pytest.mark.parametrize(
    ("said", "message", "field"),
    [
        (b'{"error":"wrong","code":"X","field":"inputs[0]"}', "wrong", "inputs[0]"),
        (b'{"error":"wrong","field":7}', "wrong", None),
        (b'{"error":7}', 'the server answered 400: {"error":7}', None),
        (b"[]", "the server answered 400: []", None),
        (b"", "the server answered 400", None),
        (b"\xff not text", "the server answered 400: \ufffd not text", None),
        (b"x" * 10_000, "the server answered 400: " + "x" * 500, None),
    ],
)
def test_an_error_has_the_servers_text_whatever_it_is(said: bytes, message: str, field: str | None) -> None:
    error = Taken([reply(400, said)]).error
    assert error is not None
    assert (error.message, error.field) == (message, field)


BINARY: Final = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}'
LENGTH: Final = "Inference_Header_Content_Length"


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b""),
        reply(200, b"not JSON"),
        reply(200, b"[]"),
        reply(200, b"7"),
        reply(200, b'{"outputs":7}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[-1],"data":[1]}]}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"FP32","shape":["1"],"data":[1]}]}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":["one"]}]}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"INT8","shape":[1],"data":[300]}]}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"FP4","shape":[1],"data":[1]}]}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1]}]}'),
        reply(200, b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[1],"data":[7]}]}'),
        reply(200, b'{"outputs":' + b"[" * 100_000),
        reply(200, BINARY + b"\0\0\0", **{LENGTH: str(len(BINARY))}),
        reply(200, BINARY + b"\0\0\0\0", **{LENGTH: "9999"}),
        reply(200, BINARY + b"\0\0\0\0", **{LENGTH: "x"}),
        reply(200, BINARY.replace(b"[1]", b"[2]") + b"\0\0\0\0", **{LENGTH: str(len(BINARY))}),
        reply(200, BINARY.replace(b"FP32", b"FP64") + b"\0\0\0\0", **{LENGTH: str(len(BINARY))}),
        reply(200, BINARY.replace(b"FP32", b"BYTES") + b"\xff\xff\xff\xff", **{LENGTH: str(len(BINARY) + 1)}),
        reply(200, BINARY.replace(b"FP32", b"BYTES") + b"\0\0\0", **{LENGTH: str(len(BINARY) + 1)}),
    ],
)
def test_an_answer_that_is_not_the_protocols_is_the_servers_error(answer: HttpReply) -> None:
    assert type(Taken([answer]).error) is ServerError


def test_a_model_that_has_changed_is_asked_for_its_signature_again() -> None:
    plans = Plans(HttpCodec(), Settings(timeout_s=60.0, retries=0, binary=True))
    asked = Question(model="m", inputs=[1.0])

    def paths(*replies: HttpReply) -> list[str]:
        plan = plans.infer(asked)
        left, sent = list(replies), []
        step = next(plan)
        try:
            while True:
                assert isinstance(step, Send)
                sent.append(step.request.path)
                step = plan.send(left.pop(0))
        except (StopIteration, InvalidRequest):
            return sent

    metadata = reply(200, b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}')
    assert paths(metadata, GOOD) == ["/v2/models/m", "/v2/models/m/infer"]
    assert paths(GOOD) == ["/v2/models/m/infer"]
    assert paths(reply(400)) == ["/v2/models/m/infer"]
    assert paths(metadata, GOOD) == ["/v2/models/m", "/v2/models/m/infer"]


def test_a_name_with_odd_characters_stays_one_part_of_the_path() -> None:
    (send,) = Taken([GOOD], model="a/b c?é", version="1").sent
    assert send.request.path == "/v2/models/a%2Fb%20c%3F%C3%A9/versions/1/infer"


def test_every_verb_has_a_path() -> None:
    codec = HttpCodec()
    for verb in Verb:
        request = codec.request(Call(verb=verb, model=None if verb.name.startswith("SERVER") else "m"), None)
        assert request.path.startswith("/v2")
