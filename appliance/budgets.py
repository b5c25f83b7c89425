"""Budgets: what the deadlines must keep free, and whether they do.

Runs in: the main process.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import deque
from dataclasses import dataclass
from itertools import islice

from appliance.histogram import Measure, histogram
from appliance.shared import SharedMemory

REMEMBERED_SECONDS = 3  # a breach is shown for so long: one look a second
SLACK_BLOCKS = 8  # a thin margin is remembered for so long
FALLBACK_BLOCKS = 5  # ... and a late one
NOT_HOT = 0.95  # of the limit: only below it is it over, so that a message is not repeated every second


@dataclass(frozen=True)
class Budgets:
    """As configured, with what follows from the format filled in."""

    slack_ms: float  # a block must leave at least this
    period_late_us: int  # a period may be had at most so late
    period_work_us: int  # ... and take at most so long
    celsius: float
    queue_ms: float  # what the card queues beyond the period in hand


class Watch:
    """`slack` once per block, `follow` once a second. Each breach is counted, and said when it begins."""

    def __init__(self, memory: SharedMemory, budgets: Budgets) -> None:
        self.budgets, self.breaches = budgets, Tally[str]()
        self._periods = {
            "period_late_us": histogram(memory.histograms, Measure.PERIOD_LATE),
            "period_work_us": histogram(memory.histograms, Measure.PERIOD_WORK),
        }
        self._over = dict.fromkeys(self._periods, 0)
        self._slacks_ms: deque[float] = deque(maxlen=SLACK_BLOCKS)
        self._left = Tally[str]()  # looks for which each breach is still shown

    @property
    def breached(self) -> bool:
        return any(self._left.values())

    @property
    def fallback(self) -> bool:
        """Whether the plain delay stood in for one of the last blocks: so long that an eye that looks down finds it."""
        return any(slack < 0 for slack in islice(reversed(self._slacks_ms), FALLBACK_BLOCKS))

    @property
    def least_slack_ms(self) -> float | None:
        """Of the last blocks; negative: one was late."""
        return min(self._slacks_ms, default=None)

    def slack(self, ms: float) -> None:
        """Of one more block; any negative number if it was late."""
        self._slacks_ms.append(ms)

    def follow(self, celsius: float | None) -> list[str]:
        """Look at everything once more. One line for each breach that begins."""
        begun = [line for name, line in self._breaches(celsius).items() if self._begins(name)]
        self._left = Tally({name: left - 1 for name, left in self._left.items() if left > 1})
        return begun

    def _begins(self, name: str) -> bool:
        begins = self._left[name] == 0
        self.breaches[name] += begins
        self._left[name] = REMEMBERED_SECONDS + 1
        return begins

    def _breaches(self, celsius: float | None) -> dict[str, str]:
        found, budgets, slack_ms = {}, self.budgets, self.least_slack_ms
        if slack_ms is not None and slack_ms < budgets.slack_ms:
            found["slack_ms"] = f"over budget: slack {max(0.0, slack_ms):.0f} ms, at least {budgets.slack_ms:.0f} ms are wanted"
        for name, counted in self._periods.items():
            limit = getattr(budgets, name)
            over = counted.count_over(limit)
            if over > self._over[name]:
                found[name] = f"over budget: {over - self._over[name]} periods, {name.replace('_', ' ')} above {limit}"
            self._over[name] = over
        if celsius is not None and celsius >= budgets.celsius * (NOT_HOT if self._left["celsius"] else 1):
            found["celsius"] = f"over budget: {celsius:.0f} degrees, {budgets.celsius:.0f} are allowed"
        return found
