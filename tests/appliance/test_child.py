"""Children: started, buried, started again after a while that grows, and stopped in bounded time."""

from __future__ import annotations

import sys
import time

import pytest

from appliance.child import Backoff, Child


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def child(program: str, clock: Clock | None = None) -> Child:
    return Child("test", [sys.executable, "-c", program], (), Backoff(0.1, 1.0, 5.0), clock or time.monotonic)


def wait_for_end(one: Child) -> None:
    assert one.process
    one.process.wait(10)
    assert one.ended() and not one.ended()


def test_the_first_restart_is_at_once_and_the_next_ones_take_longer() -> None:
    clock = Clock()
    one = child("raise SystemExit(3)", clock)
    one.start()
    delays = []
    for _ in range(6):
        wait_for_end(one)
        assert one.exit_code == 3
        died = clock.now
        while not one.restart_when_due():
            clock.now += 0.05
        delays.append(clock.now - died)
    assert delays == pytest.approx([0.0, 0.1, 0.4, 0.9, 1.0, 1.0], abs=0.06)
    assert one.restarts == 6
    one.stop(clock.now)


def test_a_long_life_wipes_the_record() -> None:
    clock = Clock()
    one = child("", clock)
    one.start()
    for _ in range(3):
        wait_for_end(one)
        clock.now += 1.0
        assert one.restart_when_due()
    clock.now += 5.0
    wait_for_end(one)
    assert one.restart_when_due()
    one.stop(clock.now)


def test_what_it_prints_is_read_even_after_its_death() -> None:
    one = child("print('one'); print('two'); print('half', end='')")
    one.start()
    wait_for_end(one)
    assert one.lines() == ["one", "two"]


def test_one_that_ends_by_itself_is_not_killed() -> None:
    one = child("import time; time.sleep(0.05)")
    one.start()
    one.stop(time.monotonic() + 5)
    assert one.exit_code == 0 and not one.running


def test_one_that_does_not_listen_is_killed() -> None:
    one = child("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
    one.start()
    while not one.lines():
        time.sleep(0.01)
    one.measure()
    assert one.peak_rss_mb > 1
    began = time.monotonic()
    one.stop(began + 0.1)
    assert one.exit_code == -9
    assert time.monotonic() - began < 1


def test_no_child_spins_and_none_reads_the_terminal() -> None:
    one = child("import os, sys; print(os.environ['OMP_WAIT_POLICY'], os.environ['OPENBLAS_NUM_THREADS'], repr(sys.stdin.read()))")
    one.start()
    wait_for_end(one)
    assert one.lines() == ["passive 1 ''"]
