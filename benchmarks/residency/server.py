"""200 small models, of which some 40 fit: what is answered and how soon, by Axon's rule and by LRU, on a real server.

    $ .venv/bin/python benchmarks/residency/server.py                 # about four minutes
    $ .venv/bin/python benchmarks/residency/server.py --seconds 120 --json benchmarks/results/residency.json

Requests come at random moments, for the model at rank k in proportion to 1/k, the same ones for both rules. Each answer
is compared with ONNX Runtime's own. A *hit* is an answer that did not wait for its model; an *honest* refusal is a 503
that says when to come again. Meanwhile `/v2/residency` is asked ten times a second what is charged, and the kernel what
the server has.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import onnxruntime as ort

from benchmarks.residency.models import perceptron
from benchmarks.residency.serve import Connection, held, keep, percentile, question, serving

if TYPE_CHECKING:
    import numpy.typing as npt

MODELS: Final = 200
FITTING: Final = 40
CALLERS: Final = 8
SEED: Final = 20261201
OK: Final = 200
UNAVAILABLE: Final = 503
#: What the server foretells that a model takes, for each byte of its file.
FORETOLD: Final = 1.5
POLL_S: Final = 0.1
#: Errors that are shown.
SHOWN: Final = 5
MIB: Final = 1 << 20


@dataclass
class Outcome:
    """What came of the requests of one rule."""

    hits_ms: list[float] = field(default_factory=list)
    waits_ms: list[float] = field(default_factory=list)
    refused: int = 0
    wrong: int = 0
    #: The first few of what should not have been.
    errors: list[str] = field(default_factory=list)
    unexpected: int = 0

    def add(self, other: Outcome) -> None:
        """Take in what another caller saw."""
        self.hits_ms += other.hits_ms
        self.waits_ms += other.waits_ms
        self.refused += other.refused
        self.wrong += other.wrong
        self.unexpected += other.unexpected
        self.errors += other.errors

    @property
    def requests(self) -> int:
        """Return all that were sent."""
        return len(self.hits_ms) + len(self.waits_ms) + self.refused + self.wrong + self.unexpected


@dataclass
class Watched:
    """What was seen of the server's memory."""

    charged: list[int] = field(default_factory=list)
    allowed: list[int] = field(default_factory=list)
    #: What the process has grown by since it had no model, over what is charged.
    ratios: list[float] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)


def name_of(number: int) -> str:
    """Return the name of a model."""
    return f"m{number:03}"


