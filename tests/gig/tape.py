"""Everything that goes in and out of the audio loop, period by period, for the judge; and the time that a period takes.

It has the place of the recorder in the audio loop: what it is given are the loop's own buffers, after the mixer and before the card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from appliance.shared import SharedMemory
from appliance.stats import Counter
from tests.gig.durations import Durations
from tests.gig.judge import Judge, Periods
from tests.gig.machine import Machine

if TYPE_CHECKING:
    from appliance.audio import AudioLoop
    from tests.gig.card import UsbCard

Samples = NDArray[np.float32]
CHUNK = 512  # periods that are judged at once
CONTROLS = 24


class Tape:
    """`store` once per period; `hear` and `hole` are what the card does with the output."""

    loop: AudioLoop
    card: UsbCard

    def __init__(self, machine: Machine, durations: Durations, judge: Judge, period_frames: int, queue_ns: int) -> None:
        self.machine, self.durations, self.judge, self._queue_ns = machine, durations, judge, queue_ns
        shape = (CHUNK, period_frames)
        self.position, self.ns = np.zeros(CHUNK, np.int64), np.zeros(CHUNK, np.int64)
        self.controls = np.zeros((CHUNK, CONTROLS))
        self.dry, self.bus, self.send, self.out = (np.zeros(shape, np.float32) for _ in range(4))
        self.used = 0
        self.periods = 0
        self.holes: list[tuple[int, int]] = []  # when, and how many frames the amp got nothing
        self.not_ours = 0  # periods that the card got and the loop did not give
        self.long_waits: list[int] = []  # when what was recorded of one period was longer than the card's queue
        self._late_ns = 0

    def begin(self, memory: SharedMemory, anew: bool) -> None:
        """An audio process starts: in a new pedal, or where the last one stopped."""
        position = int(memory.counters[Counter.POSITION])
        if self.used and not anew and self.position[self.used - 1] >= position:
            self.used -= 1  # it died within this period, which the next one hears again
            self.periods -= 1
        self.flush()
        self.judge.begin(position, anew)

    def store(self, position: int, dry: Samples, wet: Samples, out: Samples) -> None:
        if self.used == CHUNK:
            self.flush()
        at = self.used
        self.position[at], self.ns[at] = position, self.machine.now_ns
        self.controls[at] = self.loop.controls.values[:CONTROLS]
        self.dry[at], self.bus[at], self.out[at] = dry[:, 0], wet, out[:, 0]
        self.send[at] = self.loop.input.view(position, len(wet))
        self.used, self.periods = at + 1, self.periods + 1
        work_ns = self.durations.period_work()
        if self._late_ns + work_ns > self._queue_ns:
            self.long_waits.append(self.machine.now_ns)
        self.machine.work(work_ns)

    def flush(self) -> None:
        """What is there is judged."""
        if self.used:
            used = slice(0, self.used)
            self.judge.hear(
                Periods(
                    self.position[used], self.ns[used], self.controls[used], self.dry[used], self.bus[used], self.send[used], self.out[used]
                )
            )
        self.used = 0

    def lateness(self) -> int:
        """How late the audio process wakes up this time."""
        self._late_ns = self.durations.period_late()
        return self._late_ns

    def release(self) -> None:
        """The process that had the card open is gone."""
        for pcm in list(self.card.pcms):
            pcm.drop()
            pcm.close()

    # The amp

    def hear(self, samples: Samples) -> None:
        if not np.array_equal(samples, self.out[self.used - 1]):
            self.not_ours += 1

    def hole(self, begin_ns: int, frames: int) -> None:
        self.holes.append((begin_ns, frames))
