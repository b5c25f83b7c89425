"""Steady tones through the codec: do they stay tones, and in tune?

A harmonic tone has energy at multiples of its pitch and nowhere else; what a codec adds elsewhere is buzz, beating and noise. Its pitch is
read from all partials, weighted by amplitude.

Shapes: N sample. Runs in: evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.lmdm.codec import SAMPLE_RATE

Samples = NDArray[np.float32]

TONES_HZ = (80.0, 87.3, 98.0, 110.0, 130.8, 146.8, 174.6, 207.7, 261.6, 329.6, 452.9, 587.3, 880.0)
PARTIALS = 10
SECONDS, SETTLED_SECONDS = 4.0, 1.5  # the first part is attack
_WINDOW, _PADDED = 65_536, 262_144
_NEAR = 0.03  # partials are looked for this far from where they should be


@dataclass(frozen=True)
class Tone:
    """One tone, as it came back."""

    hz: float
    harmonic_to_other_db: float
    cents: float  # off pitch, + is sharp


def steady(hz: float) -> Samples:
    """A tone of up to ten partials that fall by 6 dB per octave, with scattered phases."""
    t = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    orders = [order for order in range(1, PARTIALS + 1) if order * hz < 16_000]
    return np.asarray(sum(0.15 * np.cos(2 * np.pi * hz * n * t + n * n) / n for n in orders), np.float32)


def judge(hz: float, audio: Samples) -> Tone:
    """What is left of a steady tone of `hz` after its attack."""
    piece = audio[int(SETTLED_SECONDS * SAMPLE_RATE) :][:_WINDOW]
    power = np.abs(np.fft.rfft(piece * np.blackman(len(piece)), _PADDED)) ** 2
    grid = np.fft.rfftfreq(_PADDED, 1 / SAMPLE_RATE)
    harmonic = np.zeros(len(grid), bool)
    cents, weights = [], []
    for order in range(1, PARTIALS + 1):
        wanted = order * hz
        harmonic |= np.abs(grid - wanted) < max(3.0, 0.005 * wanted)
        near = np.flatnonzero(np.abs(grid - wanted) < _NEAR * wanted)
        peak = near[power[near].argmax()]
        cents.append(1200 * np.log2((peak + _offset(power[peak - 1 : peak + 2])) * grid[1] / wanted))
        weights.append(np.sqrt(power[peak]))
    ratio = power[harmonic].sum() / (power[~harmonic & (grid > 30)].sum() + 1e-12)
    return Tone(hz, 10 * float(np.log10(ratio)), float(np.average(cents, weights=weights)))


def _offset(power: NDArray[np.float64]) -> float:
    """Where between three bins the peak is: a parabola through their levels."""
    low, middle, high = np.log(power + 1e-30)
    return float(0.5 * (low - high) / (low - 2 * middle + high - 1e-12))


def measure(trip: Callable[[Samples], Samples]) -> list[Tone]:
    """All tones through `trip`."""
    return [judge(hz, trip(steady(hz))) for hz in TONES_HZ]
