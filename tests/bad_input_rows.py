"""Requests that must be refused, as data: rows B-01 to B-56 of `shared/reference/robustness.md`, section 3.

Each `Case` carries the ID of its row. Its base is a good request to a model of one input, `INPUT0` FP32 `[batch, 3]`,
of which one thing is made wrong. The repository of these tests has a model named after each data type in lower case
(its identity), `two` (inputs `a` and `b`), `free` (two dimensions are free beside the batch) and `broken` (no model
at all), and `max_batch_size` is 32.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ACCEPTED", "CASES", "ELSEWHERE", "INFER", "Case", "Good", "request"]

Headers: TypeAlias = tuple[tuple[str, str], ...]

INFER: Final = "/v2/models/fp32/infer"
LENGTH: Final = "Inference-Header-Content-Length"
MIB: Final = 1 << 20
BODY_LIMIT: Final = 64 * MIB
#: Takes a member out.
GONE: Final = object()


@dataclass(frozen=True)
class Case:
    """A request and what must come of it.

    Attributes:
        row: The ID of the row in robustness.md.
        name: What is wrong, in a few words.
        body: The body, or what makes it when it is large.
        at: The field that the error names; None where no part of the request is wrong.
        words: What the error's text must have in it, in pieces that `…` parts.
        path: The path as it goes on the wire.
        headers: Headers besides `Host` and `Content-Length`; a name may come twice.
        method: The method.
        status: The status that must come.
        code: The code of the error.
        growth: The most bytes by which the server's memory may grow meanwhile; None where it is not measured.
        chunked: Whether the body goes in chunks, so that its length is not known at first.
    """

    row: str
    name: str
    body: bytes | Callable[[], bytes]
    at: str | None
    words: str
    _: KW_ONLY
    path: str = INFER
    headers: Headers = ()
    method: str = "POST"
    status: int = 400
    code: str = "INVALID_ARGUMENT"
    growth: int | None = None
    chunked: bool = False

    def payload(self) -> bytes:
        """Return the body."""
        return self.body if isinstance(self.body, bytes) else self.body()


@dataclass(frozen=True)
class Good:
    """A request at the edge of a row, which must be answered, and the values of its output."""

    row: str
    name: str
    body: bytes
    data: list[Any]
    _: KW_ONLY
    path: str = INFER
    headers: Headers = ()


def pack(document: object) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(document, separators=(",", ":")).encode()


def request(*inputs: Mapping[str, object], **members: object) -> bytes:
    """Return the JSON of a request; the base's input when none is given."""
    return pack({"inputs": list(inputs or (BASE,)), **members})


def one(**members: object) -> bytes:
    """Return the JSON of a request whose only input has other members than the base's; `GONE` takes one out."""
    return request({name: value for name, value in {**BASE, **members}.items() if value is not GONE})


def text(old: str, new: str) -> bytes:
    """Return the base's JSON with a piece of its text replaced, for what `json` would not write."""
    return request().replace(old.encode(), new.encode())


def infer(model: str) -> str:
    """Return the path of a model."""
    return f"/v2/models/{model}/infer"


def nested(depth: int) -> bytes:
    """Return a request whose `data` is this deep."""
    return text("[1,2,3]", "[" * depth + "1,2,3" + "]" * depth)


def element(datatype: str, value: str) -> bytes:
    """Return a request of `datatype` whose first value is this text."""
    return one(datatype=datatype).replace(b"[1,2,3]", f"[{value},2,3]".encode())


def misfit(value: str, datatype: str, words: str) -> Case:
    """Return a case of a number that is none of the data type."""
    return Case("B-23", f"{value} for {datatype}", element(datatype, value), "inputs[0].data[0]",
                f"{datatype} … {words}", path=infer(datatype.lower()))  # fmt: skip


def sized(size: object, **members: object) -> bytes:
    """Return the JSON of a request whose only input is binary, of this size."""
    return one(data=GONE, parameters={"binary_data_size": size}, **members)


def until(json_part: bytes) -> Headers:
    """Return the header that says where the binary part begins."""
    return ((LENGTH, str(len(json_part))),)


def section(row: str, name: str, json_part: bytes, payload: bytes, at: str, words: str, model: str = "fp32") -> Case:  # noqa: PLR0913, PLR0917 - the columns of a table
    """Return a case of a binary request."""
    return Case(row, name, json_part + payload, at, words, path=infer(model), headers=until(json_part))


