"""Histograms: what is off, by how much, and that nothing is lost at either end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.histogram import BINS, LEAST_US, Histogram, Measure, bin_of, histogram
from appliance.shared import Layout, SharedMemory

LARGEST_US = (1 << 25) - 1


def fresh() -> Histogram:
    return Histogram(np.zeros(BINS, np.int64))


@given(st.integers(0, LARGEST_US))
def test_a_bin_is_narrow(us: int) -> None:
    least = int(LEAST_US[BINS // 2 + bin_of(us)])
    assert least <= us <= least + us / 32
    assert us > 63 or least == us


def test_bins_follow_each_other_without_a_hole() -> None:
    side = LEAST_US[BINS // 2 :]
    assert [bin_of(int(least)) for least in side] == list(range(BINS // 2))
    assert all(bin_of(int(least) - 1) == place - 1 for place, least in enumerate(side) if place)


@given(st.lists(st.integers(-(1 << 27), 1 << 27), min_size=1, max_size=200), st.sampled_from([0.0, 50.0, 99.0, 100.0]))
def test_percentile_is_the_rank_to_the_width_of_a_bin(values: list[int], percent: float) -> None:
    counted = fresh()
    for us in values:
        counted.add(us)
    exact = sorted(min(max(us, -LARGEST_US), LARGEST_US) for us in values)[max(0, int(np.ceil(len(values) * percent / 100)) - 1)]
    assert counted.percentile_us(percent) == pytest.approx(exact, rel=1 / 32)
    assert counted.count == len(values)


@given(st.lists(st.integers(-100, 100), max_size=50), st.integers(-60, 60))
def test_counts_beyond_a_budget(values: list[int], budget: int) -> None:
    counted = fresh()
    for us in values:
        counted.add(us)
    sure = sum(us > budget and (abs(us) < 64 or bin_of(abs(us)) != bin_of(abs(budget))) for us in values)
    assert counted.count_over(budget) == sure


def test_nothing_counted_is_nothing() -> None:
    assert fresh().percentile_us(99) == fresh().count == 0


def test_every_measure_has_a_row_that_all_processes_see() -> None:
    memory = SharedMemory.create(Layout(44_100, 128, 2048, 0, 8 * 2048, 1024))
    for measure in Measure:
        histogram(memory.histograms, measure).add(int(measure))
    there = SharedMemory.attach(memory.fd)
    assert [histogram(there.histograms, measure).percentile_us(50) for measure in Measure] == list(range(len(Measure)))
