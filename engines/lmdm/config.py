"""The facts that fix a Live Music Diffusion Model: sizes, block and context, and what conditions it. No torch.

Runs in: everywhere that needs to know a shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Regime(str, Enum):
    """How the context may see itself (arXiv 2605.22717, section on block-wise caching)."""

    BLOCK_CAUSAL = "block-causal"  # a block sees itself and the blocks before it: its keys and values are computed once
    ENC_DEC = "enc-dec"  # context sees all of the context: recomputed once per block, reused over its denoising steps


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one LMDM; the presets below are the only ones that the project ships."""

    width: int
    layers: int
    heads: int
    text_channels: int
    text_tokens: int
    latent_channels: int = 64
    block_latents: int = 8
    context_blocks: int = 15  # clean blocks that a target sees, beside itself
    sketch_channels: int = 0  # 0: no sketch
    partner: bool = False  # another player's latents, added to every token
    skip: bool = False  # noisy latents also go past the transformer, each channel weighed by what the global token says of the level
    regime: Regime = Regime.BLOCK_CAUSAL

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def rotary_width(self) -> int:
        """Leading channels of a head that are rotated; half as many angles."""
        return max(self.head_width // 2, 32)

    @property
    def context_latents(self) -> int:
        return self.context_blocks * self.block_latents

    def global_position(self, block: int) -> int:
        """Where the global token of target block `block` sits: one before the first latent that its window can hold."""
        return (block - self.context_blocks) * self.block_latents - 1

    @property
    def input_add_channels(self) -> int:
        """Mask and latents of the clean context, and the same again for a partner."""
        return (self.latent_channels + 1) * (2 if self.partner else 1)


HIDDEN = -1e9  # added to an attention logit that must not count; finite, so that a token which sees nothing else still gives numbers
ROWS_PER_LATENT, LOUDNESS_VALUES, PEAKS = 2, 4, 10  # of a sketch: constant-Q rows, loudness values, peaks kept in a row
SKETCH_CHANNELS = ROWS_PER_LATENT * 64 + LOUDNESS_VALUES
SKETCH_BEND = 1e-3  # magnitude at which a sketch's log curve starts to bend: -60 dB


def sketched(dbfs: float) -> float:
    """What a sketch says of a magnitude."""
    return math.log1p(10 ** (dbfs / 20) / SKETCH_BEND) / 4


def sketch_peaks(stray: float) -> int:
    """How many peaks of a constant-Q row are still followed; stray 0 .. 1."""
    return math.ceil(PEAKS * (1 - stray) - 1e-9)


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(64, 2, 2, 24, 5, latent_channels=8, block_latents=3, context_blocks=4, sketch_channels=6, partner=True, skip=True),
    "reference": ModelConfig(256, 5, 4, 384, 16, latent_channels=196, sketch_channels=SKETCH_CHANNELS, partner=True, skip=True),
    "sao_small": ModelConfig(1024, 16, 8, 768, 65, block_latents=10, context_blocks=23, sketch_channels=SKETCH_CHANNELS, partner=True),
}
