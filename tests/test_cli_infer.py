"""`axon infer`: what it takes for input, what it prints, and how it ends.

Exit codes: 0 is an answer, 1 a server or a model that fails, 2 a command line that is wrong.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import models
import numpy as np
import PIL.Image
import pytest
from grpcio_server import serving_grpcio
from models import DATATYPES, identity, save
from onnx import TensorProto, helper
from serving import run_axon, run_python, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import SaveModel
    from serving import Ended


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[dict[str, str]]:
    """Serve `two`, `digits`, and an identity of each data type, over HTTP and gRPC."""
    folder = tmp_path_factory.mktemp("repository")
    for datatype in DATATYPES:
        save(identity(datatype), folder / f"{datatype}.onnx")
    save(models.two_inputs(), folder / "two.onnx")
    (folder / "digits.onnx").write_bytes(digits.read_bytes())
    with ExitStack() as stack:
        server = stack.enter_context(serving(folder))
        grpc_url, _ = stack.enter_context(serving_grpcio(folder))
        yield {"http": f"http://{server.address}", "grpc": grpc_url}


def infer(*arguments: str | Path, **settings: Any) -> dict[str, Any]:  # noqa: ANN401 - what `run_axon` takes
    end = run_axon("infer", *arguments, "--json", **settings)
    assert end.returncode == 0, end
    report: dict[str, Any] = json.loads(end.stdout)
    return report


def data(report: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in report["outputs"]}


def refused(end: Ended) -> str:
    assert (end.returncode, end.stdout) == (2, ""), end
    assert "Traceback" not in end.stderr
    (line,) = re.findall(r"^axon(?: \w+)?: (?:error: )?(.*)$", end.stderr, re.MULTILINE)
    return str(line)


# Where the model is.


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_model_on_a_server_is_asked(urls: dict[str, str], way: str) -> None:
    report = infer("two", "--url", urls[way], "--input", "a=1,2,3", "--input", "b=[[10, 20, 30]]")
    assert data(report) == {"sum": [11.0, 22.0, 33.0], "difference": [-9.0, -18.0, -27.0]}
    assert report["outputs"][0] | {"data": None} == {"name": "sum", "datatype": "FP32", "shape": [1, 3], "data": None}
    assert [put["shape"] for put in report["inputs"]] == [[1, 3], [1, 3]]
    assert report["seed"] is None


def test_a_file_is_run_in_this_process(save_model: SaveModel) -> None:
    path = save_model(models.two_inputs(), "sum")
    assert data(infer(path, "--input", "a=1,2,3", "--input", "b=1,1,1"))["difference"] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_version_is_asked(urls: dict[str, str], version: str) -> None:
    end = run_axon("infer", "two", "--url", urls["http"], "--model-version", version)
    assert end.returncode == (0 if version == "1" else 1)
    assert "Traceback" not in end.stderr


# What goes in.


@pytest.mark.parametrize("way", ["http", "grpc"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_random_data_fits_each_datatype(urls: dict[str, str], way: str, datatype: str) -> None:
    report = infer(datatype, "--url", urls[way], "--batch", "2", "--seed", "7")
    assert report["seed"] == 7
    assert report["outputs"][0]["shape"] == [2, 3]


def test_random_data_comes_from_the_seed(digits: Path) -> None:
    reports = [infer(digits, "--seed", seed) for seed in ("7", "7", "8")]
    assert reports[0] == reports[1]
    assert data(reports[0]) != data(reports[2])


def test_a_seed_that_was_chosen_is_printed_and_can_be_given(digits: Path) -> None:
    end = run_axon("infer", digits, "--json")
    (seed,) = re.findall(r"--seed (\d+)", end.stderr)
    assert infer(digits, "--seed", seed) == json.loads(end.stdout)


def test_files_are_read_by_what_they_are(tmp_path: Path, save_model: SaveModel) -> None:
    path = save_model(models.two_inputs())
    value = np.array([[1, 2, 3], [4, 5, 6]], np.float64)
    np.save(tmp_path / "a.npy", value)
    np.savez(tmp_path / "both.npz", a=value, other=value * 2)
    np.savez(tmp_path / "one.npz", anything=value)
    (tmp_path / "a.json").write_text(json.dumps(value.tolist()))
    (tmp_path / "both.json").write_text(json.dumps({"a": value.tolist(), "b": 0}))
    for file in ("a.npy", "both.npz", "both.npz:a", "one.npz", "a.json", "both.json"):
        report = infer(path, "--input", f"a=@{file}", "--input", "b=@both.npz:other", cwd=tmp_path)
        assert data(report)["sum"] == (value * 3).reshape(-1).tolist()


@pytest.mark.parametrize(
    ("datatype", "text", "values"),
    [
        ("FP32", "1,2.5,-3", [1.0, 2.5, -3.0]),
        ("FP32", "[1, 2, 3]", [1.0, 2.0, 3.0]),
        ("FP32", "[[NaN, Infinity, -Infinity]]", ["NaN", "Infinity", "-Infinity"]),
        ("INT64", "9007199254740993,0,-1", [9007199254740993, 0, -1]),
        ("UINT8", "0,1,255", [0, 1, 255]),
        ("BOOL", "true,false,true", [True, False, True]),
        ("BYTES", "1,two,é", ["1", "two", "é"]),
        ("BYTES", '["a,b", "", "c"]', ["a,b", "", "c"]),
        ("BF16", "1,2,3", [1.0, 2.0, 3.0]),
    ],
)
def test_a_literal_is_what_the_model_takes(save_model: SaveModel, datatype: str, text: str, values: list[Any]) -> None:
    assert data(infer(save_model(identity(datatype)), "--input", f"INPUT0={text}"))["OUTPUT0"] == values


def test_a_lone_input_needs_no_name(digits: Path) -> None:
    report = infer(digits, "--input", f"@{digits.with_name('images.npy')}")
    assert data(report)["label"] == np.load(digits.with_name("predictions.npy")).tolist()


def test_one_row_is_repeated_for_a_batch(save_model: SaveModel) -> None:
    end = run_axon("infer", save_model(identity("FP32")), "--input", "INPUT0=1,2,3", "--batch", "2", "--json")
    assert data(json.loads(end.stdout))["OUTPUT0"] == [1.0, 2.0, 3.0] * 2
    assert "its row is repeated 2 times" in end.stderr


def test_a_dynamic_dimension_is_one_unless_said(save_model: SaveModel) -> None:
    path = save_model(models.dynamic_inner())
    end = run_axon("infer", path, "--json")
    assert json.loads(end.stdout)["outputs"][0]["shape"] == [1, 1]
    assert "--shape x=1,1 says another" in end.stderr
    assert infer(path, "--shape", "x=2,5")["outputs"][0]["shape"] == [2, 5]


# Images.

RED: Final = (255, 0, 51)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return an image, 4 wide and 2 high, red with a little blue."""
    PIL.Image.new("RGB", (4, 2), RED).save(tmp_path / "image.png")
    PIL.Image.new("RGB", (4, 2), RED).save(tmp_path / "image.jpg", quality=100)
    return tmp_path / "image.png"


