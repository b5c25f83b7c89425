"""Random batches of the right shapes, for models that no corpus here fits: what a run would cost can be asked before it has any data.

Runs in: training (`--dry-run`), tests.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass

import numpy as np
import torch

from engines.lmdm.config import ModelConfig
from engines.train.pairs import Batch


@dataclass(frozen=True)
class Imagined:
    """Draws as engines.train.pairs.Pairs does, from no scores."""

    config: ModelConfig
    scores: Sized = ()

    def batch(self, rng: np.random.Generator, count: int, length: int, per_block: int) -> Batch:
        c = self.config
        draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))  # noqa: E731
        target, before, heard = (draw(count, length, c.latent_channels) for _ in range(3))
        jam = torch.from_numpy(rng.random(count) < 0.25)
        return Batch(
            target, before, heard, jam * per_block, jam, draw(count, length, c.sketch_channels),
            draw(count, c.text_tokens, c.text_channels), draw(count, c.text_channels),
        )
