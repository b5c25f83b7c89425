"""When a new engine has proved itself, and when it must go: pure policy, told what main sees about once a second.

    good    it was ready and answered, while sound flowed, for so many minutes in all
    back    its process died, more blocks were late than are allowed, or it was not ready in time

An engine that has been good for long is watched too, for one thing only: that it still can be started. Runs in: the main process.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SETTLE_SECONDS = 3.0  # after it is ready: what was late before was late because there was no engine
LONGEST_GLANCE_SECONDS = 5.0  # between two glances; a longer time is one in which nobody looked, and counts for nothing
FUTILE_STARTS = 3  # of an engine that has been good: so often it dies before it is ready


class Verdict(Enum):
    WAIT = "wait"
    GOOD = "good"
    BACK = "back"


@dataclass(frozen=True)
class Rules:
    """What is asked of an engine on trial."""

    healthy_seconds: float
    late_blocks: int  # that it may have in all
    ready_seconds: float


@dataclass(frozen=True)
class Glance:
    """What main sees. Counts only ever grow."""

    seconds: float  # any monotonic clock
    periods: int  # of the sound card
    ready: bool
    deaths: int  # of the engine's process
    late: int
    answered: int


class Trial:
    """Of the engine that plays since `first`."""

    def __init__(self, rules: Rules, first: Glance) -> None:
        self.rules, self.healthy_seconds = rules, 0.0
        self._first = self._last = first
        self._ready_at: float | None = None
        self._late_before = first.late

    def judge(self, now: Glance) -> tuple[Verdict, str]:
        """What is to be done, and why."""
        last, self._last = self._last, now
        self._follow(last, now)
        late = now.late - self._late_before
        if now.deaths > self._first.deaths:
            return Verdict.BACK, "its process died"
        if self._ready_at is None and now.seconds - self._first.seconds > self.rules.ready_seconds:
            return Verdict.BACK, f"it was not ready after {self.rules.ready_seconds:.0f} s"
        if late > self.rules.late_blocks:
            return Verdict.BACK, f"{late} blocks were late, {self.rules.late_blocks} are allowed"
        if self.healthy_seconds >= self.rules.healthy_seconds:
            return Verdict.GOOD, f"{self.healthy_seconds / 60:.3g} minutes on time"
        return Verdict.WAIT, ""

    def _follow(self, last: Glance, now: Glance) -> None:
        if self._ready_at is None:
            self._ready_at = now.seconds if now.ready else None
        if self._ready_at is None or now.seconds - self._ready_at < SETTLE_SECONDS:
            self._late_before = now.late
            return
        passed = now.seconds - last.seconds
        if now.ready and now.periods > last.periods and now.answered > last.answered and passed <= LONGEST_GLANCE_SECONDS:
            self.healthy_seconds += passed


class Standing:
    """Of an engine that has been good, since `first`: it goes only if it can't be started any more."""

    def __init__(self, rules: Rules, first: Glance) -> None:
        self.rules, self._first, self._was_ready = rules, first, False

    def judge(self, now: Glance) -> tuple[Verdict, str]:
        self._was_ready = self._was_ready or now.ready
        deaths, seconds = now.deaths - self._first.deaths, now.seconds - self._first.seconds
        if self._was_ready or not (deaths >= FUTILE_STARTS or seconds > self.rules.ready_seconds):
            return Verdict.WAIT, ""
        return Verdict.BACK, f"it could not be started ({deaths} times in {seconds:.0f} s)"
