"""Samplers as pure functions of arrays: training, offline rendering and streaming call these, with torch or numpy alike.

Rectified flow: x_t = (1 - t) x0 + t noise, v = noise - x0. Source: arXiv 2605.22717 (schedule and ping-pong sampling).
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np
from numpy.typing import NDArray

LOG_SNR_FIRST, LOG_SNR_LAST = -6.0, 2.0


class Spacing(str, Enum):
    """How noise levels lie between 1 and 0."""

    EVEN = "even"  # in t: for Euler steps of a model that was only pretrained, which needs fine steps where the details form
    LOG_SNR = "log-snr"  # even in log-SNR, -6 to 2: the paper's, for post-trained models


def schedule(steps: int, spacing: Spacing) -> list[float]:
    """Noise levels of a `steps`-step sampler, `steps + 1` of them from exactly 1 to exactly 0."""
    if steps < 1:
        raise ValueError(f"a sampler takes at least 1 step, not {steps}")
    if spacing is Spacing.EVEN:
        return [1 - i / steps for i in range(steps + 1)]
    inner = [LOG_SNR_FIRST + (LOG_SNR_LAST - LOG_SNR_FIRST) * i / steps for i in range(1, steps)]
    return [1.0, *(1 / (1 + math.exp(log_snr)) for log_snr in inner), 0.0]


def euler(x, v, t: float, t_next: float):  # type: ignore[no-untyped-def]
    """One step along the flow: x at level t -> x at level t_next."""
    return x - (t - t_next) * v


def ping_pong(x, v, t: float, t_next: float, noise):  # type: ignore[no-untyped-def]
    """Denoise fully, then add fresh noise of the next level."""
    return (1 - t_next) * (x - t * v) + t_next * noise


def ways(guidance: float) -> int:
    """How many velocities one step asks for: as the model is told, and with guidance also with no words."""
    return 1 if guidance == 1 else 2


def guide(v, v_null, scale: float):  # type: ignore[no-untyped-def]
    """Classifier-free guidance (Ho and Salimans, 2022): away from what the null prompt would do; scale 1 is no guidance."""
    return v_null + scale * (v - v_null)


def block_noise(seed: int, block: int, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The noise of one step of one block: a function of its arguments alone, so that a replay is exact."""
    return np.random.default_rng([seed, block, step]).standard_normal(shape, dtype=np.float32)


def weights(t: float, t_next: float, is_ping_pong: bool, guidance: float) -> tuple[float, float, float, float]:
    """A step as one weighted sum: of x, v, v without words, fresh noise. The same as `guide`, then `ping_pong` or `euler`."""
    keep, turn, add = (1 - t_next, -(1 - t_next) * t, t_next) if is_ping_pong else (1.0, -(t - t_next), 0.0)
    return keep, turn * guidance, turn * (1 - guidance), add
