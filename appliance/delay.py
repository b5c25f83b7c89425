"""The wet bus: the engine's answer where it is on time, the plain delay where it is not, one delay time after it was played.

Never silent: the plain delay is the input ring itself, so it is always there. A block must be in the wet ring `fade_frames` before
its first sample is needed; where it is not, the samples that are still there are what the fade to the plain delay uses up. So no
sample of a missing block is ever heard. That also leaves the worker's stores many milliseconds to become visible to this process.

Where one engine takes over from another, each moment of the music knows whose it is: what was played before the moment of the turn is
the old one's, what was played a block later the new one's, and between them the weight moves with the music, whatever the delay time
is. Whether the new one is there is judged as ever; where it is not, the old one is heard again. All of that follows from shared
memory, so an audio process that starts again finds itself in the middle of it.

Runs in: the audio process. No logging, no array allocated per period, nothing raised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from appliance.controls import Turn
from appliance.gain import Gain, Samples
from appliance.ring import Ring, WetRing
from appliance.shared import SLOTS, SharedMemory
from appliance.stats import Counter, Counters

_SILENT = 1e-9  # mean square of -90 dBFS
_SOUNDING = 1e-6  # mean square of -60 dBFS
FAR_AWAY = 2.0**52  # a turn that no music reaches
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
        self.counts = True  # a miss counts: this engine sounds

    def meet_engine(self) -> None:
        """The slot has another engine than before, which is not heard yet."""
        self.wet.meet_engine()
        self._judged[:] = [-1] * len(self._judged)
        self.on_time, self.counts = self._enough, False

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
            self.counters.add(Counter.LATE_BLOCKS, int(self.counts))


class Slots:
    """Whose engine sounds, and whose is about to."""

    def __init__(self, memory: SharedMemory, settings: WetSettings, counters: Counters) -> None:
        self._watches = [EngineWatch(WetRing(memory.of(slot)), settings, counters) for slot in range(SLOTS)]
        self._counters, self.value = counters, -1.0  # of the turn that was followed last
        self.block_frames = memory.layout.block_frames
        self.sounding = 0
        self.engine = self._watches[0]
        self.coming: EngineWatch | None = None  # takes over from `engine`, unless it is no longer `wanted`
        self.from_frames, self.wanted = 0, False

    def follow(self, value: float, place: int) -> None:
        """What main says of the turn; `place` is the music that is heard now."""
        if not 0 <= value < FAR_AWAY:  # NaN is no turn
            return
        turn, first, self.value = Turn.of(value), self.value < 0, value
        if first:
            self._settle(turn.slot if place >= turn.from_frames + self.block_frames or not turn.from_frames else 1 - turn.slot)
        self.wanted = turn.slot != self.sounding
        if self.wanted:
            self.coming, self.from_frames = self._watches[turn.slot], turn.from_frames
            self.coming.meet_engine()

    def done(self) -> None:
        """The engine that was to come is the one that sounds, or nothing is left of it."""
        if self.wanted:
            self._settle(1 - self.sounding)
        self.coming, self.wanted = None, False

    def _settle(self, slot: int) -> None:
        self.sounding, self.engine = slot, self._watches[slot]
        self.engine.counts = True
        self._counters.set(Counter.SLOT, slot)


class Tap:
    """One place to read from in all rings."""

    def __init__(self, plain: Ring, slots: Slots, period_frames: int, settings: WetSettings) -> None:
        self._plain, self._slots, self._frames = plain, slots, period_frames
        self.share = Gain(period_frames, settings.fade_frames)  # 1: engine, 0: plain delay
        self.trust = Gain(period_frames, settings.fade_frames)  # 1: the engine that takes over is there, 0: it is not
        self.delay_frames = self.place = 0
        self.plain = plain.view(0, period_frames)
        self.lift = np.ones(period_frames, np.float32)  # from the weighted mean of two engines to equal power
        self._ramp = np.arange(1, period_frames + 1, dtype=np.float32) / np.float32(slots.block_frames)
        self._weight, self._other, self._scratch = (np.empty(period_frames, np.float32) for _ in range(3))
        self.over = False  # only the engine that takes over is heard

    def begin(self, position: int, delay_frames: int) -> None:
        """Start to read here, from whichever source is there: nobody hears this tap yet."""
        self.delay_frames = delay_frames
        place, slots = position - delay_frames, self._slots
        self.share.jump(float(slots.engine.usable(place, self._frames)))
        if slots.coming:
            self.trust.jump(float(slots.wanted and slots.coming.usable(place, self._frames)))

    def read(self, position: int, out: Samples) -> None:
        self.place = position - self.delay_frames
        self.plain, engine = self._plain.view(self.place, self._frames), self._slots.engine
        self.share.aim(float(engine.usable(self.place, self._frames)))
        self.share.blend(self.plain, engine.wet.view(self.place, self._frames), out)
        if self._slots.coming:
            self._cross(self._slots.coming, out)

    def settle(self) -> None:
        """The engine that took over is the one that sounds."""
        self.share.jump(self.trust.value)
        self.forget()

    def forget(self) -> None:
        self.trust.jump(0.0)
        self.lift.fill(1.0)
        self.over = False

    def _cross(self, coming: EngineWatch, out: Samples) -> None:
        """From the engine that sounds to the one that takes over: a mean, whose weights are in the ratio of cosine and sine."""
        slots, weight = self._slots, self._weight
        self.trust.aim(float(slots.wanted and coming.usable(self.place, self._frames)))
        begun = self.place + self._frames - slots.from_frames
        self.over = begun - self._frames >= slots.block_frames and self.trust.one
        if begun <= 0 or self.trust.zero or self.over:
            self.lift.fill(1.0)
            if self.over:
                np.copyto(out, coming.wet.view(self.place, self._frames))
            return
        np.add(self._ramp, (begun - self._frames) / slots.block_frames, out=weight)
        np.maximum(weight, 0.0, out=weight)
        np.minimum(weight, 1.0, out=weight)
        self.trust.apply(weight, weight)
        np.multiply(weight, math.pi / 2, out=weight)
        np.cos(weight, out=self._other)
        np.sin(weight, out=weight)
        np.add(self._other, weight, out=self.lift)
        np.divide(weight, self.lift, out=weight)
        np.subtract(coming.wet.view(self.place, self._frames), out, out=self._scratch)
        np.multiply(self._scratch, weight, out=self._scratch)
        np.add(out, self._scratch, out=out)


class WetBus:
    """Two taps: one is heard; while the delay time changes, the other is faded to."""

    def __init__(self, memory: SharedMemory, settings: WetSettings, counters: Counters) -> None:
        layout = memory.layout
        frames = self._frames = layout.period_frames
        assert frames + settings.fade_frames <= layout.block_frames, "a period and its fade must not touch more than two blocks"
        self.input, self.counters = Ring(memory.input, layout.guard_frames), counters
        self.longest_delay_frames = layout.ring_frames - 2 * layout.block_frames
        self.slots = Slots(memory, settings, counters)
        self._tap, self._next = (Tap(self.input, self.slots, frames, settings) for _ in range(2))
        self._sweep, self._sweeping = Gain(frames, settings.sweep_frames), False
        self.delay_frames = 0  # what was asked for last, within what the rings allow; 0 before the first turn
        self.out, self._swept = np.zeros(frames, np.float32), np.zeros(frames, np.float32)
        self.sounds = False  # whether `out` is more than silence
        self.lift = np.ones(frames, np.float32)  # what makes an equal-power fade of a mean: for the output, never for the repeats
        self.lifts = False  # whether it differs from 1

    @property
    def heard(self) -> Samples:
        """What was sent to the engine at the moment of music that `out` answers."""
        return self._tap.plain

    def turn(self, position: int, delay_frames: float, turn: float = 0.0) -> Samples:
        """The wet bus at `position`, in a buffer that is used again for the next period; `turn` is the control of that name."""
        delay = int(min(self.longest_delay_frames, max(self._frames, delay_frames)))  # in this order: NaN is harmless
        if turn != self.slots.value:
            self.slots.follow(turn, position - delay)
        self._follow(position, delay)
        self._tap.read(position, self.out)
        if self._sweeping:
            self._next.read(position, self._swept)
            self._sweep.aim(1.0)
            self._sweep.blend(self.out, self._swept, self.out)
        if self.slots.coming:
            self._follow_takeover()
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

    def _follow_takeover(self) -> None:
        """While one engine takes over from another: lift the output; and see the end of it."""
        if self._sweeping:
            self._sweep.blend(self._tap.lift, self._next.lift, self.lift)
        else:
            np.copyto(self.lift, self._tap.lift)
        heard = (self._tap, self._next) if self._sweeping else (self._tap,)
        wanted = self.slots.wanted
        self.lifts = not all(tap.over or tap.trust.zero for tap in heard)
        if all(tap.over if wanted else tap.trust.zero for tap in heard):
            self.slots.done()
            for tap in (self._tap, self._next):
                tap.settle() if wanted else tap.forget()

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
        for watch in (self.slots.engine, self.slots.coming):
            if watch:
                watch.on_time = 0
        for tap in (self._tap, self._next):
            tap.share.jump(0.0)
            tap.trust.jump(0.0)
        np.copyto(self.out, self._tap.plain)


def _mean_square(samples: Samples) -> float:
    return float(np.dot(samples, samples)) / len(samples)
