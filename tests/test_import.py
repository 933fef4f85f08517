"""Imported models: `axon add`, `axon cache`, what a server makes of them, and what a crash leaves."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import mlp, save
from onnx import helper
from serving import AXON, PATIENCE_S, environment, run_axon, serving

if TYPE_CHECKING:
    from collections.abc import Callable

#: Large enough to be imported: 4.7 MB of tensors.
SIZES: Final = (64, 1024, 1024, 10)
KILLS: Final = 50


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def large(path: Path, seed: int = 0) -> Path:
    return save(mlp(SIZES, seed), path)


def add(cache: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    ended = run_axon("add", "--json", "--model-cache", cache, *arguments)
    assert ended.returncode == 0, ended
    results: list[dict[str, Any]] = json.loads(ended.stdout)
    return results


def kept(cache: Path) -> list[dict[str, Any]]:
    ended = run_axon("cache", "ls", "--json", "--model-cache", cache)
    assert ended.returncode == 0, ended
    listed: list[dict[str, Any]] = json.loads(ended.stdout)
    return listed


def ask(address: str, model: str, values: np.ndarray[Any, Any]) -> bytes:
    """Ask for `y` of one batch, as bytes."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content
    connection.close()
    return content[int(response.headers["Inference-Header-Content-Length"]) :]


