"""Deadlines: pure arithmetic, with every moment passed in."""

from __future__ import annotations

import pytest

from appliance.deadline import Deadline, Health, already_lost, judge
from appliance.shared import Layout

REFERENCE = Deadline.of(Layout(44_100, 128, 16_384, 1536, 8 * 16_384, 1024), fade_frames=1024)
MS = 1_000_000


def test_allowance_is_what_the_delay_leaves() -> None:
    shortest = REFERENCE.minimum_delay_frames(budget_frames=8192)
    assert shortest == 16_384 + 1536 + 8192
    assert REFERENCE.allowance_ns(shortest) == (8192 - 1024) * 1_000_000_000 // 44_100


def test_a_longer_delay_is_a_looser_deadline() -> None:
    shortest = REFERENCE.minimum_delay_frames(8192)
    later = REFERENCE.due_ns(0, shortest + 44_100) - REFERENCE.due_ns(0, shortest)
    assert later == pytest.approx(1000 * MS, abs=2)


def test_a_delay_shorter_than_a_block_is_due_before_it_is_whole() -> None:
    assert REFERENCE.due_ns(1000, 8192) < 1000


def test_lost_when_there_is_no_time_left_for_the_work() -> None:
    assert not already_lost(due_ns=100, now_ns=100)
    assert already_lost(due_ns=100, now_ns=101)
    assert not already_lost(due_ns=100, now_ns=60, needed_ns=40)
    assert already_lost(due_ns=100, now_ns=60, needed_ns=41)


@pytest.mark.parametrize(
    ("fallback", "shed", "breached", "health"),
    [
        (False, False, False, Health.ON_TIME),
        (False, True, False, Health.CLOSE),
        (False, False, True, Health.CLOSE),
        (True, False, False, Health.FALLBACK),
        (True, True, True, Health.FALLBACK),
    ],
)
def test_the_worst_that_holds_is_shown(fallback: bool, shed: bool, breached: bool, health: Health) -> None:
    assert judge(fallback, shed, breached) is health
