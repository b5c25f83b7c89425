"""Who sees whom: the one rule that training and streaming share.

A target block sees itself, its own global token and the W clean blocks before it. A clean block sees, block-causal, the W clean
blocks that end with itself; in the enc-dec regime, all W of its window. Blocks that never were (before the start, or
dropped) are seen by nobody. Positions are absolute latents; a target's global token sits just before the window it sees.

Shapes: T token. Runs in: training and export, where it becomes constants of the graphs that stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.lmdm.config import HIDDEN, ModelConfig, Regime


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


def window(config: ModelConfig, clean_blocks: int) -> Tensor:
    """Training, enc-dec: visibility (T, T) over [clean blocks | target | global]; all clean blocks see each other."""
    context, made = clean_blocks * config.block_latents, config.block_latents + 1
    visible = torch.ones(context + made, context + made, dtype=torch.bool)
    visible[:context, context:] = False
    return visible


def window_positions(config: ModelConfig, clean_blocks: int) -> Tensor:
    """Absolute positions (T,) of the tokens of `window`."""
    latents = torch.arange((clean_blocks + 1) * config.block_latents)
    return torch.cat([latents, torch.tensor([config.global_position(clean_blocks)])])


@dataclass(frozen=True)
class Pass:
    """What one training pass over a window of blocks sees: the first `clean` of them as context, the last `targets` to be made."""

    blocks: int
    clean: int
    targets: int
    visible: Tensor  # (T, T) over [clean | targets | a global token each]
    positions: Tensor  # (T,)


def trained(config: ModelConfig, blocks: int) -> Pass:
    """Block-causal: every block is context and target. Enc-dec: the last block is the one target, for a context that sees forward would
    show another one what it is to tell; no longer than a context and a target."""
    if config.regime is Regime.ENC_DEC:
        clean = min(blocks - 1, config.context_blocks)
        return Pass(clean + 1, clean, 1, window(config, clean), window_positions(config, clean))
    return Pass(blocks, blocks, blocks, packed(config, blocks), packed_positions(config, blocks))


def fused(config: ModelConfig) -> Tensor:
    """The first step of a block: visibility (T, T) among [pending clean | target | global]; the cache's part comes from outside."""
    n = config.block_latents
    visible = torch.ones(2 * n + 1, 2 * n + 1, dtype=torch.bool)
    visible[:n, n:] = False
    return visible
