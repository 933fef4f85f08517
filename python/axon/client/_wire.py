"""Arrays to the bytes and numbers of the protocol, and back.

**Source:** the Open Inference Protocol's "Tensor Data Types", and its binary extension: little-endian, row-major,
packed; a BYTES element is its length in four bytes and itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from axon._tensors import DTYPES, convert, elements, fit, is_text
from axon.errors import InvalidRequest, ServerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from axon._tensors import Array

__all__ = ["Tensor", "array_of_bytes", "array_of_numbers", "has_datatype", "tensor"]

_LENGTH: Final = struct.Struct("<I")
_BFLOAT16_NAN: Final = 0x7FC0


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input, as the protocol has it.

    Attributes:
        name: Its name; "" when there is none to say.
        datatype: As the protocol spells it.
        shape: Its dimensions.
        data: The elements in row-major order: `bytes` for BYTES, else a contiguous array (BF16 as its bits).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Array | list[bytes]

    def to_bytes(self) -> bytes | memoryview:
        """Return the elements as bytes: a view of the array, or a copy for BYTES."""
        if isinstance(self.data, list):
            return b"".join(part for element in self.data for part in (_LENGTH.pack(len(element)), element))
        little = self.data.astype(self.data.dtype.newbyteorder("<"), copy=False)
        return little.reshape(-1).view(np.uint8).data

    def to_numbers(self, field: str) -> list[Any]:
        """Return the elements as JSON has them.

        Raises:
            InvalidRequest: An element of BYTES is not text.
        """
        if not isinstance(self.data, list):
            data = self.data
            if self.datatype == "BF16":
                data = (data.astype(np.uint32) << 16).view(np.float32)
            return list(data.reshape(-1).tolist())
        try:
            return [element.decode() for element in self.data]
        except UnicodeDecodeError as error:
            message = f"{field}.data: expected UTF-8, got {error.object[:16]!r}, and JSON carries only text"
            raise InvalidRequest(f"{message}\nhint: send it as bytes, with binary=True", f"{field}.data") from error


def tensor(index: int, name: str, value: Any, datatype: str | None) -> Tensor:  # noqa: ANN401 - what NumPy takes
    """Describe input number `index`.

    Args:
        index: Where it is among the inputs, for errors.
        name: Its name.
        value: An array, or what NumPy makes one of.
        datatype: What the model takes, if that is known: a `value` without a data type of its own becomes it.

    Raises:
        InvalidRequest: It is no array of a type that the protocol has.
    """
    field = f"inputs[{index}]"
    if not isinstance(name, str) or not is_text(name):
        raise InvalidRequest(f"{field}.name: expected text, got {name!r}", f"{field}.name")
    if datatype == "BYTES" and not has_datatype(value):
        # NumPy would make one type of text and bytes.
        value = _array_of_objects(field, value)
    elif datatype is not None and not has_datatype(value):
        value = fit(convert(field, value)[0], datatype)
        if datatype == "BF16" and value.dtype == np.float32:
            return Tensor(name, datatype, value.shape, _bfloat16_bits(value))
    array, datatype = convert(field, value)
    if datatype == "BYTES":
        return Tensor(name, datatype, array.shape, elements(field, array))
    return Tensor(name, datatype, array.shape, np.ascontiguousarray(array))


def has_datatype(value: Any) -> bool:  # noqa: ANN401
    """Return whether `value` says its own data type, as a list of numbers does not."""
    return hasattr(value, "dtype") or hasattr(value, "__dlpack__") or hasattr(value, "__array__")


def _array_of_objects(field: str, value: Any) -> Array:  # noqa: ANN401
    try:
        return np.array(value, dtype=object)
    except ValueError as error:
        raise InvalidRequest(f"{field}: expected rows of one length: {error}", field) from error


def _bfloat16_bits(array: Array) -> Array:
    """Round float32 to the nearest BF16, ties to even."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(_BFLOAT16_NAN), rounded)


def array_of_bytes(output: Mapping[str, Any], data: memoryview) -> Array:
    """Make an array of an output's bytes: a view of them, where they are aligned. BYTES are copied.

    Raises:
        ServerError: They are not as many as the output's shape and data type have.
    """
    datatype, shape = output["datatype"], tuple(output["shape"])
    if datatype == "BYTES":
        return _objects(_split(output, data), shape)
    dtype = np.dtype("<u2") if datatype == "BF16" else _dtype(output).newbyteorder("<")
    try:
        array = np.frombuffer(data, dtype).reshape(shape) if len(data) else np.empty(shape, dtype)
    except ValueError as error:
        message = f"output {output['name']!r}: expected {list(shape)} of {datatype}, got {len(data)} bytes"
        raise ServerError(message) from error
    native = np.require(array, dtype.newbyteorder("="), "A")
    return _as_bfloat16(native) if datatype == "BF16" else native


def array_of_numbers(output: Mapping[str, Any], data: Sequence[Any]) -> Array:
    """Make an array of an output's JSON data, nested or flat.

    Raises:
        ServerError: It is not what the output's shape and data type say.
    """
    datatype, shape = output["datatype"], tuple(output["shape"])
    try:
        if datatype == "BYTES":
            texts = np.array(data, dtype=object).reshape(-1).tolist()
            return _objects([text if isinstance(text, bytes) else text.encode() for text in texts], shape)
        if datatype == "BF16":
            return _as_bfloat16(_bfloat16_bits(np.array(data, np.float32).reshape(shape)))
        return np.array(data, _dtype(output)).reshape(shape)
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ServerError(f"output {output['name']!r}: expected {list(shape)} of {datatype}: {error}") from error


def _dtype(output: Mapping[str, Any]) -> np.dtype[Any]:
    dtype = DTYPES.get(output["datatype"])
    if dtype is None:
        raise ServerError(f"output {output['name']!r}: unknown data type {output['datatype']!r}")
    return dtype


def _objects(values: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise ServerError(f"expected {list(shape)} elements of BYTES, got {len(values)}") from error


def _split(output: Mapping[str, Any], data: memoryview) -> list[bytes]:
    values, at = [], 0
    while at < len(data):
        start = at + _LENGTH.size
        end = start + (_LENGTH.unpack_from(data, at)[0] if start <= len(data) else 1)
        if end > len(data):
            raise ServerError(f"output {output['name']!r}: an element of BYTES goes on after the end of the data")
        values.append(bytes(data[start:end]))
        at = end
    return values


def _as_bfloat16(bits: Array) -> Array:
    """View the bits as BF16, if there is a type for it here."""
    try:
        import ml_dtypes  # noqa: PLC0415 - optional, and only BF16 needs it
    except ImportError:
        return bits
    return bits.view(ml_dtypes.bfloat16)
