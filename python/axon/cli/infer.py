"""`axon infer`: one request to a model, on a server or in a file."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from axon.cli.options import LARGEST_SEED, add_input_options, add_trust_options, count, trust
from axon.cli.parser import bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from axon._tensors import Array
    from axon.cli.parser import Commands
    from axon.metadata import TensorMetadata

__all__ = ["add_to"]

_URL: Final = "http://localhost:8000"
_SHOWN: Final = 6
_EXAMPLES: Final = """examples:
  axon infer digits --input pixels=@image.npy      a model on the server at http://localhost:8000
  axon infer digits --url grpc://gpu-1:8001        random data that fits, over gRPC
  axon infer model.onnx --batch 4 --seed 1         a file, run in this process
  axon infer resnet --input @cat.jpg --top 5       an image, fitted to the input; the 5 best classes
  axon infer bert --input ids=1,2,3 --input mask=random --shape mask=1,3
  axon infer digits --json | jq .outputs           for programs; --output out.npz for NumPy
"""


@dataclass(frozen=True, slots=True)
class _Model:
    """A model that can be asked, wherever it is."""

    name: str
    takes: tuple[TensorMetadata, ...]
    gives: tuple[TensorMetadata, ...]
    infer: Callable[[dict[str, Array]], dict[str, Array]]
    close: Callable[[], None]


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "infer",
        help="ask a model once, on a server or in a file",
        description="Ask a model once and show its outputs. Without --input, every input is random data that fits.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a model on the server, or the path of an .onnx file")
    parser.add_argument("--url", help=f"the server, http:// or grpc:// (default: {_URL})")
    parser.add_argument("--model-version", metavar="N", help="version to run (default: the server's choice)")
    add_input_options(parser, seed_of="random data")
    parser.add_argument(
        "--timeout",
        type=bounded(float, "seconds", 0.001, 86400.0),
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for the answer (default: 60)",
    )
    parser.add_argument("--top", type=count("classes"), metavar="K", help="show the K best of each row's scores")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", metavar="FILE.npz", help="write the outputs as NumPy arrays")
    add_trust_options(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from axon.cli.inputs import UsageError  # noqa: PLC0415

    try:
        model = _open(chosen)
    except (UsageError, ImportError) as error:
        return _wrong(error)
    try:
        return _ask(model, chosen)
    except (UsageError, ImportError) as error:
        return _wrong(error)
    finally:
        model.close()


def _wrong(error: object) -> int:
    print(f"axon infer: {error}", file=sys.stderr)
    return 2


def _open(chosen: argparse.Namespace) -> _Model:
    from axon.cli.inputs import UsageError  # noqa: PLC0415

    if chosen.output is not None and not chosen.output.endswith(".npz"):
        raise UsageError(f"--output: expected a name that ends in .npz, got `{chosen.output}`")
    is_file = chosen.model.endswith(".onnx") or Path(chosen.model).is_file()
    if not is_file:
        return _on_server(chosen)
    if chosen.url is not None:
        raise UsageError(f"--url: `{chosen.model}` is a file, which is run in this process\nhint: leave out --url")
    if chosen.model_version is not None:
        raise UsageError(f"--model-version: `{chosen.model}` is a file, which has no versions")
    return _in_process(chosen)


def _in_process(chosen: argparse.Namespace) -> _Model:
    from axon.sync import InferenceServer  # noqa: PLC0415

    server = InferenceServer.load(chosen.model)
    metadata = server.metadata()
    return _Model(
        name=metadata.name,
        takes=metadata.inputs,
        gives=metadata.outputs,
        infer=lambda inputs: server.infer(inputs, timeout_s=chosen.timeout),
        close=server.close,
    )


def _on_server(chosen: argparse.Namespace) -> _Model:
    from axon.client import Client  # noqa: PLC0415
    from axon.errors import AxonError, ServerError  # noqa: PLC0415
    from axon.metadata import TensorMetadata  # noqa: PLC0415

    trusted = trust(chosen)
    client = Client(
        _URL if chosen.url is None else chosen.url,
        timeout_s=chosen.timeout,
        ca=trusted.ca,
        certificate=trusted.certificate,
    )
    try:
        said = client.metadata(chosen.model, version=chosen.model_version)
        sides = [tuple(map(TensorMetadata.from_report, said[side])) for side in ("inputs", "outputs")]
    except (AxonError, KeyError, TypeError, ValueError) as error:
        client.close()
        if isinstance(error, AxonError):
            raise
        raise ServerError(f"the metadata of model {chosen.model!r} is not the protocol's: {error!r}") from error

    def infer(inputs: dict[str, Array]) -> dict[str, Array]:
        return client.infer(chosen.model, inputs, version=chosen.model_version, timeout_s=chosen.timeout)

    return _Model(name=chosen.model, takes=sides[0], gives=sides[1], infer=infer, close=client.close)


def _ask(model: _Model, chosen: argparse.Namespace) -> int:
    import secrets  # noqa: PLC0415

    from axon.cli.inputs import InputReader  # noqa: PLC0415

    seed = secrets.randbelow(LARGEST_SEED) if chosen.seed is None else chosen.seed
    reader = InputReader(model.name, model.takes, batch=chosen.batch, shapes=dict(chosen.shape))
    inputs = reader.read(chosen.input, seed)
    notes = reader.notes + ([f"random data, --seed {seed}"] if reader.used_random else [])
    for note in notes:
        print(f"axon infer: {note}", file=sys.stderr)
    outputs = {name: _plain(array) for name, array in model.infer(inputs).items()}
    datatypes = {tensor.name: tensor.datatype for tensor in (*model.takes, *model.gives)}
    if chosen.output is not None:
        _save(outputs, chosen.output)
    if chosen.json:
        report = _report(model.name, inputs, outputs, datatypes)
        report["seed"] = seed if reader.used_random else None
        if chosen.top is not None:
            report["top"] = {name: list(_top(array, chosen.top)) for name, array in _scores(outputs)}
        print(json.dumps(report, allow_nan=False))
    else:
        _print_tables(model.name, outputs, datatypes, chosen.top)
    return 0


def _plain(array: Array) -> Array:
    """Return an array of a type that NumPy has itself: BF16 as float32, exactly."""
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _report(
    name: str, inputs: dict[str, Array], outputs: dict[str, Array], datatypes: dict[str, str]
) -> dict[str, Any]:
    def describe(arrays: dict[str, Array]) -> list[dict[str, Any]]:
        return [
            {"name": each, "datatype": datatypes.get(each), "shape": list(array.shape)}
            for each, array in arrays.items()
        ]

    described = describe(outputs)
    for output, array in zip(described, outputs.values(), strict=True):
        output["data"] = [_json_value(value) for value in array.reshape(-1).tolist()]
    return {"model": name, "inputs": describe(inputs), "outputs": described}


def _json_value(value: Any) -> Any:  # noqa: ANN401 - an element
    """Return an element as JSON has it: text for bytes, and the names of the numbers that JSON does not have."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    return value


