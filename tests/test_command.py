"""The command `axon`: what it prints, how it ends, and that it never ends with a traceback.

Rows B-122, B-123 and B-128 are those of the catalogue of bad input. Exit codes: 0 is success, 1 a model that cannot be
served, 2 a command line that is wrong.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import axon
import models
import onnx
import psutil
import pytest
from onnx import helper
from serving import AXON, PATIENCE_S, Ended, environment, run_axon, run_python, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import SaveModel


def refused(end: Ended) -> str:
    """Return the line that says why a command line is wrong, without the usage before it and the hint after it."""
    assert (end.returncode, end.stdout) == (2, "")
    assert "Traceback" not in end.stderr
    (line,) = re.findall(r"^axon(?: \w+)?: (?:error: )?(.*)$", end.stderr, re.MULTILINE)
    return str(line)


# Help and mistakes.


def test_version_is_the_packages() -> None:
    assert run_axon("--version") == Ended(0, f"axon {axon.__version__}\n", "")
    assert run_python("import runpy; runpy.run_module('axon', run_name='__main__')", "--version") == run_axon(
        "--version"
    )


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["--help"], ["serve", "inspect", "--version"]),
        (["serve", "--help"], ["--http-port", "--host", "--log-level", "--request-timeout", "default: 8000"]),
        (["inspect", "--help"], ["--json", "--max-batch-size"]),
    ],
)
def test_help_names_every_option(arguments: list[str], mentioned: list[str]) -> None:
    end = run_axon(*arguments)
    assert (end.returncode, end.stderr) == (0, "")
    assert [word for word in mentioned if word not in end.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["serv", "m.onnx"], "did you mean serve?"),
        (["inspct", "m.onnx"], "did you mean inspect?"),
        (["serve", "--htp-port", "1", "m.onnx"], "did you mean --http-port?"),
        (["serve", "m.onnx", "--max-batchsize=8"], "did you mean --max-batch-size?"),
        (["serve", "m.onnx", "--http-por", "8000"], "did you mean --http-port?"),
        (["inspect", "--jsn", "m.onnx"], "did you mean --json?"),
        (["--versoin"], "did you mean --version?"),
        (["inspect", "m.onnx", "--http-port", "1"], "unrecognized arguments: --http-port 1"),
        (["serve", "m.onnx", "other.onnx"], "unrecognized arguments: other.onnx"),
        (["serve"], "required: PATH"),
        ([], "required: COMMAND"),
    ],
)
def test_a_typo_is_told_what_may_have_been_meant(arguments: list[str], meant: str) -> None:
    """B-122."""
    assert refused(run_axon(*arguments)).endswith(meant)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--http-port", ["70000", "-1", "abc", "", "80.5"]),
        ("--host", ["nowhere.example", "1.2.3.4.5", ""]),
        ("--log-level", ["loud"]),
        ("--device", ["tpu"]),
        ("--max-batch-size", ["0", "-1", "2147483648", "8.0"]),
        ("--max-queue-size", ["0", "many"]),
        ("--instances", ["0", "-1"]),
        ("--profile", ["fast", ""]),
        ("--request-timeout", ["0", "-1", "301", "nan", "inf", "soon"]),
        ("--name", ["a b", "", "../up"]),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_option(
    digits: Path, option: str, values: list[str]
) -> None:
    """B-123."""
    for value in values:
        assert option in refused(
            run_axon("serve", digits, "--http-port=0", "--metrics-port=0", "--grpc-port=0", f"{option}={value}")
        )


def test_a_port_in_use_is_refused(digits: Path) -> None:
    """B-123."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        end = run_axon("serve", digits, "--grpc-port", "0", "--http-port", str(port))
    assert refused(end) == f"cannot listen on 127.0.0.1:{port}: the port is in use"
    assert end.stderr.endswith("hint: choose another with --http-port\n")


def test_a_privileged_port_is_refused(digits: Path) -> None:
    """B-123. A capability that is taken out of the bounding set is not got back by the command, even as root."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 1:
        pytest.skip("this machine has no privileged ports")
    program = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE = 24, 10
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
    end = run_python(program, AXON, "serve", digits, "--grpc-port", "0", "--http-port", str(first - 1))
    assert refused(end) == f"cannot listen on 127.0.0.1:{first - 1}: the port needs privileges"
    assert end.stderr.endswith("hint: choose another with --http-port\n")


def test_an_address_of_another_host_is_refused(digits: Path) -> None:
    """B-123. **Source:** RFC 5737: 192.0.2.0/24 is nobody's."""
    end = run_axon("serve", digits, "--http-port=0", "--metrics-port=0", "--grpc-port=0", "--host=192.0.2.1")
    assert refused(end) == "cannot listen on 192.0.2.1:0: this host does not have the address"
    assert end.stderr.endswith("hint: choose another with --host\n")


