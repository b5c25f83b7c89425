"""Draws docs/deadlines.png: what a growing load does to slack, with and without the governor. `python -m tests.appliance.governor_picture`

The real worker in block time, with the scripted engine of test_governor.py: the same picture every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from appliance.governor import GovernorSettings
from appliance.histogram import LEAST_US, Measure, histogram
from tests.appliance.test_governor import ALLOWANCE_NS, MS, OFF, STEPS, Stage, staircase

BLOCKS = 600
NOISE = np.random.default_rng(0).uniform(0.97, 1.03, BLOCKS)
BARS_MS = np.arange(-100, ALLOWANCE_NS / MS, 5)
WAYS = {"without a governor": (OFF, "#c1121f"), "with the governor": (GovernorSettings(), "#2a6f97")}


def slacks_ms(stage: Stage) -> NDArray[np.float64]:
    """Of each block; those that nobody answered count as never there."""
    rows = stage.ledger.blocks()
    return np.where(rows["written"] > 0, (rows["due"] - rows["written"]) / MS, np.nan)


def main(path: Path) -> None:
    figure, (over_time, steps, spread) = plt.subplots(1, 3, figsize=(13, 3.6), width_ratios=(5, 3, 3), constrained_layout=True)
    for name, (settings, colour) in WAYS.items():
        stage = Stage(settings)
        stage.play(BLOCKS, lambda block: staircase(block) * float(NOISE[block]))
        late = stage.late()
        over_time.plot(slacks_ms(stage), ".", ms=3, color=colour, label=f"{name}: {late} of {BLOCKS} late")
        if settings.enabled:
            steps.plot(stage.engine.steps, color=colour)
        counted = histogram(stage.memory.histograms, Measure.BLOCK_SLACK)
        spread.hist(LEAST_US / 1000, BARS_MS, weights=counted.bins, color=colour, alpha=0.7)
    for axes in (over_time, spread):
        (axes.axhline if axes is over_time else axes.axvline)(0, color="black", lw=0.8)
    over_time.set(title="slack of each block", xlabel="block", ylabel="ms before it is due")
    over_time.legend(loc="center", fontsize=8)
    steps.set(title="denoising steps", xlabel="block", yticks=range(1, STEPS + 1))
    spread.set(title="slack histogram", xlabel="ms", ylabel="answered blocks", yscale="log")
    figure.suptitle("An engine slowed from 1x to 3x and back, in steps of a tenth", fontsize=11)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs" / "deadlines.png")
