"""Shared memory that must be refused, as data: rows B-83 to B-91 of `shared/reference/robustness.md`, section 3.

The server is started with `--allow-client-shm` and serves the identity `fp32` of `bad_input_rows.py`. Each case has an
object of 64 bytes of its own, whose key takes the place of `KEY`; rows of inference have all of it registered as the
region `r` first. The same cases hold over gRPC, whose messages have the same members.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

__all__ = ["CUDA_REGISTRATIONS", "INFERENCES", "KEY", "OBJECT_SIZE", "REGISTRATIONS", "Inference", "Registration"]

#: Stands for the key of the case's object.
KEY: Final = "<key>"
OBJECT_SIZE: Final = 64


@dataclass(frozen=True)
class Registration:
    """A region that must not be registered.

    Attributes:
        row: The ID of the row in robustness.md.
        name: What is wrong, in a few words.
        at: The field that the error names; None where no part of the request is wrong.
        words: What the error's text must have in it.
        region: The region's name.
        key: The key of the object.
        offset: The region's first byte in it.
        byte_size: The bytes of the region.
        twice: Whether the region is registered before, as `r` with all of the object.
        status: The status that must come over HTTP.
        code: The code of the error.
    """

    row: str
    name: str
    at: str | None
    words: str
    _: KW_ONLY
    region: str = "r"
    key: str = KEY
    offset: int = 0
    byte_size: int = OBJECT_SIZE
    twice: bool = False
    status: int = 400
    code: str = "INVALID_ARGUMENT"


@dataclass(frozen=True)
class Inference:
    """A request to `fp32` that must be refused.

    Attributes:
        row: The ID of the row in robustness.md.
        name: What is wrong, in a few words.
        at: The field that the error names.
        words: What the error's text must have in it.
        input: The parameters of the input, whose shape is [4, 3]; None where its elements are in the request.
        output: The parameters of the output; None where it is not listed.
        shrunk_to: The bytes that are left of the object before the request; None for all.
    """

    row: str
    name: str
    at: str
    words: str
    _: KW_ONLY
    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    shrunk_to: int | None = None


def part(byte_size: int, *, region: str = "r", offset: int = 0) -> dict[str, Any]:
    """Return the parameters of a tensor in shared memory."""
    return {"shared_memory_region": region, "shared_memory_byte_size": byte_size, "shared_memory_offset": offset}


REGION: Final = "parameters.shared_memory_region"
BYTE_SIZE: Final = "parameters.shared_memory_byte_size"
OFFSET: Final = "parameters.shared_memory_offset"

# One case is one line, or its head and its expectation.
# fmt: off
REGISTRATIONS: Final = [
    Registration("B-83", "the key is a slash", "key", "no name behind it", key="/"),
    Registration("B-83", "the key is slashes", "key", "another `/`", key="///"),
    Registration("B-83", "the key leads upwards", "key", "no `/` in front", key="../x"),
    Registration("B-83", "the key is the directory above", "key", "no name behind it", key="/.."),
    Registration("B-83", "the key has no slash in front", "key", "no `/` in front", key="a/b"),
    Registration("B-83", "the key is long", "key", "at most 255 bytes, got 300", key="/" + "x" * 299),
    Registration("B-83", "the key has a NUL", "key", "a control character", key="/a\0b"),
    Registration("B-83", "the key is an internal one", "key", "reserved", key="/triton_python_backend_shm_region_1"),
    Registration("B-83", "nothing is there", "key", "one without an object", key="/axon-no-such-object"),
    Registration("B-84", "the name is long", "name", "1 to 256 bytes, got 300", region="x" * 300),
    Registration("B-84", "the name is taken", "name", "which is registered", twice=True, status=409, code="CONFLICT"),
    Registration("B-85", "one byte too many", "byte_size", "at most 64 bytes", byte_size=65),
    Registration("B-85", "off by one", "byte_size", "at most 63 bytes", offset=1),
    Registration("B-85", "it begins at the end", "offset", "less than 64", offset=64, byte_size=1),
    Registration("B-85", "it begins behind the end", "offset", "less than 64", offset=65, byte_size=1),
    Registration("B-85", "no bytes", "byte_size", "at least 1 byte", byte_size=0),
    Registration("B-86", "the sum overflows", "byte_size", "overflow", offset=2**64 - 32, byte_size=32),
    Registration("B-86", "the size overflows", "byte_size", "overflow", offset=32, byte_size=2**64 - 32),
]

#: The bytes of a handle, the field, what the text must have in it, and the status and code.
CUDA_REGISTRATIONS: Final = [
    (bytes(63), "raw_handle", "expected 64 bytes, got 63", 400, "INVALID_ARGUMENT"),
    (b"\xff" * 64, None, "not available on this host", 501, "UNIMPLEMENTED"),
]

INFERENCES: Final = [
    Inference("B-87", "no region for the input", f"inputs[0].{REGION}", "got `nope`", input=part(48, region="nope")),
    Inference("B-87", "the input is behind it", f"inputs[0].{OFFSET}", "less than 64", input=part(48, offset=64)),
    Inference("B-87", "the input is a byte over", f"inputs[0].{BYTE_SIZE}", "at most 47", input=part(48, offset=17)),
    Inference("B-87", "no region for the output", f"outputs[0].{REGION}", "`nope`", output=part(48, region="nope")),
    Inference("B-87", "the output is behind it", f"outputs[0].{OFFSET}", "less than 64", output=part(1, offset=64)),
    Inference("B-87", "the output is a byte over", f"outputs[0].{BYTE_SIZE}", "at most 64", output=part(65)),
    Inference("B-88", "the input is short", f"inputs[0].{BYTE_SIZE}", "expected 48 bytes", input=part(47)),
    Inference("B-88", "the input is long", f"inputs[0].{BYTE_SIZE}", "expected 48 bytes", input=part(49)),
    Inference("B-88", "the output has no room", f"outputs[0].{BYTE_SIZE}", "at least 48 bytes", output=part(47)),
    Inference("B-91", "the object has shrunk", f"inputs[0].{REGION}", "shrank", input=part(48), shrunk_to=47),
    Inference("B-91", "no room is left", f"outputs[0].{REGION}", "shrank", output=part(48), shrunk_to=0),
    Inference("§2.5", "binary as well", "outputs[0]", "got both", output=part(48) | {"binary_data": True}),
    Inference("§2.5", "classes as well", "outputs[0]", "got both", output=part(48) | {"classification": 1}),
]
# fmt: on
