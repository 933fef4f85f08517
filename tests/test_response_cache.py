"""Answers that are kept: what is run, what is not, and what comes back; over both protocols, with the official clients.

The model `slow` is the backend identity, whose runs take as long as a request asks. Where the server's cache has one
byte, nothing is kept, and only identical requests that are in flight share a run.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import axon
import axon.sync
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from models import save
from onnx import TensorProto, helper, numpy_helper
from scraping import OPENMETRICS, adds_up, scrape
from serving import PATIENCE_S, run_axon, serving
from tritonclient.utils import InferenceServerException, shared_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from serving import Server

SLOW: Final = """
backend: "identity"
max_batch_size: 64
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
response_cache { enable: true }
instance_group [ { count: 1 } ]
"""
#: How long a run lasts that the tests end, or look into, themselves.
LONG_MS: Final = 20_000
SHORT_MS: Final = 500


def scaled(factor: float) -> onnx.ModelProto:
    """Give `y`, the input times `factor`, and `z`, the input and itself."""
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in "xyz"]
    constant = numpy_helper.from_array(np.array([factor], np.float32), "factor")
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"]), helper.make_node("Add", ["x", "x"], ["z"])]
    graph = helper.make_graph(nodes, "scaled", rows[:1], rows[1:], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(folder: Path, name: str, model: onnx.ModelProto, config: str = "response_cache = true\n") -> Path:
    (folder / name / "1").mkdir(parents=True, exist_ok=True)
    (folder / name / "model.toml").write_text(config)
    return save(model, folder / name / "1" / "model.onnx")


def write_slow(folder: Path) -> Path:
    (folder / "slow" / "1").mkdir(parents=True)
    (folder / "slow" / "config.pbtxt").write_text(SLOW)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write(tmp_path, "double", scaled(2.0))
    write(tmp_path, "brief", scaled(2.0), "[response_cache]\nttl_s = 0.2\n")
    write(tmp_path, "plain", scaled(2.0), "response_cache = false\n")
    return write_slow(tmp_path)


@contextmanager
def clients(server: Server) -> Iterator[tuple[Any, Any]]:
    with (
        closing(triton_http.InferenceServerClient(server.address, concurrency=4)) as over_http,
        closing(triton_grpc.InferenceServerClient(server.grpc_address)) as over_grpc,
    ):
        yield over_http, over_grpc


def tensor(library: Any, value: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - the clients have no types
    tensor = library.InferInput("x", list(value.shape), "FP32")
    tensor.set_data_from_numpy(value)
    return tensor


def rows(first: float, width: int = 4) -> np.ndarray[Any, Any]:
    return np.arange(first, first + width, dtype=np.float32).reshape(1, width)


class Counted:
    """What a model has run and answered, since this was made."""

    def __init__(self, server: Server, model: str) -> None:
        """Begin to count."""
        self._server, self._model = server, model
        self._before = self._read()

    def _read(self) -> dict[str, int]:
        with closing(http.client.HTTPConnection(self._server.host, self._server.port, timeout=PATIENCE_S)) as asked:
            asked.request("GET", f"/v2/models/{self._model}/stats")
            (stats,) = json.loads(asked.getresponse().read())["model_stats"]
        inference = stats["inference_stats"]
        names = {"success": "success", "fail": "fail", "cache_hit": "hits", "cache_miss": "misses"}
        return {
            "runs": stats["execution_count"],
            "rows": stats["inference_count"],
            "cancelled": stats["response_stats"]["0"]["cancel"]["count"],
            **{said: inference[name]["count"] for name, said in names.items()},
        }

    def now(self) -> dict[str, int]:
        """Return what has moved."""
        return {name: count - self._before[name] for name, count in self._read().items() if count != self._before[name]}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what


def wait_for_followers(server: Server, count: int) -> None:
    name = "axon_response_cache_waiting_requests"
    wait_for(lambda: scrape(server).of(name, model="slow") == count, f"{count} requests follow")


def post(server: Server, model: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, str], Any]:
    """Ask over HTTP without a client's help."""
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)) as connection:
        connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), json.loads(response.read())


