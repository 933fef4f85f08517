"""What came of each request that was due."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from typing import Final

__all__ = ["ANSWERED", "CONNECTION", "TIMEOUT", "Failure", "FailureCount", "Record"]

#: The code of requests that got no answer in the time that they were given.
TIMEOUT: Final = "timeout"
#: The code of requests whose connection could not be made, or broke.
CONNECTION: Final = "connection"
ANSWERED: Final = -1
#: Reasons told apart for one code, so that a server that says something else each time cannot fill the memory.
_REASONS: Final = 20
_REASON_LENGTH: Final = 200
_OTHER: Final = "other reasons"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request got no answer.

    Attributes:
        code: The status over HTTP, the code's name over gRPC, the error's class in process; or `TIMEOUT`, `CONNECTION`.
        reason: What was said of it.
    """

    code: str
    reason: str


@dataclass(slots=True)
class FailureCount:
    """How often requests failed for one reason; `reason` is that of the first."""

    code: str
    reason: str
    count: int = 0


@dataclass(slots=True)
class Record:
    """Every request that was due in the part of a run that counts; 24 bytes each.

    Attributes:
        due_s: When each that ended was due, in seconds from the start of what counts.
        latency_s: Seconds from then until it ended.
        lateness_s: Seconds from then until it was sent.
        outcomes: `ANSWERED`, or where in `failures` its reason is.
        failures: The reasons.
        not_sent: How many were due while as many as may be were under way.
        unfinished: How many were under way when the run was ended.
        warm_up: How many were due before what counts, whatever came of them.
        window_s: How long the part that counts was.
        answered_in_window: How many answers came in that part, those to requests of the warm-up among them.
        good_in_window: How many of them came within the limit.
        is_interrupted: Whether the run was ended before its time.
    """

    due_s: array[float] = field(default_factory=lambda: array("d"))
    latency_s: array[float] = field(default_factory=lambda: array("d"))
    lateness_s: array[float] = field(default_factory=lambda: array("f"))
    outcomes: array[int] = field(default_factory=lambda: array("i"))
    failures: list[FailureCount] = field(default_factory=list)
    not_sent: int = 0
    unfinished: int = 0
    warm_up: int = 0
    window_s: float = 0.0
    answered_in_window: int = 0
    good_in_window: int = 0
    is_interrupted: bool = False
    _places: dict[tuple[str, str], int] = field(default_factory=dict)
    _reasons: dict[str, int] = field(default_factory=dict)

    def add(self, due_s: float, sent_s: float, ended_s: float, failure: Failure | None) -> None:
        """Write down a request that ended, answered where `failure` is None; moments are from where it counts."""
        self.due_s.append(due_s)
        self.latency_s.append(ended_s - due_s)
        self.lateness_s.append(sent_s - due_s)
        self.outcomes.append(ANSWERED if failure is None else self._count(failure))

    @property
    def answered(self) -> int:
        """How many were answered."""
        return len(self.outcomes) - self.failed

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(failure.count for failure in self.failures)

    @property
    def due(self) -> int:
        """How many were due."""
        return len(self.outcomes) + self.not_sent + self.unfinished

    def _count(self, failure: Failure) -> int:
        # Texts that differ only in their numbers are one reason.
        key = (failure.code, re.sub(r"\d+", "#", failure.reason[:_REASON_LENGTH]))
        place = self._places.get(key)
        if place is None:
            place = self._add_reason(failure, key)
        self.failures[place].count += 1
        return place

    def _add_reason(self, failure: Failure, key: tuple[str, str]) -> int:
        known = self._reasons.get(failure.code, 0)
        if known >= _REASONS:
            return self._places[failure.code, _OTHER]
        self._reasons[failure.code] = known + 1
        is_last = known + 1 == _REASONS
        reason = _OTHER if is_last else failure.reason[:_REASON_LENGTH]
        place = self._places[(failure.code, _OTHER) if is_last else key] = len(self.failures)
        self.failures.append(FailureCount(failure.code, reason))
        return place
