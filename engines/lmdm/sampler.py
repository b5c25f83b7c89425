"""Samplers as pure functions of arrays: training, offline rendering and streaming call these, with torch or numpy alike.

Rectified flow: x_t = (1 - t) x0 + t noise, v = noise - x0. Sources: arXiv 2605.22717 (schedule and ping-pong
sampling); Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, chapter III (the multistep method).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LOG_SNR_FIRST, LOG_SNR_LAST = -6.0, 2.0


class Spacing(str, Enum):
    """How noise levels lie between 1 and 0."""

    EVEN = "even"  # in t: for a model that was only pretrained, which needs fine steps where the details form
    LOG_SNR = "log-snr"  # even in log-SNR, -6 to 2: the paper's, for post-trained models


def schedule(steps: int, spacing: Spacing) -> list[float]:
    """Noise levels of a `steps`-step sampler, `steps + 1` of them from exactly 1 to exactly 0."""
    if steps < 1:
        raise ValueError(f"a sampler takes at least 1 step, not {steps}")
    if spacing is Spacing.EVEN:
        return [1 - i / steps for i in range(steps + 1)]
    inner = [LOG_SNR_FIRST + (LOG_SNR_LAST - LOG_SNR_FIRST) * i / steps for i in range(1, steps)]
    return [1.0, *(1 / (1 + math.exp(log_snr)) for log_snr in inner), 0.0]


class Solver(str, Enum):
    """How a step follows from the velocity."""

    EULER = "euler"  # along it
    MULTISTEP = "multistep"  # along the line through it and that of the step before: Adams and Bashforth's method of second order
    PING_PONG = "ping-pong"  # to its end, and back by fresh noise of the next level: for post-trained models


class Step(NamedTuple):
    """One step as a weighted sum: what each of its parts counts."""

    x: float
    v: float
    before: float  # velocity of the step before
    noise: float  # fresh

    def __call__(self, x, v, before, noise):  # type: ignore[no-untyped-def]
        """x at the next level. What counts nothing is not looked at and may be None."""
        made = self.x * x + self.v * v
        for weight, part in ((self.before, before), (self.noise, noise)):
            made = made + weight * part if weight else made
        return made

    def mixes(self, guidance: float) -> tuple[tuple[float, float, float, float], ...]:
        """The same for whoever has no guided velocity, but both: weights of x, v, v without words and noise; then, where it counts, of
        x as it is by then, v and v without words of the step before."""
        mixes = [(self.x, self.v * guidance, self.v * (1 - guidance), self.noise)]
        if self.before:
            mixes.append((1.0, self.before * guidance, self.before * (1 - guidance), 0.0))
        return tuple(mixes)


def steps(times: Sequence[float], solver: Solver) -> list[Step]:
    """The steps of a schedule, one fewer than it has levels."""
    made: list[Step] = []
    for k, (t, t_next) in enumerate(pairwise(times)):
        if solver is Solver.PING_PONG:
            made.append(Step(1 - t_next, -(1 - t_next) * t, 0.0, t_next))
        else:
            length = t - t_next
            turn = length / (2 * (times[k - 1] - t)) if solver is Solver.MULTISTEP and k else 0.0
            made.append(Step(1.0, -length * (1 + turn), length * turn, 0.0))
    return made


def ways(guidance: float) -> int:
    """How many velocities one step asks for: as the model is told, and with guidance also with no words."""
    return 1 if guidance == 1 else 2


def guide(v, v_null, scale: float):  # type: ignore[no-untyped-def]
    """Classifier-free guidance (Ho and Salimans, 2022): away from what the null prompt would do; scale 1 is no guidance."""
    return v_null + scale * (v - v_null)


def block_noise(seed: int, block: int, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The noise of one step of one block: a function of its arguments alone, so that a replay is exact."""
    return np.random.default_rng([seed, block, step]).standard_normal(shape, dtype=np.float32)

