"""Measure what the wire costs: gRPC and HTTP beside bare servers that read the same bytes and answer the same bytes.

    .venv/bin/python benchmarks/wire/run.py

Each cell is measured in rounds that go through all cells in turn, so that a busy moment of the machine hits all alike;
medians over the rounds are printed and kept in `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.overhead.processes import ROOT, Server, Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

LOAD: Final = ROOT / "benchmarks" / "overhead" / "load"
WARM_UP_S: Final = 0.5
SECONDS: Final = 2.0
#: Elements of FP32: a question that costs nothing, and one of 600 KB.
SIZES: Final = {"no-op": 4, "600 KB": 150_000}


@dataclass
class Cell:
    """One way of asking.

    Attributes:
        subject: What is asked.
        size: The name of the tensor's size.
        callers: Callers, each with one request in flight.
        worker: What asks.
        server: The process that is asked.
    """

    subject: str
    size: str
    callers: int
    worker: Worker
    server: int
    rounds: list[dict[str, float]] = field(default_factory=list)

    def measure(self) -> None:
        """Measure one window."""
        process = psutil.Process(self.server)
        before = process.cpu_times()
        report = self.worker.window(callers=self.callers, rows=1, warm_up_s=WARM_UP_S, seconds=SECONDS)
        after = process.cpu_times()
        if report["failed"]:
            raise RuntimeError(f"{self.subject}: {report['first_failure']}")
        spent = after.user + after.system - before.user - before.system
        self.rounds.append(
            {
                "p50_us": report["p50_us"],
                "p99_us": report["p99_us"],
                "per_second": report["requests"] / report["seconds"],
                "server_cpu_us": 1e6 * spent / max(report["all_requests"], 1),
            }
        )

    def median(self, what: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(one[what] for one in self.rounds)


def identity() -> onnx.ModelProto:
    """Make a model that answers with its input."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", tensors[:1], tensors[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def messages(count: int) -> tuple[bytes, bytes]:
    """Return the message of a request for `count` elements, and that of its answer."""
    request = service_pb2.ModelInferRequest(model_name="identity")
    given = request.inputs.add(name="x", datatype="FP32")
    given.shape.extend([1, count])
    values = np.random.default_rng(1).random(count, np.float32).tobytes()
    request.raw_input_contents.append(values)
    answer = service_pb2.ModelInferResponse(model_name="identity", model_version="1")
    got = answer.outputs.add(name="y", datatype="FP32")
    got.shape.extend([1, count])
    answer.raw_output_contents.append(values)
    return request.SerializeToString(), answer.SerializeToString()


def http_body(count: int) -> tuple[bytes, int, int]:
    """Return a binary request, the length of its JSON, and the bytes of its answer."""
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, count], "parameters": {"binary_data_size": 4 * count}}
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return head + np.zeros(count, np.float32).tobytes(), len(head), 4 * count + 170


def cells(folder: Path, load: Path, server: Server, grpc: str, stack: ExitStack) -> list[Cell]:
    """Start what asks and what is asked beside the server."""
    made: list[Cell] = []
    hyper = stack.enter_context(Server([load, "echo"]))
    for name, count in SIZES.items():
        request, answer = messages(count)
        question, reply = folder / f"{count}.request", folder / f"{count}.answer"
        question.write_bytes(request)
        reply.write_bytes(answer)
        tonic = stack.enter_context(Server([load, "grpc-echo", "--answer", reply]))
        body, json_length, length = http_body(count)
        (folder / f"{count}.http").write_bytes(body)
        header = f"Inference-Header-Content-Length: {json_length}"
        path = "/v2/models/identity/infer"
        asked: dict[str, tuple[Sequence[str | Path], int]] = {
            "axon gRPC": (["grpc", "--address", grpc, "--body", question, "--connections", "4"], server.pid),
            "bare tonic": (["grpc", "--address", tonic.address, "--body", question, "--connections", "4"], tonic.pid),
            "axon HTTP": (
                [
                    *("http", "--address", server.address, "--path", path),
                    *("--body", folder / f"{count}.http", "--header", header),
                ],
                server.pid,
            ),
            "bare hyper": (
                ["http", "--address", hyper.address, "--path", f"/{length}", "--body", folder / f"{count}.http"],
                hyper.pid,
            ),
        }
        for subject, (words, pid) in asked.items():
            worker = stack.enter_context(Worker([load, *words]))
            many = 64 if name == "no-op" else 8
            made += [Cell(subject, name, callers, worker, pid) for callers in (1, many)]
    return made


def main() -> None:
    """Build, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="windows of each cell (default: 7)")
    rounds = parser.parse_args().rounds
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "axon-server"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", "--release"], cwd=LOAD, check=True)
    load = LOAD / "target" / "release" / "axon-load"
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        onnx.save(identity(), folder / "identity.onnx")
        command: list[str | Path] = [
            ROOT / "target" / "release" / "axon-server",
            folder / "identity.onnx",
            "--http-port",
            "0",
            "--metrics-port",
            "0",
        ]
        server = stack.enter_context(Server([*command, "--grpc-port", "0"]))
        made = cells(folder, load, server, server.grpc_address, stack)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for cell in made:
                cell.measure()
        tell(made, rounds)


def tell(made: list[Cell], rounds: int) -> None:
    """Print the medians and keep them."""
    floors = {"axon gRPC": "bare tonic", "axon HTTP": "bare hyper"}
    rates = {(cell.subject, cell.size, cell.callers): cell.median("per_second") for cell in made}
    rows: list[dict[str, Any]] = []
    for cell in made:
        floor = rates.get((floors.get(cell.subject, ""), cell.size, cell.callers))
        figures = {what: round(cell.median(what), 1) for what in cell.rounds[0]}
        share = round(100 * rates[cell.subject, cell.size, cell.callers] / floor, 1) if floor else None
        rows.append(
            {"subject": cell.subject, "size": cell.size, "callers": cell.callers, **figures, "percent_of_bare": share}
        )
        print(
            f"{cell.subject:11} {cell.size:7} {cell.callers:3} callers  p50 {figures['p50_us']:8.1f} us  "
            f"{figures['per_second']:9.1f}/s  server {figures['server_cpu_us']:7.1f} us  "
            f"{'' if share is None else f'{share} % of bare'}"
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept = ROOT / "benchmarks" / "results" / f"wire-{time.strftime('%Y-%m-%d')}-{commit.stdout.strip()}.json"
    kept.write_text(json.dumps({"commit": commit.stdout.strip(), "rounds": rounds, "cells": rows}, indent=1) + "\n")
    print(f"kept in {kept.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
