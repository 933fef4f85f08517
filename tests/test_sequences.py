"""Stateful models: sequences keep their order, state and slots, over both protocols, with the official client."""

from __future__ import annotations

import threading
from queue import Queue
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from onnx import TensorProto, helper
from serving import Server, serving
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDLE_US: Final = 700_000

SUM_CONFIG: Final = f"""
max_batch_size: 4
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "sum" data_type: TYPE_FP32 dims: [ 1 ] }} ]
sequence_batching {{
  oldest {{ max_candidate_sequences: 4 }}
  max_sequence_idle_microseconds: {IDLE_US}
  state [ {{ input_name: "before" output_name: "after" data_type: TYPE_FP32 dims: [ 1 ]
            initial_state {{ data_type: TYPE_FP32 dims: [ 1 ] zero_data: true name: "zero" }} }} ]
}}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""

FLAGS_CONFIG: Final = """
max_batch_size: 2
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "flags" data_type: TYPE_FP32 dims: [ 1 ] }, { name: "id" data_type: TYPE_INT64 dims: [ 1 ] } ]
sequence_batching {
  direct { }
  control_input [
    { name: "start" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "ready" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ] },
    { name: "end" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
    { name: "corrid" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT64 } ] }
  ]
}
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def tensor(name: str, datatype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, datatype, ["rows", 1])


