"""From the command to its exit code: loading, serving, draining and ending; `axon serve` and `axon-server` alike.

The binary is the one that `AXON_SERVER_BINARY` names, or else the newest that Cargo has built.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import psutil
import pytest
from models import identity, mlp, save, scalar, slow, two_inputs
from serving import AXON, PATIENCE_S, Ended, environment, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx

Command: TypeAlias = "list[str | Path]"

#: For HTTP, for gRPC and for metrics.
PORTS: Final = 3

ROOT: Final = Path(__file__).resolve().parent.parent
READY: Final = re.compile(r"ready at https?://127\.0\.0\.1:(\d+) and grpcs?://127\.0\.0\.1:\d+ in ")


def binary() -> Path | None:
    named = os.environ.get("AXON_SERVER_BINARY")
    built = [ROOT / "target" / profile / "axon-server" for profile in ("release", "debug")]
    found = [Path(named)] if named else [path for path in built if path.exists()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def library() -> Path:
    """Return ONNX Runtime's library, found without importing it."""
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (found,) = Path(spec.submodule_search_locations[0], "capi").glob("libonnxruntime.so.*")
    return found


BINARY: Final = binary()
NEEDS_BINARY: Final = pytest.mark.skipif(
    BINARY is None, reason="axon-server is not built: `cargo build -p axon-server`, or set AXON_SERVER_BINARY"
)


@pytest.fixture(params=["axon", pytest.param("axon-server", marks=NEEDS_BINARY)])
def command(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return the words before the path; both commands find ONNX Runtime."""
    if request.param == "axon":
        return [AXON, "serve"]
    assert BINARY is not None
    monkeypatch.setenv("ORT_DYLIB_PATH", str(library()))
    return [BINARY]


@dataclass
class Running:
    """A server process and the port where it listens."""

    process: subprocess.Popen[str]
    log: Path
    port: int
    printed: str = ""

    def wait_until_ready(self) -> None:
        """Read what it prints up to the line that says that it is ready."""
        assert self.process.stdout is not None
        while not READY.search(self.printed):
            readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
            piece = os.read(self.process.stdout.fileno(), 1 << 16) if readable else b""
            assert piece, f"not ready: {self.printed}{self.log.read_text()}"
            self.printed += piece.decode()

    def end(self, number: int = signal.SIGTERM) -> Ended:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> Ended:
        """Wait for the end."""
        rest, _ = self.process.communicate(timeout=PATIENCE_S)
        return Ended(self.process.returncode, self.printed + (rest or ""), self.log.read_text())

    def get(self, path: str) -> tuple[int, dict[str, str], Any]:
        """Ask on a connection of its own; the body is read as JSON where it has any."""
        return self.ask("GET", path)

    def infer(self, body: bytes) -> tuple[int, dict[str, str], Any]:
        """Ask the model `slow`."""
        return self.ask("POST", "/v2/models/slow/infer", body)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], Any]:
        """Ask on a connection of its own; the body is read as JSON where it has any."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer = response.read()
            return response.status, headers, json.loads(answer or b"null")
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


@contextmanager
def running(command: Command, path: Path, *options: str, ready: bool = True, **settings: Any) -> Iterator[Running]:  # noqa: ANN401 - what `Popen` takes
    """Start a server of `path` and wait until it listens, or until it is `ready`."""
    log = path.parent / f"{path.name}.stderr"
    settings = {"stdout": subprocess.PIPE, **settings}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, path, "--http-port", "0", "--metrics-port", "0", "--grpc-port", "0", *options],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
            **settings,
        )
    try:
        server = Running(process, log, listening_port(process, log))
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        process.kill()
        process.communicate()


def until(happens: Callable[[], Any], what: str) -> Any:  # noqa: ANN401
    """Wait until `happens` returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := happens()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.002)
    return result


def listening_port(process: subprocess.Popen[str], log: Path) -> int:
    def port() -> int | None:
        assert process.poll() is None, log.read_text()
        sockets = psutil.Process(process.pid).connections(kind="tcp")
        # The port for HTTP is opened before the one for gRPC.
        listening = sorted((one.fd, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN)
        return listening[0][1] if len(listening) == PORTS else None

    return int(until(port, "it listens"))


def renamed(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model with another name for its only input."""
    model.graph.node[0].input[0] = model.graph.input[0].name = name
    return model


def slow_request() -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 256], "data": list(range(256))}
    return json.dumps({"inputs": [tensor]}).encode()


