"""The ONNX Runtime underneath: the oldest that is promised, a provider that is not there, threads and cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

import models
import pytest
from serving import PATIENCE_S, environment, run_axon, run_python, serving

if TYPE_CHECKING:
    from conftest import SaveModel

#: The oldest ONNX Runtime that Axon promises to work with; pyproject.toml says the same.
OLDEST: Final = "1.24.1"

#: Every data type through its identity model and back, and how rows of the digits model answer alone and together.
PROGRAM: Final = """
import sys
from pathlib import Path
import numpy as np
from axon import _axon, sync

folder, digits = map(Path, sys.argv[1:])
for file in sorted(folder.glob("*.onnx")):
    with sync.InferenceServer.load(file) as server:
        [spec] = server.metadata().inputs
        dtype = {"BYTES": object, "BOOL": bool, "BF16": np.uint16}.get(spec.datatype)
        bits = int(spec.datatype.strip("ABCDEFGHIJKLMNOPQRSTUVWXYZ") or 8)
        dtype = dtype or np.dtype({"F": "f", "I": "i", "U": "u"}[spec.datatype[0]] + str(bits // 8))
        values = np.array([[b"a\\0\\xff", b"", b"c"]], object) if dtype is object else np.ones((1, 3), dtype)
        if spec.datatype == "BF16":
            import ml_dtypes
            values = np.ones((1, 3), ml_dtypes.bfloat16)
        answer = server.infer(values)["OUTPUT0"]
        assert (answer == values).all(), (spec.datatype, answer)
with sync.InferenceServer.load(digits / "digits.onnx") as server:
    images, labels = (np.load(digits / name) for name in ("images.npy", "predictions.npy"))
    together = server.infer(images)
    alone = [server.infer(image[np.newaxis]) for image in images]
    assert (together["label"] == labels).all()
    assert (np.concatenate([one["probabilities"] for one in alone]) == together["probabilities"]).all()
print(_axon.runtime_version())
"""


@pytest.fixture(scope="module")
def oldest_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library of the oldest ONNX Runtime, installed beside nothing else."""
    folder = tmp_path_factory.mktemp("onnxruntime")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*install, f"onnxruntime=={OLDEST}"], check=True, timeout=10 * PATIENCE_S)
    [library] = (folder / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    return library


def test_the_oldest_runtime_answers_as_the_newest(oldest_library: Path, save_model: SaveModel, digits: Path) -> None:
    for datatype in models.DATATYPES:
        folder = save_model(models.identity(datatype), datatype).parent
    end = run_python(PROGRAM, folder, digits.parent, env=environment(ORT_DYLIB_PATH=str(oldest_library)))
    assert end == (0, f"{OLDEST}\n", "")


def test_a_provider_that_is_not_there_is_refused_and_never_replaced(digits: Path) -> None:
    """The CPU wheel has no CUDA provider: the load fails, by name, and nothing runs on the CPU instead."""
    for command in (["serve", "--http-port=0", "--metrics-port=0", "--grpc-port=0"], ["inspect"]):
        end = run_axon(*command, "--device=cuda", digits)
        assert (end.returncode, end.stdout) == (1, "")
        assert "CUDA" in end.stderr
        assert "Traceback" not in end.stderr


#: Loads a slow model on as many cores as asked, and prints what was chosen.
ON_CORES: Final = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[2])])
from axon import ModelConfig, sync
with sync.InferenceServer.load(sys.argv[1], config=ModelConfig(instances=64)) as server:
    report = server.report()
print(report["instances"], report["threads"])
"""


def test_no_more_threads_run_models_than_there_are_cores(save_model: SaveModel) -> None:
    path = save_model(models.slow(5))
    for granted in {1, len(os.sched_getaffinity(0))}:
        assert run_python(ON_CORES, path, str(granted)) == (0, f"{granted} 1\n", "")


def test_the_threads_of_a_server_are_named_and_counted(digits: Path) -> None:
    """One instance for a tiny model, no thread of ONNX Runtime's, and none that spins."""
    request = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64}]}
    with serving(digits) as server:
        # An answer shows that the instance's thread has started, and has its name.
        url = f"http://{server.address}/v2/models/digits/infer"
        with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=PATIENCE_S) as answer:
            assert answer.status == 200
        tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
        names = sorted((task / "comm").read_text().strip() for task in tasks)
    assert [name for name in names if not name.startswith(("ax", "python", "tokio"))] == []
    assert [name for name in names if name.startswith("ax0-")] == ["ax0-digits"], names


def test_the_runtimes_own_messages_are_lines_of_the_servers_log(save_model: SaveModel) -> None:
    """What fails a run is told to its caller; the runtime's own words are for whoever asks for them, and only there."""
    path = save_model(models.gather())
    wrong = {"inputs": [{"name": "index", "datatype": "INT64", "shape": [1], "data": [77]}]}
    for level, is_told in (("warn", False), ("debug", True)):
        with serving(path, f"--log-level={level}") as server:
            url = f"http://{server.address}/v2/models/model/infer"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url, json.dumps(wrong).encode(), timeout=PATIENCE_S)
            assert refused.value.code == 400
            end = server.stop()
        told = [line for line in end.stderr.splitlines() if "ONNX Runtime: " in line and "idx=77" in line]
        assert (end.returncode, bool(told)) == (0, is_told)
        assert all(line.startswith("20") for line in end.stderr.splitlines()), end.stderr


def test_what_a_config_pbtxt_asks_for_and_changes_no_answer_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mlp" / "1").mkdir(parents=True)
    models.save(models.mlp(), tmp_path / "mlp" / "1" / "model.onnx")
    (tmp_path / "mlp" / "config.pbtxt").write_text('max_batch_size: 4 model_warmup [ { name: "w" batch_size: 1 } ]')
    with serving(tmp_path) as server:
        lines = server.stop().stderr.splitlines()
    [line] = [line for line in lines if "model_warmup" in line]
    assert "WARN" in line
    assert "mlp" in line