@pytest.mark.parametrize("command", ["serve", "inspect"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read `.*/model.onnx`: .*"),
        (b"", "not an ONNX protobuf: .*"),
        (b"plain text, not a model\n", "not an ONNX protobuf: .*"),
        (models.sequence_output().SerializeToString(), "output `y`: expected a tensor .*, got a sequence.*"),
    ],
    ids=["no file", "empty", "text", "sequence output"],
)
def test_a_model_that_cannot_be_served_is_told_once(
    tmp_path: Path, command: str, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    end = run_axon(
        command, path, *(["--http-port=0", "--metrics-port=0", "--grpc-port=0"] if command == "serve" else [])
    )
    assert (end.returncode, end.stdout) == (1, "")
    assert re.fullmatch(rf"axon {command}: {problem}", end.stderr.splitlines()[0])
    # A cause and a hint may follow, each on a line of its own.
    assert [line for line in end.stderr.splitlines()[1:] if not line.startswith(("cause: ", "hint: "))] == []


# Inspecting.


def inspect(path: Path, *options: str) -> Any:  # noqa: ANN401 - JSON
    end = run_axon("inspect", "--json", path, *options)
    assert (end.returncode, end.stderr) == (0, "")
    return json.loads(end.stdout)


def test_inspect_shows_a_table(digits: Path) -> None:
    end = run_axon("inspect", digits)
    assert (end.returncode, end.stderr) == (0, "")
    lines = [line.split() for line in end.stdout.splitlines()]
    for expected in (
        "digits version 1",
        "operator set 17",
        "made by axon/examples/digits",
        "batchable yes, answers equal bit for bit",
        "deterministic yes",
        "input pixels FP32 [batch, 64]",
        "output label INT64 [batch]",
        "output probabilities FP32 [batch, 10]",
        "rows ms a run rows/s, one instance",
    ):
        assert expected.split() in lines


def test_inspect_json_has_all_of_the_report(digits: Path) -> None:
    report = inspect(digits, "--name", "renamed", "--instances", "1", "--max-batch-size", "4")
    measured = ("run_time", "max_batch_rows", "candidates", "chosen_because")
    points = report["run_time"]
    assert [point["rows"] for point in points[:3]] == [1, 2, 4]
    assert all(point["milliseconds"] > 0 for point in points)
    assert report["runtime"].split(".") >= ["1", "24"]
    assert {key: value for key, value in report.items() if key not in (*measured, "runtime")} == {
        "name": "renamed",
        "version": 1,
        "platform": "onnxruntime_onnx",
        "size_bytes": digits.stat().st_size,
        "opset": 17,
        "producer": "axon/examples/digits",
        "device": "cpu",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64], "dimension_names": ["batch", None]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1], "dimension_names": ["batch"]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10], "dimension_names": ["batch", None]},
        ],
        "batchable": True,
        "not_batchable_because": None,
        "bitwise": True,
        "deterministic": True,
        "not_tried_because": None,
        "instances": 1,
        "threads": 1,
        "profile": "throughput",
        "arena": True,
    }


MIXED: Final = "rows influence each other in output `y`"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.mlp(), None),
        (models.two_inputs(), None),
        (models.gather(), None),
        (models.dynamic_inner(), None),
        (models.nan_output(), None),
        (models.identity("BYTES"), None),
        (models.mixing_mean(), MIXED),
        (models.cumsum_rows(), MIXED),
        (models.dynamic_quantized(), MIXED),
        (models.baked_batch(), "a run of 4 rows fails"),
        (models.random_output(), "the same inputs give different outputs"),
        (models.fixed_batch(1), "dimension 0 of input `x` is fixed at 1"),
        (models.fixed_batch(4), "dimension 0 of input `x` is fixed at 4"),
        (models.no_batch(), "dimension 0 of input `x` is fixed at 3"),
        (models.scalar(), "input `x` is a scalar"),
    ],
    ids=[
        *("mlp", "two_inputs", "gather", "dynamic_inner", "nan_output", "bytes", "mixing_mean", "cumsum_rows"),
        *("dynamic_quantized", "baked_batch", "random_output", "fixed_1", "fixed_4", "no_batch", "scalar"),
    ],
)
def test_inspect_says_whether_a_model_is_batched_and_why_not(
    save_model: SaveModel, model: onnx.ModelProto, reason: str | None
) -> None:
    report = inspect(save_model(model))
    assert (report["batchable"], report["not_batchable_because"]) == (reason is None, reason)
    assert report["bitwise"] == (None if reason else True)
    assert report["deterministic"] == (reason != "the same inputs give different outputs")
    assert report["not_tried_because"] is None
    assert (report["max_batch_rows"] == 1) == (reason is not None)


def test_memory_is_kept_from_run_to_run_unless_lengths_vary(save_model: SaveModel) -> None:
    assert inspect(save_model(models.mlp()))["arena"]
    assert not inspect(save_model(models.dynamic_inner()))["arena"]


def test_inspect_reads_weights_that_lie_beside_the_model(tmp_path: Path) -> None:
    assert inspect(models.external_data(tmp_path / "model.onnx"))["batchable"]