def _scores(outputs: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Yield the outputs that score classes: floats, more than one to a row."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and array.ndim and array.shape[-1] > 1:
            yield name, array


def _top(array: Array, count: int) -> Iterator[list[dict[str, Any]]]:
    """Yield the best `count` of each row, the best first; of equals, the first."""
    for row in array.reshape(-1, array.shape[-1]):
        best = sorted(range(len(row)), key=lambda at, row=row: -float(row[at]))[:count]  # type: ignore[misc]
        yield [{"class": at, "score": _json_value(row[at].item())} for at in best]


def _save(outputs: dict[str, Array], path: str) -> None:
    """Write the outputs; BYTES as NumPy's `S`, which loads without pickle."""
    import zipfile  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    from axon.cli.inputs import UsageError  # noqa: PLC0415

    try:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in outputs.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    plain = array.astype("S") if array.dtype == object else array
                    np.lib.format.write_array(member, plain, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"--output: cannot write `{path}`: {error.strerror}") from error


def _print_tables(name: str, outputs: dict[str, Array], datatypes: dict[str, str], top: int | None) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=escape(name), box=box.SIMPLE)
    for column in ("output", "datatype", "shape", "values"):
        table.add_column(column)
    for each, array in outputs.items():
        shape = f"[{', '.join(map(str, array.shape))}]"
        table.add_row(escape(each), datatypes.get(each, array.dtype.name), escape(shape), escape(_values(array)))
    tables = [table]
    for each, array in _scores(outputs) if top else ():
        best = Table(title=escape(f"{each}: best classes"), box=box.SIMPLE)
        for column in ("row", "class", "score"):
            best.add_column(column, justify="right")
        for row, classes in enumerate(_top(array, top or 0)):
            for one in classes:
                best.add_row(str(row), str(one["class"]), _value(one["score"]))
        tables.append(best)
    console = Console()
    # Written here and not by rich, which ends the process with 1 when the reader has gone.
    with console.capture() as capture:
        for each_table in tables:
            console.print(each_table)
    print(capture.get(), end="")


def _values(array: Array) -> str:
    shown = [_value(value) for value in array.reshape(-1)[:_SHOWN].tolist()]
    return ", ".join([*shown, "..."] if array.size > _SHOWN else shown)


def _value(value: Any) -> str:  # noqa: ANN401 - an element
    if isinstance(value, float):
        return f"{value:.5g}"
    return repr(value.decode(errors="backslashreplace")) if isinstance(value, bytes) else str(value)
