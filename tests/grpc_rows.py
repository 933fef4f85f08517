"""Calls of gRPC that must be refused, as data: rows B-03 to B-69 of `shared/reference/robustness.md`, section 3.

The cases of `bad_input_rows` once more, as far as the protocol's messages can say them, and those that only gRPC has.
The repository is the same: a model named after each data type in lower case (its identity), `two` (inputs `a` and `b`)
and `broken` (no model at all), and `max_batch_size` is 32.
"""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from http2 import message
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ACCEPTED", "CASES", "ELSEWHERE", "FRAMED", "INFER", "SERVICE", "STREAM", "Case", "Good", "question"]

SERVICE: Final = "/inference.GRPCInferenceService/"
REFLECTION: Final = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
INFER: Final = f"{SERVICE}ModelInfer"
STREAM: Final = f"{SERVICE}ModelStreamInfer"
MIB: Final = 1 << 20
LIMIT: Final = 64 * MIB


@dataclass(frozen=True)
class Case:
    """A call and what must come of it.

    Attributes:
        row: The ID of the row in robustness.md.
        name: What is wrong, in a few words.
        body: The message; the whole body of the request where the case is one of `FRAMED`.
        at: The field that the error names; None where no part of the request is wrong.
        words: What the error's text must have in it, in pieces that `…` parts.
        path: The method.
        headers: Headers beside those of any call; one that is None is left out.
        number: The code of gRPC.
        code: The kind of the error.
        growth: The most bytes by which the server's memory may grow meanwhile; None where it is not measured.
    """

    row: str
    name: str
    body: bytes | Callable[[], bytes]
    at: str | None
    words: str
    _: KW_ONLY
    path: str = INFER
    headers: Mapping[str, str | bytes | None] = field(default_factory=dict)
    number: int = 3
    code: str = "INVALID_ARGUMENT"
    growth: int | None = None

    def payload(self) -> bytes:
        """Return the body."""
        return self.body if isinstance(self.body, bytes) else self.body()


@dataclass(frozen=True)
class Good:
    """A call at the edge of a row, which must be answered, and the raw values of its output."""

    row: str
    name: str
    body: bytes
    raw: bytes


def parameters(**values: object) -> dict[str, Any]:
    """Return parameters of these values, typed as Python has them; None is one without a value."""
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}

    def parameter(value: object) -> Any:  # noqa: ANN401 - a class that is made while the program runs
        if value is None:
            return pb.InferParameter()
        # What a signed integer does not hold goes as an unsigned one.
        name = "uint64_param" if isinstance(value, int) and value >= 2**63 else fields[type(value)]
        return pb.InferParameter(**{name: value})

    return {name: parameter(value) for name, value in values.items()}


def question(*inputs: Mapping[str, Any], **members: Any) -> bytes:  # noqa: ANN401 - what a message takes
    """Return a request; the base's input when none is given, and 12 bytes for each unless `raw_input_contents` says."""
    inputs = inputs or (BASE,)
    raw = [PAYLOAD] * len(inputs)
    whole = {"model_name": "fp32", "inputs": inputs, "raw_input_contents": raw, **members}
    return bytes(pb.ModelInferRequest(**whole).SerializeToString())


def one(raw: bytes = struct.pack("<3f", 1, 2, 3), model: str = "fp32", **members: object) -> bytes:
    """Return a request whose only input has other members than the base's."""
    return question({**BASE, **members}, model_name=model, raw_input_contents=[raw])


def typed(datatype: str, contents: str, values: Sequence[object]) -> bytes:
    """Return a request of `[1, 3]` whose values are typed."""
    tensor = {**BASE, "datatype": datatype, "contents": {contents: values}}
    return question(tensor, model_name=datatype.lower(), raw_input_contents=[])


def classes(count: object) -> bytes:
    """Return a request that asks for so many classes."""
    return question(outputs=[{"name": "OUTPUT0", "parameters": parameters(classification=count)}])


def misfit(datatype: str, contents: str, value: int, bounds: str) -> Case:
    """Return a case of a typed value that is none of the data type."""
    return Case("B-23", f"{value} for {datatype}", typed(datatype, contents, [1, value, 3]), "inputs[0].contents",
                f"element 1 … expected … {bounds} … {datatype} … got {value}")  # fmt: skip


