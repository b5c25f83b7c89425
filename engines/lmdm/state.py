"""What one block of a stream leaves behind for the next, and how it is saved: as named arrays that any process can put back.

Shapes as in stream.py. Runs in: the worker process, `ghostnote replay`. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.engine import Audio, EngineState
from engines.lmdm.cache import Cache
from engines.lmdm.config import ModelConfig
from engines.lmdm.words import NULL_PROMPT

Array = NDArray[np.float32]

_DECODER = "decoder/"


@dataclass(frozen=True)
class Heard:
    """One block of input, analysed."""

    latents: Array  # (1, N, C)
    sketch: Array  # (1, N, S)


@dataclass
class StreamState:
    """Everything that one block leaves behind for the next."""

    cache: Cache
    window: Array  # (1, P, C) the clean blocks themselves, enc-dec only; a ring with the same rows as the cache
    window_partner: Array  # (1, P, 1 + C) and what was known of the partner
    audio: Audio  # the last samples of the input, which the next block's analysis windows reach back to
    loop: list[Heard]  # the last W blocks that were heard, as a ring: what goes round while frozen
    decoder: dict[str, Array]
    pending: Array | None = None  # (1, N, C) the last block, which is not committed yet
    pending_partner: Array | None = None  # (1, N, 1 + C)
    words: int = NULL_PROMPT  # the prompt that weighed most in the last block
    block: int = 0  # index of the next block; positions and noise follow from it
    seed: int = 0

    def save(self, config: ModelConfig) -> EngineState:
        """A copy. What there is less of at the start is filled up with zeros: every save has the same size."""
        n, channels, held = config.block_latents, config.latent_channels, len(self.loop)
        latents = np.zeros((config.context_blocks, n, channels), np.float32)
        sketches = np.zeros((config.context_blocks, n, config.sketch_channels), np.float32)
        for row, heard in enumerate(self.loop):
            latents[row], sketches[row] = heard.latents[0], heard.sketch[0]
        arrays = {
            "keys": self.cache.keys,
            "values": self.cache.values,
            "bias": self.cache.bias,
            "window": self.window,
            "window_partner": self.window_partner,
            "audio": self.audio,
            "pending": np.zeros((1, n, channels), np.float32) if self.pending is None else self.pending,
            "pending_partner": np.zeros((1, n, 1 + channels), np.float32) if self.pending_partner is None else self.pending_partner,
            **{_DECODER + name: array for name, array in self.decoder.items()},
        }
        facts = {"words": self.words, "block": self.block, "seed": self.seed, "loop": held, "pending": int(self.pending is not None)}
        copies = {name: np.array(array) for name, array in arrays.items()}
        return EngineState({**copies, "loop/latents": latents, "loop/sketches": sketches}, facts)

    @classmethod
    def restored(cls, saved: EngineState) -> StreamState:
        arrays, facts = {name: np.array(array) for name, array in saved.arrays.items()}, saved.facts
        loop = zip(arrays["loop/latents"][: facts["loop"]], arrays["loop/sketches"][: facts["loop"]], strict=True)
        return cls(
            Cache(arrays["keys"], arrays["values"], arrays["bias"]),
            arrays["window"],
            arrays["window_partner"],
            arrays["audio"],
            [Heard(latents[None], sketch[None]) for latents, sketch in loop],
            {name.removeprefix(_DECODER): array for name, array in arrays.items() if name.startswith(_DECODER)},
            arrays["pending"] if facts["pending"] else None,
            arrays["pending_partner"] if facts["pending"] else None,
            facts["words"],
            facts["block"],
            facts["seed"],
        )