def expected(path: Path, values: np.ndarray[Any, Any]) -> bytes:
    """Answer as ONNX Runtime does when it loads the file itself."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answer: bytes = session.run(None, {"x": values})[0].tobytes()
    return answer


def wait_until(holds: Callable[[], bool]) -> None:
    # An import in the background has only what others leave of the processor.
    deadline = time.monotonic() + 4 * PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it has not come to pass in time"
        time.sleep(0.05)


def mapped(pid: int, file: Path) -> bool:
    return str(file) in Path(f"/proc/{pid}/maps").read_text()


def test_a_model_is_added_once_listed_verified_and_removed(tmp_path: Path, cache: Path) -> None:
    path = large(tmp_path / "large.onnx")
    (first,) = add(cache, path)
    assert (first["model"], first["left_alone"]) == ("large.onnx", None)
    assert first["measured"]["compared"] == 3
    (again,) = add(cache, path)
    assert again["key"] == first["key"]
    (entry,) = kept(cache)
    assert (entry["key"], entry["problem"], entry["bytes"]) == (first["key"], None, first["bytes"])
    assert "1 kept" in run_axon("cache", "ls", "--model-cache", cache).stdout
    assert run_axon("cache", "verify", "--model-cache", cache).returncode == 0
    assert run_axon("cache", "rm", "00", "--model-cache", cache).returncode == 2
    removed = run_axon("cache", "rm", first["key"][:8], "--model-cache", cache)
    assert removed.stdout == "removed 1\n"
    assert kept(cache) == []


def test_a_repository_is_added_and_what_does_not_pay_is_left_alone(tmp_path: Path, cache: Path) -> None:
    save(mlp(), tmp_path / "models" / "small" / "1" / "model.onnx")
    large(tmp_path / "models" / "large.onnx")
    (tmp_path / "models" / "broken.onnx").write_bytes(b"not a model")
    ended = run_axon("add", tmp_path / "models", "--model-cache", cache)
    assert ended.returncode == 1, ended
    lines = dict(line.split(" version 1: ", 1) for line in ended.stdout.splitlines() if " version 1: " in line)
    assert lines["large"].startswith("imported")
    assert lines["small"].startswith("left as it is: its tensors have")
    assert lines["broken"].startswith("not imported: not an ONNX protobuf")
    assert len(kept(cache)) == 1


def test_a_server_answers_bit_for_bit_the_same_from_what_it_imported_itself(tmp_path: Path, cache: Path) -> None:
    path = large(tmp_path / "large.onnx")
    values = [np.random.default_rng(rows).standard_normal((rows, 64), np.float32) for rows in (1, 2, 3, 7)]
    wanted = [expected(path, one) for one in values]
    options = ("--model-cache", str(cache), "--no-batching")
    with serving(path, *options) as server:
        assert [ask(server.address, "large", one) for one in values] == wanted
        wait_until(lambda: len(kept(cache)) == 1)
        assert not mapped(server.process.pid, cache / "entries")
    with serving(path, *options) as server:
        assert [ask(server.address, "large", one) for one in values] == wanted
        assert mapped(server.process.pid, cache / "entries")
        # Whoever has it mapped keeps it.
        assert run_axon("cache", "rm", "--all", "--model-cache", cache).stdout == "removed 1\n"
        assert [ask(server.address, "large", one) for one in values] == wanted


def test_models_with_external_data_are_imported_too(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "outside.onnx"
    onnx.save(mlp(SIZES), path, save_as_external_data=True, location="outside.data", size_threshold=0)
    (result,) = add(cache, path)
    values = np.random.default_rng(0).standard_normal((2, 64), np.float32)
    with serving(path, "--model-cache", str(cache), "--no-batching") as server:
        assert ask(server.address, "outside", values) == expected(path, values)
        assert mapped(server.process.pid, cache / "entries")
    # Another byte in the file beside it makes it another model.
    data = bytearray((tmp_path / "outside.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "outside.data").write_bytes(data)
    (changed,) = add(cache, path)
    assert changed["key"] != result["key"]


def test_a_broken_entry_is_found_and_never_loaded(tmp_path: Path, cache: Path) -> None:
    path = large(tmp_path / "large.onnx")
    (result,) = add(cache, path)
    weights = cache / "entries" / result["key"] / "weights.bin"
    whole = weights.read_bytes()
    seed = secrets.randbits(32)
    places = np.random.default_rng(seed)
    for _ in range(3):
        at = int(places.integers(len(whole) * 8))
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << (at % 8)
        weights.write_bytes(flipped)
        verified = run_axon("cache", "verify", "--model-cache", cache)
        assert verified.returncode == 1, f"seed {seed}, bit {at}"
        assert "weights.bin" in verified.stdout
    values = np.random.default_rng(0).standard_normal((1, 64), np.float32)
    with serving(path, "--model-cache", str(cache), "--no-batching") as server:
        assert ask(server.address, "large", values) == expected(path, values)
        assert not mapped(server.process.pid, cache / "entries")
        wait_until(lambda: [entry["problem"] for entry in kept(cache)] == [None])
    assert weights.read_bytes() == whole


def test_a_model_whose_answers_vary_is_left_alone(tmp_path: Path, cache: Path) -> None:
    model = mlp(SIZES)
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.extend(
        [
            helper.make_node("RandomNormalLike", ["plain"], ["noise"]),
            helper.make_node("Add", ["plain", "noise"], ["y"]),
        ]
    )
    (result,) = add(cache, save(model, tmp_path / "random.onnx"))
    assert "different outputs" in result["left_alone"]
    assert len(kept(cache)) == 1, "so that it is not tried again"


def test_without_a_cache_that_can_be_written_models_are_served(tmp_path: Path) -> None:
    path = large(tmp_path / "large.onnx")
    (tmp_path / "file").write_text("in the way")
    values = np.zeros((1, 64), np.float32)
    for setting in ("off", str(tmp_path / "file" / "cache")):
        with serving(path, "--model-cache", setting, "--no-batching") as server:
            assert ask(server.address, "large", values) == expected(path, values)
        warned = "without the model cache" in server.stop().stderr
        assert warned == (setting != "off")


def test_the_size_is_a_size() -> None:
    for size in ("0", "many", "1XB", "16 GiB"):
        ended = run_axon("serve", "m.onnx", "--model-cache-size", size)
        assert (ended.returncode, "expected a size" in ended.stderr) == (2, True), ended


def test_an_import_that_is_killed_leaves_all_or_nothing(tmp_path: Path, cache: Path) -> None:
    """`kill -9` at a random moment, 50 times; then a clean load."""
    path = large(tmp_path / "large.onnx")
    began = time.monotonic()
    add(cache, path)
    whole_s = time.monotonic() - began
    run_axon("cache", "rm", "--all", "--model-cache", cache)
    seed = secrets.randbits(32)
    moments = np.random.default_rng(seed)
    command: list[str | Path] = [AXON, "add", "--again", "--json", "--model-cache", cache, path]
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        try:
            process.wait(moments.uniform(0.2, 1.0) * whole_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait(PATIENCE_S)
        entries = list((cache / "entries").iterdir()) if (cache / "entries").exists() else []
        for entry in entries:
            assert (entry / "manifest").exists(), f"seed {seed}"
    assert killed > KILLS // 4, f"seed {seed}, an import takes {whole_s} s"
    # Nothing is left to be done by hand: no lock, no half entry.
    (result,) = add(cache, path)
    assert result["left_alone"] is None
    assert run_axon("cache", "verify", "--model-cache", cache).returncode == 0
    assert len(kept(cache)) == 1
    assert list((cache / "building").iterdir()) == []


def test_processes_that_import_at_once_make_one_entry(tmp_path: Path, cache: Path) -> None:
    path = large(tmp_path / "large.onnx")
    command: list[str | Path] = [AXON, "add", "--json", "--model-cache", cache, path]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    results = [json.loads(process.communicate(timeout=PATIENCE_S)[0])[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({result["key"] for result in results}) == 1
    assert len(kept(cache)) == 1


def test_the_cache_stays_within_its_size(tmp_path: Path, cache: Path) -> None:
    paths = [large(tmp_path / f"m{number}.onnx", seed=number) for number in range(4)]
    for path in paths:
        add(cache, "--model-cache-size", "24MiB", path)
        assert sum(entry["bytes"] for entry in kept(cache)) <= 24 << 20
    assert len(kept(cache)) >= 1
    assert kept(cache)[0]["profile"]["model"].startswith("m")


def test_a_quick_load_answers_unpacked_at_first_and_then_as_always(tmp_path: Path, cache: Path) -> None:
    path = large(tmp_path / "large.onnx")
    add(cache, path)
    values = np.random.default_rng(0).standard_normal((1, 64), np.float32)
    wanted = expected(path, values)
    quick = ("--model-cache", str(cache), "--no-batching", "--quick-load", "--log-level", "info")
    # Nothing is known yet of how it is best run: it is loaded as always.
    with serving(path, *quick) as server:
        assert ask(server.address, "large", values) == wanted
        assert "its weights are packed" not in server.log()
    with serving(path, *quick) as server:
        first = ask(server.address, "large", values)
        close = np.frombuffer(wanted, np.float32)
        np.testing.assert_allclose(np.frombuffer(first, np.float32), close, rtol=1e-4, atol=1e-5)
        wait_until(lambda: "its weights are packed" in server.log())
        assert ask(server.address, "large", values) == wanted
        assert mapped(server.process.pid, cache / "entries")
