"""`axon.Client` and `axon.AsyncClient` against real servers: Axon's own port, over HTTP and gRPC, and grpcio's server.

The models are ones whose answer is known. "Unchanged" is always bit for bit.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

import axon
import ml_dtypes
import numpy as np
import pytest
from axon import AsyncClient, Client
from axon.errors import ConnectionFailed, DeadlineExceeded, InvalidRequest, ModelNotFound, ServerError
from grpcio_server import serving_grpcio
from models import DATATYPES, identity, mlp, save, scalar, slow, two_inputs
from serving import run_axon, run_python, serving
from test_tritonclient import assert_same, hard_values, json_values, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

GRPC_PORT: Final = "--grpc-port"
#: Servers by the way to them. Axon's own gRPC port is `grpc`, and there only if this `axon serve` has one.
WAYS: Final = ("http", "grpc", "grpcio")
CLIENTS: Final = ("blocking", "asyncio")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        save(identity(datatype), folder / f"{datatype}.onnx")
    for version, seed in (("1", 1), ("3", 3)):
        save(mlp(seed=seed), folder / "layout" / version / "model.onnx")
    (folder / "layout" / "config.pbtxt").write_text("version_policy { all { } }")
    save(two_inputs(), folder / "two.onnx")
    save(scalar(), folder / "scalar.onnx")
    save(slow(), folder / "slow.onnx")
    return folder


@pytest.fixture(scope="module")
def urls(repository: Path) -> Iterator[dict[str, str]]:
    options = [GRPC_PORT, "0"] if GRPC_PORT in run_axon("serve", "--help").stdout else []
    with ExitStack() as stack:
        server = stack.enter_context(serving(repository, *options))
        found = {"http": f"http://{server.address}"}
        own = re.search(r"grpc://[^\s,]+", server.printed)
        assert own, server.printed
        found["grpc"] = own[0]
        found["grpcio"], _ = stack.enter_context(serving_grpcio(repository))
        yield found


@pytest.fixture(params=WAYS)
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


def ask(kind: str, url: str, action: Callable[[Any], Any], **settings: Any) -> Any:  # noqa: ANN401
    """Do `action`, which calls one method of the client it gets, with a client of `kind`."""
    if kind == "blocking":
        with Client(url, **settings) as client:
            return action(client)

    async def asked() -> Any:  # noqa: ANN401
        async with AsyncClient(url, **settings) as client:
            return await action(client)

    return asyncio.run(asked())


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_server_and_its_models_are_live_and_ready(kind: str, url: str) -> None:
    assert ask(kind, url, lambda client: client.is_live()) is True
    assert ask(kind, url, lambda client: client.is_ready()) is True
    assert ask(kind, url, lambda client: client.is_ready("two")) is True
    assert ask(kind, url, lambda client: client.is_ready("nobody")) is False


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_server_that_cannot_be_reached_is_not_live(kind: str, scheme: str) -> None:
    nobody = f"{scheme}://127.0.0.1:1"
    assert ask(kind, nobody, lambda client: client.is_live()) is False
    assert ask(kind, nobody, lambda client: client.is_ready("m")) is False
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1 cannot be reached"):
        ask(kind, nobody, lambda client: client.infer("m", {"x": np.zeros(1)}), retries=1)


@pytest.mark.parametrize("kind", CLIENTS)
def test_metadata_is_the_protocols(kind: str, url: str) -> None:
    server = ask(kind, url, lambda client: client.metadata())
    assert server["name"] in ("axon", "grpcio")
    assert server["version"]
    assert ask(kind, url, lambda client: client.metadata("layout", version=3)) == {
        "name": "layout",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
    }


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_comes_back_unchanged_as_bytes(kind: str, url: str, datatype: str) -> None:
    value = hard_values(datatype)
    outputs = ask(kind, url, lambda client: client.infer(datatype, {"INPUT0": value}))
    assert list(outputs) == ["OUTPUT0"]
    assert outputs["OUTPUT0"].dtype == value.dtype
    assert_same(outputs["OUTPUT0"], value)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_comes_back_unchanged_as_numbers(urls: dict[str, str], datatype: str) -> None:
    value = json_values(datatype)
    outputs = ask("blocking", urls["http"], lambda client: client.infer(datatype, {"INPUT0": value}), binary=False)
    assert outputs["OUTPUT0"].dtype == value.dtype
    assert_same(outputs["OUTPUT0"], value)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_typed_contents_are_what_grpc_has_for_numbers(urls: dict[str, str], datatype: str) -> None:
    value = json_values(datatype)
    for way in WAYS[1:]:
        if way not in urls:
            continue
        with Client(urls[way], binary=False) as client:
            if datatype in ("FP16", "BF16"):
                with pytest.raises(InvalidRequest, match=r"inputs\[0\]: .* has no typed contents"):
                    client.infer(datatype, {"INPUT0": value})
            else:
                assert_same(client.infer(datatype, {"INPUT0": value})["OUTPUT0"], value)


ODD: Final[dict[str, Callable[[Array], Array]]] = {
    "not contiguous": lambda value: np.repeat(value, 2, axis=1)[:, ::2],
    "columns first": np.asfortranarray,
    "big-endian": lambda value: value.astype(value.dtype.newbyteorder(">")),
    "backwards": lambda value: value[::-1].copy()[::-1],
    "read only": lambda value: np.frombuffer(value.tobytes(), value.dtype).reshape(value.shape),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("binary", [True, False])
def test_an_array_may_lie_in_memory_as_it_likes(url: str, odd: str, binary: bool) -> None:  # noqa: FBT001
    value = rows(3, count=4, width=3)
    given = ODD[odd](value)
    outputs = ask("blocking", url, lambda client: client.infer("FP32", {"INPUT0": given}), binary=binary)
    assert_same(outputs["OUTPUT0"], value)


def test_an_answer_is_a_view_of_what_came_and_aligned(urls: dict[str, str]) -> None:
    value = rows(3, count=7, width=3)
    with Client(urls["http"]) as client:
        output = client.infer("FP32", {"INPUT0": value})["OUTPUT0"]
        assert not output.flags.owndata
        assert output.flags.aligned
        assert output.flags.writeable
        both = client.infer("two", {"a": value, "b": value})
    assert np.shares_memory(both["sum"], np.frombuffer(root_of(both["difference"]), np.uint8))


def root_of(array: Array) -> Any:  # noqa: ANN401
    base: Any = array
    while getattr(base, "base", None) is not None:
        base = base.base
    return base.obj if isinstance(base, memoryview) else base


@pytest.mark.parametrize("kind", CLIENTS)
def test_lists_and_a_lone_array_take_what_the_model_says(kind: str, url: str) -> None:
    value = rows(1, count=2, width=3)
    for given in (value, value.tolist(), {"INPUT0": value.tolist()}):
        assert_same(ask(kind, url, methodcaller("infer", "FP32", given))["OUTPUT0"], value)
    whole = ask(kind, url, lambda client: client.infer("BF16", [[1, 2, 3]]))["OUTPUT0"]
    assert whole.dtype == ml_dtypes.bfloat16
    assert whole.tolist() == [[1, 2, 3]]
    texts = ask(kind, url, lambda client: client.infer("BYTES", [["a", "é", b"\xff"]]))["OUTPUT0"]
    assert texts.tolist() == [[b"a", "é".encode(), b"\xff"]]
    assert ask(kind, url, lambda client: client.infer("scalar", 1.5))["y"].tolist() == 3.0


@pytest.mark.parametrize("value", [[[1.5, 2, 3]], [[300, 2, 3]], [[-1, 2, 3]]])
def test_a_list_that_the_models_data_type_cannot_hold_is_not_bent(url: str, value: list[list[float]]) -> None:
    with Client(url) as client, pytest.raises(InvalidRequest, match="UINT8"):
        client.infer("UINT8", value)


def test_one_array_for_two_inputs_is_refused_here(url: str) -> None:
    with Client(url) as client, pytest.raises(InvalidRequest, match=r"expected arrays by name \('a', 'b'\)"):
        client.infer("two", [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize("kind", CLIENTS)
def test_only_the_outputs_that_are_asked_for_come(kind: str, url: str) -> None:
    a, b = rows(1, width=3), rows(2, width=3)
    outputs = ask(kind, url, lambda client: client.infer("two", {"b": b, "a": a}, outputs=["difference"]))
    assert list(outputs) == ["difference"]
    assert_same(outputs["difference"], a - b)


@pytest.mark.parametrize("version", [None, 1, "3"])
def test_each_version_is_asked(urls: dict[str, str], version: str | int | None) -> None:
    answers = []
    for way in sorted(set(urls) - {"grpcio"}):
        with Client(urls[way]) as client:
            answers.append(client.infer("layout", {"x": rows(5)}, version=version)["y"])
            other = client.infer("layout", {"x": rows(5)}, version=1 if version != 1 else 3)["y"]
        assert_same(answers[-1], answers[0])
        assert not np.array_equal(answers[-1], other)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_request_may_say_all_that_the_protocol_lets_it(kind: str, url: str) -> None:
    value = rows(4, width=3)
    asked = {"parameters": {"tenant": "blue", "level": 2}, "id": "tag-7", "priority": 1, "timeout_s": 20.0}
    assert_same(ask(kind, url, lambda client: client.infer("FP32", {"INPUT0": value}, **asked))["OUTPUT0"], value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_a_server_refuses_is_an_exception_of_its_kind(kind: str, url: str) -> None:
    with pytest.raises(ModelNotFound, match="nobody"):
        ask(kind, url, lambda client: client.infer("nobody", {"x": rows(1)}))
    with pytest.raises(ModelNotFound, match="nobody"):
        ask(kind, url, lambda client: client.metadata("nobody"))
    with pytest.raises(InvalidRequest, match="expected 3, got 4"):
        ask(kind, url, lambda client: client.infer("FP32", {"INPUT0": rows(1, width=4)}))


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("way", ["http", "grpc"])
def test_an_error_names_the_field_over_either_protocol(urls: dict[str, str], way: str, kind: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(kind, urls[way], lambda client: client.infer("FP32", {"INPUT0": rows(1, width=4)}))
    assert caught.value.field == "inputs[0].shape[1]"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": "1"}, "timeout_s"),
        ({"outputs": "y"}, "outputs"),
        ({"outputs": [1]}, "outputs[0].name"),
        ({"version": 1.5}, "model_version"),
        ({"parameters": {"priority": 1}}, "parameters.priority"),
        ({"parameters": {"x": [1]}}, "parameters.x"),
        ({"sequence": 7}, "parameters.sequence_id"),
        ({"model": ""}, "model_name"),
        ({"model": None}, "model_name"),
        ({"inputs": {1: [1.0]}}, "inputs[0].name"),
        ({"inputs": {"INPUT0": np.zeros(1, complex)}}, "inputs[0]"),
        ({"inputs": {"INPUT0": np.array([object()])}}, "inputs[0].data[0]"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(url: str, asked: dict[str, Any], field: str) -> None:
    arguments = {"model": "FP32", "inputs": {"INPUT0": rows(1, width=3)}, **asked}
    with Client(url) as client, pytest.raises(InvalidRequest) as caught:
        client.infer(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "http://", "http://h:x", "http://h:70000", "http://h/?q", "grpc://h/path", "http:///x", 7]
)
def test_a_url_that_is_none_is_refused(url: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest, match="expected http://host:port, https://, grpc:// or grpcs://"):
        Client(url)


def test_a_url_may_leave_out_the_scheme(urls: dict[str, str]) -> None:
    with Client(urls["http"].removeprefix("http://")) as client:
        assert client.is_live()


@pytest.mark.parametrize("kind", CLIENTS)
def test_no_answer_within_the_time_is_deadline_exceeded(kind: str, url: str) -> None:
    """The server, told the same time, may also say it first."""
    value = np.ones((1, 3), np.float32)
    name = ask("blocking", url, lambda client: client.metadata("slow"))["inputs"][0]
    value = np.ones([abs(size) for size in name["shape"]], np.float32)
    with pytest.raises(DeadlineExceeded):
        ask(kind, url, lambda client: client.infer("slow", {name["name"]: value}, timeout_s=0.0001))


def test_threads_share_a_client(url: str) -> None:
    def asked(worker: int) -> None:
        for index in range(20):
            value = rows(worker * 1000 + index, count=1 + worker % 3, width=3)
            assert_same(client.infer("FP32", {"INPUT0": value})["OUTPUT0"], value)

    with Client(url) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(asked, range(8)))


def test_tasks_share_a_client(url: str) -> None:
    values = [rows(seed, width=3) for seed in range(64)]

    async def asked() -> None:
        async with AsyncClient(url) as client:
            answers = await asyncio.gather(*(client.infer("FP32", {"INPUT0": value}) for value in values))
        for answer, value in zip(answers, values, strict=True):
            assert_same(answer["OUTPUT0"], value)

    asyncio.run(asked())


def test_a_large_tensor_comes_back_unchanged(url: str) -> None:
    """8 MB, beyond the 4 MiB that gRPC takes by default."""
    value = rows(7, count=700_000, width=3)
    with Client(url) as client:
        assert_same(client.infer("FP32", {"INPUT0": value})["OUTPUT0"], value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_statistics_and_the_index_are_the_same_json_over_both_ways(kind: str, url: str) -> None:
    ask(kind, url, lambda client: client.infer("two", {"a": rows(1, width=3), "b": rows(2, width=3)}))
    (model,) = ask(kind, url, lambda client: client.statistics("two"))["model_stats"]
    assert model["name"] == "two"
    assert isinstance(model["inference_count"], int)
    assert isinstance(model["inference_stats"]["success"]["count"], int)
    assert len(ask(kind, url, lambda client: client.statistics())["model_stats"]) >= 1


def test_a_client_imports_no_engine_and_only_its_own_transport() -> None:
    program = """
