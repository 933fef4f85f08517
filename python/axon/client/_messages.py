"""The messages of the protocol's gRPC form, built when the first is needed.

They live in a pool of their own: in protobuf's default pool another client of the protocol in this process
(`tritonclient`) would declare the same names, and one of the two could not be imported.

**Source:** the names, numbers and types are those of `proto/inference.proto`; a test holds them against another
client's descriptors.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from axon._optional import needed
from axon.client._model_config import MODEL_CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

__all__ = ["message_class", "pool"]

#: A message on a line, or more with the rest indented: its fields, each with name, type, number and what `oneof` it is
#: in. `*` is repeated. A type is one of protobuf's, or one of these messages.
INFERENCE: Final = """
ServerLiveRequest:
ServerLiveResponse: live bool 1
ServerReadyRequest:
ServerReadyResponse: ready bool 1
ModelReadyRequest: name string 1, version string 2
ModelReadyResponse: ready bool 1
ServerMetadataRequest:
ServerMetadataResponse: name string 1, version string 2, extensions string* 3
ModelMetadataRequest: name string 1, version string 2
ModelMetadataResponse: name string 1, versions string* 2, platform string 3, inputs
  ModelMetadataResponse.TensorMetadata* 4, outputs ModelMetadataResponse.TensorMetadata* 5
ModelMetadataResponse.TensorMetadata: name string 1, datatype string 2, shape int64* 3
InferParameter: bool_param bool 1 parameter_choice, int64_param int64 2 parameter_choice, string_param string 3
  parameter_choice, double_param double 4 parameter_choice, uint64_param uint64 5 parameter_choice
InferTensorContents: bool_contents bool* 1, int_contents int32* 2, int64_contents int64* 3, uint_contents uint32* 4,
  uint64_contents uint64* 5, fp32_contents float* 6, fp64_contents double* 7, bytes_contents bytes* 8
ModelInferRequest: model_name string 1, model_version string 2, id string 3, parameters map<string,InferParameter> 4,
  inputs ModelInferRequest.InferInputTensor* 5, outputs ModelInferRequest.InferRequestedOutputTensor* 6,
  raw_input_contents bytes* 7
ModelInferRequest.InferInputTensor: name string 1, datatype string 2, shape int64* 3, parameters
  map<string,InferParameter> 4, contents InferTensorContents 5
ModelInferRequest.InferRequestedOutputTensor: name string 1, parameters map<string,InferParameter> 2
ModelInferResponse: model_name string 1, model_version string 2, id string 3, parameters map<string,InferParameter> 4,
  outputs ModelInferResponse.InferOutputTensor* 5, raw_output_contents bytes* 6
ModelInferResponse.InferOutputTensor: name string 1, datatype string 2, shape int64* 3, parameters
  map<string,InferParameter> 4, contents InferTensorContents 5
ModelConfigRequest: name string 1, version string 2
ModelConfigResponse: config ModelConfig 1
ModelStatisticsRequest: name string 1, version string 2
StatisticDuration: count uint64 1, ns uint64 2
InferStatistics: success StatisticDuration 1, fail StatisticDuration 2, queue StatisticDuration 3, compute_input
  StatisticDuration 4, compute_infer StatisticDuration 5, compute_output StatisticDuration 6, cache_hit
  StatisticDuration 7, cache_miss StatisticDuration 8
InferResponseStatistics: compute_infer StatisticDuration 1, compute_output StatisticDuration 2, success
  StatisticDuration 3, fail StatisticDuration 4, empty_response StatisticDuration 5, cancel StatisticDuration 6
InferBatchStatistics: batch_size uint64 1, compute_input StatisticDuration 2, compute_infer StatisticDuration 3,
  compute_output StatisticDuration 4
MemoryUsage: type string 1, id int64 2, byte_size uint64 3
ModelStatistics: name string 1, version string 2, last_inference uint64 3, inference_count uint64 4, execution_count
  uint64 5, inference_stats InferStatistics 6, batch_stats InferBatchStatistics* 7, memory_usage MemoryUsage* 8,
  response_stats map<string,InferResponseStatistics> 9
ModelStatisticsResponse: model_stats ModelStatistics* 1
ModelRepositoryParameter: bool_param bool 1 parameter_choice, int64_param int64 2 parameter_choice, string_param
  string 3 parameter_choice, bytes_param bytes 4 parameter_choice
RepositoryIndexRequest: repository_name string 1, ready bool 2
RepositoryIndexResponse: models RepositoryIndexResponse.ModelIndex* 1
RepositoryIndexResponse.ModelIndex: name string 1, version string 2, state string 3, reason string 4
RepositoryModelLoadRequest: repository_name string 1, model_name string 2, parameters
  map<string,ModelRepositoryParameter> 3
