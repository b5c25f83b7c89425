"""Deadlines: pure arithmetic, with every moment passed in."""

from __future__ import annotations

import pytest

from appliance.deadline import Deadline, Health, SlackWatch, already_lost
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


def test_health_follows_the_slack() -> None:
    watch = SlackWatch(thin_ns=20 * MS, window=4)
    assert watch.health is Health.OK
    assert [watch.observe(slack * MS) for slack in (100, 80, 10, 90)] == [Health.OK, Health.OK, Health.DEGRADE, Health.DEGRADE]
    assert watch.observe(-1) is Health.LATE
    assert watch.observe(100 * MS) is Health.DEGRADE  # one good block forgets no bad one


def test_health_recovers_when_the_window_has_passed() -> None:
    watch = SlackWatch(thin_ns=20 * MS, window=3)
    assert [watch.observe(slack * MS) for slack in (-5, 50, 50, 50)][-2:] == [Health.DEGRADE, Health.OK]
