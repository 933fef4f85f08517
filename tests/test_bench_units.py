"""What `axon bench` counts and computes, without a server and without waiting: the loop's time is virtual."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import statistics
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from axon.bench import Arrivals, Load, Record, run, summarise
from axon.bench.arrivals import BadTrace, due, read_trace
from axon.bench.percentile import interval_ranks, percentile
from axon.bench.record import ANSWERED, TIMEOUT, Failure
from axon.bench.search import judge, rates
from virtual_time import VirtualLoop, run_virtually

if TYPE_CHECKING:
    from pathlib import Path


# Percentiles.


@pytest.mark.parametrize(
    ("count", "q", "ranks"),
    [
        # The median's: in every table of the sign test at 5 %.
        (5, 0.5, (None, None)),
        (6, 0.5, (1, 6)),
        (10, 0.5, (2, 9)),
        (20, 0.5, (6, 15)),
        (100, 0.5, (40, 61)),
        # 0.99 to the power of 367 is above 2.5 %, and that of 368 is below.
        (367, 0.99, (359, None)),
        (368, 0.99, (360, 368)),
        # One value is below that percentile 999 times in 1,000, and may be far below.
        (1, 0.999, (1, None)),
    ],
)
def test_the_interval_of_a_percentile_has_the_known_ranks(
    count: int, q: float, ranks: tuple[int | None, int | None]
) -> None:
    assert interval_ranks(count, q) == ranks


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("count", [1, 2, 50, 999, 5000])
def test_the_interval_is_the_shortest_that_leaves_a_fortieth_on_each_side(count: int, q: float) -> None:
    def below(most: int) -> float:
        terms = (math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(most + 1))
        return math.fsum(terms)

    if count > 1000:
        # Whole numbers of that size are no floats: by the normal law, to which the binomial is close there.
        low, high = interval_ranks(count, q)
        deviation = 1.96 * math.sqrt(count * q * (1 - q))
        assert low == pytest.approx(count * q - deviation, abs=3)
        assert high is None or high == pytest.approx(count * q + deviation, abs=3)
        return
    low, high = interval_ranks(count, q)
    assert below((low or 0) - 1) <= 0.025 < below(low or 0)
    if high is None:
        assert below(count - 1) < 0.975
    else:
        assert below(high - 1) >= 0.975 > below(high - 2)


def test_the_interval_of_very_many_values_is_near_the_percentile() -> None:
    low, high = interval_ranks(10_000_000, 0.999)
    assert low is not None
    assert high is not None
    assert 9_990_000 - 200 < low < 9_990_000 < high < 9_990_000 + 200


def test_a_percentile_is_a_value_that_came() -> None:
    values = [float(value) for value in range(1, 1001)]
    assert [percentile(values, q).value for q in (0.5, 0.9, 0.99, 0.999)] == [500.0, 900.0, 990.0, 999.0]
    assert percentile([7.0], 0.999).value == 7.0
    assert percentile([1.0, math.inf], 0.99).value == math.inf


def test_the_interval_holds_the_true_percentile_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    true = -math.log(0.1)
    found = [percentile(np.sort(random.exponential(1.0, 500)), 0.9) for _ in range(1000)]
    held = sum(each.low is not None and each.high is not None and each.low <= true <= each.high for each in found)
    assert 930 <= held <= 990


# Arrivals.


def first(arrivals: Arrivals, rate: float, seed: int, count: int) -> list[float]:
    return list(itertools.islice(due(arrivals, rate, seed), count))


@pytest.mark.parametrize("arrivals", Arrivals)
def test_arrivals_have_their_mean_rate_and_ascend(arrivals: Arrivals) -> None:
    moments = first(arrivals, 250.0, 1, 200_000)
    assert moments == sorted(moments)
    assert moments[0] >= 0.0
    assert len(moments) / moments[-1] == pytest.approx(250.0, rel=0.03)


@pytest.mark.parametrize("arrivals", [Arrivals.POISSON, Arrivals.BURSTY])
def test_arrivals_are_those_of_their_seed(arrivals: Arrivals) -> None:
    assert first(arrivals, 100.0, 5, 10_000) == first(arrivals, 100.0, 5, 10_000)
    assert first(arrivals, 100.0, 5, 10) != first(arrivals, 100.0, 6, 10)


def dispersion(arrivals: Arrivals) -> float:
    """Return the variance of the counts in tenths of a second as a multiple of their mean."""
    moments = first(arrivals, 1000.0, 2, 300_000)
    counts = np.bincount((np.array(moments) / 0.1).astype(int))[:-1].tolist()
    return float(statistics.variance(counts) / statistics.mean(counts))


def test_arrivals_are_spread_as_their_name_says() -> None:
    gaps = np.diff(first(Arrivals.CONSTANT, 100.0, 0, 1000))
    assert gaps == pytest.approx(0.01, rel=1e-6)
    assert dispersion(Arrivals.POISSON) == pytest.approx(1.0, rel=0.1)
    assert dispersion(Arrivals.BURSTY) > 10.0


def test_a_trace_is_seconds_or_json_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('# recorded\n100.5\n\n{"at_s": 101, "rows": 4}\n1.015e2\n')
    assert read_trace(path) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a moment on each line, got none"),
        ("1\nsoon\n", "line 2: expected seconds or {\"at_s\": seconds}, got 'soon'"),
        ("1\nNaN\n", "line 2: expected seconds"),
        ("true\n", "line 1: expected seconds"),
        ('{"time": 1}\n', "line 1: expected seconds"),
        ("[" * 5000 + "\n", "line 1: expected seconds"),
        ("2\n1\n", "line 2: expected a moment from 2 s on, got 1 s"),
    ],
)
def test_a_trace_that_cannot_be_replayed_says_which_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(BadTrace) as caught:
        read_trace(path)
    assert str(caught.value).startswith(problem)


# Load.

#: When the server of these tests answers nothing, in seconds from the start.
STALL: Final = (5.0, 10.0)


class _Stalling:
    """Answers in 1 ms, but within `STALL` only at its end."""

    def __init__(self) -> None:
        self.start = asyncio.get_running_loop().time()

    async def send(self) -> Failure | None:
        now = asyncio.get_running_loop().time() - self.start
        await asyncio.sleep(STALL[1] - now if STALL[0] <= now < STALL[1] else 0.001)
        return None


class _Blocking:
    """Answers at once, but stops the whole generator from 5 s to 10 s."""

    def __init__(self) -> None:
        self.start = asyncio.get_running_loop().time()

    async def send(self) -> Failure | None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        if STALL[0] <= loop.now - self.start < STALL[1]:
            loop.now = self.start + STALL[1]
        return None


class _Answering:
    """Answers after some time, or fails; counts what is under way."""

    def __init__(self, seconds: float, failure: Failure | None = None) -> None:
        self.seconds = seconds
        self.failure = failure
        self.sent = self.under_way = self.most = 0

    async def send(self) -> Failure | None:
        self.sent += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.under_way -= 1
        return self.failure


def every(seconds: float) -> itertools.count[float]:
    # Half a step in, so that no moment falls on an end.
    return itertools.count(seconds / 2, seconds)


def settled(record: Record) -> bool:
    return record.due == record.answered + record.failed + record.not_sent + record.unfinished


def test_a_stall_is_charged_to_all_who_were_due_in_it() -> None:
    async def work() -> Record:
        return await run(Load(due=every(0.01), duration_s=20.0, max_in_flight=1000), _Stalling())

    record = run_virtually(work())
    assert record.answered == record.due == 2000
    waits = {round(moment, 4): wait for moment, wait in zip(record.due_s, record.latency_s, strict=True)}
    for moment, wait in waits.items():
        stalled = STALL[0] <= moment < STALL[1]
        assert wait == pytest.approx(STALL[1] - moment if stalled else 0.001, abs=1e-6)
    # A quarter of the requests fell into the stall: the p90 is of those that waited for 3 s and more.
    summary = summarise(record, None)
    assert summary.percentiles["p50"].value == pytest.approx(0.001, abs=1e-6)
    assert summary.percentiles["p90"].value == pytest.approx(3.0, abs=0.01)
    assert summary.percentiles["p99"].value == pytest.approx(4.8, abs=0.01)
    assert max(record.lateness_s) == pytest.approx(0.0, abs=1e-6)


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    async def work() -> Record:
        return await run(Load(due=every(0.01), duration_s=20.0, max_in_flight=1000), _Blocking())

    record = run_virtually(work())
    assert record.answered == 2000
    summary = summarise(record, 0.1)
    # Each was answered as soon as it was sent; what it waited for is all that is measured.
    waited = [wait - late for wait, late in zip(record.latency_s, record.lateness_s, strict=True)]
    assert waited.pop(500) == pytest.approx(4.995, abs=1e-4)
    assert max(waited) == pytest.approx(0.0, abs=1e-4)
    assert summary.percentiles["p90"].value == pytest.approx(3.0, abs=0.01)
    assert summary.lateness_p99_s == pytest.approx(4.8, abs=0.03)
    assert summary.is_late
    # 490 of the 500 in the stall waited for longer than the limit.
    assert summary.share_in_limit == pytest.approx(1 - 490 / 2000, abs=1e-9)


def test_what_is_due_beyond_the_most_in_flight_is_not_sent_and_counted() -> None:
    async def work() -> tuple[Record, _Answering]:
        target = _Answering(0.095)
        return await run(Load(due=every(0.01), warmup_s=1.0, duration_s=10.0, max_in_flight=2), target), target

    record, target = run_virtually(work())
    assert target.most == 2
    assert (record.warm_up, record.due) == (100, 1000)
    # 2 of each 10.
    assert (record.answered, record.not_sent) == (200, 800)
    assert settled(record)
    summary = summarise(record, 1.0)
    assert summary.share_in_limit == 0.2
    assert summary.limit_p99_s is not None
    assert summary.limit_p99_s.value == math.inf
    assert summary.throughput_per_s == pytest.approx(20.0, rel=0.02)


def test_a_closed_loop_keeps_its_number_under_way() -> None:
    async def work() -> tuple[Record, _Answering]:
        target = _Answering(0.1)
        return await run(Load(concurrency=7, warmup_s=1.0, duration_s=10.05), target), target

    record, target = run_virtually(work())
    assert target.most == 7
    assert target.under_way == 0
    assert record.warm_up + record.due == target.sent
    assert record.answered == record.due == 7 * 101
    assert max(record.lateness_s) == 0.0


def test_no_answer_in_time_is_a_failure_and_gives_the_request_up() -> None:
    async def work() -> tuple[Record, _Answering]:
        target = _Answering(9.0)
        return await run(Load(due=every(0.1), duration_s=1.0, timeout_s=0.5), target), target

    record, target = run_virtually(work())
    assert target.under_way == 0
    assert (record.due, record.failed) == (10, 10)
    assert [(each.code, each.reason, each.count) for each in record.failures] == [
        (TIMEOUT, "no answer within 0.5 s", 10)
    ]
    assert list(record.latency_s) == pytest.approx([0.5] * 10)
    assert summarise(record, None).percentiles == {}


@pytest.mark.parametrize("load", [Load(due=every(0.01)), Load(concurrency=5)])
def test_a_run_that_is_stopped_counts_what_was_under_way(load: Load) -> None:
    async def work() -> tuple[Record, _Answering]:
        stop, target = asyncio.Event(), _Answering(0.05)
        asyncio.get_running_loop().call_later(3.02, stop.set)
        return await run(load, target, stop=stop), target

    record, target = run_virtually(work())
    assert record.is_interrupted
    assert record.unfinished == 5
    assert target.under_way == 0
    assert settled(record)
    assert record.window_s == pytest.approx(3.02, abs=1e-6)


def test_a_run_tells_how_far_it_is() -> None:
    async def work() -> list[float]:
        told: list[float] = []
        await run(Load(due=every(0.1), warmup_s=1.0, duration_s=2.0), _Answering(0.001), progress=told.append)
        return told

    told = run_virtually(work())
    assert told == sorted(told)
    assert told[0] == pytest.approx(0.0, abs=1e-6)
    assert told[-1] > 2.0


def test_a_defect_of_the_target_is_not_counted_but_raised() -> None:
    class Broken:
        async def send(self) -> Failure | None:
            raise ZeroDivisionError

    async def work(load: Load) -> Record:
        return await run(load, Broken())

    for load in (Load(due=every(0.1), duration_s=1.0), Load(concurrency=2)):
        with pytest.raises(ZeroDivisionError):
            run_virtually(work(load))


# Records.


def test_reasons_that_differ_in_numbers_are_one_and_others_are_bounded() -> None:
    record = Record()
    for at in range(100):
        record.add(0.0, 0.0, 1.0, Failure("503", f"model `m` has {at} waiting"))
        record.add(0.0, 0.0, 1.0, Failure("500", "x" * (at + 1)))
    record.add(0.0, 0.0, 1.0, None)
    counts = {(each.code, each.reason): each.count for each in record.failures}
    assert counts["503", "model `m` has 0 waiting"] == 100
    assert counts["500", "other reasons"] == 81
    assert len(counts) == 21
    assert (record.failed, record.answered) == (200, 1)
    assert record.outcomes[-1] == ANSWERED


def test_no_request_at_all_has_figures_too() -> None:
    summary = summarise(Record(), 0.1)
    assert (summary.due, summary.share_in_limit, summary.percentiles, summary.throughput_per_s) == (0, None, {}, 0.0)
    assert not summary.is_late


# The search.


def found(capacity: float, first_rate: float) -> tuple[float | None, list[float]]:
    """Search with a server that holds every rate up to `capacity`; return what was found and what was tried."""
    search, tried = rates(first_rate), []
    rate = next(search)
    while True:
        tried.append(rate)
        try:
            rate = search.send(rate <= capacity)
        except StopIteration as end:
            return end.value, tried


@pytest.mark.parametrize("capacity", [0.5, 3.0, 99.0, 100.0, 101.0, 4321.0, 250_000.0])
@pytest.mark.parametrize("first_rate", [1.0, 100.0, 5000.0])
def test_the_search_finds_the_highest_rate_in_few_steps(capacity: float, first_rate: float) -> None:
    rate, tried = found(capacity, first_rate)
    assert rate is not None
    assert capacity / 1.05 <= rate <= capacity
    assert len(tried) <= abs(math.log2(capacity / first_rate)) + 8
    assert len(set(tried)) == len(tried)


def test_the_search_ends_where_no_rate_or_every_rate_holds() -> None:
    assert found(0.0, 100.0)[0] is None
    assert found(math.inf, 100.0)[0] is not None


def test_a_step_holds_when_99_of_100_that_were_due_were_answered_in_time() -> None:
    def record(late: int) -> Record:
        made = Record()
        for at in range(1000):
            made.add(0.0, 0.0, 0.001, Failure("503", "full") if at < late else None)
        return made

    assert judge(1.0, summarise(record(10), 0.01), 0.01).holds
    assert not judge(1.0, summarise(record(11), 0.01), 0.01).holds
    made = record(0)
    made.not_sent = 11
    assert not judge(1.0, summarise(made, 0.01), 0.01).holds
    assert json.dumps(summarise(made, 0.01).share_in_limit) == json.dumps(1000 / 1011)
