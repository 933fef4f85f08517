"""What `--input` says, made into arrays that a model takes.

It fits what was given to the model's signature where only one thing can be meant, and says what it did; anything else
is an error that says what came and what is taken. Nothing is sent here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from axon._tensors import DTYPES, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from axon._tensors import Array
    from axon.metadata import TensorMetadata

__all__ = ["InputReader", "UsageError", "dims_text", "parse_shape"]

_IMAGES: Final = (".png", ".jpg", ".jpeg")
_RANDOM: Final = "random"
_FORMS: Final = "NAME=@FILE, NAME=1,2,3, NAME=JSON or NAME=random"
#: Whole numbers are drawn below this: 0 and 1 are indices and masks for nearly every model.
_RANDOM_BELOW: Final = 2


class UsageError(Exception):
    """The command was used wrongly; the text says what came, what is wanted and what to do."""


def dims_text(dims: Sequence[int]) -> str:
    """Write dimensions, with `?` for a dynamic one."""
    return f"[{', '.join('?' if size < 0 else str(size) for size in dims)}]"


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read `NAME=1,3,224,224`.

    Raises:
        ValueError: It is something else.
    """
    name, equals, sizes = text.rpartition("=")
    if not (name and equals):
        raise ValueError(text)
    dims = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    if any(size < 0 for size in dims):
        raise ValueError(text)
    return name, dims


