"""From switches to gestures: examples, and what holds for any feet and any board."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.gestures import Chord, Double, Gesture, Gestures, Hold, Press, Release, TakeBack, Timing
from hw.board import SwitchEvent

TIMING = Timing(hold_seconds=0.5, double_seconds=0.3, chord_seconds=0.08)


def play(*moves: tuple[float, int, bool], doubles: frozenset[int] = frozenset(), until: float = 0.0) -> list[Gesture]:
    feet = Gestures(TIMING, doubles)
    heard = [gesture for move in moves for gesture in feet.take(SwitchEvent(*move))]
    return heard + feet.advance(until)


def test_a_press_acts_on_the_way_down() -> None:
    assert play((1.0, 0, True)) == [Press(1.0, 0)]
    assert play((1.0, 0, True), (1.1, 0, False)) == [Press(1.0, 0)]


def test_a_hold_adds_to_it_and_ends_with_the_release() -> None:
    assert play((1.0, 1, True), until=1.49) == [Press(1.0, 1)]
    assert play((1.0, 1, True), until=1.5) == [Press(1.0, 1), Hold(1.5, 1)]
    assert play((1.0, 1, True), (3.0, 1, False)) == [Press(1.0, 1), Hold(1.5, 1), Release(3.0, 1)]


def test_a_tick_that_comes_late_does_not_make_a_hold() -> None:
    assert play((1.0, 0, True), (1.4, 0, False), until=9.0) == [Press(1.0, 0)]


def test_a_chord_takes_the_first_press_back() -> None:
    both = [Press(1.0, 1), TakeBack(1.05, 1), Chord(1.05, (0, 1))]
    assert play((1.0, 1, True), (1.05, 0, True), until=9.0) == both
    assert play((1.0, 1, True), (1.05, 0, True), (2.0, 0, False), (3.0, 1, False)) == both


def test_two_presses_that_are_too_far_apart_are_two_presses() -> None:
    assert play((1.0, 0, True), (1.09, 1, True)) == [Press(1.0, 0), Press(1.09, 1)]
    assert play((1.0, 0, True), (1.02, 0, False), (1.05, 1, True)) == [Press(1.0, 0), Press(1.05, 1)]


def test_a_double_press_only_where_it_is_turned_on() -> None:
    twice = (1.0, 0, True), (1.1, 0, False), (1.25, 0, True)
    assert play(*twice) == [Press(1.0, 0), Press(1.25, 0)]
    assert play(*twice, doubles=frozenset({0}), until=9.0) == [Press(1.0, 0), TakeBack(1.25, 0), Double(1.25, 0)]
    thrice = *twice, (1.3, 0, False), (1.4, 0, True)
    assert play(*thrice, doubles=frozenset({0}))[-1] == Press(1.4, 0)
    assert play((1.0, 0, True), (1.1, 0, False), (1.31, 0, True), doubles=frozenset({0}))[-1] == Press(1.31, 0)


def test_lost_events_are_set_right() -> None:
    assert play((1.0, 0, False)) == []
    assert play((1.0, 0, True), (2.0, 0, True)) == [Press(1.0, 0), Hold(1.5, 0), Release(2.0, 0), Press(2.0, 0)]


def test_a_board_that_is_gone_holds_nothing() -> None:
    feet = Gestures(TIMING)
    feet.take(SwitchEvent(1.0, 1, True))
    feet.advance(2.0)
    assert feet.let_go() == [Release(2.0, 1)] and feet.advance(9.0) == []


moves = st.lists(st.tuples(st.floats(-1, 60, allow_nan=False), st.integers(0, 3), st.booleans()), max_size=60)
real_moves = st.lists(st.tuples(st.floats(0, 0.7), st.integers(0, 3)), max_size=40)


def in_turn(steps: list[tuple[float, int]]) -> list[SwitchEvent]:
    """Feet that can only release what they hold: each step waits, then moves one switch the other way."""
    now, down, events = 0.0, set[int](), []
    for wait, switch in steps:
        now += wait
        down ^= {switch}
        events.append(SwitchEvent(now, switch, switch in down))
    return events


@given(steps=real_moves, doubles=st.frozensets(st.integers(0, 3)))
def test_every_way_down_is_answered_at_once_by_one_gesture(steps: list[tuple[float, int]], doubles: frozenset[int]) -> None:
    feet = Gestures(TIMING, doubles)
    for event in in_turn(steps):
        answers = [one for one in feet.take(event) if isinstance(one, (Press, Double, Chord))]
        assert len(answers) == int(event.down)
        if answers:
            assert answers[0].seconds == event.seconds
            assert event.switch in (answers[0].switches if isinstance(answers[0], Chord) else (answers[0].switch,))


@given(steps=real_moves, doubles=st.frozensets(st.integers(0, 3)), ticks=st.integers(1, 50))
def test_how_often_time_is_looked_at_changes_nothing(steps: list[tuple[float, int]], doubles: frozenset[int], ticks: int) -> None:
    lazy, busy = Gestures(TIMING, doubles), Gestures(TIMING, doubles)
    heard: tuple[list[Gesture], list[Gesture]] = ([], [])
    now = 0.0
    for event in in_turn(steps):
        for tick in range(ticks):
            heard[1].extend(busy.advance(now + (event.seconds - now) * tick / ticks))
        now = event.seconds
        heard[0].extend(lazy.take(event))
        heard[1].extend(busy.take(event))
    assert heard[0] == heard[1]


@given(steps=real_moves, doubles=st.frozensets(st.integers(0, 3)))
def test_holds_and_releases_come_in_pairs_and_only_what_was_pressed_is_taken_back(
    steps: list[tuple[float, int]], doubles: frozenset[int]
) -> None:
    feet, held, pressed = Gestures(TIMING, doubles), set[int](), set[int]()
    for event in in_turn(steps):
        for one in feet.take(event):
            if isinstance(one, Hold):
                assert one.switch in pressed - held
                held.add(one.switch)
            elif isinstance(one, Release):
                held.remove(one.switch)
            elif isinstance(one, Press):
                pressed.add(one.switch)
            elif isinstance(one, TakeBack):
                pressed.remove(one.switch)
                assert one.switch not in held
    assert {one.switch for one in feet.let_go() if isinstance(one, Release)} == held


@given(moves=moves)
def test_no_board_can_break_it(moves: list[tuple[float, int, bool]]) -> None:
    feet = Gestures(TIMING, frozenset({0, 2}))
    heard = [one for move in moves for one in feet.take(SwitchEvent(*move))]
    times = [one.seconds for one in heard]
    assert all(isinstance(one, (Press, TakeBack, Hold, Release, Double, Chord)) for one in heard)
    assert times == sorted(times)
    assert sum(isinstance(one, (Press, Double, Chord)) for one in heard) == sum(down for _, _, down in moves)


@pytest.mark.parametrize("switch", range(4))
def test_four_switches_are_alike(switch: int) -> None:
    assert play((1.0, switch, True), until=2.0) == [Press(1.0, switch), Hold(1.5, switch)]
