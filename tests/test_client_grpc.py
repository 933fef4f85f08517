"""What `axon.Client` puts on the wire over gRPC, against grpcio's server with another client's messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
import pytest
from axon import AsyncClient, Client, SequenceStep
from axon.client import _messages, _model_config
from axon.client._call import Call, Verb
from axon.client._grpc import GrpcCodec, GrpcReply
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
from grpcio_server import Refusal, serving_grpcio
from models import identity, save
from serving import run_python
from tritonclient.grpc import model_config_pb2, service_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from grpcio_server import Service

CLIENTS: Final = ("blocking", "asyncio")
X: Final = {"INPUT0": np.array([[1, 2, 3]], np.float32)}
Code: Final = grpc.StatusCode


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    folder = tmp_path_factory.mktemp("repository")
    save(identity("FP32"), folder / "m.onnx")
    with serving_grpcio(folder) as found:
        yield found


@pytest.fixture
def url(served: tuple[str, Service]) -> str:
    return served[0]


@pytest.fixture
def service(served: tuple[str, Service]) -> Service:
    service = served[1]
    service.asked.clear()
    service.refusals.clear()
    service.typed = False
    return service


def ask(kind: str, url: str, action: Callable[[Any], Any], **settings: Any) -> Any:  # noqa: ANN401
    """Do `action`, which calls one method of the client it gets, with a client of `kind`."""
    if kind == "blocking":
        with Client(url, **settings) as client:
            return action(client)

    async def asked() -> Any:  # noqa: ANN401
        async with AsyncClient(url, **settings) as client:
            return await action(client)

    return asyncio.run(asked())


# The messages.


def described(message: Any) -> dict[str, Any]:  # noqa: ANN401 - a descriptor
    """Describe a message and all that is inside it: each field's number, kind, and where it belongs."""
    fields = {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else None,
            field.enum_type.full_name if field.enum_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }
    enums = {enum.full_name: {value.name: value.number for value in enum.values} for enum in message.enum_types}
    found = {message.full_name: (fields, enums, message.GetOptions().map_entry)}
    for inner in message.nested_types:
        found |= described(inner)
    return found


def declared() -> list[str]:
    text = _model_config.MODEL_CONFIG + _messages.INFERENCE
    return [line.partition(":")[0] for line in text.splitlines() if line and line[0] not in " e"]


@pytest.mark.parametrize("name", [name for name in declared() if "." not in name])
def test_a_message_is_the_other_clients(name: str) -> None:
    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    assert described(_messages.message_class(name).DESCRIPTOR) == described(theirs[name])


def test_every_message_of_every_verb_is_declared() -> None:
    assert {"ModelInferRequest", "ModelInferResponse", "ModelConfig", "InferParameter"} <= set(declared())
    ours = _messages.pool().FindEnumTypeByName("inference.DataType")
    theirs = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert {each.name: each.number for each in ours.values} == {each.name: each.number for each in theirs.values}


@pytest.mark.parametrize("order", [("axon", "triton"), ("triton", "axon")])
def test_the_other_client_may_be_in_the_same_process(order: tuple[str, str]) -> None:
    lines = {
        "axon": "from axon.client._messages import message_class; message_class('ModelInferRequest')()",
        "triton": "import tritonclient.grpc",
    }
    end = run_python("\n".join(lines[each] for each in order))
    assert (end.returncode, end.stderr) == (0, "")


# What is sent.


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_request_is_the_protocols(kind: str, url: str, service: Service) -> None:
    asked = {
        "version": 1,
        "outputs": ["OUTPUT0"],
        "id": "7",
        "priority": 3,
        "timeout_s": 30.0,
        "parameters": {"word": "v", "flag": True, "half": 0.5, "whole": -2, "large": 2**63},
        "sequence": SequenceStep("s", start=True),
    }
    outputs = ask(kind, url, lambda client: client.infer("m", X, **asked), headers={"X-Tenant": "blue"})
    assert outputs["OUTPUT0"].tolist() == [[1, 2, 3]]
    ((request, seconds, metadata),) = service.asked
    parameters = {
        name: (each.WhichOneof("parameter_choice"), value_of(each)) for name, each in request.parameters.items()
    }
    which, timeout = parameters.pop("timeout")
    assert (which, 0 < timeout <= 30_000_000) == ("int64_param", True)
    assert seconds is not None
    # The library rounds a deadline up on the wire, to three digits.
    assert 0 < seconds <= 31
    assert parameters == {
        "word": ("string_param", "v"),
        "flag": ("bool_param", True),
        "half": ("double_param", 0.5),
        "whole": ("int64_param", -2),
        "large": ("uint64_param", 2**63),
        "priority": ("uint64_param", 3),
        "sequence_id": ("string_param", "s"),
        "sequence_start": ("bool_param", True),
        "sequence_end": ("bool_param", False),
    }
    assert (request.model_name, request.model_version, request.id) == ("m", "1", "7")
    assert [(put.name, put.datatype, list(put.shape)) for put in request.inputs] == [("INPUT0", "FP32", [1, 3])]
    assert list(request.raw_input_contents) == [X["INPUT0"].tobytes()]
    assert [each.name for each in request.outputs] == ["OUTPUT0"]
    assert metadata["x-tenant"] == "blue"


def value_of(parameter: Any) -> Any:  # noqa: ANN401
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))


def test_a_server_is_told_no_time_that_the_caller_did_not_say(url: str, service: Service) -> None:
    with Client(url, timeout_s=45.0) as client:
        client.infer("m", X)
    ((request, seconds, _),) = service.asked
    assert "timeout" not in request.parameters
    assert seconds is not None
    assert seconds <= 46


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_a_number_of_more_than_64_bits_is_refused_by_its_name(url: str, value: int) -> None:
    with Client(url) as client, pytest.raises(InvalidRequest, match=r"parameters\.n: expected 64 bits"):
        client.infer("m", X, parameters={"n": value})