RepositoryModelLoadResponse:
RepositoryModelUnloadRequest: repository_name string 1, model_name string 2, parameters
  map<string,ModelRepositoryParameter> 3
RepositoryModelUnloadResponse:
"""

#: Of `proto/introspection.proto`. The package differs there, which nobody sees: names of messages are not sent.
INTROSPECTION: Final = """
ModelExplainRequest: name string 1, version string 2
ModelExplainResponse: document string 1
"""

_SCALARS: Final = {
    "double": "TYPE_DOUBLE",
    "float": "TYPE_FLOAT",
    "int64": "TYPE_INT64",
    "uint64": "TYPE_UINT64",
    "int32": "TYPE_INT32",
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
    "bytes": "TYPE_BYTES",
    "uint32": "TYPE_UINT32",
}
_PACKAGE: Final = "inference"


def message_class(name: str) -> Any:  # noqa: ANN401 - protobuf makes the class at run time
    """Return the class of the message `name`.

    Raises:
        ImportError: protobuf is not installed; the text names the extra.
    """
    with needed("grpc"):
        from google.protobuf.message_factory import GetMessageClass  # noqa: PLC0415 - an optional dependency
    return GetMessageClass(pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def pool() -> Any:  # noqa: ANN401 - protobuf has no types of its own
    """Return the pool that has the messages."""
    with needed("grpc"):
        from google.protobuf.descriptor_pb2 import FileDescriptorProto  # noqa: PLC0415
        from google.protobuf.descriptor_pool import DescriptorPool  # noqa: PLC0415
    file = FileDescriptorProto(name="axon/client/inference.proto", package=_PACKAGE, syntax="proto3")
    declared = dict(_declarations(MODEL_CONFIG + INFERENCE + INTROSPECTION))
    enums = {name.removeprefix("enum ") for name in declared if name.startswith("enum ")}
    messages: dict[str, DescriptorProto] = {}
    for name, members in declared.items():
        if not name.startswith("enum "):
            messages[name] = _home(file, messages, name).add(name=name.rpartition(".")[2])
            for member in members:
                _add_field(messages[name], name, member, enums)
    for name in enums:
        enum = _enum_home(file, messages, name).add(name=name.rpartition(".")[2])
        for member in declared[f"enum {name}"]:
            word, number = member.split()
            enum.value.add(name=word, number=int(number))
    made = DescriptorPool()
    made.AddSerializedFile(file.SerializeToString())
    return made


def _declarations(text: str) -> Iterator[tuple[str, list[str]]]:
    for line in re.sub(r"\n +", " ", text).split("\n"):
        if line:
            name, _, members = line.partition(":")
            yield name, [member.strip() for member in members.split(", ") if member.strip()]


def _home(file: FileDescriptorProto, messages: dict[str, DescriptorProto], name: str) -> Any:  # noqa: ANN401
    outer = name.rpartition(".")[0]
    return messages[outer].nested_type if outer else file.message_type


def _enum_home(file: FileDescriptorProto, messages: dict[str, DescriptorProto], name: str) -> Any:  # noqa: ANN401
    outer = name.rpartition(".")[0]
    return messages[outer].enum_type if outer else file.enum_type


def _add_field(message: DescriptorProto, path: str, member: str, enums: set[str]) -> None:
    name, kind, number, *oneof = member.split()
    field = message.field.add(name=name, number=int(number), label="LABEL_OPTIONAL")
    if mapped := re.fullmatch(r"map<(\w+),([\w.]+)>", kind):
        entry_name = "".join(word.capitalize() for word in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        for at, half in enumerate(mapped.groups(), 1):
            _set_type(entry.field.add(name=("key", "value")[at - 1], number=at, label="LABEL_OPTIONAL"), half, enums)
        kind = f"{path}.{entry_name}*"
    if kind.endswith("*"):
        field.label = field.LABEL_REPEATED
    _set_type(field, kind.removesuffix("*"), enums)
    if oneof:
        if oneof[0] not in [each.name for each in message.oneof_decl]:
            message.oneof_decl.add(name=oneof[0])
        field.oneof_index = [each.name for each in message.oneof_decl].index(oneof[0])


def _set_type(field: FieldDescriptorProto, kind: str, enums: set[str]) -> None:
    if kind in _SCALARS:
        field.type = getattr(field, _SCALARS[kind])
    else:
        field.type = field.TYPE_ENUM if kind in enums else field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
