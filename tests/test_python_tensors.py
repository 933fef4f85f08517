"""Arrays into the Python API and out of it. Row B-129 is that of the catalogue of bad input."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import models
import numpy as np
import pytest
from asking import ask, assert_same, outcome_of, start
from axon import InferenceServer, ModelConfig
from axon.errors import (
    InvalidRequest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from asking import Array
    from conftest import SaveModel

LINE: Final = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE_AT_A_TIME: Final = ModelConfig(batching=False, instances=1)
#: Rows of `models.slow()` that keep an instance busy for far longer than it takes to ask for more.
BUSY: Final = np.ones((200, 256), np.float32)


def values(datatype: str) -> Array:
    """Return `[2, 3]` values at the edges of a data type."""
    floats = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BF16": ml_dtypes.bfloat16}
    if datatype in floats:
        limits: Any = ml_dtypes.finfo(floats[datatype])  # type: ignore[no-untyped-call]
        edges = [[-0.0, limits.max, limits.smallest_subnormal], [np.nan, np.inf, -np.inf]]
        return np.array(edges, dtype=floats[datatype])
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if datatype == "BYTES":
        return np.array([[b"", b"\0", b"a\0b\0"], [b"\xff\xfe\x80", bytes(range(256)), b"x" * 100_000]], dtype=object)
    bounds = np.iinfo(datatype.lower())
    return np.array([[bounds.min, bounds.max, 0], [1, 2, 3]], dtype=bounds.dtype)


@pytest.mark.parametrize("datatype", models.DATATYPES)
def test_every_datatype_comes_back_bit_for_bit(save_model: SaveModel, datatype: str) -> None:
    sent = values(datatype)
    expected = sent.astype(np.float32) if datatype == "BF16" else sent
    assert_same(ask(save_model(models.identity(datatype)), sent), {"OUTPUT0": expected})


@pytest.mark.parametrize(
    "strings",
    [
        np.array([["a", "bc", "\0é日🙂"]]),
        np.array([["a", b"bc", "\0é日🙂"]], dtype=object),
        np.array([["\0é日🙂", "bc", "a"]])[:, ::-1],
        [["a", "bc", "\0é日🙂"]],
        pytest.param(np.array([["a", "bc", "\0é日🙂"]], dtype=np.dtypes.StringDType()), id="StringDType"),
    ],
    ids=["str", "object", "strided", "list", None],
)
def test_strings_become_utf_8(save_model: SaveModel, strings: object) -> None:
    answer = ask(save_model(models.identity("BYTES")), strings)
    assert answer["OUTPUT0"].tolist() == [[b"a", b"bc", "\0é日🙂".encode()]]


def test_outputs_are_read_only_views_of_the_servers_memory(digits: Path) -> None:
    for output in ask(digits, np.ones((2, 64), np.float32)).values():
        assert not output.flags.owndata
        assert type(output.base).__module__ == "axon._axon"
        assert not output.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            output.flags.writeable = True


def test_an_output_outlives_its_server(digits: Path) -> None:
    answer = ask(digits, np.ones((2, 64), np.float32))
    again = ask(digits, np.ones((2, 64), np.float32))
    assert_same(answer, again)


def test_a_contiguous_input_is_not_copied(save_model: SaveModel) -> None:
    """A change of the caller's array, while its request waits behind another, is seen by the model."""

    async def asked() -> None:
        async with await InferenceServer.load(save_model(models.slow(1)), config=ONE_AT_A_TIME) as server:
            array = np.zeros((1, 256), np.float32)
            busy, waiting = await start(server.infer(BUSY)), await start(server.infer(array))
            array[0, 0] = 7.0
            assert not busy.done()
            assert (await waiting)["y"].max() == 7.0
            await busy

    asyncio.run(asked())


