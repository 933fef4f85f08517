"""A bad call gets one honest error and costs nobody else anything: robustness.md, section 3, rules R1 to R8.

The calls are in `grpc_rows`. Each goes to one real server process on a connection of its own: from the official library
where it can send it, else frame by frame.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

import grpc
import numpy as np
import pytest
from grpc_rows import ACCEPTED, CASES, ELSEWHERE, FRAMED, INFER, SERVICE, STREAM, Case, Good, question
from http2 import Connection, Response, grpc_headers, message
from models import DATATYPES, identity, save, two_inputs
from serving import serving
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from serving import Server

#: R5 asks for 50 ms; this leaves room for a machine that is busy with other tests.
ANSWER_S: Final = 2.0
PATIENCE_S: Final = 30.0
MIB: Final = 1 << 20
#: R4: what no caller may learn.
INSIDES: Final = re.compile(
    r"/(?:tmp|root|home|usr|work|proc|dev|var|opt|lib)\b|0x[0-9a-fA-F]{4,}|onnxruntime|\.(?:cc|rs|py|onnx)\b"
    r"|axon-(?:io|loader|timer)|Status Message|panicked|prost|protobuf_"
)


class Answer(NamedTuple):
    """How a call ended: its code, text, metadata, message, and how long after the last byte of the request."""

    number: int
    text: str
    metadata: dict[str, str]
    message: bytes
    seconds: float


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        save(identity(datatype), folder / f"{datatype.lower()}.onnx")
    save(two_inputs(), folder / "two.onnx")
    (folder / "broken.onnx").write_text("not a model")
    with serving(folder, "--max-batch-size", "32", "--log-level", "off") as started:
        yield started


def call(server: Server, path: str, payload: bytes) -> Answer:
    """Make a call with the official library, on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_address, options=options) as channel:
        method = channel.unary_unary(path)
        started = time.monotonic()
        try:
            answer, done = method.with_call(payload, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            done, answer = error, b""
        seconds = time.monotonic() - started
        metadata = {str(key): str(value) for key, value in done.trailing_metadata() or ()}
        return Answer(done.code().value[0], done.details() or "", metadata, answer, seconds)


def send(server: Server, case: Case) -> Answer:
    """Make a call frame by frame."""
    with Connection(server.grpc_address) as connection:
        connection.ping()  # so that it is known how long the frames may be that the server takes
        stream = connection.open(grpc_headers(case.path, case.headers))
        connection.data(stream, case.payload())
        started = time.monotonic()
        return ended(connection.wait(stream), time.monotonic() - started)


def ended(response: Response, seconds: float) -> Answer:
    assert response.status == "200", response
    metadata = response.metadata
    text = unquote(metadata.get("grpc-message", ""))
    return Answer(int(metadata["grpc-status"]), text, metadata, b"", seconds)


def infer(server: Server, payload: bytes) -> bytes:
    """Return the raw values of the only output."""
    answer = call(server, INFER, payload)
    assert answer.number == 0, answer
    (raw,) = pb.ModelInferResponse.FromString(answer.message).raw_output_contents
    return bytes(raw)


def counters(server: Server) -> dict[str, tuple[int, int]]:
    """Return how many requests each model has answered well, and how often it was run."""
    with urllib.request.urlopen(f"http://{server.address}/v2/models/stats", timeout=PATIENCE_S) as response:
        stats = json.load(response)["model_stats"]
    return {one["name"]: (one["inference_stats"]["success"]["count"], one["execution_count"]) for one in stats}


def memory(server: Server, what: str) -> int:
    """Return the bytes that the server has in memory (`VmRSS`), or had at its peak (`VmHWM`)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    assert found, status
    return int(found[1]) << 10


def forget_peak(server: Server) -> None:
    # Where the kernel does not allow it, the peak is that of the whole life, which hides growth but invents none.
    with suppress(OSError):
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def assert_one_honest_error(answer: Answer, case: Case) -> None:
    """Assert R1 to R4: the code, the kind, the field, what was wrong, and nothing of the insides."""
    assert answer.number == case.number, answer
    assert answer.metadata.get("axon-code") == case.code, answer
    assert answer.metadata.get("axon-field") == case.at, answer
    assert_an_honest_text(answer.text, case)


def assert_an_honest_text(text: str, case: Case) -> None:
    missing = [words for words in case.words.split(" … ") if words not in text]
    assert not missing, text
    assert len(text.encode()) <= 1024, text
    assert "x" * 65 not in text
    assert all(character.isprintable() or character == "\n" for character in text), text
    assert not INSIDES.search(text.replace("not an ONNX protobuf", "")), text


def title(case: Case | Good) -> str:
    return f"{case.row} {case.name}"


@pytest.mark.parametrize("case", [*CASES, *FRAMED], ids=title)
def test_a_bad_call_is_refused_and_costs_nobody_else_anything(server: Server, case: Case) -> None:
    before, held = counters(server), memory(server, "VmRSS")
    forget_peak(server)
    answer = send(server, case) if case in FRAMED else call(server, case.path, case.payload())
    grown = memory(server, "VmHWM") - held
    assert_one_honest_error(answer, case)
    assert answer.seconds <= ANSWER_S
    if case.growth is not None:
        assert grown <= case.growth
        assert_memory_comes_back(server, held)
    values = np.random.default_rng(len(case.name)).bytes(12)
    assert infer(server, question(raw_input_contents=[values])) == values
    successes, runs = before["fp32"]
    assert counters(server) == {**before, "fp32": (successes + 1, runs + 1)}
    assert server.process.poll() is None


def assert_memory_comes_back(server: Server, held: int) -> None:
    deadline = time.monotonic() + 5.0
    while (left := memory(server, "VmRSS") - held) > 10 * MIB and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left <= 10 * MIB


@pytest.mark.parametrize("good", ACCEPTED, ids=title)
def test_what_is_just_right_is_answered(server: Server, good: Good) -> None:
    assert infer(server, good.body) == good.raw


def test_b_68_a_bad_request_in_a_stream_is_answered_in_its_place_and_the_stream_goes_on(server: Server) -> None:
    """Every case of a request, each followed by a good one, as the messages of one stream."""
    cases = [case for case in CASES if case.path == INFER and case.growth is None]
    values = [np.random.default_rng(index).bytes(12) for index in range(len(cases))]
    payloads = [
        payload
        for index, case in enumerate(cases)
        for payload in (case.payload(), question(id=f"good {index}", raw_input_contents=[values[index]]))
    ]
    answers = stream(server, payloads)
    assert len(answers) == len(payloads)
    for index, case in enumerate(cases):
        bad, good = answers[2 * index], answers[2 * index + 1]
        assert bad.error_message, title(case)
        assert_an_honest_text(bad.error_message, case)
        assert not bad.infer_response.outputs
        assert (good.error_message, good.infer_response.id) == ("", f"good {index}")
        assert list(good.infer_response.raw_output_contents) == [values[index]]


def test_b_68_the_error_in_a_stream_says_whose_it_is_unless_the_id_itself_is_bad(server: Server) -> None:
    bad = [
        question(id="second", model_version="99"), question(id="x" * MIB), question(id="a\r\nb"), b"\xff" * 64,
    ]  # fmt: skip
    answers = stream(server, [question(id="first"), *bad, question(id="last")])
    assert [one.infer_response.id for one in answers] == ["first", "second", "", "", "", "last"]
    assert [bool(one.error_message) for one in answers] == [False, True, True, True, True, False]


def stream(server: Server, payloads: Sequence[bytes]) -> list[Any]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        asked = channel.stream_stream(STREAM, response_deserializer=pb.ModelStreamInferResponse.FromString)
        return list(asked(iter(payloads), timeout=PATIENCE_S))


def test_b_57_a_broken_frame_ends_a_stream_after_what_came_before_it(server: Server) -> None:
    good = question(id="good")
    case = Case("B-57", "flag 7 in a stream", message(good) + message(good, flag=7), "message",
                "expected a compression flag … got 7", path=STREAM)  # fmt: skip
    with Connection(server.grpc_address) as connection:
        response = connection.request(grpc_headers(STREAM), case.payload())
    ((_, first),) = response.messages()
    assert pb.ModelStreamInferResponse.FromString(first).infer_response.id == "good"
    assert_one_honest_error(ended(response, 0.0), case)


def test_b_57_a_message_that_stops_coming_is_given_up(server: Server) -> None:
    with Connection(server.grpc_address) as connection:
        stream = connection.open(grpc_headers(INFER))
        connection.data(stream, message(question())[:20], end=False)
        answer = ended(connection.wait(stream), 0.0)
    case = Case("B-57", "a frame cut in time", b"", "message", "20 bytes", number=1, code="READ_TIMEOUT")
    assert_one_honest_error(answer, case)


@pytest.mark.parametrize(
    "changes",
    [
        {"te": None},
        {"content-type": None},
        {"content-type": "application/json"},
        {"content-type": "application/grpc+json"},
        {"content-type": "application/grpcx"},
        {":method": "GET"},
    ],
    ids=str,
)
def test_b_63_what_is_no_call_of_grpc_is_refused_as_http(server: Server, changes: dict[str, str | None]) -> None:
    with Connection(server.grpc_address) as connection:
        response = connection.request(grpc_headers(f"{SERVICE}ServerLive", changes), message(b""))
        assert response.status == "415"
        assert "grpc-status" not in response.metadata
        assert connection.request(grpc_headers(f"{SERVICE}ServerLive"), message(b"")).metadata["grpc-status"] == "0"


def test_b_67_the_official_library_is_told_that_its_metadata_is_too_much(server: Server) -> None:
    for size in (17 << 10, MIB):
        with grpc.insecure_channel(server.grpc_address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(question(), metadata=[("x", "y" * size)], timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert infer(server, question()) == bytes(12)


@pytest.mark.parametrize("size", [2, 8])
def test_b_67_what_is_more_than_metadata_ever_was_is_refused_as_http_and_not_kept(server: Server, size: int) -> None:
    held = memory(server, "VmRSS")
    forget_peak(server)
    with Connection(server.grpc_address) as connection:
        response = connection.request(grpc_headers(INFER, {"x": "y" * size * MIB}), message(question()))
        assert response.status == "431" or connection.closed
    assert memory(server, "VmHWM") - held <= 10 * MIB
    assert infer(server, question()) == bytes(12)


def test_each_row_is_here_or_says_where_it_is() -> None:
    def numbers(text: str) -> set[int]:
        spans = [(int(first), int(last or first)) for first, last in re.findall(r"B-(\d+)(?: to B-(\d+))?", text)]
        return {number for first, last in spans for number in range(first, last + 1)}

    rows = [*(case.row for case in [*CASES, *FRAMED]), *(good.row for good in ACCEPTED)]
    named = {number for row in rows for number in numbers(row)}
    elsewhere = {number for key in ELSEWHERE for number in numbers(key)}
    assert set(range(1, 70)) <= named | elsewhere
    assert all(ELSEWHERE.values())
