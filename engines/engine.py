"""The contract between the appliance and whatever plays: block in, wet block out.

No torch, no runtime: everything may import this file. Concrete engines are opened with `engines.bundle.open_engine`, inside the
worker process only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

GUARD_SECONDS = 1.5  # over which the loop of the repeats is watched
JAM_BLOCKS = 2  # an accompaniment to a block is music for so many blocks later: one to hear it, one to compute in
Audio = NDArray[np.float32]
Stamp = Callable[[str], None]  # called with a stage's name when that stage of a block is done


def no_stamp(stage: str) -> None:
    """For callers that keep no ledger."""


@dataclass(frozen=True)
class EngineSpec:
    """What the appliance must know of an engine before it is loaded."""

    name: str
    sample_rate: int
    block_frames: int
    codec_delay_frames: int  # the wet block for input [s, s + block) carries the music of [s - delay, s + block - delay)
    prompts: tuple[str, ...]
    steps: int  # denoising steps per block that the engine was made for; 0 if it has none
    max_steps: int


@dataclass(frozen=True)
class EngineControls:
    """The player's wishes for one block."""

    prompt: int = 0  # index into EngineSpec.prompts
    steps: int = 0  # denoising steps; 0 means the engine's own choice
    second_prompt: int = 0  # what `morph` leads to
    morph: float = 0.0  # weight of the second prompt, 0..1
    stray: float = 0.0  # how far the answer may leave what was played: 0 follows every note .. 1 plays freely
    freeze: bool = False  # go on from what was answered, hear nothing new
    jam: bool = False  # accompany what was played instead of transforming it: the answer is music for JAM_BLOCKS later


@dataclass(frozen=True)
class EngineState:
    """All that an engine remembers, as plain values. Every save of one engine has the same names, shapes and sizes."""

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, int]


class Engine(Protocol):
    """Called from one thread, one block at a time, in input order. Audio is mono float32 in [-1, 1], (block_frames,)."""

    spec: EngineSpec
    runs_on: str  # what computes it, and why that; "" if nothing is to be said

    @property
    def backend(self) -> str:
        """Name of the runtime that computes it now (engines.backends); "" if none does."""

    def reset(self, seed: int) -> None:
        """Forget everything heard and played; noise follows from `seed`, block and step from here on."""

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        """Hear one block and answer it. Stages are stamped "encoded", "step" (each), "decoded"."""

    def prefill(self, block: Audio) -> None:
        """Hear one block without answering: history and context stay true at a fraction of the cost."""

    def save(self) -> EngineState:
        """A copy of all that the next block's answer depends on, beside what it will be given."""

    def restore(self, state: EngineState) -> None:
        """Go on from a save of an engine of the same bundle: the same blocks get the same answers, to the last bit on one runtime."""


class LoopGuard:
    """What share of an answer may be sent to the engine again, so that nothing swells without end as it goes round.

    Repeats make a loop: of an engine that answers a held note 3 dB louder than it hears it, 70 % is enough to howl. What goes back is
    therefore never louder than what was answered, on the average of GUARD_SECONDS: then `repeats` is the most that a round gives back.
    All pitches count together: a note may grow beside louder ones, until it is the loudest."""

    def __init__(self, chunk_frames: int, sample_rate: int) -> None:
        self._keep = math.exp(-chunk_frames / (GUARD_SECONDS * sample_rate))
        self._heard = self._answered = 0.0  # energies
        self.share = 1.0

    def follow(self, heard: Audio, answer: Audio) -> None:
        """A chunk of what the engine heard, and its answer to that, (chunk_frames,) each."""
        self._heard = self._keep * self._heard + float(np.dot(heard, heard))
        self._answered = self._keep * self._answered + float(np.dot(answer, answer))
        self.share = math.sqrt(self._heard / self._answered) if self._answered > self._heard else 1.0  # in this order: NaN is harmless
