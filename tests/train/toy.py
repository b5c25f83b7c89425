"""Music that a tiny model can learn: latents follow the sketch, in the colours that the words ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engines.lmdm import visibility
from engines.lmdm.config import ModelConfig
from engines.lmdm.model import LMDM
from engines.lmdm.rollout import Conditions
from engines.train.arc import Example
from engines.train.distributed import World
from engines.train.packing import noise_levels, present

WORDS = 4


@dataclass(frozen=True)
class Toy:
    """A source of examples for engines.train.arc; no corpus, no files."""

    config: ModelConfig
    rows: int = 4

    def example(self, draw: int, blocks: int) -> Example:
        c, rng, fixed = self.config, np.random.default_rng([7, draw]), np.random.default_rng(7)
        colour = fixed.standard_normal((WORDS, c.sketch_channels, c.latent_channels)) / c.sketch_channels**0.5
        states, pooled = fixed.standard_normal((WORDS, c.text_tokens, c.text_channels)), fixed.standard_normal((WORDS, c.text_channels))
        length = blocks * c.block_latents
        slow = np.cumsum(rng.standard_normal((self.rows, length + 4, c.sketch_channels)), 1)
        sketch = slow[:, 4:] - slow[:, :-4]
        word = rng.integers(WORDS, size=self.rows)
        target = np.tanh(np.einsum("btf,bfc->btc", sketch, colour[word]))
        real, sketch, states, pooled = (torch.from_numpy(array).float() for array in (target, sketch, states[word], pooled[word]))
        one = torch.ones(self.rows)
        partner = present(torch.zeros(self.rows, length, c.latent_channels), 0 * one)
        return Example(real, real, Conditions(states, pooled, present(sketch, one), partner))

    def pretraining_loss(self, model: LMDM, draw: int, world: World) -> Tensor:
        """All blocks of a window side by side, as in engines.train.pretrain."""
        blocks, rng = 6, torch.Generator().manual_seed(draw)
        example = self.example(draw, blocks)
        times = noise_levels(rng, (self.rows, blocks))
        noise = torch.randn(example.real.shape, generator=rng)
        t = times.repeat_interleave(self.config.block_latents, 1)[..., None]
        told = example.told
        levels = model.global_tokens(times.reshape(-1), told.pooled.repeat_interleave(blocks, 0)).unflatten(0, (self.rows, blocks))
        noisy = (1 - t) * example.real + t * noise
        targets = model.target_tokens(noisy, told.sketch, told.partner)
        rotation = model.transformer.rotary_pos_emb(visibility.packed_positions(self.config, blocks))
        bias = visibility.as_bias(visibility.packed(self.config, blocks))
        clean = model.clean_tokens(example.past, told.partner)
        v, _ = model(clean, noisy, targets, levels, rotation, bias, None, model.text(told.states))
        return (v.float() - (noise - example.real)).pow(2).mean()
