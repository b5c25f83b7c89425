"""Tone: one knob from dark to thin, with the signal itself, bit by bit, in the middle.

    low = one-pole low-pass at PIVOT_HZ         out = in - dark * (in - low) - thin * low

Both weights are below 1, and a one-pole low-pass lies in the circle of which 0 .. 1 is a diameter. So no frequency is ever raised:
repeats through this filter can't run away. A recursion sample by sample would be slow in Python; over a short chunk it is a
product of a fixed triangular matrix with the samples and, before them, what the chunk before left.

Runs in: the audio process. No logging, no array allocated per period, nothing raised.
"""

from __future__ import annotations

import math

import numpy as np

from appliance.gain import Gain, Samples

PIVOT_HZ = 900.0
MOST = 0.9  # of the highs or of the lows is taken away at the ends: -20 dB
_CHUNK_FRAMES = 128
_NOTHING = 1e-20  # a state below this is silence: what follows from it would only slow the processor down


def weights(tone: float) -> tuple[float, float]:
    """`dark` and `thin` at this position of the knob; what is no number changes nothing."""
    turned = 2.0 * tone - 1.0 if 0.0 <= tone <= 1.0 else 0.0
    return MOST * max(0.0, -turned), MOST * max(0.0, turned)


class Tone:
    """`aim` once per period, then `process`."""

    def __init__(self, period_frames: int, sample_rate: int, ramp_frames: int) -> None:
        share = 1.0 - math.exp(-2.0 * math.pi * PIVOT_HZ / sample_rate)
        ages = np.arange(1, _CHUNK_FRAMES + 1)[:, None] - np.arange(_CHUNK_FRAMES + 1)[None, :]
        self._matrix = np.where(ages >= 0, share * (1.0 - share) ** np.maximum(ages, 0), 0.0).astype(np.float32)
        self._matrix[:, 0] = (1.0 - share) ** ages[:, 0]  # what the state is worth later
        self._dark, self._thin = (Gain(period_frames, ramp_frames) for _ in range(2))
        self._low, self._out = np.zeros(period_frames, np.float32), np.zeros(period_frames, np.float32)
        self._chunk = np.zeros(_CHUNK_FRAMES + 1, np.float32)  # the state, then samples

    def aim(self, tone: float) -> None:
        dark, thin = weights(tone)
        self._dark.aim(dark)
        self._thin.aim(thin)

    def jump(self, tone: float) -> None:
        dark, thin = weights(tone)
        self._dark.jump(dark)
        self._thin.jump(thin)

    def process(self, samples: Samples) -> Samples:
        """`samples` themselves where the knob is in the middle; else a buffer that is used again for the next period."""
        if self._dark.zero and self._thin.zero:
            self._follow(samples)
            return samples
        self._split(samples)
        out = samples
        if not self._dark.zero:
            np.subtract(samples, self._low, out=self._out)
            self._dark.apply(self._out, self._out)
            out = np.subtract(samples, self._out, out=self._out)
        if not self._thin.zero:
            self._thin.apply(self._low, self._low)
            out = np.subtract(out, self._low, out=self._out)
        return out

    def _split(self, samples: Samples) -> None:
        """The lows of `samples`, chunk by chunk."""
        for at in range(0, len(samples), _CHUNK_FRAMES):
            chunk = samples[at : at + _CHUNK_FRAMES]
            count, low = len(chunk), self._low[at : at + _CHUNK_FRAMES]
            self._chunk[1 : count + 1] = chunk
            np.dot(self._matrix[:count, : count + 1], self._chunk[: count + 1], out=low)
            self._keep(float(low[-1]))

    def _follow(self, samples: Samples) -> None:
        """Only the state that `_split` would leave, from the last chunk: what was before it has died away, or is the state."""
        chunk = samples[-_CHUNK_FRAMES:]
        count = len(chunk)
        self._chunk[1 : count + 1] = chunk
        self._keep(float(np.dot(self._matrix[count - 1, : count + 1], self._chunk[: count + 1])))

    def _keep(self, state: float) -> None:
        self._chunk[0] = state if abs(state) > _NOTHING else 0.0