@pytest.mark.parametrize(
    ("datatype", "shape", "pixels"),
    [
        ("FP32", ("batch", 3, 2, 4), [1.0] * 8 + [0.0] * 8 + [0.2] * 8),
        ("FP32", ("batch", 2, 4, 3), [1.0, 0.0, 0.2] * 8),
        ("FP16", ("batch", 3, 1, 1), [1.0, 0.0, 0.2]),
        ("UINT8", ("batch", 2, 4, 3), list(RED) * 8),
        ("UINT8", (3, 2, 4), [255] * 8 + [0] * 8 + [51] * 8),
        ("UINT8", ("batch", 3, "height", "width"), [255] * 8 + [0] * 8 + [51] * 8),
        ("UINT8", ("batch", 1, 2, 4), [82] * 8),
        ("UINT8", ("batch", 2, 4), [82] * 8),
        ("UINT8", ("batch", 4, 2, 1), [82] * 8),
    ],
)
def test_an_image_is_fitted_to_the_input(  # grey is 0.299 of the red and 0.114 of the blue
    save_model: SaveModel, image: Path, datatype: str, shape: tuple[int | str, ...], pixels: list[float]
) -> None:
    end = run_axon("infer", save_model(identity(datatype, shape)), "--input", f"INPUT0=@{image}", "--json")
    assert end.returncode == 0, end
    assert f"INPUT0: {image}: 4x2 RGB" in end.stderr
    assert ("scaled to 0..1" in end.stderr) == datatype.startswith("FP")
    output = json.loads(end.stdout)["outputs"][0]
    if shape == ("batch", 4, 2, 1):
        assert "converted to L, resized to 2x4, as HWC" in end.stderr
    assert output["data"] == pytest.approx(pixels, abs=2e-3 if datatype == "FP16" else 1e-6)