@pytest.mark.parametrize("kind", CLIENTS)
def test_outputs_may_come_as_typed_contents(kind: str, url: str, service: Service) -> None:
    service.typed = True
    assert ask(kind, url, lambda client: client.infer("m", X))["OUTPUT0"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_repository_is_asked_as_the_protocol_has_it(kind: str, url: str, service: Service) -> None:
    ask(kind, url, lambda client: client.load("m", config={"a": 1}))
    ask(kind, url, lambda client: client.unload("m"))
    load, unload = (request for request, _, _ in service.asked)
    assert (load.model_name, load.parameters["config"].string_param) == ("m", '{"a": 1}')
    assert (unload.model_name, unload.parameters["unload_dependents"].bool_param) == ("m", False)
    (model,) = ask(kind, url, lambda client: client.models())
    assert model == {"name": "m", "version": "1", "state": "READY", "reason": ""}


def test_a_configuration_is_the_json_that_http_has(url: str) -> None:
    with Client(url) as client:
        config = client.config("m")
    assert config["max_batch_size"] == 8
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert config["input"][0]["dims"] == [3]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 5
    assert config["parameters"] == {"p": {"string_value": "v"}}
    assert config["output"] == []
    assert "sequence_batching" not in config


def test_statistics_are_whole_numbers(url: str) -> None:
    with Client(url) as client:
        (model,) = client.statistics("m")["model_stats"]
    assert (model["inference_count"], model["inference_stats"]["success"]["count"]) == (7, 2**40)


# What is refused.


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("hint", [("retry-after", "0"), ("grpc-retry-pushback-ms", "0")])
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
def test_a_refusal_is_asked_again_and_then_answered(
    kind: str, url: str, service: Service, code: grpc.StatusCode, hint: tuple[str, str]
) -> None:
    service.refusals += [Refusal(code, "busy", (hint,))] * 2
    assert ask(kind, url, lambda client: client.infer("m", X))["OUTPUT0"].tolist() == [[1, 2, 3]]
    assert len(service.asked) == 3


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("refusal", "leaf"),
    [
        (Refusal(Code.INVALID_ARGUMENT, "inputs[0]: wrong"), InvalidRequest),
        (Refusal(Code.OUT_OF_RANGE, "too large"), InvalidRequest),
        (Refusal(Code.RESOURCE_EXHAUSTED, "too large"), InvalidRequest),
        (Refusal(Code.UNAUTHENTICATED, "who"), InvalidRequest),
        (Refusal(Code.NOT_FOUND, "none"), ModelNotFound),
        (Refusal(Code.DEADLINE_EXCEEDED, "late"), DeadlineExceeded),
        (Refusal(Code.INTERNAL, "broke"), ExecutionFailed),
        (Refusal(Code.UNKNOWN, "broke"), ExecutionFailed),
        (Refusal(Code.UNIMPLEMENTED, "not here"), ServerError),
        (Refusal(Code.UNAVAILABLE, "busy", (("grpc-retry-pushback-ms", "-1"),)), Overloaded),
    ],
)
def test_each_code_is_an_exception_of_its_kind_and_is_not_asked_again(
    kind: str, url: str, service: Service, refusal: Refusal, leaf: type[AxonError]
) -> None:
    service.refusals.append(refusal)
    with pytest.raises(AxonError) as caught:
        ask(kind, url, lambda client: client.infer("m", X))
    assert (type(caught.value), caught.value.message) == (leaf, refusal.text)
    assert len(service.asked) == 1


def test_a_refusal_says_when_to_come_again(url: str, service: Service) -> None:
    hints = [(("retry-after", "2"),), (("grpc-retry-pushback-ms", "1500"),), ()]
    service.refusals += [Refusal(Code.UNAVAILABLE, "busy", hint) for hint in hints]
    service.refusals.append(Refusal(Code.RESOURCE_EXHAUSTED, "yours", (("retry-after", "3"),)))
    found = []
    with Client(url, retries=0) as client:
        for _ in range(4):
            with pytest.raises(AxonError) as caught:
                client.infer("m", X)
            found.append((type(caught.value), caught.value.retry_after_s))
    assert found == [(Overloaded, 2.0), (Overloaded, 1.5), (ModelNotReady, None), (QuotaExceeded, 3.0)]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_sequence_is_sent_once(kind: str, url: str, service: Service) -> None:
    service.refusals.append(Refusal(Code.UNAVAILABLE, "busy", (("retry-after", "0"),)))
    with pytest.raises(Overloaded):
        ask(kind, url, lambda client: client.infer("m", X, sequence=SequenceStep(1)))
    assert len(service.asked) == 1


def test_a_server_that_is_gone_is_a_failed_connection(tmp_path: Any) -> None:  # noqa: ANN401
    save(identity("FP32"), tmp_path / "m.onnx")
    with serving_grpcio(tmp_path) as (url, _):
        client = Client(url, retries=0)
        client.infer("m", X)
    with client, pytest.raises(ConnectionFailed):
        client.infer("m", X)


def test_an_answer_that_is_not_the_protocols_is_the_servers_error() -> None:
    call = Call(verb=Verb.INFER, model="m")
    for datatype, shape, raw in (("FP32", [2], b"\0" * 4), ("FP32", [-1], b""), ("FP16", [1], None), ("X", [1], b"1")):
        message = _messages.message_class("ModelInferResponse")()
        message.outputs.add(name="y", datatype=datatype, shape=shape)
        if raw is not None:
            message.raw_output_contents.append(raw)
        with pytest.raises(ServerError, match="output 'y'"):
            GrpcCodec().answer(call, GrpcReply(message))
