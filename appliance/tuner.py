"""The tuner: from the last samples of the dry guitar to a note and how far it is off, in cents.

Two steps. The period: McLeod and Wyvill's normalised square difference ("A smarter way to find pitch", ICMC 2005), which tells the
octave. Then the frequency: how far the phase of the lowest strong partial turns from one window to the next. A string is stiff, so its
upper partials are sharp, and a period found by matching waveforms is sharp with them; the phase of the fundamental is not.

Runs in: the main process, some ten times a second while the player tunes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.ring import Ring, Samples
from appliance.shared import DRY_FRAMES, SharedMemory

NOTES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
LOWEST_HZ, HIGHEST_HZ = 50.0, 1_500.0
WINDOW_SECONDS = 0.14
HOP_SECONDS = 0.025
QUIET = 1e-3  # rms of -60 dBFS: below it nobody plays
CLEAR = 0.8  # of McLeod's measure: below it there is no one pitch
PEAK_SHARE = 0.9  # the first peak as high as this share of the highest is the period
_WEAK = 0.1  # a fundamental below this share of the strongest partial is measured by its octave


@dataclass(frozen=True)
class Reading:
    """What the tuner hears."""

    hz: float
    note: str  # such as "E2"
    cents: float  # how far it is above (or, below 0, under) that note

    @classmethod
    def of(cls, hz: float, reference_hz: float = 440.0) -> Reading:
        semitones = 69 + 12 * math.log2(hz / reference_hz)
        nearest = round(semitones)
        return cls(hz, f"{NOTES[nearest % 12]}{nearest // 12 - 1}", 100 * (semitones - nearest))

    def __str__(self) -> str:
        return f"{self.note} {self.cents:+.0f} cents"


def pitch_hz(samples: Samples, sample_rate: int) -> float | None:
    """The pitch at the end of `samples` (0.17 seconds or more); None where there is none."""
    frames, hop = round(WINDOW_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
    tail = np.asarray(samples[-(frames + hop) :], np.float64)
    tail = tail - tail.mean()
    if len(tail) < frames + hop or math.sqrt(float(np.mean(tail**2))) < QUIET:
        return None
    period = _period_frames(tail[-frames:], sample_rate)
    return None if period is None else _refined(tail, frames, hop, sample_rate / period, sample_rate)


def _period_frames(window: NDArray[np.float64], sample_rate: int) -> float | None:
    """The shortest lag at which the window matches itself about as well as it ever does."""
    longest = min(round(sample_rate / LOWEST_HZ), len(window) // 2)
    match = _normalised_match(window, longest + 1)
    below = np.flatnonzero(match < 0)
    if not len(below):
        return None
    rising = match[1:-1] > match[:-2]
    peaks = 1 + np.flatnonzero(rising & (match[1:-1] >= match[2:]))
    peaks = peaks[(peaks > below[0]) & (peaks >= sample_rate / HIGHEST_HZ)]
    if not len(peaks) or match[peaks].max() < CLEAR:
        return None
    lag = int(peaks[match[peaks] >= PEAK_SHARE * match[peaks].max()][0])
    left, middle, right = match[lag - 1 : lag + 2]
    return lag + float(0.5 * (left - right) / (left - 2 * middle + right))


def _normalised_match(window: NDArray[np.float64], lags: int) -> NDArray[np.float64]:
    """McLeod's n'(lag) = 2 * sum x[i] x[i + lag] / sum (x[i]^2 + x[i + lag]^2), from -1 to 1."""
    count = len(window)
    spectrum = np.fft.rfft(window, 2 * count)
    products: NDArray[Any] = np.fft.irfft(np.abs(spectrum) ** 2)[:lags]
    energy = np.concatenate([[0.0], np.cumsum(window**2)])
    lag = np.arange(lags)
    both = energy[count - lag] + energy[count] - energy[lag]
    return np.asarray(2 * products / np.maximum(both, 1e-12), np.float64)


def _refined(tail: NDArray[np.float64], frames: int, hop: int, hz: float, sample_rate: int) -> float:
    """By the phase of the fundamental, or of its octave where the fundamental is weak."""
    window = np.hanning(frames + 1)[:-1]
    partials = [_partial(tail, window, hop, n * hz, sample_rate) for n in (1, 2, 3) if n * hz < 0.45 * sample_rate]
    loudest = max(loud for loud, _ in partials)
    for n, (loud, found) in enumerate(partials[:2], 1):
        if loud >= _WEAK * loudest:
            return found / n
    return hz


def _partial(tail: NDArray[np.float64], window: NDArray[np.float64], hop: int, hz: float, sample_rate: int) -> tuple[float, float]:
    """Loudness, and the frequency near `hz` that turns the phase as far as it has turned after `hop` frames."""
    frames = len(window)
    turning = np.exp(-2j * np.pi * hz / sample_rate * np.arange(frames + hop))
    early = complex(np.dot(tail[:frames] * window, turning[:frames]))
    late = complex(np.dot(tail[hop:] * window, turning[hop:]))
    phase = math.atan2((late * early.conjugate()).imag, (late * early.conjugate()).real)
    return abs(late), hz + phase / (2 * math.pi * hop) * sample_rate


class Tuner:
    """Listens to the dry ring in shared memory."""

    def __init__(self, memory: SharedMemory, reference_hz: float) -> None:
        self._dry, self._rate, self._reference_hz = Ring(memory.dry, 0), memory.layout.sample_rate, reference_hz
        self._spare_frames = memory.layout.period_frames  # audio may be writing these now

    def hear(self, position: int) -> Reading | None:
        """The note that sounds at `position` of the audio clock."""
        count = min(DRY_FRAMES - 2 * self._spare_frames, round((WINDOW_SECONDS + 2 * HOP_SECONDS) * self._rate))
        hz = pitch_hz(self._dry.copy(position - count, count), self._rate)
        return None if hz is None else Reading.of(hz, self._reference_hz)
