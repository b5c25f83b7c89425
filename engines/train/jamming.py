"""Does an accompaniment belong to what it accompanies? Agreement of notes and of beats, against partners that were never heard.

*Notes*: the share of the companion's sounding pitch classes that the partner has sounded within the last second. *Beat*: correlation of
the two onset envelopes, best within 50 ms. Both are computed for the true pairs and for every companion beside every other partner;
a permutation test says how likely the true pairs would do so well by chance. That holds only if no two partners play the same score.

Shapes: F frame of the note detector (86 per second), P pitch. Runs in: evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.lmdm.codec import SAMPLE_RATE
from engines.train.notes import THRESHOLD, Activations, NoteDetector

Samples = NDArray[np.float32]
Values = NDArray[np.float64]

MEMORY_FRAMES = 86
HOP_FRAMES = 512
NEAR_FRAMES = 4  # of onset envelopes: 46 ms
PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Agreement:
    """A companion, or all of them, at one visibility: true pairs against all others. Drums have no notes to agree: NaN."""

    companion: str
    visible: int  # blocks of the partner's future that were known; negative: so much of its past was not
    pairs: int
    notes: float
    notes_shuffled: float
    notes_p: float
    beat: float
    beat_shuffled: float
    beat_p: float


@dataclass(frozen=True)
class Sounding:
    """A part, as far as another may agree with it."""

    classes: NDArray[np.bool_]  # (F, 12)
    onsets: Values  # (F,)

    @classmethod
    def of(cls, audio: Samples, detector: NoteDetector) -> Sounding:
        return cls(pitch_classes(detector.notes(audio, SAMPLE_RATE)), onsets(audio))


@dataclass(frozen=True)
class Pairings:
    """How much every companion (row) agrees with every partner (column); the diagonal holds those that played together."""

    notes: Values
    beat: Values

    @classmethod
    def of(cls, partners: Sequence[Sounding], companions: Sequence[Sounding]) -> Pairings:
        notes = [[note_agreement(p.classes, c.classes) for p in partners] for c in companions]
        beat = [[beat_agreement(p.onsets, c.onsets) for p in partners] for c in companions]
        return cls(np.array(notes), np.array(beat))

    def agreement(self, name: str, visible: int, seed: int, pitched: bool = True) -> Agreement:
        notes = permutation_p(self.notes, seed) if pitched else 3 * (math.nan,)
        return Agreement(name, visible, len(self.beat), *notes, *permutation_p(self.beat, seed))


def together(pitched: Sequence[Pairings], drums: Sequence[Pairings]) -> Pairings:
    """All companions of the same partners (or takes of one) as one: whoever is paired with another partner is so with the whole band."""
    return Pairings(np.mean([one.notes for one in pitched], 0), np.mean([one.beat for one in (*pitched, *drums)], 0))


def pitch_classes(notes: Activations) -> NDArray[np.bool_]:
    """(F, 88) activations -> (F, 12) which pitch classes sound."""
    sounding = notes > THRESHOLD
    return np.stack([sounding[:, (c - 9) % 12 :: 12].any(1) for c in range(12)], 1)


def note_agreement(partner: NDArray[np.bool_], companion: NDArray[np.bool_]) -> float:
    """Of the pitch classes (F, 12) that the companion sounds, the share that the partner sounded within the last second."""
    frames = min(len(partner), len(companion))
    total = np.cumsum(np.pad(partner[:frames].astype(np.int64), ((MEMORY_FRAMES, 0), (0, 0))), 0)
    recent = (total[MEMORY_FRAMES:] - np.concatenate([np.zeros((1, 12), np.int64), total[: frames - 1]])) > 0
    sounded = companion[:frames].sum()
    return float((companion[:frames] & recent).sum() / sounded) if sounded else 0.0


def onsets(audio: Samples) -> Values:
    """Onset envelope at 86 Hz: how much louder each band of the spectrum becomes, summed, mean removed, unit norm."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (1024, 0)), 1024)[::HOP_FRAMES]
    spectra = np.log1p(100 * np.abs(np.fft.rfft(frames * np.hanning(1024))))
    rising = np.maximum(0, np.diff(spectra, axis=0)).sum(1)
    rising = rising - rising.mean()
    return np.asarray(rising / (np.linalg.norm(rising) + 1e-9))


def beat_agreement(partner: Values, companion: Values) -> float:
    """Correlation of two onset envelopes, best within 46 ms."""
    frames = min(len(partner), len(companion))
    a, b = partner[:frames], companion[:frames]
    shifts = range(-NEAR_FRAMES, NEAR_FRAMES + 1)
    return max(float(a[max(0, s) : frames + min(0, s)] @ b[max(0, -s) : frames - max(0, s)]) for s in shifts)


def permutation_p(scores: Values, seed: int) -> tuple[float, float, float]:
    """Mean of the diagonal, mean of the rest, and how often a random pairing reaches the diagonal's mean."""
    count = len(scores)
    true = float(np.mean(np.diag(scores)))
    rest = float(scores[~np.eye(count, dtype=bool)].mean()) if count > 1 else true
    rng, rows = np.random.default_rng(seed), np.arange(count)
    chance = [scores[rows, rng.permutation(count)].mean() for _ in range(PERMUTATIONS)]
    return true, rest, float((1 + np.sum(np.array(chance) >= true - 1e-12)) / (1 + PERMUTATIONS))
