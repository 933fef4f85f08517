"""The Python API in process: `axon.InferenceServer`, for asyncio, and its blocking twin, `axon.sync.InferenceServer`.

What is asked is asked of both, which must answer alike, bit for bit. Rows B-129 and B-130 are those of the catalogue
of bad input.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import axon
import ml_dtypes
import models
import numpy as np
import pytest
from axon import InferenceServer, ModelConfig, sync
from axon.errors import (
    AxonError,
    DeadlineExceeded,
    InvalidModel,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
)
from serving import PATIENCE_S, rows_run, traced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    import numpy.typing as npt
    from conftest import SaveModel

    Array: TypeAlias = npt.NDArray[Any]
    Arrays: TypeAlias = dict[str, Array]

SEED: Final = 20261124
REQUESTS: Final = 500
LINE: Final = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE_AT_A_TIME: Final = ModelConfig(batching=False, instances=1)
#: Rows of `models.slow()` that keep an instance busy for far longer than it takes to ask for more.
BUSY: Final = np.ones((200, 256), np.float32)


def ask(path: Path, inputs: object, **question: Any) -> Arrays:  # noqa: ANN401 - what `infer` takes
    """Ask both servers; return or raise what both of them did."""

    async def asked() -> Arrays:
        async with await InferenceServer.load(path) as server:
            return await server.infer(inputs, **question)

    with sync.InferenceServer.load(path) as server:
        blocking = outcome(lambda: server.infer(inputs, **question))
    waiting = outcome(lambda: asyncio.run(asked()))
    if isinstance(blocking, AxonError):
        assert isinstance(waiting, AxonError)
        assert waiting.__reduce__() == blocking.__reduce__()
        raise blocking
    assert not isinstance(waiting, AxonError), waiting
    assert_same(waiting, blocking)
    return blocking


def outcome(action: Callable[[], Arrays]) -> Arrays | AxonError:
    try:
        return action()
    except AxonError as error:
        return error


def assert_same(actual: Arrays, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        if array.dtype == object:
            assert actual[name].tolist() == array.tolist()
        else:
            assert actual[name].tobytes() == array.tobytes()


# What is asked, and how.


def test_an_input_goes_by_its_name_or_alone(save_model: SaveModel) -> None:
    path = save_model(models.identity("FP32"))
    for inputs in (LINE, {"INPUT0": LINE}, MappingProxyType({"INPUT0": LINE})):
        assert_same(ask(path, inputs), {"OUTPUT0": LINE})


@pytest.mark.parametrize("outputs", [None, ["difference"], ["difference", "sum"], ("sum",)])
def test_outputs_come_in_the_models_order_or_as_they_were_asked_for(
    save_model: SaveModel, outputs: list[str] | None
) -> None:
    a, b = LINE, LINE * 3
    expected = {"sum": a + b, "difference": a - b}
    answer = ask(save_model(models.two_inputs()), {"b": b, "a": a}, outputs=outputs)
    assert_same(answer, {name: expected[name] for name in outputs or expected})


def test_a_folder_serves_each_version_of_each_model(tmp_path: Path) -> None:
    versions = {1: models.mlp(seed=1), 3: models.mlp(seed=3)}
    for version, model in versions.items():
        models.save(model, tmp_path / "mlp" / str(version) / "model.onnx")
    models.save(models.identity("FP32"), tmp_path / "same.onnx")
    models.save(models.sequence_output(), tmp_path / "broken.onnx")
    x = np.random.default_rng(SEED).random((2, 64), np.float32)

    async def asked() -> None:
        async with await InferenceServer.open(tmp_path) as server:
            states = [(state.name, state.version, state.state) for state in server.models()]
            assert states == [
                ("broken", 1, "UNAVAILABLE"),
                ("mlp", 1, "READY"),
                ("mlp", 3, "READY"),
                ("same", 1, "READY"),
            ]
            assert not server.is_ready()
            answers = {version: await server.infer(x, model="mlp", version=version) for version in versions}
            assert not np.array_equal(answers[1]["y"], answers[3]["y"])
            assert_same(await server.infer(x, model="mlp"), answers[3])
            assert server.metadata("mlp").versions == (1, 3)
            assert server.metadata("mlp", 1).versions == (1,)
            with pytest.raises(ModelNotReady, match="sequence"):
                await server.infer(x, model="broken")
            with pytest.raises(InvalidRequest, match="model_name: expected one of `broken`, `mlp`, `same`, got none"):
                await server.infer(x)

    asyncio.run(asked())


def test_metadata_and_report_say_what_a_model_takes_and_gives(digits: Path) -> None:
    with sync.InferenceServer.load(digits, name="renamed") as server:
        assert server.is_ready()
        assert server.models() == [axon.ModelState("renamed", 1, "READY", None)]
        assert server.metadata() == server.metadata("renamed", 1)
        assert server.metadata() == axon.ModelMetadata(
            name="renamed",
            versions=(1,),
            platform="onnxruntime_onnx",
            inputs=(axon.TensorMetadata("pixels", "FP32", (-1, 64)),),
            outputs=(
                axon.TensorMetadata("label", "INT64", (-1,)),
                axon.TensorMetadata("probabilities", "FP32", (-1, 10)),
            ),
        )
        report = server.report()
        assert report["size_bytes"] == digits.stat().st_size
        assert (report["batchable"], report["bitwise"], report["deterministic"]) == (True, True, True)
        assert [point["rows"] for point in report["run_time"]][:3] == [1, 2, 4]


# Arrays.


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


# Errors.


@pytest.mark.parametrize(
    ("question", "kind", "field"),
    [
        ({"model": "nobody"}, ModelNotFound, "model_name"),
        ({"version": 2}, ModelNotFound, "model_version"),
        ({"version": -1}, ModelNotFound, "model_version"),
        ({"version": 2**64}, ModelNotFound, "model_version"),
        ({"outputs": ["nobody"]}, InvalidRequest, "outputs[0].name"),
        ({"outputs": ["OUTPUT0", "OUTPUT0"]}, InvalidRequest, "outputs[1].name"),
        ({"timeout_s": 0}, InvalidRequest, "timeout_s"),
        ({"timeout_s": -1.0}, InvalidRequest, "timeout_s"),
        ({"timeout_s": float("nan")}, InvalidRequest, "timeout_s"),
    ],
)
def test_a_question_that_makes_no_sense_is_named(
    save_model: SaveModel, question: dict[str, Any], kind: type[AxonError], field: str
) -> None:
    with pytest.raises(kind) as caught:
        ask(save_model(models.identity("FP32")), LINE, **question)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_batch_size", 0),
        ("max_queue_size", -1),
        ("instances", 0),
        ("request_timeout_s", 0.0),
        ("request_timeout_s", float("nan")),
        ("device", "tpu"),
    ],
)
def test_a_setting_that_cannot_be_is_named(save_model: SaveModel, setting: str, value: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest) as caught:
        sync.InferenceServer.load(save_model(models.identity("FP32")), config=ModelConfig(**{setting: value}))
    assert caught.value.field == setting


def test_values_that_a_model_refuses_fail_their_request_alone(save_model: SaveModel) -> None:
    async def asked() -> None:
        async with await InferenceServer.load(save_model(models.gather())) as server:
            indices = [1, 9, 2, 0]
            requests = (server.infer(np.array([index])) for index in indices)
            answers = await asyncio.gather(*requests, return_exceptions=True)
            for index, answer in zip(indices, answers, strict=True):
                if index > 2:
                    assert isinstance(answer, InvalidRequest), answer
                    assert "9" in answer.message
                else:
                    assert not isinstance(answer, BaseException), answer
                    assert answer["row"].tolist() == [[10.0 * index, 10.0 * index + 1.0]]

    asyncio.run(asked())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "missing.onnx"),
        (b"", "not an ONNX protobuf"),
        (b"plain text, not a model\n", "not an ONNX protobuf"),
        (models.mlp().SerializeToString()[:5000], "not an ONNX protobuf"),
        (models.sequence_output().SerializeToString(), "output `y`: .* a sequence"),
    ],
    ids=["no file", "empty", "text", "half a model", "sequence output"],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / ("missing.onnx" if content is None else "model.onnx")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidModel, match=problem):
        sync.InferenceServer.load(path)
    with pytest.raises(InvalidModel, match=problem):
        asyncio.run(InferenceServer.load(path))


@pytest.mark.parametrize("leaf", [name for name in axon.errors.__all__ if name != "AxonError"])
def test_an_error_crosses_processes_whole(leaf: str) -> None:
    kind: type[AxonError] = getattr(axon, leaf)
    error = kind("what came\nhint: what was wanted", "inputs[0].shape[1]", 1.5)
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copied) is kind
    assert (copied.message, copied.field, copied.retry_after_s) == (error.message, error.field, error.retry_after_s)
    assert str(copied) == error.message
    assert issubclass(kind, AxonError)
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(ModelNotFound, LookupError)


# Many at once.


async def start(asked: Coroutine[Any, Any, Arrays]) -> asyncio.Task[Arrays]:
    """Send a request, and return before its answer is here."""
    task = asyncio.create_task(asked)
    await asyncio.sleep(0)
    return task


async def occupy(server: InferenceServer, max_queue_size: int) -> list[asyncio.Task[Arrays]]:
    """Keep the only instance of a `models.slow` busy and its queue full; return the requests, the running one first."""
    tasks: list[asyncio.Task[Arrays]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(tasks) <= max_queue_size:
            task = await start(server.infer(BUSY))
            if not task.done():
                tasks.append(task)
            else:  # The instance has not taken the first one yet.
                assert isinstance(task.exception(), Overloaded)
    return tasks


def test_many_coroutines_share_runs_and_each_gets_its_own_answer(save_model: SaveModel) -> None:
    random = np.random.default_rng(SEED)
    print(f"seed {SEED}")  # noqa: T201 - shown when the test fails
    sent = [random.random((rows, 3), np.float32) for rows in random.integers(1, 4, REQUESTS)]

    async def asked() -> list[Arrays]:
        path = save_model(traced(models.identity("FP32")))
        async with await InferenceServer.load(path, config=ModelConfig(instances=1)) as server:
            return await asyncio.gather(*map(server.infer, sent))

    answers = asyncio.run(asked())
    for array, answer in zip(sent, answers, strict=True):
        assert_same({"OUTPUT0": answer["OUTPUT0"]}, {"OUTPUT0": array})
    # The rows that were sent to runs of a size make whole runs of that size.
    rows_by_size: Counter[int] = Counter()
    for array, answer in zip(sent, answers, strict=True):
        rows_by_size[rows_run(answer)] += len(array)
    runs = {size: rows // size for size, rows in rows_by_size.items()}
    print(f"runs by their rows: {runs}")  # noqa: T201
    assert all(rows % size == 0 for size, rows in rows_by_size.items())
    assert sum(runs.values()) < REQUESTS / 2


def test_a_coroutine_that_is_cancelled_leaves_the_queue_and_disturbs_nobody(save_model: SaveModel) -> None:
    async def asked() -> None:
        config = ModelConfig(batching=False, instances=1, max_queue_size=3)
        async with await InferenceServer.load(save_model(models.slow(1)), config=config) as server:
            running, first, middle, last = await occupy(server, 3)
            late = np.full((1, 256), 5.0, np.float32)
            assert isinstance(await outcome_of(server.infer(late)), Overloaded)
            middle.cancel()
            assert isinstance(await outcome_of(middle), asyncio.CancelledError)
            # Its place is free, and taken by the next.
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(running, 0)
            taken = await start(server.infer(late))
            assert not first.done()
            for task in (first, last):
                assert (await task)["y"].tolist() == BUSY.tolist()
            assert (await taken)["y"].tolist() == late.tolist()

    asyncio.run(asked())


async def outcome_of(awaitable: Awaitable[Arrays]) -> Arrays | BaseException:
    return (await asyncio.gather(awaitable, return_exceptions=True))[0]


def test_one_request_too_many_is_overloaded(save_model: SaveModel) -> None:
    async def asked() -> None:
        config = ModelConfig(batching=False, instances=1, max_queue_size=1)
        async with await InferenceServer.load(save_model(models.slow(1)), config=config) as server:
            tasks = await occupy(server, 1)
            refused = await outcome_of(server.infer(BUSY))
            assert isinstance(refused, Overloaded)
            assert refused.retry_after_s is not None
            assert refused.retry_after_s > 0
            assert "max_queue_size is 1" in refused.message
            assert not tasks[0].done()
            await asyncio.gather(*tasks)
            await server.infer(BUSY[:1])

    asyncio.run(asked())


def test_a_request_that_cannot_be_run_in_time_is_told_so_before_the_others_end(save_model: SaveModel) -> None:
    path = save_model(models.slow(1))
    late = BUSY[:1]

    async def asked() -> None:
        async with await InferenceServer.load(path, config=ONE_AT_A_TIME) as server:
            busy = await start(server.infer(BUSY))
            told = await outcome_of(server.infer(late, timeout_s=0.001))
            assert isinstance(told, DeadlineExceeded)
            assert isinstance(told, TimeoutError)
            assert not busy.done()
            await busy

    asyncio.run(asked())
    with sync.InferenceServer.load(path, config=ONE_AT_A_TIME) as server:
        busy = threading.Thread(target=server.infer, args=(BUSY,))
        busy.start()

        def ask_until_busy() -> None:
            while busy.is_alive():
                server.infer(late, timeout_s=0.001)

        with pytest.raises(DeadlineExceeded):
            ask_until_busy()
        assert busy.is_alive()
        busy.join()


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_event_loops_may_follow_one_another_and_run_side_by_side(save_model: SaveModel) -> None:
    """Each loop has its own answers, and leaves no descriptor behind."""

    async def asked(server: InferenceServer, tags: Iterable[int]) -> list[float]:
        arrays = (np.full((1, 3), tag, np.float32) for tag in tags)
        return [float(answer["OUTPUT0"][0, 0]) for answer in await asyncio.gather(*map(server.infer, arrays))]

    server = asyncio.run(InferenceServer.load(save_model(models.identity("FP32"))))
    answers: dict[int, list[float]] = {}

    def thread(first: int) -> None:
        for turn in range(5):
            tags = range(first + turn * 100, first + turn * 100 + 100)
            answers[tags.start] = asyncio.run(asked(server, tags))

    threads = [threading.Thread(target=thread, args=(first,)) for first in (0, 1000)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(answers) == 10
    assert all(got == list(range(first, first + 100)) for first, got in answers.items())

    before = open_files()
    for turn in range(20):
        assert asyncio.run(asked(server, range(turn, turn + 3))) == [turn, turn + 1, turn + 2]
    assert open_files() <= before
    asyncio.run(server.close())


def test_a_model_runs_without_the_gil(save_model: SaveModel) -> None:
    """No thread is made to give the GIL up while the model runs, so another ticks only if the call lets go of it."""
    ticks = itertools.count()
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            next(ticks)
            time.sleep(0)  # Lets go of the GIL.

    with sync.InferenceServer.load(save_model(models.slow(1)), config=ONE_AT_A_TIME) as server:
        interval = sys.getswitchinterval()
        ticking = threading.Thread(target=tick)
        ticking.start()
        try:
            sys.setswitchinterval(1000.0)
            before = next(ticks)
            server.infer(BUSY)
            during = next(ticks) - before
        finally:
            sys.setswitchinterval(interval)
            done.set()
        ticking.join()
    assert during > 100


def test_the_event_loop_turns_while_a_model_runs(save_model: SaveModel) -> None:
    async def asked() -> int:
        async with await InferenceServer.load(save_model(models.slow(1)), config=ONE_AT_A_TIME) as server:
            busy = await start(server.infer(BUSY))
            turns = 0
            while not busy.done():
                await asyncio.sleep(0)
                turns += 1
            await busy
            return turns

    assert asyncio.run(asked()) > 100
