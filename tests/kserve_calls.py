"""Calls a server by KServe's own Python client and prints what it was told, as JSON.

A program of its own: the client's messages and tritonclient's have the same names, which one process cannot have twice.

    python kserve_calls.py http://127.0.0.1:8000 127.0.0.1:8001
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

if TYPE_CHECKING:
    import numpy.typing as npt

TIMEOUT_S: Final = 30.0
VALUES: Final[dict[str, npt.NDArray[Any]]] = {
    "FP32": np.array([[0.1, -1.5, 3e38], [0.0, 1e-45, 2.0]], np.float32),
    "INT64": np.array([[2**53 + 1, -(2**63), 0], [1, 2, 3]], np.int64),
    "BOOL": np.array([[True, False, True], [False, False, True]]),
    "BYTES": np.array([[b"ab", b"", "é".encode()], [b"c", b"d", b"e" * 1000]], np.object_),
    "FP16": np.array([[0.5, -2.0, 65504.0], [1.0, 2.0, 3.0]], np.float16),
}


def question(datatype: str, *, binary: bool, outputs: bool | None = None) -> InferRequest:
    """Return a request to the identity of `datatype`; `outputs` says in which form the answer is to come."""
    values = VALUES[datatype]
    tensor = InferInput("INPUT0", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    form = {} if outputs is None else {"request_outputs": [RequestedOutput("OUTPUT0", {"binary_data": outputs})]}
    return InferRequest(datatype, [tensor], request_id="7", **form)


def same(answer: Any, datatype: str) -> bool:  # noqa: ANN401 - the client has no types
    """Say whether an answer is what was sent, value for value."""
    (output,) = answer.outputs
    wanted, got = VALUES[datatype], output.as_numpy()
    if datatype == "BYTES":
        got = np.array([value if isinstance(value, bytes) else value.encode() for value in got.flat], np.object_)
        got = got.reshape(wanted.shape)
    return (answer.id, answer.model_name) == ("7", datatype) and bool(np.array_equal(got, wanted))


async def over_rest(url: str) -> dict[str, Any]:
    """Make every call that the client has for HTTP."""
    said: dict[str, Any] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=TIMEOUT_S)) as client:
        said["live"] = await client.is_server_live(url)
        said["ready"] = await client.is_server_ready(url)
        said["model ready"] = await client.is_model_ready(url, "FP32")
        said["nobody ready"] = await client.is_model_ready(url, "nobody")
        for datatype in VALUES:
            for binary in (True, False) if datatype != "FP16" else (True,):  # it has no JSON for FP16
                for outputs in (None, True, False):
                    asked = question(datatype, binary=binary, outputs=outputs)
                    answer = await client.infer(url, asked, model_name=datatype)
                    said[f"{datatype} {binary=} {outputs=}"] = same(answer, datatype)
        try:
            await client.infer(url, question("FP32", binary=True), model_name="nobody")
        except httpx.HTTPStatusError as error:
            said["error"] = [error.response.status_code, str(error)]
    return said


async def over_grpc(address: str) -> dict[str, Any]:
    """Make every call that the client has for gRPC."""
    said: dict[str, Any] = {}
    async with InferenceGRPCClient(address, timeout=TIMEOUT_S) as client:
        said["live"] = await client.is_server_live()
        said["ready"] = await client.is_server_ready()
        said["model ready"] = await client.is_model_ready("FP32")
        said["nobody ready"] = await client.is_model_ready("nobody")
        for datatype in VALUES:
            for binary in (True, False) if datatype != "FP16" else (True,):
                answer = await client.infer(question(datatype, binary=binary))
                said[f"{datatype} {binary=}"] = same(answer, datatype)
        wrong = question("FP32", binary=True)
        wrong.model_name = "nobody"
        try:
            await client.infer(wrong)
        except grpc.RpcError as error:
            said["error"] = [error.code().name, error.details()]
    return said


async def main(url: str, address: str) -> None:
    """Print what came of every call."""
    logging.disable()
    json.dump({"rest": await over_rest(url), "grpc": await over_grpc(address)}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
