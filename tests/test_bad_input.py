"""A bad request gets one honest answer and costs nobody else anything: robustness.md, section 3, rules R1 to R8.

The requests are in `bad_input_rows`. Each goes to one real server process on a connection of its own. What is framed
badly is in test_sockets.py.
"""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pytest
from bad_input_rows import ACCEPTED, CASES, ELSEWHERE, Case, Good
from models import DATATYPES, gather, identity, save, two_inputs
from serving import serving, traced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from serving import Server

#: R5 asks for 50 ms; this leaves room for a machine that is busy with other tests.
ANSWER_S: Final = 2.0
PATIENCE_S: Final = 30.0
MIB: Final = 1 << 20
#: R4: what no caller may learn. Paths of the protocol itself begin with `/v2`.
INSIDES: Final = re.compile(
    r"/(?:tmp|root|home|usr|work|proc|dev|var|opt|lib)\b|0x[0-9a-fA-F]{4,}|onnxruntime|\.(?:cc|rs|py|onnx)\b"
    r"|axon-(?:io|loader|timer)|Status Message|panicked"
)


class Answer(NamedTuple):
    """What came back, and how long after the last byte of the request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        save(identity(datatype), folder / f"{datatype.lower()}.onnx")
    save(two_inputs(), folder / "two.onnx")
    save(identity("FP32", ("batch", "height", "width")), folder / "free.onnx")
    (folder / "broken.onnx").write_text("not a model")
    with serving(folder, "--max-batch-size", "32", "--log-level", "off") as started:
        yield started


def ask(server: Server, path: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = (), **how: Any) -> Answer:  # noqa: ANN401
    """Send a request as it is given, and stop sending as soon as an answer comes."""
    method = how.get("method", "POST" if body else "GET")
    chunked = how.get("chunked", False)
    length = [("Transfer-Encoding", "chunked")] if chunked else [("Content-Length", str(len(body)))]
    lines = [f"{method} {path} HTTP/1.1", f"Host: {server.address}"]
    lines += [f"{name}: {value}" for name, value in [*headers, *(length if body or method == "POST" else [])]]
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        send_until_answered(connection, body, chunked=chunked)
        sent = time.monotonic()
        with http.client.HTTPResponse(connection, method=method) as response:
            response.begin()
            answer = response.read()
            return Answer(response.status, response.headers, answer, time.monotonic() - sent)


def send_until_answered(connection: socket.socket, body: bytes, *, chunked: bool) -> None:
    pieces = (body[at : at + MIB] for at in range(0, len(body), MIB))
    if chunked:
        pieces = (piece for part in [*pieces, b""] for piece in [b"%x\r\n%s\r\n" % (len(part), part)])
    for piece in pieces:
        # A server that has refused closes its end; what it said can still be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            left = memoryview(piece)
            while left:
                readable, _, _ = select.select([connection], [connection], [], PATIENCE_S)
                if readable:
                    return
                left = left[connection.send(left) :]


def infer_binary(server: Server, values: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401
    """Ask `fp32` in binary and return the values that come back."""
    document = {
        "inputs": [
            {
                "name": "INPUT0",
                "datatype": "FP32",
                "shape": values.shape,
                "parameters": {"binary_data_size": values.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document).encode()
    length = [("Inference-Header-Content-Length", str(len(head)))]
    answer = ask(server, "/v2/models/fp32/infer", head + values.tobytes(), length)
    assert answer.status == 200, answer.body
    return answer.body[int(answer.headers["Inference-Header-Content-Length"]) :]


def successes(server: Server) -> dict[str, int]:
    """Return how many requests each model has answered well."""
    stats = json.loads(ask(server, "/v2/models/stats").body)["model_stats"]
    return {model["name"]: model["inference_stats"]["success"]["count"] for model in stats}


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
    """Assert R1 to R4: the status, the three members, what was wrong, and nothing of the insides."""
    assert answer.status == case.status, answer.body[:2000]
    assert answer.headers["Content-Type"] == "application/json"
    error = json.loads(answer.body)
    expected = {"error", "code"} if case.at is None else {"error", "code", "field"}
    assert set(error) == expected, error
    assert error["code"] == case.code, error
    assert error.get("field") == case.at, error
    text = error["error"]
    missing = [words for words in case.words.split(" … ") if words not in text]
    assert not missing, error
    assert len(text.encode()) <= 1024, text
    assert "x" * 65 not in text
    assert all(character.isprintable() or character == "\n" for character in text), error
    assert not INSIDES.search(text.replace("not an ONNX protobuf", "")), text


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row} {case.name}")
def test_a_bad_request_is_refused_and_costs_nobody_else_anything(server: Server, case: Case) -> None:
    before, held = successes(server), memory(server, "VmRSS")
    forget_peak(server)
    how = {"method": case.method, "chunked": case.chunked}
    answer = ask(server, case.path, case.payload(), case.headers, **how)
    grown = memory(server, "VmHWM") - held
    assert_one_honest_error(answer, case)
    if case.status == 405:
        assert answer.headers["Allow"] == "POST"
    assert answer.seconds <= ANSWER_S
    if case.growth is not None:
        assert grown <= case.growth
        assert_memory_comes_back(server, held)
    values = np.random.default_rng(len(case.name)).bytes(24)
    assert infer_binary(server, np.frombuffer(values, np.float32).reshape(2, 3)) == values
    assert successes(server) == {**before, "fp32": before["fp32"] + 1}
    assert server.process.poll() is None


def assert_memory_comes_back(server: Server, held: int) -> None:
    deadline = time.monotonic() + 5.0
    while (left := memory(server, "VmRSS") - held) > 10 * MIB and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left <= 10 * MIB


@pytest.mark.parametrize("good", ACCEPTED, ids=lambda good: f"{good.row} {good.name}")
def test_what_is_just_right_is_answered(server: Server, good: Good) -> None:
    answer = ask(server, good.path, good.body, good.headers)
    assert answer.status == 200, answer.body
    (output,) = json.loads(answer.body)["outputs"]
    assert output["data"] == good.data


def test_each_row_is_here_or_says_where_it_is() -> None:
    rows = [f"B-{number:02}" for number in range(1, 57)]
    assert sorted({case.row for case in CASES}) == rows
    assert all(reason for reason in ELSEWHERE.values())


@pytest.fixture
def batching(tmp_path: Path) -> Iterator[Server]:
    """Serve `gather` in batches; on a machine that is busy, the probe at load may take a batch to be no gain."""
    path = save(traced(gather()), tmp_path / "gather.onnx")
    for _ in range(8):
        with serving(path, "--instances", "1", "--log-level", "off") as started:
            if "batches of up to" in started.printed:
                yield started
                return
    pytest.fail("the model is never batched")


def test_b_119_a_bad_value_fails_its_own_request_and_no_neighbour(batching: Server) -> None:
    """The bad index fails the run of a batch; each other request of that batch gets its exact answer all the same."""
    table = {0: [0.0, 1.0], 1: [10.0, 11.0], 2: [20.0, 21.0]}
    indices = [0, 1, 2, 7, 1, 0, 2, 2]

    def one(index: int) -> Answer:
        tensor = {"name": "index", "datatype": "INT64", "shape": [1], "data": [index]}
        return ask(batching, "/v2/models/gather/infer", json.dumps({"inputs": [tensor]}).encode())

    with ThreadPoolExecutor(len(indices)) as pool:
        for attempt in range(1, 51):
            for index, answer in zip(indices, pool.map(one, indices), strict=True):
                if index in table:
                    assert answer.status == 200, answer.body
                    outputs = {output["name"]: output for output in json.loads(answer.body)["outputs"]}
                    assert outputs["row"]["data"] == table[index]
                else:
                    assert_one_honest_error(answer, Case("B-119", "gather", b"", "inputs", "idx=7 … [-3,2]"))
            (stats,) = json.loads(ask(batching, "/v2/models/gather/stats").body)["model_stats"]
            assert stats["inference_stats"]["success"]["count"] == 7 * attempt
            assert stats["inference_stats"]["fail"]["count"] == attempt
            run = sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in stats["batch_stats"])
            # More rows were run than there were requests: a batch failed and its requests were run again, alone.
            if run > len(indices) * attempt:
                return
        pytest.fail(f"no bad request shared a batch in {attempt} attempts: {stats}")