def string(value: bytes) -> bytes:
    """Return an element of a raw BYTES tensor."""
    return len(value).to_bytes(4, "little") + value


def asked(row: str, name: str, path: str, request: Any, at: str, words: str, **more: Any) -> Case:  # noqa: ANN401, PLR0913, PLR0917 - the columns of a table
    """Return a case of another call."""
    return Case(row, name, bytes(request.SerializeToString()), at, words, path=SERVICE + path, **more)


def groups(depth: int) -> bytes:
    """Return groups of a field that nobody knows, one inside the other: the only way to nest in these messages."""
    opened, closed = b"\xbb\x06", b"\xbc\x06"  # field 103
    return question() + opened * depth + closed * depth


def bomb() -> bytes:
    """Return a message that holds 200 MiB when it is decompressed, made without holding them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(compressor.compress(bytes(MIB)) for _ in range(200)) + compressor.flush()
    return message(packed, flag=1)


PAYLOAD: Final = bytes(12)
BASE: Final[Mapping[str, Any]] = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3]}
A: Final = {**BASE, "name": "a"}
B: Final = {**BASE, "name": "b"}
TYPES: Final = "BOOL … UINT64 … INT8 … FP16 … BF16 … FP32 … BYTES"
SHARED: Final = parameters(shared_memory_region="r", shared_memory_byte_size=12)
CLASSES: Final = "outputs[0].parameters.classification"
WHOLE: Final = question()
GZIP: Final = {"grpc-encoding": "gzip"}
PACKED: Final = gzip.compress(WHOLE, mtime=0)
UNIMPLEMENTED: Final[Mapping[str, Any]] = {"number": 12, "code": "UNIMPLEMENTED"}
TOO_LARGE: Final[Mapping[str, Any]] = {"number": 8, "code": "TOO_LARGE"}
NOT_FOUND: Final[Mapping[str, Any]] = {"number": 5, "code": "NOT_FOUND"}
ASK: Final[Sequence[tuple[str, Any]]] = [
    ("ModelReady", pb.ModelReadyRequest),
    ("ModelMetadata", pb.ModelMetadataRequest),
    ("ModelStatistics", pb.ModelStatisticsRequest),
]
NAMES: Final = ("", "../../etc", "m\0", "..", "$(id)", "x" * 200)
NAMED: Final[Sequence[tuple[str, Any, str]]] = [
    *((path, kind, "name") for path, kind in ASK),
    ("ModelConfig", pb.ModelConfigRequest, "name"),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest, "model_name"),
    ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest, "model_name"),
    ("TraceSetting", pb.TraceSettingRequest, "model_name"),
]
VERSIONS: Final = ("abc", "-1", "01", "0", "36893488147419103232", "9223372036854775808")

# A table reads by its rows.
# fmt: off
#: Cases of a message, which any client of gRPC can send.
CASES: Final = [
    Case("B-03", "a name is not UTF-8", question().replace(b"INPUT0", b"IN\xff\xfe00"), "message",
         "decode error … expected a ModelInferRequest … got"),
    Case("B-05", "there are no inputs", bytes(pb.ModelInferRequest(model_name="fp32").SerializeToString()), "inputs",
         "missing `INPUT0` … expected 1 … got 0"),
    Case("B-07", "the name is empty", one(name=""), "inputs[0].name", "expected … got"),
    Case("B-07", "the name is 1 MiB long", lambda: one(name="x" * MIB), "inputs[0].name", "expected … got",
         growth=10 * MIB),
    Case("B-08", "the input is unknown", one(name="NOPE"), "inputs[0].name", "expected one of `INPUT0` … got `NOPE`"),
    Case("B-09", "an input comes twice", question(BASE, BASE), "inputs[1].name", "duplicate … `INPUT0`"),
    *(Case("B-10", f"the datatype is {datatype!r}", one(datatype=datatype), "inputs[0].datatype",
           f"expected … got `{datatype}` … {TYPES}")
      for datatype in ("", "FP99", "fp32")),
    Case("B-11", "the datatype is another one", one(bytes(24), datatype="INT64"), "inputs[0].datatype",
         "expected FP32 … got INT64"),
    *(Case("B-13", f"dimension {axis} is negative", one(shape=shape), f"inputs[0].shape[{axis}]",
           f"negative … expected … got {shape[axis]}")
      for axis, shape in ((1, [1, -3]), (0, [-1, 3]))),
    *(Case("B-14", f"the shape is {name}", one(shape=shape), "inputs[0].shape",
           "element count overflows … expected … got", growth=MIB)
      for name, shape in (("[4,2^62]", [4, 2**62]), ("[16,2^60+2]", [16, 2**60 + 2]))),
    Case("B-15", "a billion values are declared and three come", one(shape=[1, 10**9]), "inputs[0]",
         "expected 4000000000 … got 12", growth=MIB),
    Case("B-15", "a billion typed values are declared and three come",
         question({**BASE, "shape": [1, 10**9], "contents": {"fp32_contents": [1, 2, 3]}}, raw_input_contents=[]),
         "inputs[0].contents", "expected 1000000000 … got 3", growth=MIB),
    Case("B-16", "the shape has no dimensions", one(bytes(4), shape=[]), "inputs[0].shape",
         "expected rank 2 … got rank 0"),
    Case("B-16", "the shape has 10,000 dimensions", one(shape=[1] * 9999 + [3]), "inputs[0].shape",
         "rank … expected … got"),
    Case("B-17", "the batch is empty", one(b"", shape=[0, 3]), "inputs[0].shape[0]",
         "batch must be at least 1 … got 0"),
    Case("B-18", "the batch is larger than allowed", one(bytes(768), shape=[64, 3]), "inputs[0].shape[0]",
         "64 > 32 … expected … got 64"),
    Case("B-19", "two inputs have different batches",
         question(A, {**B, "shape": [2, 3]}, model_name="two", raw_input_contents=[PAYLOAD, PAYLOAD * 2]),
         "inputs[1].shape[0]", "expected 1 … inputs[0] … got 2"),
    Case("B-20", "a fixed dimension is wrong", one(bytes(16), shape=[1, 4]), "inputs[0].shape[1]",
         "expected 3 … got 4"),
    *(Case("B-21", f"{count} values come for 3 elements", typed("FP32", "fp32_contents", [1] * count),
           "inputs[0].contents", f"expected 3 … got {count}")
      for count in (2, 4)),
    misfit("UINT8", "uint_contents", 256, "0 … 255"),
    misfit("UINT16", "uint_contents", 65536, "0 … 65535"),
    misfit("INT8", "int_contents", -129, "-128 … 127"),
    misfit("INT16", "int_contents", 32768, "-32768 … 32767"),
    Case("B-27", "there is no data", question(raw_input_contents=[]), "inputs[0].contents", "expected 3 … got 0"),
    *(Case("B-27", f"{datatype} has no typed contents", question({**BASE, "datatype": datatype},
                                                                 model_name=datatype.lower(), raw_input_contents=[]),
           "inputs[0].contents", f"expected raw_input_contents for {datatype} … got none")
      for datatype in ("FP16", "BF16")),
    Case("B-27", "the data is in shared memory", question({**BASE, "parameters": SHARED}, raw_input_contents=[]),
         "inputs[0].parameters.shared_memory_region", "expected … got", **UNIMPLEMENTED),
    Case("B-27", "an output is to go to shared memory", question(outputs=[{"name": "OUTPUT0", "parameters": SHARED}]),
         "outputs[0].parameters.shared_memory_region", "expected … got", **UNIMPLEMENTED),
    Case("B-28", "the id is 1 MiB long", lambda: question(id="x" * MIB), "id", "expected … 256 bytes … got",
         growth=10 * MIB),
    *(Case("B-28", f"the id has {name}", question(id=text), "id", f"expected … printable … got {echo}")
      for name, text, echo in (
          ("a line break", "a\r\nlevel=ERROR", r"`a\r\n"), ("NUL", "a\0", "`a"),
          ("a line separator", "a\u2028b", "`a"))),
    Case("B-29", "there are 65 parameters", question(parameters=parameters(**{f"k{at}": 1 for at in range(65)})),
         "parameters", "expected … 64 … got 65"),
    Case("B-29", "a parameter has no value", question(parameters=parameters(k=None)), "parameters",
         "expected a value for `k` … got none"),
    Case("B-29", "a key is reserved", question(parameters=parameters(triton_x=1)), "parameters",
         "expected … `triton_` … got `triton_x`"),
    Case("B-29", "an input has 65 parameters",
         question({**BASE, "parameters": parameters(**{f"k{at}": 1 for at in range(65)})}), "inputs[0].parameters",
         "expected … 64 … got 65"),
    Case("B-29", "an output has 65 parameters",
         question(outputs=[{"name": "OUTPUT0", "parameters": parameters(**{f"k{at}": 1 for at in range(65)})}]),
         "outputs[0].parameters", "expected … 64 … got 65"),
    *(Case("B-30", f"the {key} is {value!r}", question(parameters=parameters(**{key: value})), f"parameters.{key}",
           "expected … integer … got")
      for key, value in (("priority", "x"), ("priority", True), ("timeout", -5), ("timeout", 1.5), ("timeout", True),
                         ("timeout", "5"))),
    Case("B-31", "a sequence begins with id 0", question(parameters=parameters(sequence_id=0, sequence_start=True)),
         "parameters.sequence_id", "expected … got 0"),
    Case("B-31", "the sequence id is negative", question(parameters=parameters(sequence_id=-1)),
         "parameters.sequence_id", "expected … got"),
    Case("B-31", "the sequence id is a string of 129", question(parameters=parameters(sequence_id="x" * 129)),
         "parameters.sequence_id", "expected … 128 … got 129"),
    Case("B-31", "the start of a sequence is a number", question(parameters=parameters(sequence_start=1)),
         "parameters.sequence_start", "expected a boolean … got an integer"),
    Case("B-32", "the output is unknown", question(outputs=[{"name": "NOPE"}]), "outputs[0].name",
         "expected one of `OUTPUT0` … got `NOPE`"),
    Case("B-32", "an output comes twice", question(outputs=[{"name": "OUTPUT0"}] * 2), "outputs[1].name",
         "duplicate … `OUTPUT0`"),
    Case("B-32", "there are 10,000 outputs", question(outputs=[{"name": "OUTPUT0"}] * 10000), "outputs[1024].name",
         "expected at most 1024 … got 10000"),
    *(Case("B-33", f"the classes are {count!r}", classes(count), CLASSES, "expected … 1 … got")
      for count in (0, -1, 2**31, "x")),
    Case("B-36", "the model is unknown", question(model_name="nobody"), "model_name",
         "model `nobody` … expected one of", **NOT_FOUND),
    Case("B-36", "the version is unknown", question(model_version="99"), "model_version",
         "version 99 … `fp32` … expected one of `1`", **NOT_FOUND),
    *(asked("B-36", f"{path} of an unknown model", path, kind(name="nobody"), "model_name",
            "model `nobody` … expected one of", **NOT_FOUND)
      for path, kind in ASK[1:]),
    *(asked("B-36", f"{path} of an unknown version", path, kind(name="fp32", version="99"), "model_version",
            "version 99 … `fp32` … expected one of `1`", **NOT_FOUND)
      for path, kind in ASK[1:]),
    *(Case("B-37", f"the version is {version}", question(model_version=version), "version",
           f"positive integer … got `{version}`")
      for version in VERSIONS),
    *(asked("B-37", f"{path} of version {version}", path, kind(name="fp32", version=version), "version",
            f"positive integer … got `{version}`")
      for path, kind in ASK for version in VERSIONS[:2]),
    Case("B-38", "the model has failed", question(model_name="broken"), None,
         "`broken` … UNAVAILABLE … not an ONNX protobuf", number=14, code="UNAVAILABLE"),
    *(Case("B-41", f"the model is {name!r}", question(model_name=name), "model_name", "expected … got")
      for name in NAMES),
    *(asked("B-41", f"{path} of {name!r}", path, kind(**{key: name}), "model_name", "expected … got")
      for path, kind, key in NAMED for name in NAMES[1:3]),
    *(Case(row, f"{size} bytes come for 12", one(bytes(size)), "inputs[0]", f"expected 12 … got {size}")
      for row, size in (("B-47", 8), ("B-47", 20), ("B-48", 13), ("B-48", 24), ("B-62", 0), ("B-62", 40))),
    Case("B-62", "40 bytes come for 32", one(bytes(40), "fp64", datatype="FP64", shape=[1, 4]), "inputs[0]",
         "expected 32 … got 40"),
    *(Case("B-50", name, one(raw, "bytes", datatype="BYTES"), "inputs[0]", words)
      for name, raw, words in (
          ("a string is longer than what is left", b"\xff\xff\xff\xff" + bytes(8),
           "element 0 length 4294967295 > 8 left … expected … got"),
          ("a string's length is cut", string(b"a") * 2 + b"\1\0", "element 2 … expected 4 … got 2"),
          ("a string is missing", string(b"a") * 2, "expected 3 … got 2"),
          ("a string is too many", string(b"a") * 4, "expected 3 … got 4"))),
    Case("B-51", "2^48 values are declared and three come", one(shape=[1, 2**48]), "inputs[0]",
         "expected 1125899906842624 … got 12", growth=MIB),
    Case("B-52", "a BOOL is 2", one(b"\2\0\1", "bool", datatype="BOOL"), "inputs[0]",
         "byte 0 … BOOL must be 0/1 … got 2"),
    *(Case("B-52", f"{datatype} has an odd length", one(bytes(5), datatype.lower(), datatype=datatype), "inputs[0]",
           "expected 6 … got 5")
      for datatype in ("FP16", "BF16")),
    Case("B-58", "64 KiB of noise", random.Random(58).randbytes(64 << 10), "message",  # noqa: S311 - noise
         "decode error … expected a ModelInferRequest … got"),
    Case("B-58", "the message is cut", WHOLE[:-3], "message", "decode error … expected … got"),
    Case("B-58", "groups are 3,000 deep", groups(3000), "message", "decode error … expected … got"),
    Case("B-58", "noise for another call", b"\xff" * 64, "message", "decode error … expected a ModelReadyRequest … got",
         path=SERVICE + "ModelReady"),
    Case("B-60", "there is a raw content too few",
         question(A, B, model_name="two", raw_input_contents=[PAYLOAD]), "raw_input_contents",
         "expected … raw_input_contents: 1, inputs: 2"),
    Case("B-60", "there is a raw content too many", question(raw_input_contents=[PAYLOAD] * 2), "raw_input_contents",
         "expected … raw_input_contents: 2, inputs: 1"),
    Case("B-60", "there is raw content and typed", one(contents={"fp32_contents": [1, 2, 3]}), "inputs[0].contents",
         "expected none beside raw_input_contents … got"),
    *(Case("B-61", f"{contents} for {datatype}", typed(datatype, contents, [1, 2, 3]), "inputs[0].contents",
           f"expected {wanted} for {datatype} … got {contents}")
      for datatype, wanted, contents in (
          ("INT64", "int64_contents", "fp32_contents"), ("FP32", "fp32_contents", "fp64_contents"),
          ("BOOL", "bool_contents", "int_contents"), ("UINT8", "uint_contents", "int_contents"))),
    Case("B-61", "4 strings come for 3 elements", typed("BYTES", "bytes_contents", [b"a"] * 4), "inputs[0].contents",
         "expected 3 … got 4"),
    Case("B-61", "two kinds of contents", question({**BASE, "contents": {"fp32_contents": [1], "int_contents": [2, 3]}},
                                                   raw_input_contents=[]),
         "inputs[0].contents", "expected fp32_contents for FP32 … got int_contents"),
    asked("B-96", "a trace setting is unknown", "TraceSetting",
          pb.TraceSettingRequest(settings={"é\n" + "x" * 1000: pb.TraceSettingRequest.SettingValue(value=["x"])}),
          "settings", "expected one of `trace_file` … got"),
    asked("B-96", "a log setting is unknown", "LogSettings",
          pb.LogSettingsRequest(settings={"é\n" + "x" * 1000: pb.LogSettingsRequest.SettingValue(bool_param=True)}),
          "settings", "expected one of … log_info … got"),
    asked("B-96", "a log setting has no value", "LogSettings",
          pb.LogSettingsRequest(settings={"log_info": pb.LogSettingsRequest.SettingValue()}), "settings",
          "expected a value … got none"),
]

#: Cases that no client of gRPC would send: the body is the request's, framing and all.
FRAMED: Final = [
    Case("B-57", "the message's length is 2^32-1", message(b"xxx", length=2**32 - 1), "message",
         "expected … got 4294967295", growth=MIB),
    Case("B-57", "the compression flag is 7", message(WHOLE, flag=7), "message",
         "expected a compression flag of 0 or 1 … got 7"),
    *(Case("B-57", f"the request ends after {cut} bytes of a message", message(WHOLE)[:cut], "message",
           f"expected … got {cut} bytes … ended")
      for cut in (3, 5, len(WHOLE))),
    Case("B-59", "a message has 64 MiB + 1", lambda: message(bytes(LIMIT + 1)), "message",
         "67108865 > 67108864 … expected", growth=8 * MIB, **TOO_LARGE),
    *(Case("B-54", f"the gzip is {name}", message(body, flag=1), "message", "gzip … byte … expected … got",
           headers=GZIP)
      for name, body in (
          ("garbage", b"\x1f\x8b\x08" + bytes(range(64))), ("not gzip", WHOLE), ("empty", b""), ("cut", PACKED[:-12]),
          ("of another checksum", PACKED[:-8] + bytes(4) + PACKED[-4:]), ("followed by more", PACKED + b"xx"))),
    Case("B-54", "the deflate is followed by more", message(zlib.compress(WHOLE) + b"xx", flag=1), "message",
         "deflate … byte", headers={"grpc-encoding": "deflate"}),
    Case("B-56", "a gzip holds 200 MiB", bomb, "message", "expected … got", headers=GZIP, growth=LIMIT + 8 * MIB,
         **TOO_LARGE),
    *(Case("B-63", f"the method is {path}", message(WHOLE), "method", f"`{path}` … has no {what}", path=path,
           **UNIMPLEMENTED)
      for what, path in (
          ("method", SERVICE + "Nope"), ("method", SERVICE), ("method", "/grpc.health.v1.Health/Nope"),
          ("service", "/nope.X/Y"), ("service", "/inference.Nope/ModelInfer"), ("service", "/"),
          ("service", "/" + "z" * 40))),
    Case("B-63", "the method has 8,000 characters", message(WHOLE), "method", "`/zzz … has no service",
         path="/" + "z" * 8000, **UNIMPLEMENTED),
    *(Case("B-64", f"the encoding is {encoding}", message(WHOLE), "grpc-encoding",
           f"expected … identity … gzip … got `{encoding}`", headers={"grpc-encoding": encoding}, **UNIMPLEMENTED)
      for encoding in ("zzz", "br", "GZIP", "gzip,gzip")),
    Case("B-64", "a message is compressed without an encoding", message(PACKED, flag=1), "grpc-encoding",
         "expected … gzip … got none", **UNIMPLEMENTED),
    *(Case("B-65", f"the timeout is {timeout!r}", message(WHOLE), "grpc-timeout", f"expected … got `{timeout}`",
           headers={"grpc-timeout": timeout})
      for timeout in ("-1S", "99999999999H", "5X", "5", "S", "1.5S", "")),
    *(Case("B-66", f"the timeout is {timeout}", message(WHOLE), None, "timeout", headers={"grpc-timeout": timeout},
           number=4, code="DEADLINE")
      for timeout in ("0n", "1n")),
    Case("B-65", "reflection is asked in no time at all", message(WHOLE), "grpc-timeout", "expected … got `5X`",
         path=REFLECTION, headers={"grpc-timeout": "5X"}),
    *(Case("B-67", f"metadata is not base64, to {path}", message(WHOLE), "metadata",
           "expected base64 in `x-bin` … got", path=path, headers={"x-bin": "!!!"})
      for path in (INFER, REFLECTION)),
    *(Case("B-67", f"metadata has {size >> 10} KiB", message(WHOLE), "metadata",
           "expected at most 16384 bytes … got … `large`", headers={"large": "y" * size, "small": "x"}, number=8,
           code="HEADERS_TOO_LARGE", growth=10 * MIB)
      for size in (17 << 10, MIB)),
    Case("B-57", "a stream ends within a message", message(WHOLE)[:-4], "message",
         f"got {len(WHOLE) + 1} bytes … ended", path=STREAM),
    Case("B-59", "a message of a stream has 64 MiB + 1", lambda: message(bytes(LIMIT + 1)), "message",
         "67108865 > 67108864 … expected", path=STREAM, **TOO_LARGE),
    Case("B-64", "the encoding of a stream is zzz", message(WHOLE), "grpc-encoding",
         "expected … identity … gzip … got `zzz`", path=STREAM, headers={"grpc-encoding": "zzz"}, **UNIMPLEMENTED),
    Case("B-69", "there is no message", b"", "request", "empty … expected one message … got none"),
    Case("B-69", "there are two messages", message(WHOLE) * 2, "request", "expected one message … got several"),
]

_exact: Final = partial(struct.pack, "<3q")
ACCEPTED: Final = [
    Good("B-23", "2^53+1 is exact for INT64", typed("INT64", "int64_contents", [2**53 + 1, -(2**63), 3]),
         _exact(2**53 + 1, -(2**63), 3)),
    Good("B-23", "2^64-1 is exact for UINT64", typed("UINT64", "uint64_contents", [2**64 - 1, 0, 1]),
         struct.pack("<3Q", 2**64 - 1, 0, 1)),
    Good("B-23", "-128 and 127 are of INT8", typed("INT8", "int_contents", [-128, 127, 0]), b"\x80\x7f\0"),
    Good("B-24", "NaN and infinity are numbers", typed("FP32", "fp32_contents", [float("nan"), float("inf"), -0.0]),
         struct.pack("<3f", float("nan"), float("inf"), -0.0)),
    Good("B-28", "an id has 256 bytes", question(id="x" * 256), PAYLOAD),
    Good("B-29", "there are 64 parameters", question(parameters=parameters(**{f"k{at}": 1 for at in range(64)})),
         PAYLOAD),
    Good("B-34", "a string is not UTF-8", typed("BYTES", "bytes_contents", [b"\xff\0", b"", b"c"]),
         string(b"\xff\0") + string(b"") + string(b"c")),
    Good("B-58", "a field is unknown", WHOLE + b"\xba\x06\x03abc", PAYLOAD),
]
# fmt: on

#: What of the rows is not among the cases, and why or where it is shown.
ELSEWHERE: Final[Mapping[str, str]] = {
    "B-01, B-02": "a body of JSON; the empty call is B-69 and noise is B-58",
    "B-04": "a message cannot tell a list that is missing from an empty one, B-05",
    "B-06": "a message has no keys that could come twice: of a field that does, the last one holds",
    "B-12": "a shape that is missing is one without dimensions, B-16; it has no other types",
    "B-22": "typed contents of another type are B-61",
    "B-24": "protobuf carries NaN and infinity; they are among ACCEPTED",
    "B-25, B-26": "data is flat in a message; depth is B-58",
    "B-34": "a string is any bytes here, see ACCEPTED; raw ones that are cut are B-50",
    "B-35": "is B-59",
    "B-39, B-40": "are B-63",
    "B-42, B-55": "are B-63 without application/grpc and B-64",
    "B-43 to B-46, B-49": "a message says each length itself; B-60 and B-62 are what is left of them",
    "B-53": "raw contents always name their inputs",
    "B-57 a frame cut in time": "test_grpc_bad_input.py, which waits for the server's patience to end",
    "B-63 without te, or another content type": "test_grpc_bad_input.py: the answer is one of HTTP, 415",
    "B-67 metadata of 2 MiB": "test_grpc_bad_input.py: the answer is one of HTTP/2",
    "B-68": "test_grpc_bad_input.py sends every case as one of many messages in a stream",
    "R8": "waits for /metrics: the counter axon_requests_total; here the model's statistics must not move",
}
