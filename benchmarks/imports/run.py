"""What a load costs in a running server: the model as it is, and imported; ONNX Runtime alone beside it.

    python -m benchmarks.imports.run --folder models --out served.json

One server without the model cache, one with it, one with it and `--quick-load`. Each is asked to load the model, which
it answers when the next request succeeds, and is then asked once, which is the first answer, and some times more; with
`--quick-load` again when the weights have been packed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.imports.models import MODELS, make
from benchmarks.imports.variants import measure_in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []

AXON: Final = Path(sys.executable).with_name("axon")
_READY: Final = re.compile(rb"ready at http://(\S+)")
#: The weights of the largest model are packed long before.
_PACKED_S: Final = 3.0
_DATATYPES: Final = {"int64": "INT64", "float32": "FP32"}


class _Server:
    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.pid = process.pid
        self._address = address

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> float:
        """Return the seconds that an answer took."""
        connection = http.client.HTTPConnection(self._address, timeout=300)
        started = time.perf_counter()
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        content = response.read()
        took = time.perf_counter() - started
        connection.close()
        if response.status != http.client.OK:
            raise RuntimeError(content[:500])
        return took

    def anonymous_mb(self) -> float:
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        found = re.search(r"^Anonymous:\s+(\d+)", text, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0


@contextmanager
def _serving(folder: Path, *options: str) -> Iterator[_Server]:
    command: list[str | Path] = [
        AXON,
        "serve",
        folder,
        "--http-port",
        "0",
        "--metrics-port",
        "0",
        "--no-grpc",
        "--model-control-mode",
        "explicit",
        *options,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            found = next(filter(None, map(_READY.search, process.stdout or ())), None)
            if found is None:
                problem = "the server has ended"
                raise RuntimeError(problem)
            yield _Server(process, found[1].decode())
        finally:
            process.terminate()


def _question(name: str) -> tuple[bytes, dict[str, str]]:
    rng = np.random.default_rng(1)
    inputs, tensors = [], b""
    for input_name, (kind, shape) in MODELS[name][1].items():
        made = rng.integers(0, 1000, shape) if kind == "int64" else rng.standard_normal(shape)
        raw = made.astype(kind).tobytes()
        binary = {"binary_data_size": len(raw)}
        inputs.append({"name": input_name, "datatype": _DATATYPES[kind], "shape": shape, "parameters": binary})
        tensors += raw
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + tensors, {"Inference-Header-Content-Length": str(len(head))}


def _load(server: _Server, name: str, *, packs: bool = False) -> dict[str, float]:
    before = server.anonymous_mb()
    load = server.post(f"/v2/repository/models/{name}/load", b"{}", {})
    body, headers = _question(name)
    first = server.post(f"/v2/models/{name}/infer", body, headers)
    runs = [server.post(f"/v2/models/{name}/infer", body, headers) for _ in range(5)]
    figures = {"load_ms": load * 1e3, "first_ms": first * 1e3, "request_ms": min(runs) * 1e3}
    if packs:
        time.sleep(_PACKED_S)
        figures["packed_ms"] = min(server.post(f"/v2/models/{name}/infer", body, headers) for _ in range(5)) * 1e3
    return {**figures, "anonymous_mb": server.anonymous_mb() - before}


def _unload(server: _Server, name: str) -> None:
    server.post(f"/v2/repository/models/{name}/unload", b"{}", {})
    # The memory is given back on a thread of its own.
    time.sleep(0.5)


def _median(loads: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(load[key] for load in loads), 1) for key in loads[0]}


def _compare(name: str, folder: Path, cache: Path, rounds: int) -> dict[str, Any]:
    repository = folder / f"repository-{name}"
    (repository / name / "1").mkdir(parents=True, exist_ok=True)
    file = repository / name / "1" / "model.onnx"
    if not file.exists():
        file.hardlink_to(make(name, folder))
    rows: dict[str, Any] = {"onnxruntime": measure_in_child("plain", name, file)}

    def loads(server: _Server, *, packs: bool = False) -> list[dict[str, float]]:
        found = []
        for _ in range(rounds):
            found.append(_load(server, name, packs=packs))
            _unload(server, name)
        return found

    # Loaded for trial before, so that no load counts the trial.
    with _serving(repository, "--model-cache", "off") as server:
        _load(server, name)
        _unload(server, name)
        rows["as it is"] = _median(loads(server))
    started = time.perf_counter()
    subprocess.run([AXON, "add", file, "--model-cache", cache], check=True, stdout=subprocess.DEVNULL)
    rows["import_s"] = round(time.perf_counter() - started, 2)
    with _serving(repository, "--model-cache", str(cache)) as server:
        rows["imported, measured"] = _load(server, name)
        _unload(server, name)
        rows["imported"] = _median(loads(server))
        _load(server, name)
        with _serving(repository, "--model-cache", str(cache)) as other:
            rows["imported, in another process"] = _load(other, name)
    with _serving(repository, "--model-cache", str(cache), "--quick-load") as server:
        rows["imported, quick"] = _median(loads(server, packs=True))
    return rows


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("models"), help="where models are written")
    parser.add_argument("--models", nargs="*", default=["resnet-50", "minilm-6", "bert-base"], choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3, help="loads for each figure; the median counts")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    with tempfile.TemporaryDirectory() as cache:
        Path(cache).chmod(0o700)
        for name in chosen.models:
            results[name] = _compare(name, chosen.folder, Path(cache), chosen.rounds)
            print(name, json.dumps(results[name]))
    if chosen.out:
        chosen.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