@pytest.mark.parametrize("end", ["answered", "cancelled", "refused"])
def test_an_input_is_held_until_its_request_has_ended_and_no_longer(save_model: SaveModel, end: str) -> None:
    async def asked() -> None:
        async with await InferenceServer.load(save_model(models.slow(1)), config=ONE_AT_A_TIME) as server:
            busy = await start(server.infer(BUSY))
            array = np.zeros((1, 256 if end != "refused" else 7), np.float32)
            held = weakref.ref(array)
            waiting = await start(server.infer(array))
            del array
            if end != "refused":
                assert held() is not None
            if end == "cancelled":
                waiting.cancel()
            await outcome_of(waiting)
            assert busy.done() == (end == "answered")
            del waiting
            await asyncio.sleep(0)  # The loop forgets the task,
            gc.collect()  # and the exception of a refusal its frames.
            assert held() is None
            await busy

    asyncio.run(asked())


def test_tensors_of_another_library_come_through_dlpack(save_model: SaveModel) -> None:
    tvm = pytest.importorskip("tvm_ffi", reason="a DLPack producer that is not NumPy: pip install apache-tvm-ffi")
    path = save_model(models.identity("FP32"))
    tensor = tvm.from_dlpack(LINE)
    assert not hasattr(tensor, "__array__")
    assert_same(ask(path, tensor), {"OUTPUT0": LINE})
    assert_same(ask(path, {"INPUT0": tvm.from_dlpack(LINE[::-1])}), {"OUTPUT0": LINE[::-1].copy()})


def test_torch_tensors_come_through_dlpack(save_model: SaveModel) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: its default wheel is over 800 MB")
    same = {datatype: save_model(models.identity(datatype), datatype) for datatype in ("FP32", "BF16")}
    for tensor in (torch.tensor(LINE), torch.tensor(LINE.T).t(), torch.tensor(LINE).numpy()):
        assert_same(ask(same["FP32"], tensor), {"OUTPUT0": LINE})
    assert_same(ask(same["BF16"], torch.tensor(LINE, dtype=torch.bfloat16)), {"OUTPUT0": LINE})
    with pytest.raises(InvalidRequest, match="grad"):
        ask(same["FP32"], torch.tensor(LINE, requires_grad=True))


class Subclass(np.ndarray[Any, Any]):
    """An array that NumPy would pass on as it is."""


class Convertible:
    """What is not an array, but has one."""

    def __array__(self, dtype: object = None, copy: object = None) -> Array:  # noqa: D105
        del dtype, copy
        return LINE


class Elsewhere:
    """A tensor that is not in host memory."""

    def __dlpack__(self, **options: object) -> object:  # noqa: D105
        raise BufferError

    def __dlpack_device__(self) -> tuple[int, int]:  # noqa: D105
        return 2, 0


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(LINE.copy(order="F"), id="Fortran order"),
        pytest.param(LINE[:, ::-1][:, ::-1][::1], id="negative strides twice"),
        pytest.param(np.repeat(LINE, 2, axis=1)[:, ::2], id="strided"),
        pytest.param(LINE[::-1].copy()[::-1], id="reversed"),
        pytest.param(LINE.astype(">f4"), id="big-endian"),
        pytest.param(LINE.astype(">f4").copy(order="F"), id="big-endian, Fortran order"),
        pytest.param(LINE.view(Subclass), id="subclass"),
        pytest.param(
            np.frombuffer(b"\0" + LINE.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3), id="unaligned"
        ),
        pytest.param(np.frombuffer(LINE.tobytes(), np.float32).reshape(2, 3), id="read-only"),
        pytest.param(LINE.data, id="memoryview"),
        pytest.param(Convertible(), id="__array__"),
    ],
)
def test_any_layout_of_the_right_values_will_do(save_model: SaveModel, array: object) -> None:
    """B-129."""
    assert_same(ask(save_model(models.identity("FP32")), array), {"OUTPUT0": LINE})


