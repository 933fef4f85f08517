"""Eight clients load, unload and ask at random: each answer is right, 404 or 503, and nothing is left behind.

`AXON_RANDOM_SECONDS=120` goes on for so long, `AXON_RANDOM_SEED` begins with that seed; by default it is a few seconds
and another seed each time, which a failure tells.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from models import mlp, save
from onnx.reference import ReferenceEvaluator
from serving import PATIENCE_S, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from serving import Server

CLIENTS: Final = 8
MODELS: Final = 6
BUDGET: Final = 4 << 20
ROW: Final = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
QUESTION: Final = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": ROW.ravel().tolist()}]}
)
#: What is done how often.
VERBS: Final = {
    "explicit": {"infer": 0.7, "load": 0.15, "unload": 0.15},
    "auto": {"infer": 0.7, "load": 0.06, "unload": 0.1, "warm": 0.06, "pin": 0.02, "unpin": 0.06},
}
#: Threads: an instance's begins with its number.
OF_MODELS: Final = re.compile(r"ax\d+-|axon-(load|control|plan)")
SECONDS: Final = float(os.environ.get("AXON_RANDOM_SECONDS", "4"))
SEED: Final = int(os.environ.get("AXON_RANDOM_SEED", secrets.randbits(32)))


def name_of(number: int) -> str:
    return f"m{number}"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[npt.NDArray[np.float32]]]:
    """Make a folder of models, and say what each answers to `ROW`."""
    folder, answers = tmp_path_factory.mktemp("random"), []
    for number in range(MODELS):
        model = mlp((64, 256, 64, 10), seed=number)
        save(model, folder / f"{name_of(number)}.onnx")
        outputs: Any = ReferenceEvaluator(model).run(None, {"x": ROW})
        answers.append(outputs[0].ravel())
    return folder, answers


class Client:
    """One client, with a connection of its own."""

    def __init__(self, server: Server, answers: list[npt.NDArray[np.float32]]) -> None:
        """Connect with the first request."""
        self.counts: Counter[tuple[str, int]] = Counter()
        self._connection = http.client.HTTPConnection(server.address, timeout=PATIENCE_S)
        self._answers = answers

    def do(self, verb: str, number: int) -> int:
        """Do it, and return the status; what is neither right nor 404 nor 503 fails the test."""
        name = name_of(number)
        path = f"/v2/models/{name}/infer" if verb == "infer" else f"/v2/repository/models/{name}/{verb}"
        self._connection.request("POST", path, QUESTION if verb == "infer" else b"")
        response = self._connection.getresponse()
        body = response.read()
        self.counts[verb, response.status] += 1
        assert response.status in (200, 404, 503), f"seed {SEED}: {verb} {name}: {response.status} {body!r}"
        if verb == "infer" and response.status == 200:
            told = json.loads(body)
            assert told["model_name"] == name
            np.testing.assert_allclose(
                told["outputs"][0]["data"], self._answers[number], rtol=1e-3, atol=1e-4, err_msg=f"seed {SEED}"
            )
        return response.status

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def leftovers(server: Server) -> list[str]:
    """Return the server's threads and open files that belong to models or to whoever changes them."""
    process = Path(f"/proc/{server.process.pid}")
    found = []
    # What ends while it is looked at is no leftover.
    for thread in process.glob("task/*/comm"):
        with suppress(OSError):
            found += [name for name in [thread.read_text().strip()] if OF_MODELS.match(name)]
    for descriptor in process.glob("fd/*"):
        with suppress(OSError):
            found += [target for target in [str(descriptor.readlink())] if target.endswith((".onnx", ".bin"))]
    return found


def wait_until(holds: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def unload_all(client: Client) -> None:
    for number in range(MODELS):
        client.do("unload", number)


@pytest.mark.parametrize("mode", VERBS)
def test_clients_that_load_unload_and_ask_get_right_answers_or_are_told(
    repository: tuple[Path, list[npt.NDArray[np.float32]]], mode: str
) -> None:
    folder, answers = repository
    options = ["--model-control-mode", mode, "--load-check", "off", "--no-batching", "--instances", "1"]
    options += ["--memory-budget", str(BUDGET)] if mode == "auto" else []
    with serving(folder, *options) as server:
        first = Client(server, answers)
        # What comes with the first load and stays.
        for number in range(MODELS):
            first.do("load", number)
        unload_all(first)
        # In `auto` the first may have found no room; one has been there.
        assert first.counts["load", 200] > 0, first.counts
        verbs, weights = zip(*VERBS[mode].items(), strict=True)
        over = threading.Event()

        def run(caller: int) -> Counter[tuple[str, int]]:
            random = np.random.default_rng((SEED, caller))
            client = Client(server, answers)
            while not over.is_set():
                client.do(str(random.choice(verbs, p=weights)), int(random.integers(MODELS)))
            client.close()
            return client.counts

        with ThreadPoolExecutor(CLIENTS) as pool:
            futures = [pool.submit(run, caller) for caller in range(CLIENTS)]
            # One that fails ends the others.
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline and not any(future.done() for future in futures):
                time.sleep(0.05)
            over.set()
            counts = sum((future.result() for future in futures), Counter[tuple[str, int]]())
        assert counts["infer", 200] > 0, f"seed {SEED}: {counts}"
        assert counts["unload", 200] > 0, f"seed {SEED}: {counts}"
        # Nothing is stuck: every model comes again, answers, and goes.
        if mode == "auto":
            for number in range(MODELS):
                first.do("unpin", number)
        for number in range(MODELS):
            unload_all(first)
            wait_until(lambda: first.do("load", number) == 200, lambda: f"seed {SEED}: {first.counts}")  # noqa: B023
            assert first.do("infer", number) == 200, f"seed {SEED}"
        unload_all(first)
        # No instance of a model is left, and no file of one is open.
        wait_until(lambda: not leftovers(server), lambda: f"seed {SEED}: {leftovers(server)}")
        first.close()
