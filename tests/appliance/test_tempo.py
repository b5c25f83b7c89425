"""Tap tempo and the delays that follow from it."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.tempo import Subdivision, TapTempo, fit_delay


def tapped(*intervals: float, start: float = 10.0) -> float | None:
    tempo, beat = TapTempo(), None
    for moment in accumulate(intervals, initial=start):
        beat = tempo.stamp(moment)
    return beat


def test_one_tap_is_no_tempo() -> None:
    assert tapped() is None


def test_two_taps_are_a_beat() -> None:
    assert tapped(0.5) == pytest.approx(0.5)


@given(beat=st.floats(0.2, 2.0), errors=st.lists(st.floats(-0.02, 0.02), min_size=3, max_size=12))
def test_an_unsteady_foot_is_evened_out(beat: float, errors: list[float]) -> None:
    assert tapped(*(beat + error for error in errors)) == pytest.approx(beat, abs=0.0201)


def test_a_missed_tap_and_a_bounce_change_nothing() -> None:
    assert tapped(0.5, 0.5, 1.0, 0.5) == pytest.approx(0.5)
    assert tapped(0.5, 0.02, 0.48, 0.5) == pytest.approx(0.5, abs=0.021)


def test_a_new_tempo_needs_two_intervals() -> None:
    assert tapped(0.5, 0.5, 0.5, 0.8) == pytest.approx(0.5)
    assert tapped(0.5, 0.5, 0.5, 0.8, 0.8) == pytest.approx(0.8)


def test_a_pause_begins_anew() -> None:
    assert tapped(0.5, 0.5, 2.6) is None
    assert tapped(0.5, 0.5, 2.6, 1.5) == pytest.approx(1.5)


def test_a_clock_that_goes_back_begins_anew() -> None:
    assert tapped(0.5, 0.5, -3.0) is None


@pytest.mark.parametrize("subdivision", list(Subdivision))
def test_labels_are_read_back(subdivision: Subdivision) -> None:
    assert Subdivision.from_label(subdivision.label) is subdivision


def test_an_unknown_label_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"1/5.*1/8\."):
        Subdivision.from_label("1/5")


def test_a_note_value_that_is_long_enough_is_taken_as_it_is() -> None:
    assert fit_delay(1.0, Subdivision.QUARTER, 30_000, 44_100) == 44_100
    assert fit_delay(1.0, Subdivision.DOTTED_EIGHTH, 30_000, 44_100) == 33_075


def test_a_shorter_one_is_multiplied() -> None:
    assert fit_delay(0.5, Subdivision.QUARTER, 30_000, 44_100) == 44_100
    assert fit_delay(0.5, Subdivision.EIGHTH_TRIPLET, 24_576, 44_100) == 29_400


def test_exactly_the_minimum_is_enough() -> None:
    assert fit_delay(0.5, Subdivision.QUARTER, 22_050, 44_100) == 22_050


@given(beat=st.floats(0.1, 2.5), subdivision=st.sampled_from(list(Subdivision)), minimum=st.integers(1, 60_000))
def test_never_under_the_minimum_and_never_a_whole_note_value_over(beat: float, subdivision: Subdivision, minimum: int) -> None:
    value_frames = beat * float(subdivision.value) * 44_100
    delay_frames = fit_delay(beat, subdivision, minimum, 44_100)
    assert minimum <= delay_frames < max(minimum, value_frames) + value_frames + 1
    assert abs(delay_frames / value_frames - round(delay_frames / value_frames)) * value_frames <= 1.0
