"""Serves a digit classifier with Axon and checks every answer that comes back over the wire.

Run as `python examples/digits/demo.py`. It starts `axon serve` on a free port, sends each held-out image as a request
of its own from eight concurrent clients, and compares each answer with what scikit-learn, which trained the model, says
of that image. The clients are Python threads beside the server: the rate is what they can ask, not Axon's limit.
Exits with 0 when every answer is scikit-learn's and the server stopped cleanly, else with 1 and the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).parent
READY: Final = re.compile(r"ready at http://(\S+:\d+).*\n")
PATIENCE_S: Final = 30.0
CLIENTS: Final = 8
NUMPY_TYPES: Final = {"INT64": "<i8", "FP32": "<f4"}
Array: TypeAlias = npt.NDArray[Any]


class DemoError(Exception):
    """What went wrong, for the user to read."""


@contextmanager
def axon_serve(model: Path) -> Iterator[str]:
    """Serve `model` at the yielded `host:port` until the `with` block ends.

    Raises:
        DemoError: The server did not start, failed a request, or did not end with code 0; says what it logged.
    """
    problem = ""
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder, "stdout"), Path(folder, "stderr")
        with output.open("wb") as stdout, log.open("wb") as stderr:
            axon = str(Path(sys.executable).with_name("axon"))
            ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
            server = subprocess.Popen([axon, "serve", model, *ports], stdout=stdout, stderr=stderr)
        try:
            yield wait_until_ready(server, output)
        except (DemoError, OSError, HTTPException) as error:
            problem = str(error) or type(error).__name__
        finally:
            code = stop(server)
        if problem or code != 0:
            problem = f"{problem or 'the server was told to stop'}; it ended with code {code}, its stderr:\n"
            raise DemoError(problem + log.read_text(errors="replace"))


def wait_until_ready(server: subprocess.Popen[bytes], output: Path) -> str:
    """Return the `host:port` that `server` writes to `output` once it is ready."""
    deadline = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < deadline:
        if match := READY.search(output.read_text(errors="replace")):
            return match[1]
        time.sleep(0.05)
    problem = f"was not ready in {PATIENCE_S:.0f} s" if server.poll() is None else "ended before it was ready"
    raise DemoError("the server " + problem)


def stop(server: subprocess.Popen[bytes]) -> int:
    """Ask `server` to end, end it if it does not, and return its exit code."""
    try:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(PATIENCE_S)
    finally:
        server.kill()
    return server.wait()


def fetch(connection: HTTPConnection, path: str, body: bytes = b"", header_length: int = 0) -> tuple[bytes, int]:
    """POST `body`, or GET if there is none; return the answer and the length of its JSON header, 0 if all is JSON."""
    headers = {"Inference-Header-Content-Length": str(header_length)} if body else {}
    connection.request("POST" if body else "GET", path, body or None, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != HTTPStatus.OK:
        problem = f"the server answered {response.status}: {answer.decode(errors='replace')}"
        raise DemoError(problem)
    return answer, int(response.headers.get("Inference-Header-Content-Length", 0))


def classify(connection: HTTPConnection, pixels: Array) -> int:
    """Ask for the label of one image, `[64]`: an Open Inference Protocol v2 request with binary tensors both ways."""
    tensor = pixels.astype("<f4").tobytes()
    image = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": len(tensor)}}
    header = json.dumps({"inputs": [image], "parameters": {"binary_data_output": True}}).encode()
    answer, at = fetch(connection, "/v2/models/digits/infer", header + tensor, len(header))
    # The answer has the same form: a JSON header, then the bytes of each output in the header's order.
    outputs: dict[str, Array] = {}
    for output in json.loads(answer[:at])["outputs"]:
        end = at + output["parameters"]["binary_data_size"]
        outputs[output["name"]] = np.frombuffer(answer[at:end], NUMPY_TYPES[output["datatype"]])
        at = end
    return int(outputs["label"].item())


def ask(address: str, images: Array, rounds: int, progress: Progress) -> tuple[Array, Array]:
    """Return the labels of `images` and the seconds each took, both `[rounds, images]`, as the clients saw them."""
    labels = np.empty((rounds, len(images)), np.int64)
    seconds = np.empty(labels.shape)
    task = progress.add_task("images", total=labels.size)
    stopping = threading.Event()

    def client(first: int) -> None:
        mine = range(first, len(images), CLIENTS)
        # One connection for the whole run; `http.client` sets TCP_NODELAY on it.
        with closing(HTTPConnection(address, timeout=PATIENCE_S)) as connection:
            for turn in range(rounds):
                for index in mine:
                    if stopping.is_set():
                        return
                    sent = time.perf_counter()
                    labels[turn, index] = classify(connection, images[index])
                    seconds[turn, index] = time.perf_counter() - sent
                progress.advance(task, len(mine))

    with ThreadPoolExecutor(CLIENTS) as pool:
        try:
            for done in as_completed([pool.submit(client, first) for first in range(CLIENTS)]):
                done.result()
        finally:
            stopping.set()
    return labels, seconds


def demo(console: Console, rounds: int) -> None:
    """Serve, ask, compare, and print what came of it."""
    images, truth, predictions = (np.load(HERE / f"{name}.npy") for name in ("images", "labels", "predictions"))
    with axon_serve(HERE / "digits.onnx") as address:
        console.print(f"Axon at http://{address}; {CLIENTS} clients send one image a request")
        with Progress(console=console) as progress:
            start = time.perf_counter()
            labels, seconds = ask(address, images, rounds, progress)
            rate = labels.size / (time.perf_counter() - start)
        with closing(HTTPConnection(address, timeout=PATIENCE_S)) as connection:
            stats = json.loads(fetch(connection, "/v2/models/digits/stats")[0])["model_stats"][0]

    differing = np.count_nonzero(labels != predictions)
    accuracy, expected = f"{np.mean(labels == truth):.2%}", f"{np.mean(predictions == truth):.2%}"
    table = Table(
        "handwritten digits",
        "Axon, over HTTP",
        caption="Rate and latency are mostly those of the Python client; `make bench` measures Axon.",
    )
    table.add_row("images", f"{labels.size:,}")
    table.add_row("accuracy", accuracy)
    table.add_row("accuracy of scikit-learn", expected)
    table.add_row("answers that differ from scikit-learn", f"{differing:,}")
    table.add_row("requests/s", f"{rate:,.0f}")
    table.add_row("p50", f"{np.percentile(seconds, 50) * 1e3:.2f} ms")
    table.add_row("p99", f"{np.percentile(seconds, 99) * 1e3:.2f} ms")
    table.add_row("mean batch", f"{stats['inference_count'] / stats['execution_count']:.2f}")
    console.print(table)
    if differing:  # As it must be when the accuracy is lower.
        problem = f"{differing:,} answers differ from scikit-learn's; accuracy {accuracy}, scikit-learn's {expected}"
        raise DemoError(problem)


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(description="Serve a digit classifier and check every answer.")
    parser.add_argument("--rounds", type=int, default=20, help="times each image is sent, at least 1 (%(default)s)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("--rounds must be at least 1")
    # A SIGTERM then ends the demo as Ctrl-C does: through the `finally` that stops the server.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demo(Console(), rounds)
    except (DemoError, OSError) as error:
        Console(stderr=True).print(f"demo failed: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
