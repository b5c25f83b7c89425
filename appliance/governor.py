"""Sheds denoising steps before a block is late, and takes them up again when there is time: a pure policy, in blocks instead of seconds.

What the next block will cost at k steps is read off the last ones: the larger of the last two, and where cost rises, how much it will have
risen two blocks from now. The most steps that leave a reserve of the time until the answer is due are allowed. Fewer are allowed at
once; one more only after some calm blocks in which it would have fitted with half as much reserve again. Where that turns out to be a
mistake, it takes twice as many calm blocks the next time.

Runs in: the worker process, which knows of a block's cost first; main only shows what came of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WINDOW_BLOCKS = 8  # what a trend is read off
AHEAD_BLOCKS = 2
LONG_AGO = 2 * WINDOW_BLOCKS  # since a step was taken up again: what is lost now has another reason
MOST_PATIENCE = 8  # times the calm blocks that are enough at first


@dataclass(frozen=True)
class GovernorSettings:
    """How careful to be."""

    enabled: bool = True
    least_steps: int = 1  # never fewer
    reserve: float = 0.2  # share of the time until an answer is due that should be left
    calm_blocks: int = 6  # before another step is taken up again


@dataclass(frozen=True)
class Cost:
    """What a block took."""

    work_ns: int  # in all
    step_ns: int  # one step of it
    steps: int

    @classmethod
    def of(cls, row: Any) -> Cost:
        """Of an answered block: its row of the ledger."""
        started, encoded, last_step, written, steps = (int(row[name]) for name in ("started", "encoded", "last_step", "written", "steps"))
        return cls(written - started, (last_step - encoded) // steps if steps and encoded else 0, steps)

    def at(self, steps: int) -> int:
        """What it would have taken at so many steps."""
        return self.work_ns + (steps - self.steps) * self.step_ns


def expected_ns(costs: Sequence[Cost], steps: int) -> float:
    """What the next block will take at so many steps; 0 where nothing is known."""
    if not costs:
        return 0.0
    taken = [cost.at(steps) for cost in costs]
    return max(taken[-2:]) + AHEAD_BLOCKS * max(0.0, slope(taken))


def slope(values: Sequence[float]) -> float:
    """By how much they rise from one to the next: least squares, so that one value alone says little."""
    middle = (len(values) - 1) / 2
    spread = sum((i - middle) ** 2 for i in range(len(values)))
    return sum((i - middle) * value for i, value in enumerate(values)) / spread if spread else 0.0


def fitting_steps(costs: Sequence[Cost], most: int, left_ns: float, settings: GovernorSettings) -> int:
    """The most steps, up to `most`, whose expected cost is within what is left less the reserve; `least_steps` if none are."""
    spendable_ns = left_ns * (1 - settings.reserve)
    for steps in range(most, settings.least_steps, -1):
        if expected_ns(costs, steps) <= spendable_ns:
            return steps
    return min(settings.least_steps, most)


class Governor:
    """`allow` before each block, `observe` after it."""

    def __init__(self, settings: GovernorSettings, limit: int = 0) -> None:
        self.settings = settings
        self.limit = limit  # steps that are allowed at most; 0: as many as the player likes
        self._costs: deque[Cost] = deque(maxlen=WINDOW_BLOCKS)
        self._calm, self._since_raise = 0, LONG_AGO
        self._patience = settings.calm_blocks

    def observe(self, cost: Cost) -> None:
        self._costs.append(cost)

    def allow(self, wish: int, left_ns: int) -> int:
        """How many of the steps that the player wishes the next block gets, `left_ns` before its answer is due."""
        if not self.settings.enabled or wish <= self.settings.least_steps:
            return wish
        allowed = min(wish, self.limit or wish)
        fitting = fitting_steps(self._costs, allowed, left_ns, self.settings)
        if fitting < allowed:
            self._shed(fitting)
        elif allowed < wish:
            self._rise(allowed, left_ns)
        else:
            self.limit = 0
        self._since_raise += 1
        return min(wish, self.limit or wish)

    def _shed(self, steps: int) -> None:
        """Soon after a step was taken up again, that was a mistake."""
        soon = self._since_raise < LONG_AGO
        most = MOST_PATIENCE * self.settings.calm_blocks
        self._patience = min(2 * self._patience, most) if soon else self.settings.calm_blocks
        self.limit, self._calm = steps, 0

    def _rise(self, allowed: int, left_ns: int) -> None:
        spendable_ns = left_ns * (1 - 1.5 * self.settings.reserve)
        fits = expected_ns(self._costs, allowed + 1) <= spendable_ns
        self._calm = self._calm + 1 if fits else 0
        if self._calm >= self._patience:
            self.limit, self._calm, self._since_raise = allowed + 1, 0, 0