def post(rows: int = 1) -> bytes:
    """Return a whole request to `slow` whose values are binary: a long text would be read aside, and overtaken."""
    size = {"binary_data_size": rows * 1024}
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 256], "parameters": size}]})
    lines = [
        "POST /v2/models/slow/infer HTTP/1.1",
        "Host: x",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + rows * 1024}",
    ]
    return "\r\n".join([*lines, "", head]).encode() + np.arange(rows * 256, dtype=np.float32).tobytes()


def read_answer(client: socket.socket) -> tuple[int, Any]:
    with http.client.HTTPResponse(client) as response:
        response.begin()
        return response.status, json.loads(response.read() or b"null")


def test_it_says_what_it_serves_and_where(command: Command, tmp_path: Path) -> None:
    with running(command, save(two_inputs(), tmp_path / "two.onnx")) as server:
        assert re.search(r"^two version 1 on cpu: 1 instance, ", server.printed)
        for line in ("in  a FP32 [batch, 3]", "in  b FP32 [batch, 3]", "out sum FP32 [batch, 3]", "try it: curl "):
            assert line in server.printed
        assert READY.search(server.printed)
        assert server.get("/v2/health/ready")[0] == 200
        ended = server.end()
    assert (ended.returncode, ended.stderr) == (0, "")


MODELS: Final[dict[str, Callable[[], onnx.ModelProto]]] = {
    "mlp": mlp,
    "image": lambda: identity("FP32", ("batch", 3, 224, 224)),
    "two": two_inputs,
    "scalar": scalar,
    "bool": lambda: identity("BOOL"),
    "fp16": lambda: identity("FP16"),
    "text": lambda: identity("BYTES"),
    "page": lambda: identity("BYTES", ("batch", 300)),
    "quoted": lambda: renamed(identity("FP32"), """it's "x" \\ $HOME `id` é"""),
    "quoted-image": lambda: renamed(identity("FP32", ("batch", 3, 32, 32)), """it's "x" %s \\n é"""),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_line_to_try_works_when_it_is_pasted_into_a_shell(name: str, tmp_path: Path) -> None:
    assert shutil.which("curl"), "curl is missing: apt-get install curl"
    with serving(save(MODELS[name](), tmp_path / f"{name}.onnx")) as server:
        (line,) = re.findall(r"^try it: (.*)$", server.printed, re.MULTILINE)
        pasted = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=False, timeout=PATIENCE_S)
    assert (pasted.returncode, pasted.stderr) == (0, b"")
    answer = json.loads(pasted.stdout)
    assert answer["model_name"] == name
    for output in answer["outputs"]:
        assert len(output["data"]) == np.prod(output["shape"])
        assert name == "mlp" or not any(output["data"])


def test_it_lives_while_it_loads_and_is_ready_when_it_has_loaded(command: Command, tmp_path: Path) -> None:
    """B-38: a model that is loading."""
    with running(command, save(slow(60), tmp_path / "slow.onnx"), ready=False) as server:
        assert server.get("/v2/health/live")[0] == 200
        status, _, error = server.get("/v2/health/ready")
        assert (status, error["code"]) == (503, "UNAVAILABLE")
        for status, headers, error in (server.get("/v2/models/slow/ready"), server.infer(slow_request())):
            assert (status, error["code"], headers["retry-after"]) == (503, "UNAVAILABLE", "1")
            assert "`slow`" in error["error"]
            assert "LOADING" in error["error"]
        server.wait_until_ready()
        assert server.get("/v2/health/ready")[0] == 200
        assert server.infer(slow_request())[0] == 200
        ended = server.end()
    assert (ended.returncode, ended.stderr) == (0, "")


