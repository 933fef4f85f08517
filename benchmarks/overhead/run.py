"""Measures what Axon costs beside ONNX Runtime called directly.

Run as `make bench`, or as `.venv/bin/python benchmarks/overhead/run.py`. Three models are asked in process and over
HTTP, by one caller and by 64, in turn for some rounds, so that what the machine does meanwhile hits all alike. Prints
tables and writes all figures to `benchmarks/results`, or with `--only` to `target/bench`. How they are made:
`benchmarks/README.md`.

Exits with 0 when everything was measured, whatever the figures; with 1 and the reason when an answer was wrong, a
request failed or a process ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT: Final = Path(__file__).resolve().parent.parent.parent
# This is a script and no package: its modules, and the models of the tests, are found from the root.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.overhead import machine  # noqa: E402 - the path above
from benchmarks.overhead.cells import SUBJECTS, Cell, Programs, start_cells  # noqa: E402
from benchmarks.overhead.processes import BenchError  # noqa: E402
from benchmarks.overhead.questions import MODELS, make_questions  # noqa: E402
from benchmarks.overhead.report import print_tables, results_of, write_markdown  # noqa: E402
from benchmarks.overhead.startup import RUNS, WAYS, measure_startup  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

TARGET: Final = ROOT / "target" / "bench"
RESULTS: Final = ROOT / "benchmarks" / "results"
README: Final = ROOT / "benchmarks" / "README.md"
STARTUP: Final = "startup"
TABLE_WIDTH: Final = 150


def main() -> int:
    """Measure, print and write."""
    chosen = parse_arguments()
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    try:
        programs = build(console)
        cells, startup = measure(console, programs, chosen)
    except BenchError as error:
        print(f"benchmarks/overhead: {error}", file=sys.stderr)
        return 1
    options = {name: getattr(chosen, name) for name in ("rounds", "seconds", "only", "patience")}
    results = results_of(machine.describe(), options, cells, startup)
    print_tables(console, results, cells)
    # What was measured in part is not kept among the results.
    folder = TARGET if chosen.only else RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / f"overhead-{results['machine']['date'][:10]}-{results['machine']['commit'] or 'unknown'}.json"
    path.write_text(json.dumps(results) + "\n")
    console.print(f"wrote {path.relative_to(ROOT)}")
    if chosen.readme:
        README.write_text(write_markdown(README.read_text(), results, cells))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    names = [*MODELS, *SUBJECTS, STARTUP]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="windows of each figure (default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="length of a window; the slow model's is twice that (default: 0.4)"
    )
    parser.add_argument(
        "--only", default="", metavar="NAME,...", help=f"models and subjects to measure, of: {', '.join(names)}"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=30.0,
        help="seconds, in all, for waiting and measuring again where other processes disturbed (default: 30)",
    )
    parser.add_argument("--readme", action="store_true", help="put the tables into benchmarks/README.md")
    chosen = parser.parse_args()
    chosen.only = [name for name in chosen.only.split(",") if name]
    if unknown := sorted(set(chosen.only).difference(names)):
        parser.error(f"--only: expected some of {', '.join(names)}, got {', '.join(unknown)}")
    if chosen.only and chosen.readme:
        parser.error("--readme takes everything: expected no --only")
    if chosen.rounds < 1 or not 0.05 <= chosen.seconds <= 60:  # noqa: PLR2004 - a window's bounds
        parser.error("expected --rounds of at least 1 and --seconds of 0.05 to 60")
    return chosen


def build(console: Console) -> Programs:
    """Build the server and the load generator as they are shipped.

    Raises:
        BenchError: It failed; cargo has said why.
    """
    crates: Sequence[Sequence[str]] = (
        ("--package", "axon-server"),
        ("--manifest-path", str(Path(__file__).with_name("load") / "Cargo.toml")),
    )
    with console.status("Building axon-server and the load generator (minutes the first time) ..."):
        for crate in crates:
            command = ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", str(TARGET), *crate]
            if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
                message = f"`{' '.join(command)}` failed"
                raise BenchError(message)
    return Programs(server=TARGET / "release" / "axon-server", load=TARGET / "release" / "axon-load")


def measure(
    console: Console, programs: Programs, chosen: argparse.Namespace
) -> tuple[list[Cell], dict[str, dict[str, list[Any]]]]:
    """Measure the start, then each cell once in each round."""
    only = set(chosen.only)
    subjects = set(SUBJECTS) & only or (set() if only == {STARTUP} else set(SUBJECTS))
    models = set(MODELS) & only or set(MODELS)
    with_startup = not only or STARTUP in only
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress = stack.enter_context(Progress(*columns, console=console))
        questions = list(make_questions(folder))
        startup = {}
        if with_startup:
            starts = progress.add_task("starting", total=RUNS * len(WAYS))
            (folder / "empty").mkdir()
            model = next(question.model for question in questions if question.name == "mlp")
            startup = measure_startup(programs.server, folder / "empty", model, lambda: progress.advance(starts))
        asked = [question for question in questions if question.name in models]
        cells = []
        preparing = progress.add_task("preparing", total=None)
        for cell in start_cells(asked, programs, subjects, stack):
            cells.append(cell)
            progress.advance(preparing)
        progress.update(preparing, total=len(cells))
        windows = progress.add_task("measuring", total=chosen.rounds * len(cells))
        patience_s = chosen.patience
        for _ in range(chosen.rounds):
            for cell in cells:
                cell.measure(chosen.seconds)
                while patience_s > 0 and cell.is_disturbed():
                    began = time.monotonic()
                    machine.wait_for_calm(patience_s)
                    cell.measure_again(chosen.seconds)
                    patience_s -= time.monotonic() - began
                progress.advance(windows)
    return cells, startup


if __name__ == "__main__":
    sys.exit(main())