class InputReader:
    """Reads the inputs of one request.

    Attributes:
        notes: What was done to what was given, for the reader of the answer.
        used_random: Whether random data was made, for which the seed matters.
    """

    def __init__(
        self, model: str, takes: Sequence[TensorMetadata], *, batch: int | None, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        """Read for a model that takes `takes`; `batch` and `shapes` say what its dynamic dimensions are."""
        self._model = model
        self._takes = {tensor.name: tensor for tensor in takes}
        self._batch = batch
        self.notes: list[str] = []
        self.used_random = False
        for name in shapes:
            self._check_name("--shape", name)
        self._dims = {name: self._dimensions(name, shapes.get(name)) for name in self._takes}

    def read(self, specs: Sequence[str], seed: int) -> dict[str, Array]:
        """Read each `--input`, or make every input of random data when there is none.

        Raises:
            UsageError: One is not what the model takes.
        """
        random = np.random.default_rng(seed)
        given: dict[str, str] = {}
        for spec in specs:
            name, value = self._split(spec)
            if name in given:
                raise UsageError(f"--input: `{name}` is given twice")
            given[name] = value
        if not given:
            given = dict.fromkeys(self._takes, _RANDOM)
        missing = [name for name in self._takes if name not in given]
        if missing:
            also = f"hint: add --input {missing[0]}=random"
            raise UsageError(f"--input: model `{self._model}` also takes {self._signature(missing)}\n{also}")
        return {name: self._read_one(name, given[name], random) for name in self._takes}

    def _split(self, spec: str) -> tuple[str, str]:
        name, equals, value = spec.partition("=")
        if spec.startswith("@") or not equals:
            # Without a name it can be meant for a lone input only.
            if len(self._takes) != 1 or not (spec.startswith("@") or spec == _RANDOM):
                raise UsageError(f"--input: expected {_FORMS}, got `{spec}`; it takes {self._signature(self._takes)}")
            return next(iter(self._takes)), spec
        self._check_name("--input", name)
        if not value:
            raise UsageError(f"--input: expected {_FORMS}, got `{spec}`")
        return name, value

    def _check_name(self, option: str, name: str) -> None:
        if name not in self._takes:
            takes = self._signature(self._takes)
            raise UsageError(f"{option}: model `{self._model}` has no input `{name}`; it takes {takes}")

    def _signature(self, names: Sequence[str] | dict[str, Any]) -> str:
        tensors = [self._takes[name] for name in names]
        return ", ".join(f"`{each.name}` {each.datatype} {dims_text(each.shape)}" for each in tensors)

    def _dimensions(self, name: str, chosen: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return an input's dimensions as chosen; what stays -1 is for the data to say."""
        dims = self._takes[name].shape
        if chosen is not None:
            if not _matches(chosen, dims):
                raise UsageError(f"--shape: `{name}` takes {dims_text(dims)}, got {list(chosen)}")
            dims = chosen
        if self._batch is not None and dims:
            if dims[0] not in (-1, self._batch):
                raise UsageError(f"--batch: dimension 0 of `{name}` is {dims[0]}, got {self._batch}")
            dims = (self._batch, *dims[1:])
        return dims

    def _read_one(self, name: str, value: str, random: np.random.Generator) -> Array:
        datatype, dims = self._takes[name].datatype, self._dims[name]
        if value == _RANDOM:
            self.used_random = True
            array = _random(datatype, self._settled(name, dims), random)
        elif value.startswith("@"):
            array = self._read_file(name, value[1:])
        else:
            array = self._array(name, _literal(value, datatype))
        return self._as_datatype(name, self._shaped(name, array))

    def _settled(self, name: str, dims: tuple[int, ...]) -> tuple[int, ...]:
        if -1 in dims[1:]:
            ones = tuple(1 if size < 0 else size for size in dims)
            example = ",".join(map(str, ones))
            self.notes.append(
                f"{name}: {dims_text(dims)} is taken as {list(ones)}; --shape {name}={example} says another"
            )
        return tuple(1 if size < 0 else size for size in dims)

    def _read_file(self, name: str, path: str) -> Array:
        file, _, key = path.rpartition(":") if ".npz:" in path else (path, "", "")
        suffix = Path(file).suffix.lower()
        try:
            if suffix == ".npy":
                return np.asarray(np.load(file, allow_pickle=False))
            if suffix == ".npz":
                return self._read_npz(name, file, key)
            if suffix == ".json":
                said = json.loads(Path(file).read_text(encoding="utf-8"))
                return self._array(name, said.get(name, said) if isinstance(said, dict) else said)
            if suffix in _IMAGES:
                return self._read_image(name, file)
        except OSError as error:
            raise UsageError(f"--input: cannot read `{file}`: {error.strerror or error}") from error
        except ValueError as error:
            raise UsageError(f"--input: `{file}` is not what its name says: {error}") from error
        raise UsageError(f"--input: expected .npy, .npz, .json, .png or .jpg, got `{file}`")

    def _read_npz(self, name: str, file: str, key: str) -> Array:
        with np.load(file, allow_pickle=False) as arrays:
            chosen = key or (arrays.files[0] if len(arrays.files) == 1 else name)
            if chosen not in arrays.files:
                there = ", ".join(f"`{each}`" for each in arrays.files)
                raise UsageError(f"--input: `{file}` has {there}, and no `{chosen}`\nhint: {name}=@{file}:KEY")
            return np.asarray(arrays[chosen])

    def _read_image(self, name: str, file: str) -> Array:
        from axon.cli import image  # noqa: PLC0415 - an optional dependency

        datatype, dims = self._takes[name].datatype, self._dims[name]
        if not image.fits(datatype, dims):
            wanted = "floats or UINT8 of [N, C, H, W], [N, H, W, C] or [N, H, W]"
            raise UsageError(f"--input: an image fits {wanted}; `{name}` takes {datatype} {dims_text(dims)}")
        array, done = image.read_image(file, datatype, dims)
        self.notes.append(f"{name}: {file}: {done}")
        return array

    def _array(self, name: str, value: Any) -> Array:  # noqa: ANN401 - JSON
        is_text = self._takes[name].datatype == "BYTES"
        try:
            return np.array(value, dtype=object if is_text else None)
        except ValueError as error:
            raise UsageError(f"--input: `{name}` has rows of different lengths") from error

    def _shaped(self, name: str, array: Array) -> Array:
        dims = self._dims[name]
        for rows in (array, array[np.newaxis]):
            if _matches(rows.shape, dims):
                return rows
            if self._batch is not None and dims and _matches(rows.shape, (1, *dims[1:])):
                self.notes.append(f"{name}: its row is repeated {self._batch} times")
                return np.repeat(rows, self._batch, axis=0)
        known = math.prod(size for size in dims if size >= 0)
        is_flat = array.ndim <= 1 and dims.count(-1) <= 1 and known > 0
        if is_flat and (array.size % known == 0 if -1 in dims else array.size == known):
            return array.reshape(dims)
        came, wanted = list(array.shape), dims_text(self._takes[name].shape)
        problem = f"--input: `{name}` has shape {came}; model `{self._model}` takes {wanted}"
        raise UsageError(f"{problem}\nhint: {name}=random shows what works; {name}='[[...], [...]]' gives rows")

    def _as_datatype(self, name: str, array: Array) -> Array:
        datatype = self._takes[name].datatype
        if datatype == "BYTES":
            return array
        fitted = fit(array, datatype)
        if datatype == "BF16":
            return _as_bfloat16(fitted)
        if fitted.dtype != DTYPES.get(datatype):
            came = f"{array.dtype} values" if array.dtype.kind in "biuf" else "values that are no numbers"
            raise UsageError(f"--input: `{name}` takes {datatype}, which cannot hold the {came} that came")
        if array.dtype != fitted.dtype and array.dtype.kind == "f":
            self.notes.append(f"{name}: rounded from {array.dtype} to {fitted.dtype}")
        return fitted


def _as_bfloat16(array: Array) -> Array:
    try:
        import ml_dtypes  # noqa: PLC0415 - optional
    except ImportError as error:
        raise UsageError("--input: BF16 needs a package\nhint: pip install ml_dtypes") from error
    return array.astype(ml_dtypes.bfloat16)


def _matches(shape: Sequence[int], dims: Sequence[int]) -> bool:
    return len(shape) == len(dims) and all(want in (-1, size) for size, want in zip(shape, dims, strict=True))


def _literal(text: str, datatype: str) -> Any:  # noqa: ANN401 - JSON
    """Read JSON, or what stands between commas."""
    is_json = text[0] in '["' if datatype == "BYTES" else True
    try:
        if is_json:
            return json.loads(text)
    except ValueError:
        pass
    parts = text.split(",")
    if datatype == "BYTES":
        return parts
    try:
        return [json.loads(part) for part in parts]
    except ValueError as error:
        raise UsageError(f"--input: expected numbers of {datatype}, got `{text}`") from error


def _random(datatype: str, dims: tuple[int, ...], random: np.random.Generator) -> Array:
    """Make floats from 0 to 1, bytes from 0 to 255, other whole numbers and booleans 0 or 1, words of letters."""
    if datatype == "BYTES":
        letters = random.integers(ord("a"), ord("z") + 1, (math.prod(dims), 5), dtype=np.uint8)
        words = np.empty(len(letters), dtype=object)
        words[:] = [row.tobytes() for row in letters]
        return words.reshape(dims)
    dtype = DTYPES.get(datatype, np.dtype(np.float32))
    if dtype.kind == "f":
        return random.random(dims, dtype=np.float32).astype(dtype)
    return random.integers(0, 256 if datatype == "UINT8" else _RANDOM_BELOW, dims).astype(dtype)