def test_a_jpeg_is_an_image_too(save_model: SaveModel, image: Path) -> None:
    report = infer(save_model(identity("UINT8", ("batch", 3, 1, 1))), "--input", f"@{image.with_suffix('.jpg')}")
    assert data(report)["OUTPUT0"] == pytest.approx(RED, abs=3)


def test_pillow_that_is_not_installed_names_the_extra(save_model: SaveModel, image: Path) -> None:
    program = """
import sys
sys.modules["PIL"] = None
from axon.cli import main
sys.exit(main(sys.argv[1:]))
"""
    end = run_python(program, "infer", save_model(identity("UINT8", ("batch", 2, 4, 3))), "--input", f"@{image}")
    assert (end.returncode, end.stdout) == (2, "")
    assert end.stderr.endswith("hint: pip install 'axon[image]'\n")


# What comes out.


def test_a_table_shows_each_output(digits: Path) -> None:
    end = run_axon("infer", digits, "--input", f"pixels=@{digits.with_name('images.npy')}", "--top", "2")
    assert (end.returncode, end.stderr) == (0, "")
    lines = [line.split() for line in end.stdout.splitlines()]
    assert ["label", "INT64", "[360]", "7,", "6,", "3,", "7,", "7,", "3,", "..."] in lines
    assert ["row", "class", "score"] in lines
    assert lines.count(["row", "class", "score"]) == 1
    first = [line for line in lines if line[:1] == ["0"]]
    assert first[0][:2] == ["0", "7"]
    assert len(first) == 2


def test_the_best_classes_are_in_the_json_too(save_model: SaveModel) -> None:
    report = infer(save_model(identity("FP32")), "--input", "INPUT0=[[1,3,2],[5,5,4]]", "--top", "2")
    assert report["top"] == {
        "OUTPUT0": [
            [{"class": 1, "score": 3.0}, {"class": 2, "score": 2.0}],
            [{"class": 0, "score": 5.0}, {"class": 1, "score": 5.0}],
        ]
    }


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES", "BF16"])
def test_outputs_are_written_for_numpy(tmp_path: Path, save_model: SaveModel, datatype: str) -> None:
    report = infer(save_model(identity(datatype)), "--output", tmp_path / "out.npz", "--seed", "1")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays.files == ["OUTPUT0"]
        value = arrays["OUTPUT0"]
    assert value.shape == (1, 3)
    found = [each.decode() if isinstance(each, bytes) else each for each in value.reshape(-1).tolist()]
    assert found == data(report)["OUTPUT0"]


@pytest.mark.parametrize("name", ["é日🙂", "[red]x[/red]", "file"])
def test_a_name_may_be_any(tmp_path: Path, save_model: SaveModel, name: str) -> None:
    value = [helper.make_tensor_value_info(put, TensorProto.FLOAT, [1, 3]) for put in ("x", name)]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], [name])], "g", value[:1], value[1:])
    path = save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    end = run_axon("infer", path, "--output", tmp_path / "out.npz")
    assert end.returncode == 0, end
    assert name in end.stdout
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays.files == [name]


def test_help_shows_examples() -> None:
    said = run_axon("infer", "--help").stdout
    assert "examples:\n  axon infer digits --input pixels=@image.npy" in said
    for option in ("--url", "--input", "--batch", "--shape", "--seed", "--top", "--json", "--output", "--timeout"):
        assert option in said


