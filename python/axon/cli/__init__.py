"""The command `axon`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from axon import __version__
from axon.cli import inspect, serve
from axon.cli.parser import Parser
from axon.errors import AxonError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (the process's own when None) and return its exit code.

    0 is success, 1 a model that cannot be served, 2 a command line that is wrong.
    """
    # Before anything loads ONNX Runtime: it reads this once, and would otherwise report to its maker.
    os.environ.setdefault(_TELEMETRY, "1")
    parser = Parser(prog="axon", description="An inference server for ONNX models.")
    parser.add_argument("--version", action="version", version=f"axon {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve.add_to(commands)
    inspect.add_to(commands)
    chosen = parser.parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except AxonError as error:
        print(f"axon {chosen.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has gone, as in `axon inspect ... | head`; nothing is left to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code
