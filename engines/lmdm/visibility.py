"""Who sees whom: the one rule that training and streaming share.

A target block sees itself, its own global token and the W clean blocks before it. A clean block sees, block-causal, the W clean
blocks that end with itself; in the enc-dec regime, all W of its window. Blocks that never were (before the start, or
dropped) are seen by nobody. Positions are absolute latents; a target's global token sits just before the window it sees.

Shapes: T token. Runs in: training and export, where it becomes constants of the graphs that stream.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engines.lmdm.config import HIDDEN, ModelConfig


def as_bias(visible: Tensor) -> Tensor:
    """True where a query (row) sees a key (column) -> additive bias."""
    return torch.zeros(visible.shape).masked_fill(~visible, HIDDEN)


def block_of(count_blocks: int, per_block: int) -> Tensor:
    return torch.arange(count_blocks).repeat_interleave(per_block)


def packed(config: ModelConfig, blocks: int) -> Tensor:
    """Training, block-causal: visibility (T, T) over [clean 0..n-1 | target 0..n-1 | global 0..n-1]."""
    window = config.context_blocks
    clean = block_of(blocks, config.block_latents)
    made = torch.cat([clean, torch.arange(blocks)])  # targets, then one global token each
    age = clean[:, None] - clean[None]
    clean_sees_clean = (age >= 0) & (age < window)
    age = made[:, None] - clean[None]
    made_sees_clean = (age > 0) & (age <= window)
    made_sees_made = made[:, None] == made[None]
    clean_sees_made = torch.zeros(len(clean), len(made), dtype=torch.bool)
    return torch.cat([torch.cat([clean_sees_clean, clean_sees_made], 1), torch.cat([made_sees_clean, made_sees_made], 1)])


def packed_positions(config: ModelConfig, blocks: int, first_block: int = 0) -> Tensor:
    """Absolute positions (T,) of the tokens of `packed`."""
    latents = torch.arange(blocks * config.block_latents) + first_block * config.block_latents
    told = torch.tensor([config.global_position(first_block + block) for block in range(blocks)])
    return torch.cat([latents, latents, told])


def window(config: ModelConfig) -> Tensor:
    """Training, enc-dec: visibility (T, T) over [W clean blocks | target | global]."""
    context, made = config.context_latents, config.block_latents + 1
    visible = torch.ones(context + made, context + made, dtype=torch.bool)
    visible[:context, context:] = False
    return visible


def window_positions(config: ModelConfig, block: int) -> Tensor:
    """Absolute positions (T,) of the tokens of `window` for target block `block`."""
    told = config.global_position(block)
    latents = torch.arange(config.context_latents + config.block_latents) + told + 1
    return torch.cat([latents, torch.tensor([told])])


def fused(config: ModelConfig) -> Tensor:
    """The first step of a block: visibility (T, T) among [pending clean | target | global]; the cache's part comes from outside."""
    n = config.block_latents
    visible = torch.ones(2 * n + 1, 2 * n + 1, dtype=torch.bool)
    visible[:n, n:] = False
    return visible