import sys, axon
assert "numpy" not in sys.modules and "axon._axon" not in sys.modules
client = axon.Client("http://localhost:1")
assert client.is_live() is False
print(*sorted({"axon._axon", "grpc", "google.protobuf", "ml_dtypes", "rich", "PIL"} & set(sys.modules)))
"""
    end = run_python(program)
    assert (end.returncode, end.stdout, end.stderr) == (0, "\n", "")


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf"])
def test_grpc_that_is_not_installed_names_the_extra(missing: str) -> None:
    program = f"""
import sys, axon
sys.modules[{missing!r}] = None
try:
    axon.Client("grpc://localhost:1").is_live()
except ImportError as error:
    print(error)
"""
    end = run_python(program)
    assert (end.returncode, end.stderr) == (0, "")
    assert "is not installed\nhint: pip install 'axon[grpc]'" in end.stdout


def test_a_client_that_is_closed_says_so(url: str) -> None:
    client = Client(url)
    assert client.is_live()
    client.close()
    client.close()
    with pytest.raises(ServerError, match="the client is closed"):
        client.infer("FP32", {"INPUT0": rows(1)})


def test_an_asyncio_client_that_is_closed_says_so(url: str) -> None:
    async def closed() -> None:
        client = AsyncClient(url)
        assert await client.is_live()
        await client.close()
        await client.close()
        with pytest.raises(ServerError, match="the client is closed"):
            await client.infer("FP32", {"INPUT0": rows(1)})

    asyncio.run(closed())


def test_the_package_has_the_clients() -> None:
    assert {"Client", "AsyncClient", "SequenceStep", "ConnectionFailed"} <= set(axon.__all__)
    assert axon.__version__
