"""One block's denoising as one job, for a backend that takes it whole: the same passes as step by step, with nothing left to ask.

Runs in: the worker process. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.backend import Array, Pass
from engines.lmdm import sampler
from engines.lmdm.words import Told


@dataclass(frozen=True)
class Steps:
    """How the block is denoised."""

    times: Sequence[float]  # sampler.schedule
    ping_pong: bool
    guidance: float
    noise: Sequence[Array]  # fresh noise after each step; unused without ping-pong


def passes(first: Mapping[str, Array] | None, step: Mapping[str, Array], told: Told, steps: Steps) -> tuple[Pass, ...]:
    """`first` and `step` are the inputs of those graphs that stay the same over the block; `first` is None if nothing is pending."""
    made = []
    for k, level in enumerate(told.levels):
        commits = k == 0 and first is not None
        fresh = {**(first if first is not None and commits else step), "told": level}
        weights = sampler.weights(steps.times[k], steps.times[k + 1], steps.ping_pong, steps.guidance)
        noise = steps.noise[k] if steps.ping_pong else None
        made.append(Pass("first" if commits else "step", fresh, told.text, commits, weights, noise))
    return tuple(made)
