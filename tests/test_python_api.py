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
from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import axon
import models
import numpy as np
import pytest
from asking import ask, assert_same, outcome_of, start
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
    from collections.abc import Iterable

    from asking import Arrays
    from conftest import SaveModel

SEED: Final = 20261124
REQUESTS: Final = 500
LINE: Final = np.arange(6, dtype=np.float32).reshape(2, 3)
ONE_AT_A_TIME: Final = ModelConfig(batching=False, instances=1)
#: Rows of `models.slow()` that keep an instance busy for far longer than it takes to ask for more.
BUSY: Final = np.ones((200, 256), np.float32)


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
    (tmp_path / "mlp" / "model.toml").write_text('versions = "all"\n')
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


def test_metadata_names_what_runs_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "same" / "1"
    folder.mkdir(parents=True)
    config = """
        backend: "identity"
        max_batch_size: 4
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
    """
    (folder.parent / "config.pbtxt").write_text(config)
    with sync.InferenceServer.open(tmp_path) as server:
        assert server.metadata("same").platform == "identity"


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
        ("profile", "fast"),
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
            told = await outcome_of(server.infer(late, timeout_s=0.0001))
            # Which of the two is a question of how long one row takes on this machine.
            assert isinstance(told, (DeadlineExceeded, Overloaded))
            assert not busy.done()
            await busy

    asyncio.run(asked())
    with sync.InferenceServer.load(path, config=ONE_AT_A_TIME) as server:
        busy = threading.Thread(target=server.infer, args=(BUSY,))
        busy.start()

        def ask_until_busy() -> None:
            while busy.is_alive():
                server.infer(late, timeout_s=0.0001)

        with pytest.raises((DeadlineExceeded, Overloaded)):
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
