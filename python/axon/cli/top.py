"""`axon top`: how a server and its models are, renewed all the time in a terminal.

The figures are those of the server's page: `GET /v2/axon/overview` (docs/operations.md).
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from axon._url import shown as shown_url
from axon.cli.ask import URL, ask, base_of
from axon.cli.options import add_trust_options, trust
from axon.cli.parser import duration
from axon.cli.top_view import SORTS, Shown, view
from axon.errors import AxonError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from axon.cli.parser import Commands

__all__ = ["add_to"]

_LEAST_S: Final = 0.1
_MOST_S: Final = 3600.0


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "top",
        help="show live how a server and its models are",
        description="Ask a running server again and again how its models are: state, rate, latencies against the "
        "target, batches, queue and refusals. Keys: q ends, s sorts by the next column, r turns the order round. "
        "Without a terminal the figures are printed once.",
    )
    parser.add_argument("--url", default=URL, help=f"the server (default: {URL})")
    parser.add_argument(
        "--interval",
        type=duration(_LEAST_S, _MOST_S),
        default=1.0,
        metavar="TIME",
        help=f"time between two looks, from {_LEAST_S:g}s to {_MOST_S:g}s (default: 1s)",
    )
    parser.add_argument("--sort", choices=SORTS, default="name", help="what the models are sorted by (default: name)")
    parser.add_argument("--once", action="store_true", help="print the figures once and end")
    parser.add_argument("--json", action="store_true", help="print the server's answer once, as JSON, and end")
    add_trust_options(parser)
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    overview = _look(chosen)
    if chosen.json:
        print(json.dumps(overview, indent=2))
    elif chosen.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        _print_once(Shown(overview=overview, url=shown_url(base_of(chosen.url)), sort=chosen.sort))
    else:
        _follow(chosen, overview)
    return 0


def _look(chosen: argparse.Namespace) -> dict[str, Any]:
    overview = ask(chosen.url, "v2/axon/overview", "models", trust(chosen))
    # Only in this mode are models kept under a limit.
    if overview["server"]["control"] == "auto":
        overview["residency"] = ask(chosen.url, "v2/residency", "models", trust(chosen))
    return overview


def _print_once(shown: Shown) -> None:
    from rich.console import Console  # noqa: PLC0415 - other commands start without it

    console = Console(highlight=False)
    # Where nobody sets a width, as in a pipe, nothing is to be cut.
    if not console.is_terminal:
        console = Console(highlight=False, width=240)
    # Written here and not by rich, which ends the process with 1 when the reader has gone.
    with console.capture() as capture:
        console.print(view(shown, height=0, ascii_only=console.options.ascii_only))
    print(capture.get(), end="")


def _follow(chosen: argparse.Namespace, overview: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    shown = Shown(overview=overview, url=shown_url(base_of(chosen.url)), sort=chosen.sort)
    console = Console(highlight=False)

    def draw() -> Any:  # noqa: ANN401 - what rich prints
        return view(shown, height=console.size.height, ascii_only=console.options.ascii_only)

    with _keys() as key, Live(draw(), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        next_look = time.monotonic() + chosen.interval
        while True:
            pressed = key(max(0.0, next_look - time.monotonic()))
            if pressed in {"q", "Q", "\x03", "\x04"}:
                return
            if pressed is None:
                shown = _look_again(shown, chosen)
                next_look = time.monotonic() + chosen.interval
            else:
                shown = shown.after(pressed)
            live.update(draw(), refresh=True)


def _look_again(shown: Shown, chosen: argparse.Namespace) -> Shown:
    """Take another look; while the server does not answer, what was known stays, with the reason above it."""
    try:
        return shown.renewed(_look(chosen))
    except AxonError as error:
        return shown.failed(str(error))


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Read single keys while the `with` block lasts: a function that waits so long for one, and returns it or None."""
    import termios  # noqa: PLC0415 - not on every system that the other commands run on
    import tty  # noqa: PLC0415

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def wait(patience_s: float) -> str | None:
        try:
            ready, _, _ = select.select([terminal], [], [], patience_s)
            return os.read(terminal, 1).decode("latin-1") if ready else None
        except KeyboardInterrupt:
            return "q"

    try:
        tty.setcbreak(terminal)
        yield wait
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