# What is wrong.


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--input", "a=1,2,3"], "--input: model `model` also takes `b` FP32 [?, 3]"),
        (["--input", "c=1"], "--input: model `model` has no input `c`; it takes `a` FP32 [?, 3], `b` FP32 [?, 3]"),
        (["--input", "a=1,2,3", "--input", "a=1,2,3"], "--input: `a` is given twice"),
        (["--input", "@x.npy"], "--input: expected NAME=@FILE, NAME=1,2,3, NAME=JSON or NAME=random, got `@x.npy`"),
        (["--input", "a"], "--input: expected NAME=@FILE"),
        (["--input", "a="], "--input: expected NAME=@FILE"),
        (["--input", "a=1,2", "--input", "b=random"], "--input: `a` has shape [2]; model `model` takes [?, 3]"),
        (["--input", "a=[[1],[2,3]]", "--input", "b=random"], "--input: `a` has rows of different lengths"),
        (["--input", "a=x,y,z", "--input", "b=random"], "--input: expected numbers of FP32, got `x,y,z`"),
        (["--input", 'a=["x","y","z"]', "--input", "b=random"], "--input: `a` takes FP32, which cannot hold"),
        (
            ["--input", "a=@none.npy", "--input", "b=random"],
            "--input: cannot read `none.npy`: No such file",
        ),
        (["--input", "a=@bad.npy", "--input", "b=random"], "--input: `bad.npy` is not what its name says"),
        (["--input", "a=@bad.npz", "--input", "b=random"], "--input: `bad.npz` is not what its name says"),
        (["--input", "a=@bad.json", "--input", "b=random"], "--input: `bad.json` is not what its name says"),
        (["--input", "a=@bad.png", "--input", "b=random"], "--input: an image fits floats or UINT8 of [N, C, H, W]"),
        (["--input", "a=@good.npz:c", "--input", "b=random"], "--input: `good.npz` has `x`, `y`, and no `c`"),
        (["--input", "a=@good.npz", "--input", "b=random"], "--input: `good.npz` has `x`, `y`, and no `a`"),
        (["--input", "a=@a.txt", "--input", "b=random"], "--input: expected .npy, .npz, .json, .png or .jpg"),
        (["--shape", "a=1,4"], "--shape: `a` takes [?, 3], got [1, 4]"),
        (["--shape", "z=1,3"], "--shape: model `model` has no input `z`"),
        (["--shape", "a"], "argument --shape: expected NAME=1,3,224,224, got 'a'"),
        (["--shape", "a=1,-3"], "argument --shape: expected"),
        (["--shape", "a=1,3", "--batch", "2"], "--batch: dimension 0 of `a` is 1, got 2"),
        (["--batch", "0"], "argument --batch: expected rows from 1"),
        (["--seed", "-1"], "argument --seed"),
        (["--timeout", "nan"], "argument --timeout"),
        (["--top", "0"], "argument --top"),
        (["--output", "out.txt"], "--output: expected a name that ends in .npz, got `out.txt`"),
        (["--output", "/nowhere/out.npz"], "--output: cannot write `/nowhere/out.npz`: No such file or directory"),
        (["--url", "http://localhost:1"], "--url: `model.onnx` is a file, which is run in this process"),
        (["--model-version", "1"], "--model-version: `model.onnx` is a file, which has no versions"),
        (["--inptu", "a=1"], "unrecognized arguments: --inptu a=1; did you mean --input?"),
    ],
)
def test_a_command_line_that_is_wrong_says_what_is_wanted(
    tmp_path: Path, save_model: SaveModel, arguments: list[str], problem: str
) -> None:
    save_model(models.two_inputs())
    for name in ("bad.npy", "bad.npz", "bad.json", "bad.png"):
        (tmp_path / name).write_bytes(b"not what the name says")
    np.savez(tmp_path / "good.npz", x=np.ones(3), y=np.ones(3))
    end = run_axon("infer", "model.onnx", *arguments, cwd=tmp_path)
    # Random data that was made before the mistake is told of first.
    end = end._replace(stderr=re.sub(r"^axon infer: random data.*\n", "", end.stderr, flags=re.MULTILINE))
    assert refused(end).startswith(problem)


def test_a_file_that_is_no_image_is_refused_by_its_name(tmp_path: Path, save_model: SaveModel) -> None:
    path = save_model(identity("UINT8", ("batch", 2, 4, 3)))
    (tmp_path / "bad.png").write_bytes(b"no image")
    end = run_axon("infer", path, "--input", "@bad.png", cwd=tmp_path)
    assert refused(end).startswith("--input: cannot read `bad.png`")


@pytest.mark.parametrize("url", ["ftp://localhost", "http://", "localhost:x", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    assert refused(run_axon("infer", "m", "--url", url)).startswith("--url: expected http://host:port")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_cannot_be_reached_is_exit_code_1(scheme: str) -> None:
    end = run_axon("infer", "m", "--url", f"{scheme}://127.0.0.1:1")
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith(f"axon infer: {scheme}://127.0.0.1:1 cannot be reached")


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_model_that_is_not_there_is_exit_code_1(urls: dict[str, str], way: str) -> None:
    end = run_axon("infer", "nobody", "--url", urls[way])
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith("axon infer: model `nobody` is not here")


def test_a_model_that_fails_is_exit_code_1(save_model: SaveModel) -> None:
    end = run_axon("infer", save_model(models.gather()), "--input", "index=[9]")
    assert (end.returncode, end.stdout) == (1, "")
    assert end.stderr.startswith("axon infer: ")
    assert "Traceback" not in end.stderr


def test_a_file_that_is_no_model_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    for name in ("m.onnx", "none.onnx"):
        end = run_axon("infer", name, cwd=tmp_path)
        assert (end.returncode, end.stdout) == (1, "")
        assert end.stderr.startswith("axon infer: ")
