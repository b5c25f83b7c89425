"""Block-by-block generation in torch, batched: what training evaluates (and post-trains) with.

It makes the same numbers as the streaming engine on a device (a test holds them together): same visibility, positions, sampler
and order of operations. Both regimes. Shapes as in model.py; W context blocks, N latents per block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.lmdm import sampler
from engines.lmdm.config import Regime
from engines.lmdm.model import LMDM, KeyValues
from engines.lmdm.sampler import Solver

Noise = Callable[[int, int], Tensor]  # (block, step) -> (B, N, C)


@dataclass(frozen=True)
class Sampling:
    """How a rollout denoises."""

    times: list[float]  # sampler.schedule
    solver: Solver = Solver.EULER
    guidance: float = 1.0


@dataclass
class Conditions:
    """What a rollout is told, for all of its blocks; see LMDM.target_tokens for the presence channels."""

    states: Tensor  # (B, S, X) text
    pooled: Tensor  # (B, X)
    sketch: Tensor | None = None  # (B, T, 1 + sketch channels)
    partner: Tensor | None = None  # (B, T, 1 + C)

    def unguided(self) -> Conditions:
        """What guidance steers away from: no words, and nothing of a partner who is not followed."""
        partner = None if self.sketch is None or self.partner is None else self.partner * (self.sketch[..., :1] > 0)
        return Conditions(torch.zeros_like(self.states), torch.zeros_like(self.pooled), self.sketch, partner)

    def block(self, model: LMDM, index: int) -> tuple[Tensor | None, Tensor | None]:
        n = model.config.block_latents
        rows = slice(index * n, (index + 1) * n)
        return (None if self.sketch is None else self.sketch[:, rows]), (None if self.partner is None else self.partner[:, rows])


class Context:
    """The cached past of a rollout: at most W clean blocks, oldest first."""

    def __init__(self, model: LMDM) -> None:
        self.model, self.blocks = model, 0
        self.tokens: Tensor | None = None  # (B, P, D), enc-dec keeps the tokens themselves
        self.cache: KeyValues | None = None

    def commit(self, clean: Tensor, partner: Tensor | None, block: int) -> None:
        """Put a finished block (B, N, C), with what it knew of the partner, into the context."""
        config = self.model.config
        n, keep = config.block_latents, (config.context_blocks - 1) * config.block_latents
        rotary = self.model.transformer.rotary_pos_emb
        if config.regime is Regime.ENC_DEC:
            tokens = self.model.clean_tokens(clean, partner)
            self.tokens = tokens if self.tokens is None else torch.cat([self.tokens[:, -keep:], tokens], 1)
            held = self.tokens.shape[1]
            positions = torch.arange(held) + (block + 1) * n - held
            self.cache = self.model.commit(self.tokens, rotary(positions), None, None)
        else:
            past = None if self.cache is None else (self.cache[0][..., -keep:, :], self.cache[1][..., -keep:, :])
            new = self.model.commit(self.model.clean_tokens(clean, partner), rotary(torch.arange(n) + block * n), None, past)
            self.cache = new if past is None else (torch.cat([past[0], new[0]], -2), torch.cat([past[1], new[1]], -2))


def velocity(model: LMDM, conditions: Conditions, context: Context, block: int, x: Tensor, t: float) -> Tensor:
    """The model's v for noisy latents x (B, N, C) of one block at level t."""
    n = model.config.block_latents
    positions = torch.cat([torch.arange(n) + block * n, torch.tensor([model.config.global_position(block)])])
    rotation = model.transformer.rotary_pos_emb(positions)
    targets = model.target_tokens(x, *conditions.block(model, block))
    told = model.global_tokens(torch.tensor([t]), conditions.pooled)[:, None]
    v, _ = model(targets[:, :0], x, targets, told, rotation, None, context.cache, model.text(conditions.states))
    return v.float()


def denoise_block(model: LMDM, conditions: Conditions, context: Context, block: int, sampling: Sampling, noise: Noise) -> Tensor:
    """Make one block (B, N, C) from noise."""
    x, before = noise(block, 0), None
    for k, (t, step) in enumerate(zip(sampling.times, sampler.steps(sampling.times, sampling.solver), strict=False)):
        v = velocity(model, conditions, context, block, x, t)
        if sampling.guidance != 1:
            v = sampler.guide(v, velocity(model, conditions.unguided(), context, block, x, t), sampling.guidance)
        x, before = step(x, v, before, noise(block, k + 1) if step.noise else None), v
    return x


def rollout(model: LMDM, conditions: Conditions, blocks: int, sampling: Sampling, noise: Noise) -> Tensor:
    """Generate `blocks` blocks one after the other -> (B, blocks N, C)."""
    context, made = Context(model), []
    for block in range(blocks):
        x = denoise_block(model, conditions, context, block, sampling, noise)
        context.commit(x, conditions.block(model, block)[1], block)
        made.append(x)
    return torch.cat(made, 1)


def seeded_noise(seed: int, batch: int, model: LMDM) -> Noise:
    """Noise for a batch: row b uses seed + b, so that a row alone gives the same numbers."""
    shape = (model.config.block_latents, model.config.latent_channels)

    def noise(block: int, step: int) -> Tensor:
        return torch.stack([torch.from_numpy(sampler.block_noise(seed + b, block, step, shape)) for b in range(batch)])

    return noise