def string(value: bytes) -> bytes:
    """Return an element of a binary BYTES tensor."""
    return len(value).to_bytes(4, "little") + value


def strings(name: str, payload: bytes, words: str) -> Case:
    """Return a case of a binary BYTES tensor."""
    return section("B-50", name, sized(len(payload), datatype="BYTES"), payload, "inputs[0]", words, "bytes")


def raw(name: str, model: str, payload: bytes, at: str, words: str) -> Case:
    """Return a case of a body that is nothing but a tensor."""
    return Case("B-53", name, payload, at, words, path=infer(model), headers=((LENGTH, "0"),))


def encoded(row: str, name: str, encoding: str, body: bytes, words: str) -> Case:
    """Return a case of a compressed body."""
    media = {"status": 415, "code": "MEDIA"} if row == "B-55" else {}
    return Case(row, name, body, "Content-Encoding", words, headers=(("Content-Encoding", encoding),), **media)  # type: ignore[arg-type]


def bomb() -> bytes:
    """Return 200 MiB of spaces, compressed a thousandfold, made without holding them."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(compressor.compress(b" " * MIB) for _ in range(200)) + compressor.flush()


BASE: Final = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
A: Final = {**BASE, "name": "a"}
B: Final = {**BASE, "name": "b"}
HALF: Final = {"datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 2**63}}
TYPES: Final = "BOOL … UINT64 … INT8 … FP16 … BF16 … FP32 … BYTES"
SOURCES: Final = "exactly one of data, binary_data_size, shared_memory_region"
SHARED: Final = {"shared_memory_region": "r", "shared_memory_byte_size": 12}
SIZE: Final = "inputs[0].parameters.binary_data_size"
CLASSES: Final = "outputs[0].parameters.classification"
DEEP: Final = 250_000
PAYLOAD: Final = bytes(12)
SIZED: Final = sized(12)
WHOLE: Final = SIZED + PAYLOAD
ENCODED: Final = gzip.compress(request(), mtime=0)

# A table reads by its rows.
# fmt: off
JSON_CASES: Final = [
    Case("B-01", "the body is empty", b"", "body", "empty … expected … got",
         headers=(("Content-Type", "application/json"),)),
    *(Case("B-02", f"the body is {body.decode()[:5]}", body, "body", "byte 0 … expected")
      for body in (b"hello", b"null", b"[]")),
    Case("B-02", "the body is cut", request()[:-4], "body", f"byte {len(request()) - 4}"),
    Case("B-02", "something follows the body", request() + b"xx", "body", f"byte {len(request())} … expected"),
    Case("B-03", "the body is UTF-16", request().decode().encode("utf-16"), "body", "UTF-8 … byte 0"),
    Case("B-03", "a name is not UTF-8", request().replace(b"INPUT0", b"IN\xff\xfe"), "body", "UTF-8 … byte 22"),
    Case("B-04", "there are no inputs", b"{}", "inputs", "required … expected"),
    Case("B-04", "the inputs are an object", b'{"inputs":{}}', "inputs", "expected … array … got … object"),
    Case("B-05", "the inputs are empty", pack({"inputs": []}), "inputs", "missing `INPUT0` … expected 1 … got 0"),
    Case("B-06", "the shape comes twice", text('"shape":[1,3]', '"shape":[1,3],"shape":[1,3]'), "inputs[0].shape",
         "duplicate"),
    Case("B-07", "the name is missing", one(name=GONE), "inputs[0].name", "expected … got"),
    Case("B-07", "the name is empty", one(name=""), "inputs[0].name", "expected … got"),
    Case("B-07", "the name is 1 MiB long", lambda: one(name="x" * MIB), "inputs[0].name", "expected … got",
         growth=10 * MIB),
    Case("B-08", "the input is unknown", one(name="NOPE"), "inputs[0].name", "expected one of `INPUT0` … got `NOPE`"),
    Case("B-09", "an input comes twice", request(BASE, BASE), "inputs[1].name", "duplicate … `INPUT0`"),
    Case("B-10", "the datatype is missing", one(datatype=GONE), "inputs[0].datatype",
         f"expected … got … {TYPES}"),
    Case("B-10", "the datatype is FP99", one(datatype="FP99"), "inputs[0].datatype",
         f"expected … got `FP99` … {TYPES}"),
    Case("B-10", "the datatype is a number", one(datatype=5), "inputs[0].datatype",
         f"expected … got … {TYPES}"),
    Case("B-11", "the datatype is another one", one(datatype="INT64"), "inputs[0].datatype",
         "expected FP32 … got INT64"),
    *(Case("B-12", f"the shape is {shape}", one(shape=GONE if shape == "missing" else shape), "inputs[0].shape",
           "expected … got")
      for shape in ("missing", "1,3", ["1", "3"], [1.0, 3.0])),
    *(Case("B-13", f"dimension {axis} is negative", one(shape=shape), f"inputs[0].shape[{axis}]",
           f"negative … expected … got `{shape[axis]}`")
      for axis, shape in ((1, [1, -3]), (0, [-1, 3]))),
    *(Case("B-14", f"the shape is {name}", one(shape=shape), "inputs[0].shape",
           "element count overflows … expected … got", growth=MIB)
      for name, shape in (
          ("[1,2^63]", [1, 2**63]), ("[1,2^64+1]", [1, 2**64 + 1]), ("[16,2^60+2]", [16, 2**60 + 2]))),
    Case("B-15", "a billion values are declared and three come", one(shape=[1, 10**9]), "inputs[0].data",
         "expected 1000000000 … got 3", growth=MIB),
    Case("B-16", "the shape has no dimensions", one(shape=[], data=[1]), "inputs[0].shape",
         "expected rank 2 … got rank 0"),
    Case("B-16", "the shape has 10,000 dimensions", one(shape=[1] * 9999 + [3]), "inputs[0].shape",
         "rank … expected … got 10000"),
    Case("B-17", "the batch is empty", one(shape=[0, 3], data=[]), "inputs[0].shape[0]",
         "batch must be at least 1 … got 0"),
    Case("B-18", "the batch is larger than allowed", one(shape=[64, 3], data=[0] * 192), "inputs[0].shape[0]",
         "64 > 32 … expected … got 64"),
    Case("B-19", "two inputs have different batches", request(A, {**B, "shape": [2, 3], "data": [0] * 6}),
         "inputs[1].shape[0]", "expected 1 … inputs[0] … got 2", path=infer("two")),
    Case("B-20", "a fixed dimension is wrong", one(shape=[1, 4], data=[1, 2, 3, 4]), "inputs[0].shape[1]",
         "expected 3 … got 4"),
    *(Case("B-21", f"{len(data)} values come for 3 elements", one(data=data), "inputs[0].data",
           f"expected 3 … got {len(data)}")
      for data in ([1, 2], [1, 2, 3, 4])),
    *(Case("B-22", f"a value is {name}", one(data=[value, 2, 3]), "inputs[0].data[0]", "expected … number … got")
      for name, value in (("a string", "1"), ("null", None), ("a boolean", True), ("an object", {}))),
    misfit("1e400", "FP32", "expected … got `1e400`"),
    misfit("1e39", "FP32", "expected … got `1e39`"),
    misfit("70000", "FP16", "expected … got `70000`"),
    misfit("300", "UINT8", "expected … 255 … got `300`"),
    misfit("1.5", "INT32", "expected … got `1.5`"),
    misfit("-1", "UINT64", "expected … got `-1`"),
    misfit(str(2**63), "INT64", "expected … got"),
    misfit(str(2**64), "UINT64", "expected … got"),
    *(Case("B-24", f"a value is {word}", element("FP32", word), "inputs[0].data[0]", "expected … got")
      for word in ("NaN", "Infinity", "-Infinity")),
    Case("B-25", "the data is ragged", one(data=[[1, 2], [3]]), "inputs[0].data[1]", "length 1 … expected 2"),
    Case("B-26", "the data is 101 deep", nested(101), "inputs[0].data", "depth … 100"),
    Case("B-26", "the data is 250,000 deep", lambda: nested(DEEP), "inputs[0].data", "depth … 100", growth=5 * MIB),
    Case("B-26", "the data is 250,000 deep and never closed", lambda: request().replace(b"[1,2,3]", b"[" * DEEP),
         "inputs[0].data", "depth … 100", growth=5 * MIB),
    Case("B-26", "what nobody reads is 250,000 deep",
         lambda: b'{"else":' + b"[" * DEEP + b"]" * DEEP + b"," + request()[1:], "body", "depth … 100",
         growth=5 * MIB),
    Case("B-27", "there is no data", one(data=GONE), "inputs[0]",
         f"{SOURCES} … expected … got none"),
    section("B-27", "there is data twice", one(parameters={"binary_data_size": 12}), PAYLOAD, "inputs[0]",
            f"{SOURCES} … got data and binary_data_size"),
    Case("B-27", "the data is in shared memory", one(data=GONE, parameters=SHARED),
         "inputs[0].parameters.shared_memory_region", "expected … got", status=501, code="UNIMPLEMENTED"),
    Case("B-27", "an output is to go to shared memory", request(outputs=[{"name": "OUTPUT0", "parameters": SHARED}]),
         "outputs[0].parameters.shared_memory_region", "expected … got", status=501, code="UNIMPLEMENTED"),
    Case("B-28", "the id is a number", request(id=5), "id", "expected … string … got"),
    Case("B-28", "the id is 1 MiB long", lambda: request(id="x" * MIB), "id", "expected … 256 bytes … got",
         growth=10 * MIB),
    Case("B-28", "the id is two lines", request(id="a\r\nlevel=ERROR"), "id", "expected … printable … got `a\\r\\n"),
    Case("B-29", "the parameters are an array", request(parameters=[]), "parameters",
         "expected … object … got … array"),
    Case("B-29", "there are 65 parameters", request(parameters={f"k{at}": 1 for at in range(65)}), "parameters",
         "expected … 64 … got"),
    Case("B-29", "a parameter is an object", request(parameters={"k": {}}), "parameters", "expected … got … object"),
    Case("B-30", "the priority is a string", request(parameters={"priority": "x"}), "parameters.priority",
         "expected … integer … got"),
    Case("B-30", "the timeout is negative", request(parameters={"timeout": -5}), "parameters.timeout",
         "expected … integer … got `-5`"),
    Case("B-30", "the timeout is 2^64", request(parameters={"timeout": 2**64}), "parameters.timeout",
         "expected … integer … got"),
    Case("B-31", "a sequence begins with id 0", request(parameters={"sequence_id": 0, "sequence_start": True}),
         "parameters.sequence_id", "expected … got 0"),
    Case("B-31", "the sequence id is 2^64", request(parameters={"sequence_id": 2**64}), "parameters.sequence_id",
         "expected … got"),
    Case("B-31", "the sequence id is a string of 129", request(parameters={"sequence_id": "x" * 129}),
         "parameters.sequence_id", "expected … 128 … got 129"),
    Case("B-32", "the output is unknown", request(outputs=[{"name": "NOPE"}]), "outputs[0].name",
         "expected one of `OUTPUT0` … got `NOPE`"),
    Case("B-32", "an output comes twice", request(outputs=[{"name": "OUTPUT0"}] * 2), "outputs[1].name",
         "duplicate … `OUTPUT0`"),
    Case("B-32", "there are 10,000 outputs", request(outputs=[{"name": "OUTPUT0"}] * 10000), "outputs[1024].name",
         "expected at most 1024 … got"),
    *(Case("B-33", f"the classes are {count}",
           request(outputs=[{"name": "OUTPUT0", "parameters": {"classification": count}}]),
           CLASSES, "expected … 1 … got")
      for count in (0, -1, 2**31, "x")),
    Case("B-34", "a string is half a surrogate pair",
         one(datatype="BYTES", data=["@", "b", "c"]).replace(b"@", b"\\ud800"), "inputs[0].data[0]", "expected … got",
         path=infer("bytes")),
    Case("B-34", "a string is a number", one(datatype="BYTES", data=["a", 5, "c"]), "inputs[0].data[1]",
         "expected … string … got … number", path=infer("bytes")),
    Case("B-35", "the body is 70 MiB", lambda: b" " * (70 * MIB), "body",
         "73400320 > 67108864 … expected … got 73400320", status=413, code="TOO_LARGE", growth=MIB),
    Case("B-35", "the body is 70 MiB in chunks", lambda: b" " * (70 * MIB), "body", "> 67108864 … expected … got",
         status=413, code="TOO_LARGE", growth=3 * BODY_LIMIT, chunked=True),
    Case("B-36", "the model is unknown", request(), "model_name", "model `nobody` … expected one of",
         path=infer("nobody"), status=404, code="NOT_FOUND"),
    Case("B-36", "the version is unknown", request(), "model_version", "version 99 … `fp32` … expected one of `1`",
         path="/v2/models/fp32/versions/99/infer", status=404, code="NOT_FOUND"),
    *(Case("B-37", f"the version is {version}", request(), "version", f"positive integer … got `{version}`",
           path=f"/v2/models/fp32/versions/{version}/infer")
      for version in ("abc", "-1", "01", "36893488147419103232", "9223372036854775808")),
    Case("B-38", "the model has failed", request(), None, "`broken` … UNAVAILABLE … not an ONNX protobuf",
         path=infer("broken"), status=503, code="UNAVAILABLE"),
    *(Case("B-39", f"the method is {method}", b"", "method", f"expected POST … got `{method}`", method=method,
           status=405, code="METHOD")
      for method in ("GET", "PUT", "DELETE", "TRACE")),
    *(Case("B-40", f"the path is {path}", b"", "path", f"`{path}`", path=path, method="GET", status=404,
           code="NOT_FOUND")
      for path in ("/nowhere", "//v2", "/v2/", "/v2/./models", "/V2", "/v2/models", "/v2/models//infer")),
    *(Case("B-41", f"the model is {model}", request(), "model_name", f"expected … got `{model}`", path=infer(model))
      for model in ("..%2f..%2fetc", "m%00", "%c0%ae", "..", "$(id)", ";id")),
    Case("B-41", "the model's name has 200 characters", request(), "model_name",
         "expected … 128 … got `" + "x" * 64, path=infer("x" * 200)),
    *(Case("B-42", f"the content type is {media}", request(), "Content-Type",
           f"expected application/json … got `{media}`", headers=(("Content-Type", media),), status=415, code="MEDIA")
      for media in ("text/xml", "application/json; charset=utf-16")),
]

BINARY_CASES: Final = [
    *(Case("B-43", f"the JSON length is {value}", WHOLE, LENGTH, f"expected … {len(WHOLE)} … got `{value}`",
           headers=((LENGTH, value),))
      for value in ("-1", str(len(WHOLE) + 1), "99999999999", str(2**64))),
    *(Case("B-44", f"the JSON length is {value}", WHOLE, LENGTH, f"expected … got `{value}`",
           headers=((LENGTH, value),))
      for value in ("abc", "12abc", "+12", "0x10")),
    Case("B-44", "the JSON length comes twice", WHOLE, LENGTH, "expected one … got", headers=until(SIZED) * 2),
    Case("B-44", "the JSON is longer than said", WHOLE, LENGTH, f"{LENGTH} … byte … expected … got",
         headers=until(SIZED[:-2])),
    section("B-45", "the JSON part is none", b"hello", PAYLOAD, "body", "byte 0 … expected … got"),
    *(section("B-46", f"the size is {size!r}", sized(size), PAYLOAD, SIZE, "expected … integer … got")
      for size in (-1, "12", 2**64, 1.5)),
    section("B-46", "the size is 2^64-1", sized(2**64 - 1), PAYLOAD, SIZE, "expected … got"),
    section("B-47", "4 bytes are missing", SIZED, bytes(8), "inputs[0]", "4 bytes missing … expected 12 … got 8"),
    section("B-47", "8 bytes are left over", SIZED, bytes(20), "body", "8 bytes left over … expected 12 … got 20"),
    *(section("B-48", f"the size is {size} for 12 bytes", sized(size), bytes(size), "inputs[0]",
              f"expected 12 … got {size}")
      for size in (13, 24, 0)),
    Case("B-48", "there is a size and no JSON length", SIZED, LENGTH,
         "expected … binary_data_size of 12 … got no such header"),
    Case("B-48", "there is a binary part and no JSON length", WHOLE, LENGTH,
         "expected … binary_data_size of 12 … got no such header"),
    section("B-49", "two sizes overflow together", request({"name": "a", **HALF}, {"name": "b", **HALF}), PAYLOAD,
            "inputs[1].parameters.binary_data_size", "overflow … expected … got", "two"),
    strings("a string is longer than what is left", b"\xff\xff\xff\xff" + bytes(8),
            "element 0 length 4294967295 > 8 left … expected … got"),
    strings("a string's length is cut", string(b"a") * 2 + b"\1\0", "element 2 … expected 4 … got 2"),
    strings("a string is missing", string(b"a") * 2, "expected 3 … got 2"),
    strings("a string is too many", string(b"a") * 4, "expected 3 … got 4"),
    Case("B-51", "2^48 values are declared and three come", sized(12, shape=[1, 2**48]) + PAYLOAD, "inputs[0]",
         "expected 1125899906842624 … got 12", headers=until(sized(12, shape=[1, 2**48])), growth=MIB),
    section("B-52", "a BOOL is 2", sized(3, datatype="BOOL"), b"\2\0\1", "inputs[0]",
            "byte 0 … BOOL must be 0/1 … got 2", "bool"),
    *(section("B-52", f"{datatype} has an odd length", sized(5, datatype=datatype), bytes(5), "inputs[0]",
              "expected 6 … got 5", datatype.lower())
      for datatype in ("FP16", "BF16")),
    raw("a raw body has two inputs to go to", "two", PAYLOAD, "inputs", "raw body needs 1 input … expected … got 2"),
    raw("a raw body has two free dims to go to", "free", PAYLOAD, "inputs", "1 free dim … expected … got 2 free dims"),
    raw("a raw body is a byte too long", "fp32", bytes(13), "inputs[0]", "expected … 12 … got 13"),
    *(encoded("B-54", f"the gzip is {name}", "gzip", body, "gzip … byte … expected … got")
      for name, body in (
          ("garbage", b"\x1f\x8b\x08" + bytes(range(64))), ("not gzip", request()), ("empty", b""),
          ("cut", ENCODED[:-12]), ("cut in its checksum", ENCODED[:-4]),
          ("of another checksum", ENCODED[:-8] + bytes(4) + ENCODED[-4:]), ("followed by more", ENCODED + b"xx"))),
    encoded("B-54", "the deflate is followed by more", "deflate", zlib.compress(request()) + b"xx", "deflate … byte"),
    *(encoded("B-55", f"the encoding is {encoding}", encoding, ENCODED, "expected … gzip … deflate … got")
      for encoding in ("br", "gzip, gzip, gzip", "zstd")),
    Case("B-55", "the encoding comes twice", ENCODED, "Content-Encoding", "expected … gzip … deflate … got",
         headers=(("Content-Encoding", "gzip"),) * 2, status=415, code="MEDIA"),
    Case("B-56", "a gzip holds 200 MiB", bomb, "body", "expected … got", headers=(("Content-Encoding", "gzip"),),
         status=413, code="TOO_LARGE", growth=BODY_LIMIT + 8 * MIB),
]

ACCEPTED: Final = [
    Good("B-23", "2^53+1 is exact for INT64", element("INT64", str(2**53 + 1)), [2**53 + 1, 2, 3],
         path=infer("int64")),
    Good("B-23", "2^64-1 is exact for UINT64", element("UINT64", str(2**64 - 1)), [2**64 - 1, 2, 3],
         path=infer("uint64")),
    Good("B-25", "data is nested as its shape", one(data=[[1, 2, 3]]), [1, 2, 3]),
    Good("B-26", "data is 50 deep", nested(50), [1, 2, 3]),
    Good("B-28", "an id has 256 bytes", request(id="x" * 256), [1, 2, 3]),
    Good("B-29", "there are 64 parameters", request(parameters={f"k{at}": 1 for at in range(64)}), [1, 2, 3]),
    Good("B-42", "the content type names UTF-8", request(), [1, 2, 3],
         headers=(("Content-Type", "application/json; charset=utf-8"),)),
    Good("B-54", "the gzip is whole", ENCODED, [1, 2, 3], headers=(("Content-Encoding", "gzip"),)),
]
# fmt: on

CASES: Final = [*JSON_CASES, *BINARY_CASES]

#: What of these rows is not among the cases, and where it is shown or what it waits for.
ELSEWHERE: Final[Mapping[str, str]] = {
    "B-26 in /v2/repository/index": "waits for repository control",
    "B-27 with shared memory enabled": "waits for shared memory (B-83 to B-92); here it is refused as unimplemented",
    "B-34 an element over a limit": "an element has no limit of its own; the body's is B-35",
    "B-38 loading": "test_lifecycle.py: the server is live while it loads",
    "B-38 unloading": "waits for repository control",
    "B-41 60,000 characters": "test_sockets.py, with B-70: no router sees it",
    "B-04 to B-34 over gRPC": "waits for gRPC, with B-57 to B-69; R1 asks for both",
    "R8": "waits for /metrics: the counter axon_requests_total; here the model's statistics must not move",
}
