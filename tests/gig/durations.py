"""How long things take: drawn from what tests.gig.record has recorded of the real pedal, never from a formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).parents[1] / "data" / "gig_durations.json"
_DRAWN = 4_096  # at once


class Drawn:
    """Values of one recorded histogram, in nanoseconds, each as often as it was recorded."""

    def __init__(self, bins: dict[str, int], rng: np.random.Generator) -> None:
        self._ns = np.array([int(us) * 1000 for us in bins], np.int64)
        counts = np.array(list(bins.values()), np.float64)
        self._shares, self._rng = counts / counts.sum(), rng
        self._left: list[int] = []

    @property
    def longest_ns(self) -> int:
        return int(self._ns.max())

    @property
    def usual_ns(self) -> int:
        """The median."""
        return int(self._ns[np.searchsorted(np.cumsum(self._shares), 0.5)])

    def __call__(self) -> int:
        if not self._left:
            self._left = self._rng.choice(self._ns, _DRAWN, p=self._shares).tolist()
        return self._left.pop()


class Durations:
    """One attribute per recorded histogram."""

    def __init__(self, seed: int, path: Path = RECORDED) -> None:
        recorded: dict[str, dict[str, int]] = json.loads(path.read_text())["durations"]
        drawn = {
            name.removesuffix("_us"): Drawn(bins, np.random.default_rng([seed, at])) for at, (name, bins) in enumerate(recorded.items())
        }
        self.period_late, self.period_work = drawn["period_late"], drawn["period_work"]
        self.block_wake, self.block_encode = drawn["block_wake"], drawn["block_encode"]
        self.block_step, self.block_decode = drawn["block_step"], drawn["block_decode"]
        self.audio_restart, self.engine_restart = drawn["audio_restart"], drawn["engine_restart"]
        self.main_start = drawn["main_start"]

    def usual_block_ns(self, steps: int) -> int:
        return self.block_encode.usual_ns + self.block_decode.usual_ns + steps * self.block_step.usual_ns
