"""The command `axon`."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from axon import __version__
from axon.cli import add, alias, bench, cache, examine, explain, infer, inspect, residency, serve, simulate, top
from axon.cli.options import in_options
from axon.cli.parser import Parser
from axon.errors import AxonError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (the process's own when None) and return its exit code.

    0 is success, 1 a model that cannot be served or output that cannot be written, 2 a command line that is wrong.
    """
    # Before anything loads ONNX Runtime: it reads this once, and would otherwise report to its maker.
    os.environ.setdefault(_TELEMETRY, "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding does not have is printed as an escape.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = Parser(prog="axon", description="An inference server for ONNX models.")
    parser.add_argument("--version", action="version", version=f"axon {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve.add_to(commands)
    inspect.add_to(commands)
    infer.add_to(commands)
    bench.add_to(commands)
    explain.add_to(commands)
    simulate.add_to(commands)
    add.add_to(commands)
    cache.add_to(commands)
    residency.add_to(commands)
    alias.add_to(commands)
    examine.add_to(commands)
    top.add_to(commands)
    try:
        code = _run(parser, arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, as in `axon inspect ... | head`; nothing is left to say it to.
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        print(f"axon: cannot write: {error.strerror}", file=sys.stderr)
        return 1
    return code


def _run(parser: Parser, arguments: Sequence[str] | None) -> int:
    try:
        chosen = parser.parse_args(arguments)
    except SystemExit as end:
        # `--help` and `--version` end here, with what they printed still to be written.
        return end.code if isinstance(end.code, int) else 0
    if chosen.command is None:
        # Checked here and not by argparse, which would do it before it complains of a misspelt option.
        parser.error("the following arguments are required: COMMAND")
    try:
        code: int = chosen.run(chosen)
    except InvalidRequest as error:
        # What is wrong with an option ends like what the parser itself finds wrong.
        text = in_options(error)
        print(f"axon {chosen.command}: {text or error}", file=sys.stderr)
        return 1 if text is None else 2
    except AxonError as error:
        print(f"axon {chosen.command}: {error}", file=sys.stderr)
        return 1
    return code


def _discard_output() -> None:
    """Let the interpreter's last flush, which would fail like the one before, go nowhere."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