def question(value: np.ndarray[Any, Any], **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
    given = {"name": "x", "shape": list(value.shape), "datatype": "FP32", "data": value.ravel().tolist()}
    return {"inputs": [given], "parameters": parameters}


def test_the_same_question_is_run_once_over_either_protocol(repository: Path) -> None:
    with serving(repository) as server, clients(server) as (over_http, over_grpc):
        counted = Counted(server, "double")
        asked = [(over_http, triton_http), (over_grpc, triton_grpc)] * 2
        answers = [client.infer("double", [tensor(library, rows(0.1))]) for client, library in asked]
        for answer in answers:
            for name in "yz":
                assert answer.as_numpy(name).tobytes() == (rows(0.1) * np.float32(2)).tobytes()
        assert counted.now() == {"runs": 1, "rows": 1, "success": 4, "hits": 3, "misses": 1}
        # Other inputs, another shape and other outputs are other questions; the order of outputs counts too.
        counted = Counted(server, "double")
        over_http.infer("double", [tensor(triton_http, rows(0.2))])
        over_http.infer("double", [tensor(triton_http, np.vstack([rows(0.1), rows(0.1)]))])
        for names in ("y", "z", "zy"):
            wanted = [triton_grpc.InferRequestedOutput(name) for name in names]
            answer = over_grpc.infer("double", [tensor(triton_grpc, rows(0.1))], outputs=wanted)
            assert [output.name for output in answer.get_response().outputs] == list(names)
        assert counted.now()["runs"] == counted.now()["misses"] == 5
        # All outputs in the model's order are what is asked for by naming none.
        wanted = [triton_grpc.InferRequestedOutput(name) for name in "yz"]
        over_grpc.infer("double", [tensor(triton_grpc, rows(0.1))], outputs=wanted)
        assert counted.now()["hits"] == 1
        # A model that does not ask for it keeps nothing.
        counted = Counted(server, "plain")
        for _ in range(2):
            over_http.infer("plain", [tensor(triton_http, rows(0.1))])
        assert counted.now() == {"runs": 2, "rows": 2, "success": 2}


def test_a_request_may_ask_for_a_run_of_its_own(repository: Path) -> None:
    with serving(repository) as server, clients(server) as (over_http, over_grpc):
        over_http.infer("double", [tensor(triton_http, rows(1))])
        counted = Counted(server, "double")
        over_http.infer("double", [tensor(triton_http, rows(1))], parameters={"response_cache": False})
        over_grpc.infer("double", [tensor(triton_grpc, rows(1))], parameters={"response_cache": False})
        for directive in ("no-cache", "max-age=0, No-Store"):
            status, headers, _ = post(server, "double", question(rows(1)), **{"Cache-Control": directive})
            assert (status, "x-axon-cache" in headers) == (200, False)
        assert counted.now() == {"runs": 4, "rows": 4, "success": 4}
        over_http.infer("double", [tensor(triton_http, rows(1))], parameters={"response_cache": True})
        assert counted.now()["hits"] == 1
        status, headers, _ = post(server, "double", question(rows(1)), **{"Cache-Control": "max-age=0"})
        assert (status, headers["x-axon-cache"], headers["x-axon-batch-size"]) == (200, "hit", "0")
        _, headers, _ = post(server, "double", question(rows(2)))
        assert headers["x-axon-cache"] == "miss"
        status, _, answer = post(server, "double", question(rows(1), response_cache="no"))
        assert status == 400
        assert answer["error"].startswith("parameters.response_cache: expected true or false, got")
        # It is the model's owner who gives the parameter a meaning.
        assert post(server, "plain", question(rows(1), response_cache="no"))[0] == 200


def test_an_answer_is_kept_no_longer_than_its_model_says(repository: Path) -> None:
    with serving(repository) as server:
        counted = Counted(server, "brief")
        post(server, "brief", question(rows(1)))

        def is_run_again() -> bool:
            post(server, "brief", question(rows(1)))
            return counted.now()["runs"] == 2

        wait_for(is_run_again, "it expires")
        assert counted.now()["misses"] == 2


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_model_that_is_loaded_again_or_unloaded_gives_its_answers_up(tmp_path: Path, verb: str) -> None:
    write(tmp_path, "model", scaled(2.0))
    write(tmp_path, "other", scaled(2.0))
    options = ("--model-control-mode", "explicit", "--load-model", "*")
    with serving(tmp_path, *options) as server, clients(server) as (client, _):
        for _ in range(2):
            client.infer("other", [tensor(triton_http, rows(1))])
            answer = client.infer("model", [tensor(triton_http, rows(1))])
            assert np.array_equal(answer.as_numpy("y"), rows(1) * 2)
        before = scrape(server)
        assert before.of("axon_response_cache_entries") == 2
        write(tmp_path, "model", scaled(3.0))
        if verb == "unload":
            client.unload_model("model")
            kept = scrape(server)
            assert kept.of("axon_response_cache_entries") == 1
            assert kept.of("axon_response_cache_bytes") * 2 == before.of("axon_response_cache_bytes")
        client.load_model("model")
        assert scrape(server).of("axon_response_cache_entries") == 1
        answer = client.infer("model", [tensor(triton_http, rows(1))])
        assert np.array_equal(answer.as_numpy("y"), rows(1) * 3)
        assert scrape(server).of("axon_response_cache_hits_total", model="other") == 1


def ask_slow(server: Server, value: float, **parameters: Any) -> tuple[int, Any]:  # noqa: ANN401
    status, _, answer = post(server, "slow", question(rows(value), **parameters))
    return status, answer


def test_identical_requests_in_flight_run_once(tmp_path: Path) -> None:
    count = 16
    with (
        serving(write_slow(tmp_path), "--response-cache-size", "1") as server,
        ThreadPoolExecutor(count) as pool,
    ):
        counted = Counted(server, "slow")
        asked = [pool.submit(ask_slow, server, 1, execute_delay_ms=SHORT_MS) for _ in range(count)]
        for future in asked:
            status, answer = future.result(PATIENCE_S)
            assert (status, answer["outputs"][0]["data"]) == (200, rows(1).ravel().tolist())
        moved = counted.now()
        assert moved["runs"] < count / 2, "those that came while it ran were not run"
        assert moved["runs"] == moved["misses"]
        assert (moved["success"], moved["hits"] + moved["misses"]) == (count, count)
        told = scrape(server)
        assert adds_up(told)
        assert told.of("axon_response_cache_hits_total", model="slow") == moved["hits"]
        assert told.of("axon_response_cache_entries") == 0


def test_a_follower_has_its_own_deadline(tmp_path: Path) -> None:
    with serving(write_slow(tmp_path)) as server, ThreadPoolExecutor(4) as pool:
        counted = Counted(server, "slow")
        with clients(server) as (_, over_grpc):
            leader = over_grpc.async_infer(
                "slow",
                [tensor(triton_grpc, rows(1))],
                lambda result, error: None,  # noqa: ARG005 - called by name
                parameters={"execute_delay_ms": LONG_MS},
                client_timeout=PATIENCE_S,
            )
            wait_for(lambda: counted.now().get("misses") == 1, "the leader is run")
            follower = pool.submit(ask_slow, server, 1, timeout=6_000_000)
            wait_for_followers(server, 1)
            status, answer = ask_slow(server, 1, timeout=200_000)
            assert status == 504
            assert "for the answer to an identical one" in answer["error"]
            assert not follower.done()
            assert scrape(server).of("axon_requests_refused_total", model="slow", reason="expired") == 1
            leader.cancel()
            # The run goes on for the follower, until its deadline has passed too.
            cancelled = {"model": "slow", "reason": "cancelled"}
            wait_for(lambda: scrape(server).of("axon_requests_refused_total", **cancelled) == 1, "the leader has left")
            assert not follower.done()
            assert counted.now() == {"fail": 1, "misses": 1}
            assert follower.result(PATIENCE_S)[0] == 504
            wait_for(lambda: scrape(server).of("axon_instances_busy", model="slow") == 0, "the run is stopped")
            wait_for(lambda: counted.now() == {"fail": 3, "misses": 1, "cancelled": 1, "runs": 1}, "all is counted")


def test_a_leader_that_leaves_takes_nothing_with_it(tmp_path: Path) -> None:
    with serving(write_slow(tmp_path)) as server, ThreadPoolExecutor(4) as pool, clients(server) as (_, over_grpc):
        counted = Counted(server, "slow")
        leader = over_grpc.async_infer(
            "slow",
            [tensor(triton_grpc, rows(1))],
            lambda result, error: None,  # noqa: ARG005 - called by name
            parameters={"execute_delay_ms": 4 * SHORT_MS},
        )
        wait_for(lambda: counted.now().get("misses") == 1, "the leader is run")
        followers = [pool.submit(ask_slow, server, 1) for _ in range(2)]
        wait_for_followers(server, 2)
        leader.cancel()
        for follower in followers:
            status, answer = follower.result(PATIENCE_S)
            assert (status, answer["outputs"][0]["data"]) == (200, rows(1).ravel().tolist())
        # Both followers are answered by the leader's run, and the leader is counted as gone.
        moved = {"runs": 1, "rows": 1, "success": 2, "hits": 2, "misses": 1, "fail": 1, "cancelled": 1}
        assert counted.now() == moved
        assert ask_slow(server, 1)[0] == 200
        assert counted.now() == moved | {"success": 3, "hits": 3}
        wait_for(lambda: adds_up(scrape(server)), "every request has ended in one way")


def test_a_run_that_all_have_left_is_stopped(tmp_path: Path) -> None:
    with serving(write_slow(tmp_path)) as server, clients(server) as (_, over_grpc):
        counted = Counted(server, "slow")
        calls = []
        for followers in range(3):
            call = over_grpc.async_infer(
                "slow",
                [tensor(triton_grpc, rows(1))],
                lambda result, error: None,  # noqa: ARG005 - called by name
                parameters={"execute_delay_ms": LONG_MS},
            )
            calls.append(call)
            wait_for(lambda: counted.now().get("misses") == 1, "the leader is run")
            wait_for_followers(server, followers)
        for call in calls:
            call.cancel()
        wait_for(lambda: counted.now().get("cancelled") == 3, "all have left")
        # The only instance is free again: this one does not wait for the long run.
        assert ask_slow(server, 2, timeout=5_000_000)[0] == 200
        assert counted.now()["success"] == 1
        assert counted.now()["fail"] == 3


def test_a_leader_that_expires_fails_nobody_else(tmp_path: Path) -> None:
    with serving(write_slow(tmp_path)) as server, ThreadPoolExecutor(4) as pool:
        counted = Counted(server, "slow")
        blocker = pool.submit(ask_slow, server, 9, execute_delay_ms=4 * SHORT_MS)
        wait_for(lambda: scrape(server).of("axon_instances_busy", model="slow") == 1, "the only instance is busy")
        leader = pool.submit(ask_slow, server, 1, timeout=SHORT_MS * 1000)
        wait_for(lambda: counted.now().get("misses") == 2, "the leader waits")
        followers = [pool.submit(ask_slow, server, 1) for _ in range(2)]
        wait_for_followers(server, 2)
        assert leader.result(PATIENCE_S)[0] == 504
        for follower in followers:
            status, answer = follower.result(PATIENCE_S)
            assert (status, answer["outputs"][0]["data"]) == (200, rows(1).ravel().tolist())
        assert blocker.result(PATIENCE_S)[0] == 200
        moved = counted.now()
        # The first follower was run in the leader's stead, the second shared that.
        assert (moved["runs"], moved["misses"], moved["hits"]) == (2, 3, 1)
        assert (moved["success"], moved["fail"]) == (3, 1)
        assert adds_up(scrape(server))


def test_errors_are_not_kept(repository: Path) -> None:
    with serving(repository) as server:
        for _ in range(2):
            assert post(server, "double", question(rows(1, width=3)))[0] == 400
        assert scrape(server).of("axon_response_cache_entries") == 0
        assert Counted(server, "double").now() == {}


def test_the_budget_holds_and_what_is_kept_is_no_batch(tmp_path: Path) -> None:
    write(tmp_path, "double", scaled(2.0))
    budget = 16 << 10
    with (
        serving(tmp_path, "--response-cache-size", str(budget), "--instances", "1") as server,
        ThreadPoolExecutor(16) as pool,
    ):
        assert post(server, "double", question(rows(0)))[0] == 200
        one = scrape(server).of("axon_response_cache_bytes")
        asked = [pool.submit(post, server, "double", question(rows(number))) for number in range(1, 200)]
        assert {future.result(PATIENCE_S)[0] for future in asked} == {200}
        told = scrape(server)
        entries, held = told.of("axon_response_cache_entries"), told.of("axon_response_cache_bytes")
        assert held == entries * one, "each takes what one of a batch alone takes"
        assert budget - one < held <= budget == told.of("axon_response_cache_limit_bytes")
        assert told.of("axon_response_cache_evictions_total") == 200 - entries


def test_a_hit_is_written_to_shared_memory_and_classified(repository: Path) -> None:
    value = rows(1)
    size = value.nbytes
    with serving(repository, "--allow-client-shm") as server, clients(server) as (client, _):
        region = shared_memory.create_shared_memory_region("region", "/axon_test_cached", size)
        try:
            client.register_system_shared_memory("region", "/axon_test_cached", size)
            counted = Counted(server, "double")
            wanted = triton_http.InferRequestedOutput("y")
            wanted.set_shared_memory("region", size)
            for _ in range(2):
                shared_memory.set_shared_memory_region(region, [np.zeros_like(value)])
                client.infer("double", [tensor(triton_http, value)], outputs=[wanted])
                written = shared_memory.get_contents_as_numpy(region, np.float32, value.shape)
                assert np.array_equal(written, value * 2)
            classes = triton_http.InferRequestedOutput("y", class_count=1, binary_data=False)
            answer = client.infer("double", [tensor(triton_http, value)], outputs=[classes])
            assert answer.as_numpy("y").ravel().tolist() == ["8.000000:3"]
            assert counted.now()["runs"] == 1
        finally:
            client.unregister_system_shared_memory()
            shared_memory.destroy_shared_memory_region(region)


def test_triton_s_names_are_told_under_compat(repository: Path) -> None:
    with serving(repository, "--compat", "triton") as server:
        for value in (1, 1, 2):
            assert post(server, "double", question(rows(value)))[0] == 200
        told = scrape(server, OPENMETRICS)
        for kind, count in {"hits": 1, "misses": 2}.items():
            assert told.of(f"nv_cache_num_{kind}_per_model", model="double") == count
            assert told.of(f"nv_cache_num_{kind}") == count
        assert (told.of("nv_cache_num_lookups"), told.of("nv_cache_num_entries")) == (3, 2)
        assert 0 < told.of("nv_cache_util") < 1
        assert told.of("nv_inference_count", model="double") == 2, "hits are no inferences"
        assert told.of("nv_inference_request_success", model="double") == 3


def test_callers_in_the_process_are_answered_from_it_too(tmp_path: Path) -> None:
    write(tmp_path, "double", scaled(2.0))
    value = rows(1)
    with axon.sync.InferenceServer.open(tmp_path) as server:
        first = server.infer(value, model="double")["y"].copy()
        again = server.infer(value, model="double")["y"]
        assert np.array_equal(first, again)
        assert not again.flags.writeable, "what is kept cannot be written"
        # The caller's array is his own again once he has his answer.
        value += 1
        assert np.array_equal(server.infer(value, model="double")["y"], value * 2)
        assert np.array_equal(server.infer(rows(1), model="double")["y"], first)

    async def ask() -> None:
        async with await axon.InferenceServer.open(tmp_path) as server:
            for _ in range(3):
                answers = await asyncio.gather(*(server.infer(rows(1), model="double") for _ in range(8)))
                assert all(np.array_equal(answer["y"], rows(1) * 2) for answer in answers)

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_S))


