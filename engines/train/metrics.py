"""What the evaluation measures of a signal: distance in log-mel, level, drift, silence, and how sure a mean is.

Log-mel here is the codec's: stacked (T, 512), normalised; DB_PER_UNIT brings a difference to dB. Everything is a pure function.

Shapes: N sample, T latent, M mel band (128). Runs in: evaluation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from engines.lmdm import codec

FLOOR_DB = -120.0
LATENTS_PER_MINUTE = 60 * codec.SAMPLE_RATE / codec.LATENT_FRAMES
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over scores, with the bounds that hold 95 % of its bootstrap resamples."""

    mean: float
    low: float
    high: float


def interval(groups: Mapping[str, Sequence[float]], seed: int = 0) -> Interval:
    """The mean of group means, and its confidence interval when groups (scores) are drawn again with replacement.

    Clips of one score are alike, so the score is what is drawn, not the clip.
    """
    means = np.array([np.mean(values) for values in groups.values() if len(values)])
    if not len(means):
        return Interval(float("nan"), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(0, len(means), (RESAMPLES, len(means)))
    low, high = np.percentile(means[draws].mean(1), [2.5, 97.5])
    return Interval(float(means.mean()), float(low), float(high))


def difference(groups: Mapping[str, Sequence[float]], others: Mapping[str, Sequence[float]]) -> Interval:
    """How much more `groups` have than `others`, score by score: what the scores themselves do to both cancels out.

    The interval is Student's, at 95 %: of a few scores a bootstrap would make too narrow a one.
    """
    shared = [name for name in groups if len(groups[name]) and len(others.get(name, ()))]
    if len(shared) < 2:
        return Interval(float("nan"), float("nan"), float("nan"))
    values = np.array([np.mean(groups[name]) - np.mean(others[name]) for name in shared])
    reach = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    mean = float(values.mean())
    return Interval(mean, mean - reach, mean + reach)


def mel_error_db(made: Tensor, wanted: Tensor) -> float:
    """Mean absolute difference of two aligned log-mels, in dB. It rewards the average: never rank engines by it alone."""
    frames = min(len(made), len(wanted))
    return float((made[:frames] - wanted[:frames]).abs().mean()) * codec.DB_PER_UNIT


def level_db(audio: NDArray[np.float32]) -> float:
    """RMS level in dB below full scale."""
    return max(FLOOR_DB, 10 * float(np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-12)))


def loudest_second_db(audio: NDArray[np.float32], rate_hz: int) -> float:
    """RMS level of the loudest whole second (or of everything, if there is less than one)."""
    seconds = [audio[i : i + rate_hz] for i in range(0, max(1, len(audio) - rate_hz + 1), rate_hz)]
    return max(level_db(second) for second in seconds)


def band_hz() -> Tensor:
    """(128,): the centre of each mel band."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (codec.MEL_LOW_HZ, codec.MEL_HIGH_HZ))
    return 700 * (10 ** (torch.linspace(low, high, codec.MELS + 2)[1:-1] / 2595) - 1)


def centroid_hz(mel: Tensor) -> float:
    """Centre of gravity of the mel magnitudes of (T, 512) log-mel, over all time."""
    bands = (codec.denormalise_mel(mel) - codec.MEL_FLOOR).clamp(min=0).unflatten(-1, (codec.STACK, codec.MELS)).sum((0, 1))
    return float((bands * band_hz()).sum() / (bands.sum() + 1e-9))


def energy_db(mel: Tensor) -> float:
    """Mean square of the mel magnitudes of (T, 512) log-mel, in dB."""
    return 10 * math.log10(float((codec.denormalise_mel(mel) - codec.MEL_FLOOR).clamp(min=0).square().mean()) + 1e-12)


def frechet(made: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Fréchet distance of the normal distributions of two sets of embeddings (rows, D), as in FAD (Kilgour et al., 2019)."""
    if min(len(made), len(wanted)) < 2:
        return float("nan")
    (a, s), (b, t) = ((rows.mean(0), np.cov(rows, rowvar=False)) for rows in (made, wanted))
    common = np.sqrt(np.linalg.eigvals(s @ t).real.clip(min=0)).sum()  # the trace of the matrix root of s t
    return float((a - b) @ (a - b) + np.trace(s + t) - 2 * common)


def pseudo_frechet(made: Mapping[str, NDArray[np.float64]], wanted: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """What every score contributes to the Fréchet distance of all of them: jackknife pseudo-values, of sets of embeddings by score.

    They take the place of per-score measurements where there are none, so that intervals and differences come about as for any
    other measure. Their mean is the distance without the bias of having few windows.
    """
    names = [name for name in made if name in wanted]
    if len(names) < 2:
        return {}

    def without(left_out: str) -> float:
        rest = [name for name in names if name != left_out]
        return frechet(np.concatenate([made[name] for name in rest]), np.concatenate([wanted[name] for name in rest]))

    whole = without("")
    return {name: len(names) * whole - (len(names) - 1) * without(name) for name in names}


@dataclass(frozen=True)
class Minute:
    """One minute of a long rollout."""

    level_db: float  # mean log-mel: every band and every rest counts alike
    energy_db: float  # mean square of the mel magnitudes: what is loud counts
    centroid_hz: float
    error_db: float  # log-mel against the true target


def minutes(made: Tensor, wanted: Tensor) -> list[Minute]:
    """Cut a long rollout (T, 512) and its aligned true target into minutes."""
    count = int(min(len(made), len(wanted)) / LATENTS_PER_MINUTE + 0.01)
    edges = [round(i * LATENTS_PER_MINUTE) for i in range(count + 1)]
    rows = [(made[a:b], wanted[a:b]) for a, b in itertools.pairwise(edges)]
    return [Minute(float(m.mean()) * codec.DB_PER_UNIT, energy_db(m), centroid_hz(m), mel_error_db(m, w)) for m, w in rows]


def mean_take(takes: Sequence[Sequence[Minute]]) -> list[Minute]:
    """Minute by minute the mean of several takes, which differ in their noise: what is left is the engine's."""
    return [Minute(*np.mean([astuple(one) for one in those], axis=0).tolist()) for those in zip(*takes, strict=True)]


@dataclass(frozen=True)
class Drift:
    """How a rollout changes from its first minute to its last, along a straight line through the minutes, in dB."""

    level: float
    energy: float
    centroid: float
    error: float
    scatter: float  # largest distance of a minute's energy from that line

    @property
    def worst(self) -> float:
        """What is asked to be small. Level is not: it counts rests and the highest bands like music."""
        return max(abs(self.energy), abs(self.centroid), abs(self.error))


def drift(rollout: Sequence[Minute]) -> Drift:
    """The input repeats, so a steady engine has almost none; fewer than two minutes tell nothing."""
    if len(rollout) < 2:
        return Drift(math.nan, math.nan, math.nan, math.nan, math.nan)
    at, energy = np.arange(len(rollout)), np.array([m.energy_db for m in rollout])
    centroid = [20 * math.log10(max(m.centroid_hz, 1.0)) for m in rollout]
    series = ([m.level_db for m in rollout], energy, centroid, [m.error_db for m in rollout])
    level, loud, bright, wrong = (float(np.polyfit(at, values, 1)[0]) * (len(rollout) - 1) for values in series)
    return Drift(level, loud, bright, wrong, float(np.abs(energy - np.polyval(np.polyfit(at, energy, 1), at)).max()))
