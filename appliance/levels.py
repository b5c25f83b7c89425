"""How loud it is, for people who look: the loudest sample of the last quarter of a second, from what already lies in shared memory.

The audio process does nothing for it. What goes to the amp is nowhere kept, so it is made here from its parts, before tone and limiter.

Runs in: the main process, when somebody asks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from appliance.controls import Control, Controls
from appliance.mixer import gains
from appliance.ring import Ring, Samples, WetRing
from appliance.shared import DRY_FRAMES, SharedMemory
from appliance.stats import Counter, Counters

FRAMES = 3 * DRY_FRAMES // 4  # the rest of the ring is written while we read
FLOOR_DB = -90.0


@dataclass(frozen=True)
class Levels:
    """Peaks in dB of full scale."""

    guitar_db: float
    answer_db: float  # the engine's, or the plain delay's where that stands in
    amp_db: float


def levels(memory: SharedMemory) -> Levels:
    controls, position = Controls(memory.controls), Counters(memory.counters).get(Counter.POSITION)
    begin = max(0, position - FRAMES)
    dry = Ring(memory.dry, 0).copy(begin, position - begin)
    answer = _answer(memory, begin - int(controls.get(Control.DELAY_FRAMES)), len(dry))
    dry_gain, wet_gain, _, _ = gains(controls)
    return Levels(_peak_db(dry), _peak_db(answer), min(0.0, _peak_db(dry_gain * dry + wet_gain * answer)))


def _answer(memory: SharedMemory, place: int, count: int) -> Samples:
    wet = WetRing(memory)
    blocks = range(wet.block_at(place), wet.block_at(place + count) + 1)
    ring = wet if all(wet.written(block) for block in blocks) else Ring(memory.input, memory.layout.guard_frames)
    return ring.copy(place, count)


def _peak_db(samples: Samples) -> float:
    peak = float(np.max(np.abs(samples), initial=0.0))
    return round(max(FLOOR_DB, 20 * math.log10(peak)), 1) if peak > 0 else FLOOR_DB
