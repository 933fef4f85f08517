"""Work that nobody waits for any more is not done: a client that leaves takes its request out of the queue (F-16).

One instance runs a request of many rows, which takes about a second. What comes meanwhile waits; some of those clients
leave, and the model's counters tell what has been run in the end.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from models import save, slow
from serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving import Server

PATIENCE_S: Final = 30.0
PATH: Final = "/v2/models/slow"
#: The rows of the request that is running: 20 ms each, and more on a slower machine.
LONG: Final = 50
#: By how much `slow(20)` rolls its rows.
STEPS: Final = 80
LEAVING: Final = 20
STAYING: Final = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = save(slow(20), tmp_path_factory.mktemp("model") / "slow.onnx")
    with serving(model, "--instances", "1", "--batching", "off") as started:
        yield started


def values(rows: int) -> np.ndarray[Any, Any]:
    return np.arange(rows * 256, dtype=np.float32).reshape(rows, 256)


def post(rows: int) -> bytes:
    """Return a request whose values are binary: a long text would be read aside, and overtaken by what comes later."""
    payload = values(rows).tobytes()
    size = {"binary_data_size": len(payload)}
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 256], "parameters": size}]})
    lines = [
        f"POST {PATH}/infer HTTP/1.1",
        "Host: x",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + len(payload)}",
    ]
    return "\r\n".join([*lines, "", head]).encode() + payload


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=PATIENCE_S)


def leave(client: socket.socket, ending: str) -> None:
    if ending == "resets":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def assert_is_answered(client: socket.socket, rows: int) -> None:
    with http.client.HTTPResponse(client) as response:
        response.begin()
        body = response.read()
    assert response.status == 200, body
    (output,) = json.loads(body)["outputs"]
    expected = np.roll(values(rows), STEPS, axis=1)
    assert np.array(output["data"], np.float32).tobytes() == expected.tobytes()


def counters(server: Server) -> dict[str, int]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    connection.request("GET", f"{PATH}/stats")
    (stats,) = json.loads(connection.getresponse().read())["model_stats"]
    connection.close()
    counts = {name: stats["inference_stats"][name]["count"] for name in ("success", "fail")}
    return {**counts, "rows": stats["inference_count"], "runs": stats["execution_count"]}


def moved(server: Server, before: dict[str, int]) -> dict[str, int]:
    """Return by how much each counter has moved."""
    return {name: count - before[name] for name, count in counters(server).items()}


def let_it_be_read(server: Server) -> None:
    """Return when the server has read what was sent before: it reads in the order in which bytes come."""
    for _ in range(3):
        counters(server)


@pytest.mark.parametrize("ending", ["hangs up", "resets"])
def test_a_request_whose_client_leaves_the_queue_is_never_run(server: Server, ending: str) -> None:
    before = counters(server)
    with ExitStack() as clients:
        running = clients.enter_context(connect(server))
        running.sendall(post(LONG))
        let_it_be_read(server)
        leaving = [connect(server) for _ in range(LEAVING)]
        for client in leaving:
            client.sendall(post(1))
        let_it_be_read(server)
        for client in leaving:
            leave(client, ending)
        staying = [clients.enter_context(connect(server)) for _ in range(STAYING)]
        for client in staying:
            client.sendall(post(2))
        let_it_be_read(server)
        assert not select.select([running], [], [], 0)[0], f"{LONG} rows run for too short a time to tell"
        assert_is_answered(running, LONG)
        for client in staying:
            assert_is_answered(client, 2)
    assert moved(server, before) == {
        "success": 1 + STAYING,
        "fail": LEAVING,
        "rows": LONG + 2 * STAYING,
        "runs": 1 + STAYING,
    }


def test_a_client_that_leaves_while_its_request_runs_disturbs_nobody(server: Server) -> None:
    before = counters(server)
    gone = connect(server)
    gone.sendall(post(10))
    let_it_be_read(server)
    leave(gone, "resets")
    with connect(server) as client:
        client.sendall(post(1))
        assert_is_answered(client, 1)
    after = moved(server, before)
    # Its run is stopped, or had ended already; where the instance was not quick enough, it has left the queue instead.
    assert after["success"] + after["fail"] == 2
    assert 1 <= after["success"] <= after["runs"] <= 2


@pytest.mark.parametrize("ending", ["hangs up", "resets"])
def test_a_client_that_leaves_inside_its_body_has_asked_nothing(server: Server, ending: str) -> None:
    before = counters(server)
    for sent in (post(1)[:-1], post(LONG)[: 30 << 10]):
        client = connect(server)
        client.sendall(sent)
        let_it_be_read(server)
        leave(client, ending)
    with connect(server) as client:
        client.sendall(post(1))
        assert_is_answered(client, 1)
    assert moved(server, before) == {"success": 1, "fail": 0, "rows": 1, "runs": 1}
