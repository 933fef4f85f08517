"""Asks models over gRPC through the official client's own stub, and what a model of known slowness answers."""

from __future__ import annotations

import json
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import numpy as np
import tritonclient.grpc as triton
from http2 import PATIENCE_S
from test_tritonclient import rows
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from serving import Server

    Array: TypeAlias = npt.NDArray[Any]

__all__ = [
    "LONG",
    "assert_rolled",
    "busy",
    "counts",
    "let_it_be_read",
    "moved",
    "request_of",
    "rolled",
    "rolling",
    "slow_request",
    "stats",
    "stub",
    "tensor",
]

#: The rows of a request that runs for a while: 20 ms each, and more on a slower machine.
LONG: Final = 40
#: By how much `slow(20)` rolls its rows.
STEPS: Final = 80


@contextmanager
def stub(server: Server) -> Iterator[Any]:
    """Yield the service as the official client's own stub has it."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, value: Array, datatype: str = "FP32") -> triton.InferInput:
    return triton.InferInput(name, list(value.shape), datatype).set_data_from_numpy(value)


def request_of(index: int, **members: Any) -> Any:  # noqa: ANN401
    value = rows(index, width=3)
    given = {"name": "INPUT0", "datatype": "FP32", "shape": value.shape}
    whole = {"model_name": "FP32", "id": str(index), **members}
    return pb.ModelInferRequest(inputs=[given], raw_input_contents=[value.tobytes()], **whole)


def rolling(count: int) -> Array:
    """Return an input of `slow`."""
    return np.arange(count * 256, dtype=np.float32).reshape(count, 256)


def rolled(count: int) -> Array:
    """Return what `slow(20)` answers to `slow_request`."""
    return np.roll(rolling(count), STEPS, axis=1)


def stats(server: Server, model: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{server.address}/v2/models/{model}/stats", timeout=PATIENCE_S) as response:
        (found,) = json.load(response)["model_stats"]
    return dict(found)


def counts(server: Server, model: str = "slow") -> dict[str, int]:
    """Return how many requests ended well, how many rows were run, and in how many runs."""
    found = stats(server, model)
    ended = found["inference_stats"]["success"]["count"]
    return {"success": ended, "rows": found["inference_count"], "runs": found["execution_count"]}


def moved(server: Server, before: dict[str, int], model: str = "slow") -> dict[str, int]:
    return {name: count - before[name] for name, count in counts(server, model).items()}


def busy(service: Any) -> Any:  # noqa: ANN401 - the stub has no types
    """Start a request of many rows, and return its future; what comes meanwhile waits."""
    return service.ModelInfer.future(slow_request(LONG), timeout=PATIENCE_S)


def slow_request(count: int, **members: Any) -> Any:  # noqa: ANN401 - what a message takes
    given = {"name": "x", "datatype": "FP32", "shape": [count, 256]}
    return pb.ModelInferRequest(
        model_name="slow", inputs=[given], raw_input_contents=[rolling(count).tobytes()], **members
    )


def let_it_be_read(service: Any) -> None:  # noqa: ANN401
    """Return when the server has read what was sent before on the same connection: it reads in order."""
    for _ in range(3):
        service.ServerLive(pb.ServerLiveRequest(), timeout=PATIENCE_S)


def assert_rolled(answer: Any, count: int) -> None:  # noqa: ANN401
    assert list(answer.raw_output_contents) == [rolled(count).tobytes()]
