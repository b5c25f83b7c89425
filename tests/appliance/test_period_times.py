"""Lateness, work and slack of periods, from clock readings that a card and a scheduler could have caused."""

from __future__ import annotations

import numpy as np

from appliance.histogram import Measure, histogram
from appliance.period_times import PeriodTimes
from appliance.shared import Layout, SharedMemory
from hw.audio import AudioFormat

FORMAT = AudioFormat(periods=3)
PERIOD_US = FORMAT.period_ns / 1000


class Card:
    """Delivers periods `ppm` slower than the computer's clock says."""

    def __init__(self, ppm: float = 0.0) -> None:
        self.memory = SharedMemory.create(Layout(44_100, 128, 2048, 0, 8 * 2048, 1024))
        self.times, self.ppm, self.turns = PeriodTimes(self.memory, FORMAT), ppm, 0

    def turn(self, late_us: float = 0.0, work_us: float = 20.0) -> None:
        self.turns += 1
        heard_ns = round(1e9 + 1000 * (self.turns * PERIOD_US * (1 + self.ppm / 1e6) + late_us))
        self.times.count(heard_ns, heard_ns + round(1000 * work_us))

    def percentile(self, measure: Measure, percent: float) -> int:
        return histogram(self.memory.histograms, measure).percentile_us(percent)


def test_a_period_on_time_is_not_late() -> None:
    card = Card()
    for _ in range(100):
        card.turn()
    assert card.percentile(Measure.PERIOD_LATE, 100) == 0 and card.percentile(Measure.PERIOD_WORK, 100) == 20
    assert abs(card.percentile(Measure.PERIOD_SLACK, 50) - (2 * PERIOD_US - 20)) < 2 * PERIOD_US / 32


def test_lateness_is_against_the_earliest() -> None:
    card = Card()
    for turn in range(1000):
        card.turn(late_us=1000.0 if turn % 10 == 5 else 0.0)
    assert card.percentile(Measure.PERIOD_LATE, 89) == 0
    assert abs(card.percentile(Measure.PERIOD_LATE, 95) - 1000) < 1000 / 32


def test_the_periods_after_a_long_one_are_late_until_the_card_is_caught_up_with() -> None:
    card = Card()
    card.turn()
    for late_periods in (1.8, 0.8, 0.0):
        card.turn(late_us=late_periods * PERIOD_US)
    assert histogram(card.memory.histograms, Measure.PERIOD_LATE).count_over(2000) == 2


def test_the_first_period_may_itself_be_late() -> None:
    card = Card()
    card.turn(late_us=2000)
    for _ in range(50):
        card.turn()
    assert card.percentile(Measure.PERIOD_LATE, 100) <= 1


def test_the_clock_of_a_card_may_drift_either_way() -> None:
    for ppm in (-400, 400):
        card = Card(ppm)
        for _ in range(20_000):
            card.turn()
        assert card.percentile(Measure.PERIOD_LATE, 100) <= 1, ppm


def test_after_the_card_ran_dry_the_clock_begins_anew() -> None:
    card = Card()
    for late_us in np.repeat([0.0, 100_000.0], 50):
        card.turn(late_us)
    late = histogram(card.memory.histograms, Measure.PERIOD_LATE)
    slack = histogram(card.memory.histograms, Measure.PERIOD_SLACK)
    assert late.count_over(50_000) == 1 and slack.count - slack.count_over(0) == 1
