"""Tap tempo: from the moments of taps to a beat, and from a beat to a delay that the engine can keep.

No clock is read here: the moments are passed in, in seconds on any one clock (best the board's own).

Runs in: the main process.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from enum import Enum
from fractions import Fraction

GAP_SECONDS = 2.5  # a longer pause begins a new tempo
BOUNCE_SECONDS = 0.1  # quicker than any beat: the same tap twice
_INTERVALS = 5  # the median of so many
_ALIKE = 1.25  # intervals within this ratio belong to the same tempo


class Subdivision(Enum):
    """Note values as shares of a beat (a quarter note)."""

    HALF = Fraction(2)
    DOTTED_QUARTER = Fraction(3, 2)
    QUARTER = Fraction(1)
    DOTTED_EIGHTH = Fraction(3, 4)
    QUARTER_TRIPLET = Fraction(2, 3)
    EIGHTH = Fraction(1, 2)
    EIGHTH_TRIPLET = Fraction(1, 3)
    SIXTEENTH = Fraction(1, 4)

    @property
    def label(self) -> str:
        return _LABELS[self]

    @classmethod
    def from_label(cls, label: str) -> Subdivision:
        """Raises ValueError, with the labels that exist."""
        for subdivision, known in _LABELS.items():
            if label == known:
                return subdivision
        raise ValueError(f"subdivision {label!r} is unknown: use one of {', '.join(_LABELS.values())}")


_LABELS = {
    Subdivision.HALF: "1/2",
    Subdivision.DOTTED_QUARTER: "1/4.",
    Subdivision.QUARTER: "1/4",
    Subdivision.DOTTED_EIGHTH: "1/8.",
    Subdivision.QUARTER_TRIPLET: "1/4t",
    Subdivision.EIGHTH: "1/8",
    Subdivision.EIGHTH_TRIPLET: "1/8t",
    Subdivision.SIXTEENTH: "1/16",
}


class TapTempo:
    """The beat is the median of the last intervals. One odd tap is passed over; a second like it is a new tempo."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._odd: float | None = None
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)

    @property
    def beat_seconds(self) -> float | None:
        return statistics.median(self._intervals) if self._intervals else None

    def stamp(self, t_seconds: float) -> float | None:
        """A tap at `t_seconds`. Returns the beat, or None after a first tap."""
        last, interval = self._last, math.inf if self._last is None else t_seconds - self._last
        if 0 <= interval < BOUNCE_SECONDS:
            return self.beat_seconds
        self._last = t_seconds
        if last is None or not 0 < interval <= GAP_SECONDS:
            self._intervals.clear()
            self._odd = None
        else:
            self._take(interval)
        return self.beat_seconds

    def _take(self, interval: float) -> None:
        beat = self.beat_seconds
        if beat is None or _alike(interval, beat):
            self._intervals.append(interval)
            self._odd = None
        elif self._odd is not None and _alike(interval, self._odd):
            self._intervals.clear()
            self._intervals.extend((self._odd, interval))
            self._odd = None
        else:
            self._odd = interval


def _alike(a: float, b: float) -> bool:
    return max(a, b) <= _ALIKE * min(a, b)


def fit_delay(beat_seconds: float, subdivision: Subdivision, minimum_frames: int, rate: int) -> int:
    """The delay in frames: the note value itself, or its smallest multiple that is not shorter than `minimum_frames`."""
    value_frames = beat_seconds * float(subdivision.value) * rate
    times = max(1, math.ceil(minimum_frames / value_frames - 1e-9))
    return max(minimum_frames, round(times * value_frames))