@pytest.mark.parametrize("value", [np.array(3, np.float32), np.float32(3), np.array([3], np.float32)[0, ...]])
def test_a_scalar_is_an_array_without_dimensions(save_model: SaveModel, value: object) -> None:
    """B-129."""
    assert_same(ask(save_model(models.scalar()), value), {"y": np.array(6, np.float32)})


@pytest.mark.parametrize(
    ("datatype", "inputs", "field"),
    [
        ("FP32", LINE.astype(np.float64), "inputs[0].datatype"),
        ("FP32", LINE.tolist(), "inputs[0].datatype"),
        ("FP32", LINE.astype(ml_dtypes.bfloat16), "inputs[0].datatype"),
        ("BF16", LINE.astype(ml_dtypes.bfloat16).view(np.uint16), "inputs[0].datatype"),
        ("FP32", LINE.astype(np.complex64), "inputs[0]"),
        ("FP32", LINE.astype(np.longdouble), "inputs[0]"),
        ("FP32", LINE.astype("M8[s]"), "inputs[0]"),
        ("FP32", np.zeros((2, 3), [("a", "f4")]), "inputs[0]"),
        ("FP32", LINE.astype(ml_dtypes.float8_e4m3fn), "inputs[0]"),
        ("FP32", np.ma.masked_array(LINE, LINE > 2), "inputs[0]"),
        ("FP32", Elsewhere(), "inputs[0]"),
        ("FP32", [[1.0, 2.0, 3.0], [4.0]], "inputs[0]"),
        ("FP32", LINE.astype(object), "inputs[0].data[0]"),
        ("FP32", None, "inputs[0].data[0]"),
        ("FP32", np.float32(1), "inputs[0].shape"),
        ("FP32", LINE[0], "inputs[0].shape"),
        ("FP32", LINE[..., None], "inputs[0].shape"),
        ("FP32", LINE[:, :2], "inputs[0].shape[1]"),
        ("FP32", LINE[:0], "inputs[0].shape[0]"),
        ("FP32", {}, "inputs"),
        ("FP32", {"wrong": LINE}, "inputs[0].name"),
        ("FP32", {"INPUT0": LINE, "more": LINE}, "inputs[1].name"),
        ("FP32", {1: LINE}, "inputs[0].name"),
        ("FP32", {None: LINE}, "inputs[0].name"),
        ("FP32", {"\ud800": LINE}, "inputs[0].name"),
        ("BOOL", np.array([[0, 2, 1]], np.uint8).view(np.bool_), "inputs[0]"),
        ("BYTES", np.array([["a", None, "c"]], dtype=object), "inputs[0].data[1]"),
        ("BYTES", np.array([["a", 2, "c"]], dtype=object), "inputs[0].data[1]"),
        ("BYTES", np.array([["a", "b", "\ud800"]], dtype=object), "inputs[0].data[2]"),
    ],
)
def test_an_input_that_does_not_fit_is_named(save_model: SaveModel, datatype: str, inputs: object, field: str) -> None:
    """B-129."""
    with pytest.raises(InvalidRequest) as caught:
        ask(save_model(models.identity(datatype)), inputs)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: ")
    assert caught.value.retry_after_s is None
    assert isinstance(caught.value, ValueError)


def test_memory_that_a_request_uses_cannot_be_freed(save_model: SaveModel) -> None:
    """B-129: the buffer of a waiting request is held, and an array of a released one is no array any more."""
    memory = bytearray(4 * 256)

    async def asked() -> None:
        async with await InferenceServer.load(save_model(models.slow(1)), config=ONE_AT_A_TIME) as server:
            busy = await start(server.infer(BUSY))
            waiting = await start(server.infer(np.frombuffer(memory, np.float32).reshape(1, 256)))
            with pytest.raises(BufferError):
                memory.extend(b"more")
            await asyncio.wait([busy, waiting])
            await waiting

    asyncio.run(asked())
    memory.extend(b"more")
    view = LINE.data
    view.release()
    with pytest.raises(InvalidRequest, match="memoryview"):
        ask(save_model(models.identity("FP32"), "same"), view)