def summing() -> onnx.ModelProto:
    """Add each input to what the sequence has so far."""
    nodes = [helper.make_node("Add", ["x", "before"], ["sum"]), helper.make_node("Identity", ["sum"], ["after"])]
    graph = helper.make_graph(nodes, "sum", [tensor("x"), tensor("before")], [tensor("sum"), tensor("after")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def flagging() -> onnx.ModelProto:
    """Answer `1000 x + 100 start + 10 ready + end`, and the sequence's id."""
    constants = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, [1], [value]))
        for name, value in (("thousand", 1000.0), ("hundred", 100.0), ("ten", 10.0))
    ]
    nodes = [
        *constants,
        helper.make_node("Cast", ["end"], ["ending"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "thousand"], ["a"]),
        helper.make_node("Mul", ["start", "hundred"], ["b"]),
        helper.make_node("Mul", ["ready", "ten"], ["c"]),
        helper.make_node("Sum", ["a", "b", "c", "ending"], ["flags"]),
        helper.make_node("Identity", ["corrid"], ["id"]),
    ]
    inputs = [
        tensor("x"),
        tensor("start"),
        tensor("ready"),
        tensor("end", TensorProto.INT32),
        tensor("corrid", TensorProto.INT64),
    ]
    graph = helper.make_graph(nodes, "flags", inputs, [tensor("flags"), tensor("id", TensorProto.INT64)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("repository")
    for name, model, config in (("sum", summing(), SUM_CONFIG), ("flags", flagging(), FLAGS_CONFIG)):
        save(repository / name, model, config)
    with serving(repository, "--log-level", "off") as started:
        yield started


def save(folder: Path, model: onnx.ModelProto, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(config)


def asking(server: Server, protocol: str) -> Any:  # noqa: ANN401 - the client has no types
    """Return a function that asks one model about one number."""
    module: Any = http_client if protocol == "http" else grpc_client
    client = module.InferenceServerClient(server.address if protocol == "http" else server.grpc_address)

    def ask(model: str, value: float, rows: int = 1, **sequence: Any) -> Any:  # noqa: ANN401
        array = np.full((rows, 1), value, np.float32)
        given = module.InferInput("x", array.shape, "FP32")
        given.set_data_from_numpy(array)
        return client.infer(model, [given], **sequence)

    return ask


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_interleaved_sequences_each_have_their_own_state(server: Server, protocol: str) -> None:
    ask = asking(server, protocol)
    first = 10 if protocol == "http" else 20
    sums = {first: 0.0, first + 1: 0.0, first + 2: 0.0}
    for step in range(5):
        for number, sequence in enumerate(sums):
            value = float(step * 10 + number)
            sums[sequence] += value
            got = ask("sum", value, sequence_id=sequence, sequence_start=step == 0, sequence_end=step == 4)
            assert got.as_numpy("sum").tolist() == [[sums[sequence]]]
            assert got.as_numpy("after") is None, "a state is not an answer"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_model_is_told_where_in_its_sequence_a_request_is(server: Server, protocol: str) -> None:
    ask = asking(server, protocol)
    sequence = 77 if protocol == "http" else 78
    steps = [(True, False, 1110.0), (False, False, 1010.0), (False, True, 1011.0)]
    for start, end, flags in steps:
        got = ask("flags", 1.0, sequence_id=sequence, sequence_start=start, sequence_end=end)
        assert got.as_numpy("flags").tolist() == [[flags]]
        assert got.as_numpy("id").tolist() == [[sequence]]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_request_out_of_sequence_is_refused_and_says_why(server: Server, protocol: str) -> None:
    ask = asking(server, protocol)

    def refused(words: str, rows: int = 1, **sequence: Any) -> None:  # noqa: ANN401
        with pytest.raises(InferenceServerException, match=words) as caught:
            ask("sum", 1.0, rows, **sequence)
        assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")

    refused("sequence_id: required")
    refused("sequence_start", sequence_id=555)
    refused("row by row", rows=2, sequence_id=556, sequence_start=True)
    ask("sum", 1.0, sequence_id=557, sequence_start=True, sequence_end=True)
    refused("sequence_start", sequence_id=557)


def test_a_start_begins_a_live_sequence_anew(server: Server) -> None:
    ask = asking(server, "http")
    ask("sum", 5.0, sequence_id="again", sequence_start=True)
    assert ask("sum", 1.0, sequence_id="again").as_numpy("sum").item() == 6.0
    got = ask("sum", 2.0, sequence_id="again", sequence_start=True, sequence_end=True)
    assert got.as_numpy("sum").item() == 2.0


def test_a_sequence_waits_for_a_slot_until_another_is_idle_for_too_long(server: Server) -> None:
    """Four sequences hold the four slots and ask nothing more: the fifth is answered once one of them has ended so."""
    ask = asking(server, "http")
    for sequence in range(900, 904):
        ask("sum", 1.0, sequence_id=sequence, sequence_start=True)
    got = ask("sum", 3.0, sequence_id=904, sequence_start=True, sequence_end=True)
    assert got.as_numpy("sum").item() == 3.0
    with pytest.raises(InferenceServerException, match="sequence_start"):
        ask("sum", 1.0, sequence_id=900)


def test_a_stream_of_one_sequence_is_answered_in_its_order(server: Server) -> None:
    client = grpc_client.InferenceServerClient(server.grpc_address)
    answers: Queue[tuple[Any, Any]] = Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    values = list(range(1, 101))
    for position, value in enumerate(values):
        given = grpc_client.InferInput("x", [1, 1], "FP32")
        given.set_data_from_numpy(np.full((1, 1), value, np.float32))
        client.async_stream_infer(
            "sum", [given], sequence_id=4242, sequence_start=position == 0, sequence_end=position == len(values) - 1
        )
    for position in range(len(values)):
        result, error = answers.get(timeout=30)
        assert error is None, error
        assert result.as_numpy("sum").item() == sum(values[: position + 1])
    client.stop_stream()


def test_many_sequences_at_once_are_each_answered_right(server: Server) -> None:
    wrong: list[str] = []

    def run(sequence: int) -> None:
        ask = asking(server, "http")
        total = 0.0
        for step in range(20):
            total += sequence + step
            got = ask("sum", sequence + step, sequence_id=sequence, sequence_start=step == 0, sequence_end=step == 19)
            if got.as_numpy("sum").item() != total:
                wrong.append(f"{sequence} {step}")

    threads = [threading.Thread(target=run, args=(3000 + number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
