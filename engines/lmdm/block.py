"""One block's denoising as one job, for a backend that takes it whole: the same passes as step by step, with nothing left to ask.

Runs in: the worker process. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.backend import Array, Evaluation, Pass
from engines.lmdm import sampler


@dataclass(frozen=True)
class Words:
    """What a prompt is to a block: text keys and values, and one global token per step."""

    text: Mapping[str, Array]
    levels: Sequence[Array]  # each (1, 1, D)


@dataclass(frozen=True)
class Unguided:
    """What guidance steers away from."""

    words: Words  # none
    known: Mapping[str, Array]  # what it is told of the player


@dataclass(frozen=True)
class Steps:
    """How the block is denoised."""

    times: Sequence[float]  # sampler.schedule
    ping_pong: bool
    guidance: float
    noise: Sequence[Array]  # fresh noise after each step; unused without ping-pong


def passes(
    first: Mapping[str, Array] | None, step: Mapping[str, Array], words: Words, unguided: Unguided | None, steps: Steps
) -> tuple[Pass, ...]:
    """`first` and `step` are the inputs of those graphs that stay the same over the block; `first` is None if nothing is pending."""
    made = []
    for k, level in enumerate(words.levels):
        commits = k == 0 and first is not None
        told = {**(first if first is not None and commits else step), "told": level}
        evaluations = [Evaluation("first" if commits else "step", told, words.text, commits)]
        if unguided is not None:
            evaluations.append(Evaluation("step", {**step, **unguided.known, "told": unguided.words.levels[k]}, unguided.words.text))
        weights = sampler.weights(steps.times[k], steps.times[k + 1], steps.ping_pong, steps.guidance)
        made.append(Pass(tuple(evaluations), weights, steps.noise[k] if steps.ping_pong else None))
    return tuple(made)
