"""The wet bus: the engine's answer where it is on time, the plain delay where it is not, one delay time after it was played.

Never silent: the plain delay is the input ring itself, so it is always there. A block must be in the wet ring `fade_frames` before
its first sample is needed; where it is not, the samples that are still there are what the fade to the plain delay uses up. So no
sample of a missing block is ever heard. That also leaves the worker's stores many milliseconds to become visible to this process.

Runs in: the audio process. No logging, no array allocated per period, nothing raised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from appliance.gain import Gain, Samples
from appliance.ring import Ring, WetRing
from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters

_SILENT = 1e-9  # mean square of -90 dBFS
_SOUNDING = 1e-6  # mean square of -60 dBFS
_LOUDEST = 1e12  # mean square that no audio has: what is above it, or no number at all, is a broken engine


@dataclass(frozen=True)
class WetSettings:
    """How the wet bus moves between the engine and the plain delay, and between two delay times."""

    fade_frames: int = 1024  # to the plain delay and back; and how long before it is heard a block's wet is due
    sweep_frames: int = 1024  # from one delay time to another
    recover_blocks: int = 2  # blocks on time before the engine is trusted again


class EngineWatch:
    """Judges each block once, at the moment when it is due, and says whether the engine may be heard."""

    def __init__(self, wet: WetRing, settings: WetSettings, counters: Counters) -> None:
        self.wet, self.counters = wet, counters
        self._fade_frames, self._enough = settings.fade_frames, settings.recover_blocks
        self._judged = [-1] * len(wet.blocks)  # number of the block that was judged last, by its place in the ring
        self.on_time = self._enough  # blocks on time in a row: the engine is trusted until it is late

    def usable(self, place: int, frames: int) -> bool:
        """Whether the engine may be heard at [place, place + frames), with enough beyond to fade away from it."""
        end = place + frames + self._fade_frames
        if end <= 0:
            return True  # before the first frame there was nothing to answer
        first, last = self.wet.block_at(max(place, 0)), self.wet.block_at(end - 1)
        self._judge(first)
        self._judge(last)
        return self.on_time >= self._enough and self.wet.written(first) and self.wet.written(last)

    def _judge(self, block: int) -> None:
        slot = block % len(self._judged)
        if self._judged[slot] == block:
            return
        self._judged[slot] = block
        if self.wet.written(block):
            self.on_time += 1
        else:
            self.on_time = 0
            self.counters.add(Counter.LATE_BLOCKS, 1)


class Tap:
    """One place to read from in both rings."""

    def __init__(self, plain: Ring, watch: EngineWatch, period_frames: int, settings: WetSettings) -> None:
        self._plain, self._watch, self._frames = plain, watch, period_frames
        self.share = Gain(period_frames, settings.fade_frames)  # 1: engine, 0: plain delay
        self.delay_frames = self.place = 0
        self.plain = plain.view(0, period_frames)

    def begin(self, position: int, delay_frames: int) -> None:
        """Start to read here, from whichever source is there: nobody hears this tap yet."""
        self.delay_frames = delay_frames
        self.share.jump(float(self._watch.usable(position - delay_frames, self._frames)))

    def read(self, position: int, out: Samples) -> None:
        self.place = position - self.delay_frames
        self.plain = self._plain.view(self.place, self._frames)
        self.share.aim(float(self._watch.usable(self.place, self._frames)))
        self.share.blend(self.plain, self._watch.wet.view(self.place, self._frames), out)


class WetBus:
    """Two taps: one is heard; while the delay time changes, the other is faded to."""

    def __init__(self, memory: SharedMemory, settings: WetSettings, counters: Counters) -> None:
        layout = memory.layout
        frames = self._frames = layout.period_frames
        assert frames + settings.fade_frames <= layout.block_frames, "a period and its fade must not touch more than two blocks"
        self.input, self.counters = Ring(memory.input, layout.guard_frames), counters
        self.longest_delay_frames = layout.ring_frames - 2 * layout.block_frames
        self.watch = EngineWatch(WetRing(memory), settings, counters)
        self._tap, self._next = (Tap(self.input, self.watch, frames, settings) for _ in range(2))
        self._sweep, self._sweeping = Gain(frames, settings.sweep_frames), False
        self.delay_frames = 0  # what was asked for last, within what the rings allow; 0 before the first turn
        self.out, self._swept = np.zeros(frames, np.float32), np.zeros(frames, np.float32)
        self.sounds = False  # whether `out` is more than silence

    def turn(self, position: int, delay_frames: float) -> Samples:
        """The wet bus at `position`, in a buffer that is used again for the next period."""
        self._follow(position, int(min(self.longest_delay_frames, max(self._frames, delay_frames))))  # in this order: NaN is harmless
        self._tap.read(position, self.out)
        if self._sweeping:
            self._next.read(position, self._swept)
            self._sweep.aim(1.0)
            self._sweep.blend(self.out, self._swept, self.out)
        self._measure()
        return self.out

    def _follow(self, position: int, delay_frames: int) -> None:
        """Go to another delay time, if asked to and not on the way to one already."""
        if self._sweep.value >= 1.0:
            self._tap, self._next, self._sweeping = self._next, self._tap, False
            self._sweep.jump(0.0)
        if not self.delay_frames:
            self._tap.begin(position, delay_frames)
        elif not self._sweeping and delay_frames != self._tap.delay_frames:
            self._next.begin(position, delay_frames)
            self._sweeping = True
        self.delay_frames = delay_frames

    def _measure(self) -> None:
        """Count from the signals, whatever the switches believe."""
        energy = _mean_square(self.out)
        if not energy < _LOUDEST:
            self._reject()
            energy = _mean_square(self.out)
        self.sounds = energy > _SILENT
        tap, other = self._tap, self._next if self._sweeping else self._tap
        if tap.place < 0 or other.place < 0:
            return
        answered = tap.share.one and other.share.one
        if not answered:
            self.counters.add(Counter.FALLBACK_FRAMES, self._frames)
        if not self.sounds and _mean_square(tap.plain) > _SOUNDING and _mean_square(other.plain) > _SOUNDING:
            self.counters.add(Counter.RESTING_FRAMES if answered else Counter.SILENT_FRAMES, self._frames)

    def _reject(self) -> None:
        """What the engine wrote is no audio: the plain delay, at once."""
        self.watch.on_time = 0
        for tap in (self._tap, self._next):
            tap.share.jump(0.0)
        np.copyto(self.out, self._tap.plain)


def _mean_square(samples: Samples) -> float:
    return float(np.dot(samples, samples)) / len(samples)
