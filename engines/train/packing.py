"""A batch of pairs -> what one training pass sees: noised, conditions dropped, packed [clean blocks | target blocks].

Dropping conditions makes one model of many uses: without words it is what guidance steers away from; without a sketch it plays freely
or with a partner; with part of a sketch it strays. Where the context still holds another instrument, the words must win over it.

Shapes: B batch, T latent, n block, S sketch channel, C latent channel. Runs in: training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.lmdm import sketch, visibility
from engines.lmdm.config import HIDDEN
from engines.lmdm.visibility import Pass
from engines.train.pairs import Batch


@dataclass(frozen=True)
class Drops:
    """How often a training example lacks something, or has something else in its place."""

    text: float = 0.08
    sketch: float = 0.08  # following: the sketch altogether
    stray: float = 0.15  # following: part of the sketch, a random share of it
    partner: float = 0.5  # following: the latents of what was heard, which are known only beside a whole sketch
    jam_partner: float = 0.1  # jamming: the partner
    context: float = 0.1  # all of the context
    oldest: float = 0.25  # a random number of the oldest blocks
    before: float = 0.3  # the context, up to a random block, was at another level, and often played by another instrument
    heard_context: float = 0.04  # following, per block: the context holds what was heard (prefill) instead of what was made
    context_noise: float = 0.2  # largest noise on clean latents: the model must live with its own mistakes


@dataclass
class Packed:
    """One training example, ready for LMDM.forward. Clean latents are the beginning of the window, targets (R of its T) its end."""

    clean: Tensor  # (B, .., C)
    noisy: Tensor  # (B, R, C)
    velocity: Tensor  # (B, R, C)
    times: Tensor  # (B, n)
    sketch: Tensor  # (B, R, 1 + S)
    partner: Tensor  # (B, T, 1 + C), of clean and target tokens alike
    states: Tensor
    pooled: Tensor
    bias: Tensor


def present(rows: Tensor, presence: Tensor) -> Tensor:
    """Put the presence channel (B,) before rows (B, T, F); where it is 0 the whole row is zero."""
    channel = presence[:, None, None].expand(*rows.shape[:2], 1)
    return torch.cat([channel, rows * (channel > 0)], -1)


def noise_levels(rng: torch.Generator, shape: tuple[int, int]) -> Tensor:
    """Logit-normal, a little towards noise; one in eight is pure noise, where every block starts."""
    t = torch.sigmoid(torch.randn(shape, generator=rng) * 1.3 + 0.4)
    return torch.where(torch.rand(shape, generator=rng) < 0.12, torch.ones_like(t), t)


@dataclass(frozen=True)
class Told:
    """What is known of the player: presence channels first."""

    sketch: Tensor  # (B, T, 1 + S)
    partner: Tensor  # (B, T, 1 + C)

    @staticmethod
    def draw(batch: Batch, drops: Drops, per_block: int, rng: torch.Generator) -> Told:
        """Jamming knows a late partner and no sketch; following a sketch, whole or in part, and beside a whole one the partner."""
        count = len(batch.target)
        fate, depth, partner = (torch.rand(count, generator=rng) for _ in range(3))
        share = torch.where(fate < drops.stray, depth, torch.zeros(count))
        share = torch.where((fate > 1 - drops.sketch) | batch.jam, torch.ones(count), share)
        lost = torch.where(batch.jam, torch.full((count,), drops.jam_partner), torch.full((count,), drops.partner))
        known = (partner >= lost) & (batch.jam | (share == 0))
        presence = known / (1 + batch.lag / per_block)
        return Told(present(sketch.stray(batch.sketch, share), 1 - share), present(batch.heard, presence))


def context(batch: Batch, drops: Drops, blocks: int, per_block: int, rng: torch.Generator) -> Tensor:
    """The clean latents (B, T, C) that later blocks see: what was made, by and large."""
    count = len(batch.target)
    chance = lambda *shape: torch.rand(*shape, generator=rng)  # noqa: E731
    changed_at = torch.where(chance(count) < drops.before, chance(count) * blocks, torch.zeros(count))
    block = visibility.block_of(blocks, per_block)[None, :, None]
    clean = torch.where(block < changed_at[:, None, None], batch.before, batch.target if batch.own is None else batch.own)
    heard = (chance(count, blocks) < drops.heard_context) & ~batch.jam[:, None]
    clean = torch.where(heard.repeat_interleave(per_block, 1)[..., None], batch.heard, clean)
    return clean + chance(count, 1, 1) * drops.context_noise * torch.randn(clean.shape, generator=rng)


def hidden(count: int, drops: Drops, seen: Pass, per_block: int, rng: torch.Generator) -> Tensor:
    """Attention bias (B, 1, tokens, tokens): what is visible, without the oldest blocks of some examples and all blocks of others."""
    fate, depth = (torch.rand(count, generator=rng) for _ in range(2))
    oldest = torch.where(fate < drops.oldest, (depth * seen.blocks).long(), torch.zeros(count, dtype=torch.long))
    oldest = torch.where(fate > 1 - drops.context, torch.full_like(oldest, seen.blocks), oldest)
    kept = visibility.block_of(seen.clean, per_block)[None] >= oldest[:, None]  # (B, clean tokens)
    bias = visibility.as_bias(seen.visible).repeat(count, 1, 1)
    bias[:, :, : kept.shape[1]].masked_fill_(~kept[:, None], HIDDEN)
    return bias[:, None]


def pack(batch: Batch, drops: Drops, seen: Pass, per_block: int, rng: torch.Generator, regression: bool = False) -> Packed:
    """Noise, drop and mask a batch. For plain regression there is no noise: the target is to be told from what is known at once."""
    count = len(batch.target)
    clean, told = context(batch, drops, seen.blocks, per_block, rng), Told.draw(batch, drops, per_block, rng)
    rows = slice(-seen.targets * per_block, None)
    target = batch.target[:, rows]
    times = torch.ones(count, seen.targets) if regression else noise_levels(rng, (count, seen.targets))
    noise = torch.zeros_like(target) if regression else torch.randn(target.shape, generator=rng)
    t = times.repeat_interleave(per_block, 1)[..., None]
    worded = (torch.rand(count, generator=rng) >= drops.text).float()
    return Packed(
        clean[:, : seen.clean * per_block], (1 - t) * target + t * noise, noise - target, times, told.sketch[:, rows], told.partner,
        batch.states * worded[:, None, None], batch.pooled * worded[:, None],
        hidden(count, drops, seen, per_block, rng),
    )
