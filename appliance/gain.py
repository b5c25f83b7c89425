"""The one way in which anything gets louder, softer or replaced: a gain that moves by at most 1 / ramp_frames per frame.

Runs in: the audio process. No logging, no array allocated per period, nothing raised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]  # (frames,) or (frames, channels)
Samples = NDArray[np.float32]  # (frames,)


class Gain:
    """A factor that approaches its target slowly. `aim` once per period, then `apply` or `blend` as often as needed."""

    def __init__(self, period_frames: int, ramp_frames: int, value: float = 0.0) -> None:
        self._steps = np.arange(1, period_frames + 1, dtype=np.float32) / np.float32(ramp_frames)
        self._curve, self._scratch = np.empty(period_frames, np.float32), np.empty(period_frames, np.float32)
        self._reach = period_frames / ramp_frames
        self.start = self.value = value  # at the beginning and at the end of this period

    def jump(self, value: float) -> None:
        """Be at `value` at once: for signals that nobody hears yet."""
        self.start = self.value = value

    def aim(self, target: float) -> None:
        """From where the last period ended, go as far towards `target` as the ramp allows."""
        self.start = self.value
        if target == self.value:
            return
        self.value = min(max(target, self.start - self._reach), self.start + self._reach)
        if self.value > self.start:
            np.add(self._steps, self.start, out=self._curve)
            np.minimum(self._curve, self.value, out=self._curve)
        elif self.value < self.start:
            np.subtract(self.start, self._steps, out=self._curve)
            np.maximum(self._curve, self.value, out=self._curve)

    @property
    def zero(self) -> bool:
        """Nothing passes in the whole period."""
        return self.value == 0.0 and self.start == 0.0

    @property
    def one(self) -> bool:
        """Everything passes unchanged in the whole period."""
        return self.value == 1.0 and self.start == 1.0

    def apply(self, samples: Frames, out: Frames) -> None:
        """out = gain * samples."""
        if self.value == self.start:
            np.multiply(samples, self.value, out=out)
        elif samples.ndim == 1:
            np.multiply(samples, self._curve, out=out)
        else:  # side by side: for a curve as a column numpy would allocate a buffer
            for side in range(samples.shape[1]):
                np.multiply(samples[:, side], self._curve, out=out[:, side])

    def blend(self, low: Samples, high: Samples, out: Samples) -> None:
        """out = low where the gain is 0, high where it is 1, their weighted mean between. `out` may be `low` or `high`."""
        if self.zero or self.one:
            np.copyto(out, high if self.one else low)
            return
        np.subtract(high, low, out=self._scratch)
        self.apply(self._scratch, self._scratch)
        np.add(low, self._scratch, out=out)
