"""From one period of dry guitar to one period of output: mix, level, tone, bypass, repeats and the limiter.

    dry --+--> feed --> (+) --> limiter --> send, into the input ring
          |              ^
          |              +-- repeats <--+   (never more than was heard: LoopGuard)
          |                             |
          |    wet bus (delay.py), tone +--> wet gain --+
          |                                             v
          +--> dry gain ------------------------------> (+) --> limiter --> out

Why nothing clicks: every gain moves by at most 1 / 1024 per frame, and every switch between two signals is a weighted mean of
them whose weight moves as slowly. A mean never steps further than the larger step of the two signals, plus their distance / 1024.
(An equal-power fade lacks this property: where both signals rise it rises 1.41 times as fast; and it would lift the loop gain of
the repeats above 1. Dry and wet, which sound side by side, are mixed with equal power. Where one engine takes over from another, the
wet bus is a mean as well, and only what goes to the output is lifted to equal power, by a gain that takes a block to reach 1.41.)

Runs in: the audio process. No logging, no array allocated per period, nothing raised.
"""

from __future__ import annotations

import math

import numpy as np

from appliance.controls import Control, Controls, Tuning
from appliance.delay import WetBus, WetSettings
from appliance.gain import Frames, Gain, Samples
from appliance.ring import Ring
from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters
from appliance.tone import Tone
from engines.engine import JAM_BLOCKS, LoopGuard

RAMP_FRAMES = 1024  # a full-scale change of any gain
MAX_REPEATS = 0.95
LIMIT_ABOVE = 0.89  # -1 dBFS: below it the limiter is not there
FULL_SCALE = 0.9999  # what a converter can no longer tell from more


