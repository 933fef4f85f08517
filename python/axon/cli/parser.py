"""A parser that suggests what was meant."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Commands", "Parser", "bounded", "duration", "model_name", "size", "size_or_none"]

#: What `add_subparsers` returns; the class has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # noqa: SLF001

_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

Number = TypeVar("Number", int, float)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors say what may have been meant, and exit with 2."""

    def __init__(self, **settings: object) -> None:
        """Make a parser that takes whole option names only: an abbreviation may change its meaning later."""
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and refuse what is left over: whichever parser it is left over from knows what may have been meant."""
        chosen, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return chosen, rest

    def error(self, message: str) -> NoReturn:
        """Print the message with a suggestion and exit."""
        wrong = re.search(r"unrecognized arguments: (\S+)|invalid choice: '(\S+)'", message)
        if wrong:
            word = wrong.group(1) or wrong.group(2)
            close = difflib.get_close_matches(word.split("=")[0], self._known_words(), n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        super().error(message)

    def _known_words(self) -> list[str]:
        words = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                words += action.choices
        return words


def model_name(text: str) -> str:
    """Parse a model name: the rule of the native module, named after the option."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", text):
        message = f"expected 1 to 128 of a-z A-Z 0-9 _ . - beginning with none of `.-`, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return text


def bounded(number: Callable[[str], Number], what: str, low: Number, high: Number) -> Callable[[str], Number]:
    """Return a parser of `what`, read by `number`, from `low` to `high`."""

    def parse(text: str) -> Number:
        try:
            value = number(text)
        except ValueError:
            value = None
        # Written so that NaN, which is not less than anything, is refused.
        if value is None or not low <= value <= high:
            message = f"expected {what} from {low} to {high}, got {text!r}"
            raise argparse.ArgumentTypeError(message)
        return value

    return parse


def duration(low: float, high: float, *, needs_unit: bool = False) -> Callable[[str], float]:
    """Return a parser of `10ms`, `0.5s`, `2m` into seconds, from `low` to `high`; without a unit it is seconds."""
    wanted = f"a duration from {_text(low)} to {_text(high)}, as 10ms{'' if needs_unit else ' or 5s'}"

    def parse(text: str) -> float:
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(us|ms|s|m|h)?", text)
        seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else None
        if found is None or seconds is None or (needs_unit and not found[2]) or not low <= seconds <= high:
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return seconds

    return parse


_SIZES: Final = {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "B": 1,
}


def size(text: str) -> int:
    """Parse `8GiB`, `500MB` or a number of bytes: the rule of the native command."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([kKMGT]i?B|B)?", text)
    unit = _SIZES.get(found[2] or "B") if found else None
    if found is None or unit is None or not 1 <= (count := int(float(found[1]) * unit)) <= 9 * 10**18:
        raise argparse.ArgumentTypeError(f"expected a size such as 8GiB, 500MB or a number of bytes, got {text!r}")
    return count


def size_or_none(text: str) -> int:
    """Parse as `size` does, or 0."""
    return 0 if text == "0" else size(text)


def _text(seconds: float) -> str:
    unit = next((unit for unit in reversed(_UNITS) if seconds >= _UNITS[unit]), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"