MOMENTS: Final[dict[str, Callable[[Path], bool]]] = {
    "it listens": lambda _: True,
    "the library is there": lambda proc: "libonnxruntime" in (proc / "maps").read_text(),
    # 0.3 s of computing: it takes about 0.1 s to load the library, and more than 1 s to try the model.
    "the model is tried": lambda proc: int((proc / "stat").read_text().rsplit(")", 1)[1].split()[11]) > 30,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_while_it_loads_ends_it_cleanly(command: Command, moment: str, tmp_path: Path) -> None:
    """F-46. ONNX Runtime is at work in another thread: what it needs must not be torn down under it."""
    path = save(slow(60), tmp_path / "slow.onnx")
    for _ in range(3):
        # What an earlier load has found out is not tried again.
        with running(command, path, "--model-cache", "off", ready=False) as server:
            until(partial(MOMENTS[moment], Path("/proc", str(server.process.pid))), moment)
            began = time.monotonic()
            ended = server.end()
            assert time.monotonic() - began < 2.0
        assert ended == Ended(0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(command: Command, number: int, tmp_path: Path) -> None:
    """F-26: not ready at once, live to the end, nothing that has come is lost, and idle connections hold nobody up."""
    with (
        running(command, save(slow(10), tmp_path / "slow.onnx"), "--instances", "1") as server,
        ExitStack() as stack,
    ):
        idle = stack.enter_context(server.connect())
        idle.sendall(post())
        expected = read_answer(idle)
        assert expected[0] == 200
        silent = stack.enter_context(server.connect())
        waiting = [stack.enter_context(server.connect()) for _ in range(30)]
        for client in waiting:
            client.sendall(post())
        for _ in range(3):  # It reads in the order in which bytes come, so after this it has read them all.
            assert server.get("/v2/health/ready")[0] == 200
        server.process.send_signal(number)
        until(lambda: server.get("/v2/health/ready")[0] == 503, "it is not ready")
        status, headers, error = server.infer(slow_request())
        assert (status, error["code"], headers["retry-after"]) == (503, "UNAVAILABLE", "1")
        assert "shutting down" in error["error"]
        seen = live_until_answered(server, waiting)
        assert seen > 3, "all was answered before it could be seen to live"
        assert [read_answer(client) for client in waiting] == [expected] * len(waiting)
        answered = time.monotonic()
        assert (idle.recv(1), silent.recv(1)) == (b"", b"")
        ended = server.ended()
        assert time.monotonic() - answered < 1.0
    assert (ended.returncode, ended.stderr) == (0, "")


def live_until_answered(server: Running, waiting: list[socket.socket]) -> int:
    """Ask again and again whether the server lives until all of `waiting` have an answer; return how often it did."""
    seen = 0
    while len(select.select(waiting, [], [], 0)[0]) < len(waiting):
        try:
            assert server.get("/v2/health/live")[0] == 200
        except ConnectionError:
            until(lambda: len(select.select(waiting, [], [], 0)[0]) == len(waiting), "all are answered")
            break
        seen += 1
    return seen


@pytest.mark.parametrize(("first", "second", "code"), [("SIGTERM", "SIGTERM", 143), ("SIGINT", "SIGINT", 130)])
def test_a_second_signal_ends_it_at_once(command: Command, first: str, second: str, code: int, tmp_path: Path) -> None:
    """F-27: whatever still runs."""
    with (
        running(command, save(slow(20), tmp_path / "slow.onnx"), "--instances", "1") as server,
        server.connect() as client,
    ):
        client.sendall(post(rows=400))
        for _ in range(3):
            assert server.get("/v2/health/live")[0] == 200
        server.process.send_signal(signal.Signals[first])
        until(lambda: server.get("/v2/health/ready")[0] == 503, "it is not ready")
        began = time.monotonic()
        ended = server.end(signal.Signals[second])
        assert time.monotonic() - began < 1.0
    assert (ended.returncode, ended.stderr) == (code, "")


def test_one_broken_model_does_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    save(slow(1), tmp_path / "models" / "slow.onnx")
    (tmp_path / "models" / "torn.onnx").write_bytes(mlp().SerializeToString()[:-9])
    (tmp_path / "models" / "hollow" / "2").mkdir(parents=True)
    with running(command, tmp_path / "models") as server:
        status, _, error = server.get("/v2/health/ready")
        assert (status, error["code"]) == (503, "UNAVAILABLE")
        assert "`torn version 1`" in error["error"]
        assert "`hollow version 2`" in error["error"]
        assert "slow" not in error["error"]
        assert server.get("/v2/health/live")[0] == 200
        assert server.get("/v2/models/slow/ready")[0] == 200
        assert server.infer(slow_request())[0] == 200
        for name, reason in (("torn", "not an ONNX protobuf"), ("hollow", "no file model.onnx")):
            status, _, error = server.get(f"/v2/models/{name}/ready")
            assert (status, error["code"]) == (503, "UNAVAILABLE")
            assert reason in error["error"]
            assert str(tmp_path) not in error["error"]
        ended = server.end()
    assert ended.returncode == 0
    assert "torn version 1: not served: " in ended.stdout


def test_an_empty_folder_is_served(command: Command, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with running(command, tmp_path / "models") as server:
        assert "no models here yet" in server.printed
        assert "try it" not in server.printed
        assert server.get("/v2/health/ready")[0] == 200
        assert server.get("/v2/models/slow")[0] == 404
        assert server.get("/v2/models/stats")[2] == {"model_stats": []}
        ended = server.end()
    assert (ended.returncode, ended.stderr) == (0, "")


def finish(command: Command, *arguments: str | Path, **settings: Any) -> Ended:  # noqa: ANN401 - what `run` takes
    """Run a command that must not start a server to its end."""
    settings = {"capture_output": True, "text": True, "timeout": PATIENCE_S, **settings}
    done = subprocess.run([*command, *arguments], check=False, **settings)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not a model", "not an ONNX protobuf"), (b"", "not an ONNX protobuf"), (None, "cannot read")],
)
def test_a_lone_model_that_cannot_be_served_ends_it_with_the_reason(
    command: Command, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    ended = finish(command, path, "--http-port", "0", "--metrics-port", "0", "--grpc-port", "0", "--log-level", "off")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert reason in ended.stderr
    assert ended.stderr.count("\n") <= 3, "the reason, and perhaps a hint"
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_ends_it_with_the_flag_to_change(command: Command, tmp_path: Path) -> None:
    """B-123."""
    path = save(mlp(), tmp_path / "mlp.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = time.monotonic()
        ended = finish(command, path, "--grpc-port", "0", "--http-port", str(port))
        assert time.monotonic() - began < 2.0
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "in use" in ended.stderr
    assert "--http-port" in ended.stderr


def test_nobody_has_to_read_what_it_prints(command: Command, tmp_path: Path) -> None:
    """B-128: its standard output was closed, as by `| head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    with running(command, save(slow(1), tmp_path / "slow.onnx"), ready=False, stdout=writer) as server:
        os.close(writer)
        until(lambda: server.get("/v2/health/ready")[0] == 200, "it is ready")
        assert server.infer(slow_request())[0] == 200
        ended = server.end()
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.fixture
def lonely_binary(tmp_path: Path) -> Command:
    """Return the binary in a folder where no library is near."""
    if BINARY is None:
        pytest.skip("axon-server is not built")
    return [shutil.copy(BINARY, tmp_path / "axon-server")]


@NEEDS_BINARY
def test_the_binary_finds_the_library_of_the_active_python_environment(lonely_binary: Command, tmp_path: Path) -> None:
    variables = environment(VIRTUAL_ENV=sys.prefix, ORT_DYLIB_PATH=None, CONDA_PREFIX=None)
    path = save(slow(1), tmp_path / "slow.onnx")
    with running(lonely_binary, path, env=variables, cwd=tmp_path) as server:
        assert server.infer(slow_request())[0] == 200
        ended = server.end()
    assert (ended.returncode, ended.stderr) == (0, "")


@NEEDS_BINARY
@pytest.mark.parametrize("named", [None, "missing/libonnxruntime.so", "text.so"])
def test_the_binary_says_what_to_do_when_the_library_is_not_there(
    lonely_binary: Command, named: str | None, tmp_path: Path
) -> None:
    (tmp_path / "text.so").write_text("no library")
    place = str(tmp_path / named) if named else None
    variables = environment(VIRTUAL_ENV=None, CONDA_PREFIX=None, ORT_DYLIB_PATH=place)
    path = save(mlp(), tmp_path / "models" / "mlp.onnx")
    ended = finish(
        lonely_binary,
        path,
        "--http-port",
        "0",
        "--metrics-port",
        "0",
        "--grpc-port",
        "0",
        "--log-level",
        "off",
        env=variables,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert (place or "libonnxruntime.so") in ended.stderr
    assert "hint: " in ended.stderr
    assert "pip install onnxruntime" in ended.stderr
    assert "ORT_DYLIB_PATH" in ended.stderr
    assert ended.stderr.count("\n") <= 3
    # Where a folder is served, the operator's log says so; a client learns nothing of the host's paths.
    with running(lonely_binary, path.parent, env=variables, cwd=tmp_path) as server:
        status, _, error = server.get("/v2/models/mlp/ready")
        assert (status, error["code"]) == (503, "UNAVAILABLE")
        assert str(tmp_path) not in error["error"]
        ended = server.end()
    assert ended.returncode == 0
    assert "ORT_DYLIB_PATH" in ended.stderr
