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

    solver: Sequence[sampler.Step]
    guidance: float
    noise: Sequence[Array | None]  # fresh noise of each step, where it takes some


def passes(first: Mapping[str, Array] | None, step: Mapping[str, Array], told: Told, steps: Steps) -> tuple[Pass, ...]:
    """`first` and `step` are the inputs of those graphs that stay the same over the block; `first` is None if nothing is pending."""
    made = []
    for k, level in enumerate(told.levels):
        commits = k == 0 and first is not None
        fresh = {**(first if first is not None and commits else step), "told": level}
        mixes = steps.solver[k].mixes(steps.guidance)
        made.append(Pass("first" if commits else "step", fresh, told.text, commits, mixes, steps.noise[k]))
    return tuple(made)
