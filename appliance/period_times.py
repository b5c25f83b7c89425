"""How late each period was had, how long it took, and what was left before the card would have run dry.

When a period was whole in the card is not told by every card. But a process is woken late, never early: so the clock of the periods
is the one that the earliest of them draw. A card's clock may run up to 500 ppm slower than the computer's; the drawn one gives way by that.

Runs in: the audio process. No logging, no array allocated per period, nothing raised.
"""

from __future__ import annotations

from appliance.histogram import Measure, histogram
from appliance.shared import SharedMemory
from hw.audio import AudioFormat

_DRIFT = 2_000  # one part in so many


class PeriodTimes:
    """`count` once per period; fills the three histograms of periods."""

    def __init__(self, memory: SharedMemory, format: AudioFormat) -> None:
        measures = (Measure.PERIOD_LATE, Measure.PERIOD_WORK, Measure.PERIOD_SLACK)
        self._late, self._work, self._slack = (histogram(memory.histograms, measure) for measure in measures)
        self._turn_ns = format.period_ns + format.period_ns // _DRIFT
        self._queued_ns = (format.periods - 1) * format.period_ns  # what the card still has to play when a period is whole
        self._whole_ns = 0  # when the last period was whole

    def count(self, heard_ns: int, ready_ns: int) -> None:
        """The loop had a period at `heard_ns`, and its output at `ready_ns`."""
        whole_ns = self._whole_ns + self._turn_ns
        if whole_ns > heard_ns or not self._whole_ns:
            whole_ns = heard_ns
        late_ns, work_ns = heard_ns - whole_ns, ready_ns - heard_ns
        self._late.add(late_ns // 1000)
        self._work.add(work_ns // 1000)
        self._slack.add((self._queued_ns - late_ns - work_ns) // 1000)
        self._whole_ns = whole_ns if late_ns <= self._queued_ns else heard_ns  # beyond, the card has begun anew
