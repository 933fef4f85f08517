"""What a load costs, by how the model is stored: ONNX Runtime called directly, one process for each figure.

python -m benchmarks.imports.variants --folder /tmp/models --out variants.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.imports.models import MODELS, make

__all__ = ["measure_in_child"]

#: By name: how the file is made, and how it is loaded. A figure of each follows from one process.
VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "plain": ("plain", {}),
    "optimised": ("inline", {"off": True}),
    "external": ("external", {"off": True}),
    "external+prepacked": ("prepacked", {"off": True}),
    "external, no prepacking": ("external", {"off": True, "session.disable_prepacking": "1"}),
    "prepacked, no prepacking": ("prepacked", {"off": True, "session.disable_prepacking": "1"}),
}
_MIN_EXTERNAL: Final = "1024"


def _options(settings: dict[str, Any]) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    import onnxruntime as ort  # noqa: PLC0415 - only the children load it

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in settings.items():
        if key == "off":
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        else:
            options.add_session_config_entry(key, value)
    return options


def _write(source: Path, target: Path, kind: str) -> None:
    import onnxruntime as ort  # noqa: PLC0415

    settings: dict[str, Any] = {}
    if kind in {"external", "prepacked"}:
        settings["session.optimized_model_external_initializers_file_name"] = f"{target.name}.data"
        settings["session.optimized_model_external_initializers_min_size_in_bytes"] = _MIN_EXTERNAL
    if kind == "prepacked":
        settings["session.save_external_prepacked_constant_initializers"] = "1"
    options = _options(settings)
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(source, sess_options=options, providers=["CPUExecutionProvider"])


def _private_kib() -> dict[str, int]:
    text = Path("/proc/self/smaps_rollup").read_text()
    lines = [line.split() for line in text.splitlines()[1:]]
    return {words[0].rstrip(":").lower(): int(words[1]) for words in lines}


def _measure(path: Path, inputs: dict[str, Any], settings: dict[str, Any], runs: int) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415

    rng = np.random.default_rng(1)
    feeds = {}
    for name, (kind, shape) in inputs.items():
        made = rng.integers(0, 1000, shape) if kind == "int64" else rng.standard_normal(shape)
        feeds[name] = made.astype(kind)
    # The library and its first session cost what is no model's.
    ort.InferenceSession(_empty(), providers=["CPUExecutionProvider"])
    before = _private_kib()
    started = time.perf_counter()
    session = ort.InferenceSession(path, sess_options=_options(settings), providers=["CPUExecutionProvider"])
    loaded = time.perf_counter()
    outputs = session.run(None, feeds)
    first = time.perf_counter()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - began)
    after = _private_kib()
    second = ort.InferenceSession(path, sess_options=_options(settings), providers=["CPUExecutionProvider"])
    second.run(None, feeds)
    more = _private_kib()
    return {
        "load_ms": (loaded - started) * 1e3,
        "first_ms": (first - loaded) * 1e3,
        "run_ms": min(times) * 1e3,
        "anonymous_mb": (after["anonymous"] - before["anonymous"]) / 1024,
        "pss_mb": (after["pss"] - before["pss"]) / 1024,
        "second_anonymous_mb": (more["anonymous"] - after["anonymous"]) / 1024,
        "sum": float(np.abs(outputs[0]).sum()),
        "bytes": outputs[0].tobytes().hex()[:64],
    }


def _empty() -> bytes:
    from onnx import TensorProto, helper  # noqa: PLC0415

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [result])
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return made


def _child(*arguments: str) -> dict[str, Any]:
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "benchmarks.imports.variants", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout or "{}")
    return result


def measure_in_child(label: str, name: str, path: Path) -> dict[str, Any]:
    """Measure one variant of a model, `path`, in a process of its own."""
    return _child("--measure", label, name, str(path))


def _compare(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    source = make(name, folder)
    files, rows = {"plain": source}, {}
    for kind in ("inline", "external", "prepacked"):
        files[kind] = folder / f"{name}.{kind}.onnx"
        for path in (files[kind], Path(f"{files[kind]}.data")):
            path.unlink(missing_ok=True)
        began = time.perf_counter()
        _child("--write", kind, str(source), str(files[kind]))
        rows[f"write {kind}"] = {"seconds": time.perf_counter() - began}
    for label, (kind, _) in VARIANTS.items():
        figures = [_child("--measure", label, name, str(files[kind])) for _ in range(rounds)]
        numbers = [key for key, value in figures[0].items() if not isinstance(value, str)]
        row: dict[str, Any] = {key: statistics.median(one[key] for one in figures) for key in numbers}
        beside = Path(f"{files[kind]}.data")
        row["graph_mb"] = files[kind].stat().st_size / 1e6
        row["data_mb"] = beside.stat().st_size / 1e6 if beside.exists() else 0.0
        row["bytes"] = sorted({one["bytes"] for one in figures})
        rows[label] = row
        print(
            name,
            label,
            json.dumps({key: value if isinstance(value, list) else round(value, 2) for key, value in row.items()}),
            file=sys.stderr,
        )
    return rows


def main() -> None:
    """Compare, or be one of the processes that do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("models"), help="where models are written: 3 GB of them")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure; the median counts")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.write:
        kind, source, target = chosen.write
        _write(Path(source), Path(target), kind)
        return
    if chosen.measure:
        label, name, path = chosen.measure
        runs = 10 if name.startswith(("bert", "resnet", "minilm")) else 50
        print(json.dumps(_measure(Path(path), MODELS[name][1], VARIANTS[label][1], runs)))
        return
    chosen.folder.mkdir(parents=True, exist_ok=True)
    results = {name: _compare(name, chosen.folder, chosen.rounds) for name in chosen.models}
    if chosen.out:
        chosen.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
