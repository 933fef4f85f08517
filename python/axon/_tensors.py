"""Arrays to the native module and back, without a copy where the memory allows it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from axon.errors import InvalidRequest

if TYPE_CHECKING:
    from axon._axon import NativeInput, NativeOutput

__all__ = [
    "DATATYPES",
    "DTYPES",
    "Inputs",
    "Outputs",
    "convert",
    "elements",
    "fit",
    "from_native",
    "is_text",
    "to_native",
]

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

#: An array, or arrays by name. An array is NumPy's, or anything with `__dlpack__` (a torch tensor) or `__array__`, or
#: a list. Strings make BYTES.
Inputs: TypeAlias = "Mapping[str, Any] | Any"

#: Arrays by name, in the model's order. They are read-only views of the server's memory: copy one to change it. BYTES
#: come as object arrays of `bytes`; BF16, which NumPy does not have, comes as float32, exactly.
Outputs: TypeAlias = "dict[str, Array]"

#: The protocol's data types by NumPy's, but BF16 and BYTES.
DATATYPES = {
    np.dtype(code): datatype
    for code, datatype in {
        "?": "BOOL",
        "u1": "UINT8",
        "u2": "UINT16",
        "u4": "UINT32",
        "u8": "UINT64",
        "i1": "INT8",
        "i2": "INT16",
        "i4": "INT32",
        "i8": "INT64",
        "f2": "FP16",
        "f4": "FP32",
        "f8": "FP64",
    }.items()
}
#: NumPy's types by the protocol's names.
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
_BFLOAT16_SIZE = 2


def to_native(inputs: Inputs) -> list[NativeInput]:
    """Describe `inputs` to the native module.

    Raises:
        InvalidRequest: A value is no array of a type that the protocol has.
    """
    if isinstance(inputs, Mapping):
        return [_describe(index, _name(index, name), value) for index, (name, value) in enumerate(inputs.items())]
    return [_describe(0, None, inputs)]


def from_native(outputs: list[NativeOutput]) -> Outputs:
    """Make arrays of the native module's outputs; only BYTES and BF16 are copied."""
    return {name: _array(datatype, shape, data) for name, datatype, shape, data in outputs}


def is_text(text: str) -> bool:
    """Return whether `text` can be sent: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe(index: int, name: str | None, value: Any) -> NativeInput:  # noqa: ANN401
    if type(value) is np.ndarray and value.ndim:
        datatype = DATATYPES.get(value.dtype)
        if datatype is not None and value.flags.c_contiguous:
            return name, datatype, value.shape, value
    array, datatype = convert(f"inputs[{index}]", value)
    if datatype == "BYTES":
        return name, datatype, array.shape, elements(f"inputs[{index}]", array)
    # At least one dimension, which a buffer must have; the shape is passed beside it.
    return name, datatype, array.shape, np.ascontiguousarray(array)


def _name(index: int, name: Any) -> str:  # noqa: ANN401
    field = f"inputs[{index}].name"
    if not isinstance(name, str):
        raise InvalidRequest(f"{field}: expected str, got {type(name).__name__}", field)
    if not is_text(name):
        raise InvalidRequest(f"{field}: expected text, got a lone surrogate", field)
    return name


def convert(field: str, value: Any) -> tuple[Array, str]:  # noqa: ANN401
    """Return `value` as an array in native byte order, and its data type. Copies only what it must.

    Raises:
        InvalidRequest: It is no array of a type that the protocol has; `field` says which it is.
    """
    bits = _torch_bfloat16_bits(value)
    if bits is not None:
        return _as_array(field, bits).view(np.uint16), "BF16"
    array = _as_array(field, value)
    if array.dtype.kind in "OSUT":
        return array, "BYTES"
    dtype = array.dtype.newbyteorder("=")
    if array.dtype != dtype:
        array = array.astype(dtype)
    if dtype in DATATYPES:
        return array, DATATYPES[dtype]
    if dtype.name == "bfloat16" and dtype.itemsize == _BFLOAT16_SIZE:
        return array.view(np.uint16), "BF16"
    raise InvalidRequest(f"{field}: expected an array of numbers, booleans or strings, got dtype {dtype}", field)


def fit(array: Array, datatype: str) -> Array:
    """Return `array` as `datatype`, if no number changes but by rounding to a float; else as it is.

    BF16, which NumPy does not have, becomes float32.
    """
    wanted = np.dtype(np.float32) if datatype == "BF16" else DTYPES.get(datatype)
    if wanted is None or array.dtype == wanted or array.dtype.kind not in "biuf":
        return array
    with np.errstate(all="ignore"):
        fitted = array.astype(wanted)
    if wanted.kind == "f":
        overflowed = np.isinf(fitted).any() and not np.array_equal(np.isinf(fitted), np.isinf(array))
        return array if overflowed else fitted
    return fitted if np.array_equal(fitted, array) else array


def _as_array(field: str, value: Any) -> Array:  # noqa: ANN401
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidRequest(f"{field}: expected an array without a mask, got a masked array", field)
    try:
        if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
            return np.asarray(value)
        return np.from_dlpack(value)
    except Exception as error:
        message = f"{field}: expected an array in host memory, got {type(value).__name__}: {error}"
        raise InvalidRequest(message, field) from error


def _torch_bfloat16_bits(value: Any) -> Any:  # noqa: ANN401
    """Return a bfloat16 torch tensor as int16, which NumPy can take; None for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor) or value.dtype is not torch.bfloat16:
        return None
    return value.view(torch.int16)


def elements(field: str, array: Array) -> list[bytes]:
    """Return the elements of an array of strings, in row-major order.

    Raises:
        InvalidRequest: One is neither text nor `bytes`.
    """
    encoded = []
    for position, element in enumerate(array.ravel().tolist()):
        if isinstance(element, str) and is_text(element):
            encoded.append(element.encode())
        elif isinstance(element, bytes):
            encoded.append(element)
        else:
            field = f"{field}.data[{position}]"
            raise InvalidRequest(f"{field}: expected str or bytes, got {type(element).__name__}", field)
    return encoded


def _array(datatype: str, shape: tuple[int, ...], data: Any) -> Array:  # noqa: ANN401
    dtype = DTYPES.get(datatype)
    if dtype is not None:
        return np.ndarray(shape, dtype, buffer=data)
    if datatype == "BF16":
        bits = np.ndarray(shape, np.uint16, buffer=data).astype(np.uint32)
        return (bits << 16).view(np.float32)
    array = np.empty(len(data), dtype=object)
    array[:] = data
    return array.reshape(shape)
