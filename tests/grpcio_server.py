"""A second server of the protocol's gRPC form: grpcio's server, with the messages and the service of `tritonclient`.

It shares no code with Axon's port or with Axon's client; only the models are run by Axon, in this process.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import grpc
import ml_dtypes
import numpy as np
from axon import sync
from axon.errors import AxonError, ModelNotFound
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["Refusal", "Service", "serving_grpcio"]

DTYPES: Final[dict[str, npt.DTypeLike]] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "FP16": "f2",
    "FP32": "f4",
    "FP64": "f8",
    "BF16": ml_dtypes.bfloat16,
}


class Refusal(NamedTuple):
    """What the server answers to one request instead of running the model."""

    code: grpc.StatusCode
    text: str
    trailing: tuple[tuple[str, str], ...] = ()


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The service.

    Attributes:
        asked: Every inference request that came, with the seconds that its deadline had left and its metadata.
        refusals: What the next requests get; taken from the front.
        typed: Whether outputs go as typed contents, as some servers send them.
    """

    def __init__(self, models: sync.InferenceServer) -> None:
        """Serve `models`."""
        self._models = models
        self.asked: list[tuple[Any, float | None, dict[str, str]]] = []
        self.refusals: list[Refusal] = []
        self.typed = False

    def ServerLive(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, D102, N802
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, D102, N802
        return pb.ServerReadyResponse(ready=self._models.is_ready())

    def ModelReady(self, request: Any, _context: Any) -> Any:  # noqa: ANN401, D102, N802
        return pb.ModelReadyResponse(ready=request.name in {model.name for model in self._models.models()})

    def ServerMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, D102, N802
        return pb.ServerMetadataResponse(name="grpcio", version="1")

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: ANN401, D102, N802
        try:
            known = self._models.metadata(request.name, int(request.version) if request.version else None)
        except AxonError as error:
            abort(context, error)
        answer = pb.ModelMetadataResponse(name=known.name, platform=known.platform, versions=map(str, known.versions))
        for side, tensors in (("inputs", known.inputs), ("outputs", known.outputs)):
            for tensor in tensors:
                getattr(answer, side).add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return answer

    def ModelConfig(self, request: Any, _context: Any) -> Any:  # noqa: ANN401, D102, N802
        answer = pb.ModelConfigResponse()
        answer.config.name = request.name
        answer.config.max_batch_size = 8
        answer.config.input.add(name="x", data_type="TYPE_FP32", dims=[3])
        answer.config.instance_group.add(kind="KIND_CPU", count=2)
        answer.config.dynamic_batching.max_queue_delay_microseconds = 5
        answer.config.parameters["p"].string_value = "v"
        return answer

    def ModelStatistics(self, request: Any, _context: Any) -> Any:  # noqa: ANN401, D102, N802
        answer = pb.ModelStatisticsResponse()
        model = answer.model_stats.add(name=request.name or "every", version="1", inference_count=7)
        model.inference_stats.success.count = 2**40
        return answer

    def RepositoryIndex(self, _request: Any, _context: Any) -> Any:  # noqa: ANN401, D102, N802
        answer = pb.RepositoryIndexResponse()
        for model in self._models.models():
            answer.models.add(name=model.name, version=str(model.version), state=model.state)
        return answer

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: ANN401, D102, N802
        self.asked.append((request, context.time_remaining(), {}))
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: ANN401, D102, N802
        self.asked.append((request, context.time_remaining(), {}))
        return pb.RepositoryModelUnloadResponse()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: ANN401, D102, N802
        self.asked.append((request, context.time_remaining(), dict(context.invocation_metadata())))
        if self.refusals:
            refusal = self.refusals.pop(0)
            context.set_trailing_metadata(refusal.trailing)
            context.abort(refusal.code, refusal.text)
        raw = request.raw_input_contents
        inputs = {put.name: read(put, raw[at] if raw else None) for at, put in enumerate(request.inputs)}
        try:
            outputs = self._models.infer(
                inputs, model=request.model_name, outputs=[each.name for each in request.outputs] or None
            )
            known = self._models.metadata(request.model_name)
        except AxonError as error:
            abort(context, error)
        datatypes = {tensor.name: tensor.datatype for tensor in known.outputs}
        answer = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        for name, array in outputs.items():
            put = answer.outputs.add(name=name, datatype=datatypes[name], shape=array.shape)
            if self.typed:
                put.contents.fp32_contents.extend(array.reshape(-1).tolist())
            else:
                answer.raw_output_contents.append(to_bytes(array, datatypes[name]))
        return answer


def abort(context: Any, error: AxonError) -> NoReturn:  # noqa: ANN401
    code = grpc.StatusCode.NOT_FOUND if isinstance(error, ModelNotFound) else grpc.StatusCode.INVALID_ARGUMENT
    context.abort(code, error.message)
    raise AssertionError


def read(put: Any, raw: bytes | None) -> Array:  # noqa: ANN401
    if raw is None:
        (contents,) = [values for _, values in put.contents.ListFields()] or [[]]
        dtype = np.dtype(object) if put.datatype == "BYTES" else np.dtype(DTYPES[put.datatype])
        return np.array(list(contents), dtype).reshape(put.shape)
    if put.datatype == "BYTES":
        return np.asarray(deserialize_bytes_tensor(raw).reshape(put.shape))
    return np.frombuffer(raw, DTYPES[put.datatype]).reshape(put.shape)


def to_bytes(array: Array, datatype: str) -> bytes:
    if datatype == "BYTES":
        return bytes(serialize_byte_tensor(array).item()) if array.size else b""
    return array.astype(DTYPES[datatype]).tobytes()


@contextmanager
def serving_grpcio(path: Path) -> Iterator[tuple[str, Service]]:
    """Serve the models at `path` on a free port until the `with` block ends; give the URL and the service."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with sync.InferenceServer.open(path) as models, ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=options)
        service = Service(models)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}", service
        finally:
            server.stop(None).wait()
