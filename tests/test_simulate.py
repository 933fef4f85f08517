"""`axon simulate`: a user's trace and profile through the batcher, from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from axon.cli import main

if TYPE_CHECKING:
    from pathlib import Path

PROFILE = {"curve": [[1, 0.0011], [16, 0.0026]], "instances": 1, "latency_target_ms": 10}
#: 64 rows, the most of a run, take 7.4 ms.
CAPACITY = 64 / 7.4e-3
OUTCOMES = ("in_time", "late", "refused_queue_full", "refused_predicted", "shed", "expired")


def trace_of(folder: Path, rate: float, count: int = 5000) -> str:
    path = folder / "moments.txt"
    path.write_text("".join(f"{index / rate:.9f}\n" for index in range(count)))
    return str(path)


def profile_of(folder: Path, profile: object = PROFILE) -> str:
    path = folder / "profile.json"
    path.write_text(json.dumps(profile))
    return str(path)


def simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["simulate", *arguments, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert sum(report[outcome] for outcome in OUTCOMES) == report["received"]
    return report


def test_a_light_load_is_all_in_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = simulated(capsys, trace_of(tmp_path, CAPACITY / 10), "--model", profile_of(tmp_path))
    assert report["in_time"] == report["received"] == 5000
    assert 0 < report["p50_s"] <= report["p99_s"] <= report["max_s"] <= report["limit_s"] == 0.01


def test_the_same_seed_makes_the_same_things_happen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (trace_of(tmp_path, 5000), "--model", profile_of(tmp_path))
    first = simulated(capsys, *asked)
    assert simulated(capsys, *asked, "--seed", str(first["seed"])) == first
    other = simulated(capsys, *asked, "--seed", str((first["seed"] + 1) % 2**32))
    assert other["trace"] != first["trace"]


def test_twice_the_speed_is_twice_the_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (trace_of(tmp_path, 0.6 * CAPACITY), "--model", profile_of(tmp_path), "--seed", "1")
    once, thrice = simulated(capsys, *asked), simulated(capsys, *asked, "--speed", "3")
    assert thrice["elapsed_s"] < 0.5 * once["elapsed_s"]
    assert thrice["in_time"] < 0.8 * once["in_time"]


def test_what_inspect_prints_is_a_profile_once_a_limit_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [{"rows": 1, "milliseconds": 1.1}, {"rows": 16, "milliseconds": 2.6}]
    inspected = profile_of(tmp_path, {"name": "m", "run_time": times, "instances": 1, "max_batch_rows": 64})
    trace = trace_of(tmp_path, 5000)
    assert main(["simulate", trace, "--model", inspected]) == 2
    assert "latency_target_ms" in capsys.readouterr().err
    from_inspect = simulated(capsys, trace, "--model", inspected, "--limit", "10ms", "--seed", "4")
    own = simulated(capsys, trace, "--model", profile_of(tmp_path), "--seed", "4")
    assert from_inspect == own


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"curve": []}, "curve: expected"),
        ({"curve": [[1, 0.1, 2]]}, "curve[0]: expected [rows, seconds]"),
        ({"curve": [[4, 0.1], [4, 0.2]]}, "curve[1]: expected more than 4 rows"),
        ({"curve": [[1, 0]]}, "curve[0][1]: expected"),
        ({"instances": 0}, "instances: expected an integer from 1"),
        ({"max_batch_rows": True}, "max_batch_rows: expected an integer"),
        ({"max_queue_size": "many"}, "max_queue_size: expected an integer"),
        ({"latency_target_ms": 10**400}, "latency_target_ms: expected a number"),
        ({"latency_target_ms": -1}, "latency_target_ms: expected a number"),
    ],
)
def test_a_wrong_profile_is_named_by_its_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], named: str
) -> None:
    profile = profile_of(tmp_path, {**PROFILE, **change})
    assert main(["simulate", trace_of(tmp_path, 100, 3), "--model", profile]) == 2
    assert named in capsys.readouterr().err


def test_a_wrong_trace_is_named_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "moments.txt"
    path.write_text("0\n2\n1\n")
    assert main(["simulate", str(path), "--model", profile_of(tmp_path)]) == 2
    assert "line 3: expected a moment from 2 s on" in capsys.readouterr().err


def test_a_trace_that_is_too_long_to_be_played_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "moments.txt"
    path.write_text("0\n1e11\n")
    assert main(["simulate", str(path), "--model", profile_of(tmp_path)]) == 2
    assert "a later moment" in capsys.readouterr().err


def test_the_table_shows_the_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", trace_of(tmp_path, 100, 50), "--model", profile_of(tmp_path), "--seed", "77"]) == 0
    shown = capsys.readouterr().out
    assert "100.00 %" in shown
    assert "        77  trace hash " in shown