def test_a_wrong_size_is_said(tmp_path: Path) -> None:
    ended = run_axon("serve", tmp_path, "--response-cache-size", "-1")
    assert ended.returncode == 2
    assert "--response-cache-size" in ended.stderr


def test_a_server_without_a_cache_runs_every_request(repository: Path) -> None:
    with serving(repository, "--response-cache-size", "0") as server, clients(server) as (client, _):
        counted = Counted(server, "double")
        for _ in range(2):
            client.infer("double", [tensor(triton_http, rows(1))])
        assert counted.now() == {"runs": 2, "rows": 2, "success": 2}
    assert "response_cache: nothing is kept" in server.stop().stderr


def test_a_stateful_model_keeps_no_answers(tmp_path: Path) -> None:
    (tmp_path / "slow" / "1").mkdir(parents=True)
    (tmp_path / "slow" / "config.pbtxt").write_text(SLOW + "sequence_batching { direct { } }\n")
    ended = run_axon("check", tmp_path)
    assert ended.returncode == 1
    assert "response_cache.enable: expected false for a stateful model" in ended.stdout + ended.stderr


def test_explain_says_what_is_kept(repository: Path) -> None:
    with serving(repository) as server:
        for _ in range(3):
            assert post(server, "brief", question(rows(1)))[0] == 200
        ended = run_axon("explain", "brief", "--url", server.address)
        assert re.search(r"^cache      hits \d, misses \d; answers are kept for 0.2 s$", ended.stdout, re.MULTILINE)
        ended = run_axon("explain", "plain", "--url", server.address)
        assert "cache" not in ended.stdout


def test_a_missing_model_is_no_hit(repository: Path) -> None:
    with serving(repository) as server, clients(server) as (client, _):
        with pytest.raises(InferenceServerException):
            client.infer("nobody", [tensor(triton_http, rows(1))])
        assert scrape(server).of("axon_response_cache_entries") == 0