class Limiter:
    """Bends what is above -1 dBFS so that it stays below full scale: no memory, no delay, and never steeper than its input."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._strength = Gain(shape[0], RAMP_FRAMES)  # 0: only what is over full scale is touched
        self._magnitude, self._bent = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._over = np.empty(shape, np.bool_)
        self._flat = self._magnitude.reshape(-1)  # numpy reduces one axis without a buffer, but not two
        self._sides, self._over_frames = self._over.reshape(shape[0], -1), np.empty(shape[0], np.bool_)

    def process(self, samples: Frames, engaged: bool) -> int:
        """Limit in place. Returns how many frames were over full scale."""
        self._strength.aim(float(engaged))
        np.abs(samples, out=self._magnitude)
        peak = float(np.maximum.reduce(self._flat))
        if peak <= LIMIT_ABOVE or (peak <= 1.0 and self._strength.zero):
            return 0
        if not math.isfinite(peak):
            np.nan_to_num(samples, copy=False, nan=0.0, posinf=1.0, neginf=-1.0)
            np.abs(samples, out=self._magnitude)
        over = self._count_over()
        self._bend(samples)
        return over

    def _count_over(self) -> int:
        """Frames of which any side is over full scale."""
        np.greater(self._magnitude, 1.0, out=self._over)
        np.copyto(self._over_frames, self._sides[:, 0])
        for side in range(1, self._sides.shape[1]):
            np.logical_or(self._over_frames, self._sides[:, side], out=self._over_frames)
        return int(np.count_nonzero(self._over_frames))

    def _bend(self, samples: Frames) -> None:
        bent, room = self._bent, 1.0 - LIMIT_ABOVE
        np.subtract(self._magnitude, LIMIT_ABOVE, out=bent)
        np.maximum(bent, 0.0, out=bent)
        np.multiply(bent, 1.0 / room, out=bent)
        np.tanh(bent, out=bent)
        np.multiply(bent, room, out=bent)
        np.minimum(self._magnitude, LIMIT_ABOVE, out=self._magnitude)
        np.add(bent, self._magnitude, out=bent)
        np.copysign(bent, samples, out=bent)
        np.subtract(bent, samples, out=bent)
        self._strength.apply(bent, bent)
        np.add(samples, bent, out=samples)
        np.minimum(samples, 1.0, out=samples)
        np.maximum(samples, -1.0, out=samples)


def gains(controls: Controls, share: float = 1.0) -> tuple[float, float, float, float]:
    """Where the controls want the gains of dry, wet, feed and repeats, of which a `share` is safe. Bypass is unity for the dry signal,
    whatever mix and level say."""
    get = controls.get
    mix, level = min(1.0, max(0.0, get(Control.MIX))), max(0.0, get(Control.LEVEL))
    tuning = get(Control.TUNER)
    kill_dry = get(Control.KILL_DRY) >= 0.5 or tuning >= Tuning.MUTE
    bypass = tuning >= Tuning.DRY or get(Control.BYPASS) >= 0.5
    muted = tuning >= Tuning.DRY or (bypass and get(Control.TRAILS) < 0.5)
    angle = mix * math.pi / 2
    dry = 0.0 if kill_dry else 1.0 if bypass else 0.0 if mix == 1.0 else level * math.cos(angle)
    wet = 0.0 if muted else level * math.sin(angle)
    repeats = 0.0 if muted else share * min(MAX_REPEATS, max(0.0, get(Control.REPEATS)))
    return dry, wet, 0.0 if bypass else 1.0, repeats


class Mixer:
    """One turn of everything between the sound card's input and its output."""

    def __init__(self, memory: SharedMemory, in_channels: int, out_channels: int, settings: WetSettings, fade_in: bool = False) -> None:
        frames = memory.layout.period_frames
        self.controls, self.counters = Controls(memory.controls), Counters(memory.counters)
        self.bus = WetBus(memory, settings, self.counters)
        self._guard = LoopGuard(frames, memory.layout.sample_rate)
        self._jam_frames = JAM_BLOCKS * memory.layout.block_frames
        self._in_channels, self._keeps_channels = in_channels, in_channels == out_channels
        self._dry, self._wet, self._feed, self._repeats = (Gain(frames, RAMP_FRAMES) for _ in range(4))
        self._out_limiter, self._send_limiter = Limiter((frames, out_channels)), Limiter((frames,))
        self._tone, self._heard = Tone(frames, memory.layout.sample_rate, RAMP_FRAMES), Ring(memory.dry, 0)
        self._mono, self._scaled = np.empty(frames, np.float32), np.empty(frames, np.float32)
        if not fade_in:
            for gain, target in zip(self._gains(), gains(self.controls), strict=True):
                gain.jump(target)
            self._tone.jump(self.controls.get(Control.TONE))

    def process(self, position: int, dry: Frames, out: Frames, send: Samples) -> None:
        """Turn `dry` (frames, in) into `out` (frames, out), and into what the input ring gets at `position`."""
        wet = self.bus.turn(position, self._delay_frames(), self.controls.get(Control.TURN))
        self._guard.follow(self.bus.heard, wet)
        for gain, target in zip(self._gains(), gains(self.controls, self._guard.share), strict=True):
            gain.aim(target)
        self._tone.aim(self.controls.get(Control.TONE))
        wet = self._tone.process(wet)
        mono = self._to_mono(dry)
        self._listen(position, dry, mono)
        self._mix(dry, mono, wet, out)
        self._feed_engine(mono, wet, send)

    def _delay_frames(self) -> float:
        """The player's delay time; while jamming, that at which an accompaniment sounds with what is played then."""
        return self._jam_frames if self.controls.get(Control.JAM) >= 0.5 else self.controls.get(Control.DELAY_FRAMES)

    def _gains(self) -> tuple[Gain, Gain, Gain, Gain]:
        return self._dry, self._wet, self._feed, self._repeats

    def _to_mono(self, dry: Frames) -> Samples:
        if self._in_channels == 1:
            return dry[:, 0]
        np.add(dry[:, 0], dry[:, 1], out=self._mono)
        for side in range(2, self._in_channels):
            np.add(self._mono, dry[:, side], out=self._mono)
        np.multiply(self._mono, 1.0 / self._in_channels, out=self._mono)
        return self._mono

    def _listen(self, position: int, dry: Frames, mono: Samples) -> None:
        """For the tuner and the clip light."""
        self._heard.write(position, mono)
        flat = dry.reshape(-1)
        if np.maximum.reduce(flat) >= FULL_SCALE or np.minimum.reduce(flat) <= -FULL_SCALE:
            self.counters.add(Counter.CLIPPED_INPUTS, 1)

    def _mix(self, dry: Frames, mono: Samples, wet: Samples, out: Frames) -> None:
        if self._keeps_channels:
            self._dry.apply(dry, out)
        else:
            self._dry.apply(mono, self._scaled)
            np.copyto(out, self._scaled[:, None])
        wet_sounds = self.bus.sounds and not self._wet.zero
        if not self._wet.zero:
            self._wet.apply(wet, self._scaled)
            if self.bus.lifts:
                np.multiply(self._scaled, self.bus.lift, out=self._scaled)
            for side in range(out.shape[1]):
                np.add(out[:, side], self._scaled, out=out[:, side])
        over = self._out_limiter.process(out, wet_sounds or self._dry.value > 1.0)
        if over:
            self.counters.add(Counter.CLIPPED_FRAMES, over)

    def _feed_engine(self, mono: Samples, wet: Samples, send: Samples) -> None:
        self._feed.apply(mono, send)
        if not self._repeats.zero:
            self._repeats.apply(wet, self._scaled)
            np.add(send, self._scaled, out=send)
        self._send_limiter.process(send, self.bus.sounds and not self._repeats.zero)