def make(folder: Path) -> tuple[list[int], list[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Write the models; return their bytes, what each answers to a row, and the row."""
    random = np.random.default_rng(SEED)
    row = random.standard_normal((1, 64)).astype(np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sizes, answers = [], []
    for number in range(MODELS):
        # From half a megabyte to some fifteen, few of them large.
        width = int(np.clip(random.lognormal(np.log(800), 0.4), 300, 1900))
        path = folder / f"{name_of(number)}.onnx"
        perceptron(path, (64, width, width, 10), random)
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        sizes.append(path.stat().st_size)
        answers.append(session.run(None, {"x": row})[0].ravel())
    return sizes, answers, row


class Load:
    """Requests at random moments, the same for each rule."""

    def __init__(
        self, seconds: float, rate: float, answers: list[npt.NDArray[np.float32]], body: tuple[Any, Any]
    ) -> None:
        """Plan them."""
        random = np.random.default_rng(SEED + 1)
        count = int(seconds * rate)
        weights = 1 / np.arange(1, MODELS + 1)
        ranks = random.permutation(MODELS)
        self._models = ranks[random.choice(MODELS, size=count, p=weights / weights.sum())]
        self._moments = np.cumsum(random.exponential(1 / rate, count))
        self._answers = answers
        self._body = body
        self._next = 0
        self._lock = threading.Lock()

    def _take(self) -> int | None:
        with self._lock:
            taken, self._next = self._next, self._next + 1
        return taken if taken < len(self._models) else None

    def call(self, address: str, began: float, outcome: Outcome) -> None:
        """Send what is next when its moment has come, until nothing is left."""
        connection = Connection(address)
        while (index := self._take()) is not None:
            time.sleep(max(0.0, began + self._moments[index] - time.perf_counter()))
            self._ask(connection, int(self._models[index]), outcome)
        connection.close()

    def _ask(self, connection: Connection, number: int, outcome: Outcome) -> None:
        sent = time.perf_counter()
        answer = connection.post(f"/v2/models/{name_of(number)}/infer", *self._body)
        took = (time.perf_counter() - sent) * 1e3
        if answer.status == OK:
            if not np.allclose(answer.tensor(), self._answers[number], rtol=1e-4, atol=1e-5):
                outcome.wrong += 1
            elif "x-axon-load-ms" in answer.headers:
                outcome.waits_ms.append(took)
            else:
                outcome.hits_ms.append(took)
        elif answer.status == UNAVAILABLE and "retry-after" in answer.headers:
            outcome.refused += 1
        else:
            outcome.unexpected += 1
            if len(outcome.errors) < SHOWN:
                outcome.errors.append(f"{answer.status} {answer.body[:300]!r}")


def watch(address: str, pid: int, before_mib: float, over: threading.Event) -> Watched:
    """Look at the server's memory until it is over."""
    connection, seen = Connection(address), Watched()
    while not over.wait(POLL_S):
        resident = held(pid).resident_mib
        report = connection.get("/v2/residency")
        seen.charged.append(report["charged_bytes"])
        seen.allowed.append(report["allowed_bytes"])
        seen.ready.append(sum(model["state"] == "READY" for model in report["models"]))
        # While most of the budget is free, the process is what it was before.
        if report["charged_bytes"] > report["budget_bytes"] / 2:
            seen.ratios.append((resident - before_mib) * MIB / report["charged_bytes"])
    connection.close()
    return seen


def prime(folder: Path, cache: Path, body: tuple[Any, Any]) -> None:
    """Have each model loaded once, so that what is measured of it at its first load is known to both rules."""
    with serving(folder, cache, "--model-control-mode", "auto") as (address, _):
        connection = Connection(address)
        for number in range(MODELS):
            if (answer := connection.post(f"/v2/models/{name_of(number)}/infer", *body)).status != OK:
                raise SystemExit(f"server: {answer.body[:300]!r}")
        connection.close()


def measure(policy: str, load: Load, folder: Path, cache: Path, budget: int) -> dict[str, Any]:
    """Play the requests by one rule."""
    options = ("--model-control-mode", "auto", "--memory-budget", str(budget), "--eviction-policy", policy)
    with serving(folder, cache, *options) as (address, pid):
        # The runtime comes with the first model and stays, whatever is unloaded.
        connection = Connection(address)
        connection.post(f"/v2/models/{name_of(0)}/infer", *load._body)  # noqa: SLF001
        connection.post(f"/v2/repository/models/{name_of(0)}/unload")
        while connection.get("/v2/residency")["charged_bytes"] > 0:
            time.sleep(0.01)
        before = held(pid).resident_mib
        over, outcomes = threading.Event(), [Outcome() for _ in range(CALLERS)]
        found: list[Watched] = []
        watching = threading.Thread(target=lambda: found.append(watch(address, pid, before, over)))
        watching.start()
        began = time.perf_counter()
        callers = [threading.Thread(target=load.call, args=(address, began, outcome)) for outcome in outcomes]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        over.set()
        watching.join()
        report = connection.get("/v2/residency")
        connection.close()
    total = Outcome()
    for outcome in outcomes:
        total.add(outcome)
    return figures(total, found[0], report["evictions"])


def figures(total: Outcome, seen: Watched, evictions: int) -> dict[str, Any]:
    """Sum up."""
    answered = total.hits_ms + total.waits_ms
    over = [charged / allowed for charged, allowed in zip(seen.charged, seen.allowed, strict=True)]
    return {
        "requests": total.requests,
        "hit_share": round(len(total.hits_ms) / total.requests, 4),
        "waited_share": round(len(total.waits_ms) / total.requests, 4),
        "refused_share": round(total.refused / total.requests, 4),
        "errors": total.unexpected,
        "wrong": total.wrong,
        "first_errors": total.errors[:SHOWN],
        "hit_p50_ms": round(percentile(total.hits_ms, 0.5), 2),
        "hit_p99_ms": round(percentile(total.hits_ms, 0.99), 2),
        "wait_p50_ms": round(percentile(total.waits_ms, 0.5), 1),
        "wait_p99_ms": round(percentile(total.waits_ms, 0.99), 1),
        "answer_p99_ms": round(percentile(answered, 0.99), 1),
        "evictions": evictions,
        "charged_most_of_allowed": round(max(over), 4),
        "looks": len(over),
        "looks_over_budget": sum(share > 1 for share in over),
        "resident_over_charged_median": round(statistics.median(seen.ratios), 3) if seen.ratios else None,
        "resident_over_charged_range": [round(min(seen.ratios), 3), round(max(seen.ratios), 3)]
        if seen.ratios
        else None,
        "ready_median": statistics.median(seen.ready),
    }


ROWS: Final = {
    "requests": "requests",
    "hit_share": "hits, of all",
    "waited_share": "waited for a load, of all",
    "refused_share": "refused with Retry-After, of all",
    "errors": "other errors",
    "wrong": "wrong answers",
    "hit_p50_ms": "hits: p50, ms",
    "hit_p99_ms": "hits: p99, ms",
    "wait_p50_ms": "waited: p50, ms",
    "wait_p99_ms": "waited: p99, ms",
    "answer_p99_ms": "answers: p99, ms",
    "evictions": "evictions",
    "charged_most_of_allowed": "charged, at most, of the budget",
    "looks_over_budget": "looks at which more was charged",
    "resident_over_charged_median": "memory grown / charged, median",
    "resident_over_charged_range": "memory grown / charged, range",
    "ready_median": "models loaded, median",
}


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90, help="of requests, for each rule (default: 90)")
    parser.add_argument("--rate", type=float, default=100, help="requests in a second (default: 100)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place, "models"), Path(place, "cache")
        folder.mkdir()
        cache.mkdir(0o700)
        sizes, answers, row = make(folder)
        budget = int(statistics.mean(sizes) * FORETOLD * FITTING)
        body = question(row)
        began = time.perf_counter()
        prime(folder, cache, body)
        smallest, largest, whole = (size / 1e6 for size in (min(sizes), max(sizes), sum(sizes)))
        print(
            f"{MODELS} models of {smallest:.1f} to {largest:.1f} MB, {whole:.0f} MB in all; a budget of "
            f"{budget / MIB:.0f} MiB; loaded once in {time.perf_counter() - began:.0f} s"
        )
        results: dict[str, dict[str, Any]] = {}
        for policy in ("value", "lru"):
            load = Load(chosen.seconds, chosen.rate, answers, body)
            results[policy] = measure(policy, load, folder, cache, budget)
    print(f"\n{'':36}{'value':>16}{'lru':>16}")
    for key, label in ROWS.items():
        print(f"{label:36}" + "".join(f"{results[policy][key]!s:>16}" for policy in ("value", "lru")))
    for policy, result in results.items():
        for error in result["first_errors"]:
            print(f"{policy}: {error}")
    keep("residency/server", chosen.json, {"budget_bytes": budget, "files_bytes": sum(sizes), "policies": results})


if __name__ == "__main__":
    main()