def test_inspect_of_a_folder_shows_every_model_and_fails_if_one_does(tmp_path: Path) -> None:
    models.save(models.mlp(), tmp_path / "good" / "2" / "model.onnx")
    assert [(report["name"], report["version"]) for report in inspect(tmp_path)] == [("good", 2)]
    models.save(models.sequence_output(), tmp_path / "broken.onnx")
    end = run_axon("inspect", "--json", tmp_path)
    good, broken = json.loads(end.stdout)
    assert (end.returncode, end.stderr, good["name"]) == (1, "", "good")
    assert (broken["name"], broken["version"]) == ("broken", 1)
    assert "sequence" in broken["error"]
    end = run_axon("inspect", tmp_path)
    assert (end.returncode, end.stderr) == (1, "")
    assert "broken version 1: cannot be served: output `y`" in end.stdout


# Odd places to run in.


def named(name: str) -> onnx.ModelProto:
    """Return a model whose names are not those that a table expects."""
    value = [helper.make_tensor_value_info(put, onnx.TensorProto.FLOAT, [f"{name}?", 3]) for put in (name, f"[{name}]")]
    graph = helper.make_graph([helper.make_node("Identity", [name], [f"[{name}]"])], name, value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ODD: Final[dict[str, dict[str, str | None]]] = {
    "no home": {"HOME": None},
    "no terminal type": {"TERM": None, "COLUMNS": None},
    "a terminal of one column": {"COLUMNS": "1"},
    "LANG=C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "a bad time zone": {"TZ": "No/Where"},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
}


@pytest.mark.parametrize("how", ODD)
@pytest.mark.parametrize("name", ["plain", "é日🙂", "[red]x[/red]"])
def test_inspect_runs_anywhere(save_model: SaveModel, how: str, name: str) -> None:
    """B-128. `/proc` is a folder that nobody can write to."""
    path = save_model(named(name))
    env = environment(**ODD[how])
    end = run_axon("inspect", path, env=env, cwd="/proc")
    assert (end.returncode, end.stderr) == (0, "")
    assert json.loads(run_axon("inspect", "--json", path, env=env, cwd="/proc").stdout)["inputs"][0]["name"] == name


@pytest.mark.parametrize("how", ODD)
def test_serve_runs_anywhere(save_model: SaveModel, how: str) -> None:
    """B-128."""
    with serving(save_model(named("é日🙂")), env=environment(**ODD[how]), cwd="/proc") as server:
        assert server.stop() == Ended(0, server.printed, "")


COMMANDS: Final = (["--help"], ["--version"], ["serve", "--help"], ["inspect"], ["inspect", "--json"])


def arguments_for(command: Sequence[str], digits: Path) -> list[str | Path]:
    return [AXON, *command, *([digits] if command[0] == "inspect" else [])]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_leaves_early_is_no_trouble(digits: Path, command: list[str]) -> None:
    """B-128, as in `axon inspect MODEL | head -1`; here the reader has left before the first line."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:  # noqa: PTH123 - a descriptor
        done = subprocess.run(
            arguments_for(command, digits), stdout=gone, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_of_one_line_gets_it(digits: Path) -> None:
    """B-128."""
    with subprocess.Popen(
        arguments_for(["inspect"], digits), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().split() == ["digits", "version", "1"]
        process.stdout.close()
        assert (process.stderr.read(), process.wait(PATIENCE_S)) == ("", 0)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk_or_no_output_at_all_is_no_traceback(digits: Path, command: list[str]) -> None:
    """B-128."""
    for redirection in (">/dev/full", ">&-"):
        line = ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *arguments_for(command, digits)]
        done = subprocess.run(line, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False, text=True)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.returncode in (0, 1)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_serve_needs_no_standard_streams(digits: Path, closed: str) -> None:
    """B-128. It answers, and what it would have printed goes into none of its sockets."""
    line = [
        "/bin/sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        *map(str, (AXON, "serve", digits, "--http-port=0", "--metrics=off", "--no-grpc")),
    ]
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            port = listening_port(process)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            for path in ("/v2", "/v2/health/live", "/v2/models/digits"):
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
            connection.close()
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def listening_port(process: subprocess.Popen[bytes]) -> int:
    """Return the port that a server which says nothing has chosen, once its model is ready."""
    watched = psutil.Process(process.pid)
    for _ in range(int(PATIENCE_S / 0.05)):
        ports = [each.laddr.port for each in watched.connections("tcp") if each.status == psutil.CONN_LISTEN]
        if ports and is_ready(ports[0]):
            return int(ports[0])
        # Waits for its end, which would be a failure, and looks again.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    message = "the server does not listen"
    raise AssertionError(message)


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/v2/health/ready")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def test_a_server_outlives_the_reader_of_what_it_prints(digits: Path) -> None:
    """B-128, as in `axon serve MODEL | head -1`."""
    with serving(digits) as server:
        assert server.process.stdout is not None
        os.dup2(os.open(os.devnull, os.O_RDONLY), server.process.stdout.fileno())
        assert is_ready(server.port)
        assert server.stop().returncode == 0
