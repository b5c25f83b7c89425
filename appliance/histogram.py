"""How often which duration occurred: a log-linear histogram of fixed size in shared memory, for hours at the cost of one addition.

Up to 63 us a bin is one microsecond wide, and from there on at most 1/32 of what it holds: exact where little matters, never off by more
than 3.2 %, and wide enough for half a minute. Durations may be negative (a slack that was missed): they have bins of their own.

Runs in: every process. One process writes a histogram, any may read it; `add` allocates no array, and raises nothing.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_FINE_BITS = 5  # an octave has 32 bins
_EXACT = 2 << _FINE_BITS  # below this a bin is one microsecond wide
_OCTAVES = 20
_SIDE = _EXACT + (_OCTAVES - 1) * (_EXACT // 2)  # bins for what is not negative, and as many for what is
_LARGEST_US = (1 << _OCTAVES + _FINE_BITS) - 1  # 33.5 s; what is larger counts as this

BINS = 2 * _SIDE


class Measure(IntEnum):
    """What is measured, each in a histogram of its own: a row of `memory.histograms`."""

    PERIOD_LATE = 0  # audio: from the moment when a period was whole in the card until the loop had it
    PERIOD_WORK = 1  # audio: from having it until the output was ready
    PERIOD_SLACK = 2  # audio: what was left by then until the card would have run dry
    BLOCK_LATE = 3  # worker: from the doorbell until the engine began
    BLOCK_WORK = 4  # worker: from beginning to the answer written
    BLOCK_SLACK = 5  # worker: what was left by then until the answer was due; negative: it came too late


class Histogram:
    """A typed face of one row of bins."""

    def __init__(self, bins: NDArray[np.int64]) -> None:
        self.bins = bins
        self._fast = memoryview(bins.data)

    def add(self, us: int) -> None:
        """Count one duration of `us` microseconds."""
        if us >= 0:
            shift = us.bit_length() - (_FINE_BITS + 1)
            self._fast[_SIDE + (us if shift <= 0 else bin_of(us))] += 1
        else:
            self._fast[_SIDE - 1 - bin_of(-us)] += 1

    @property
    def count(self) -> int:
        return int(self.bins.sum())

    def percentile_us(self, percent: float) -> int:
        """What `percent` of the durations did not go over, to the width of a bin; 0 before the first."""
        counts = np.cumsum(self.bins)
        if not counts[-1]:
            return 0
        return int(LEAST_US[np.searchsorted(counts, max(1, np.ceil(counts[-1] * percent / 100)))])

    def count_over(self, us: int) -> int:
        """How many durations are in bins above that of `us`."""
        place = np.searchsorted(LEAST_US, us, "right")
        return int(self.bins[place:].sum())


def bin_of(us: int) -> int:
    """Which bin of its side holds a duration that is not negative."""
    us = min(us, _LARGEST_US)
    shift = max(0, us.bit_length() - (_FINE_BITS + 1))
    return (shift << _FINE_BITS) + (us >> shift)


def _least_us() -> NDArray[np.int64]:
    """The duration nearest to 0 in each bin, from the most negative bin to the largest."""
    places = np.arange(_SIDE)
    shift = np.maximum(0, (places >> _FINE_BITS) - 1)
    least = (places - (shift << _FINE_BITS)) << shift
    return np.concatenate([-least[::-1], least])


LEAST_US = _least_us()


def histogram(histograms: NDArray[np.int64], measure: Measure) -> Histogram:
    """The row of `memory.histograms` that holds `measure`."""
    return Histogram(histograms[measure])
