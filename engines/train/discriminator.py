"""The judge of ARC-Forcing: lower layers of the base model, and a small head that scores every generated position.

It sees the whole window at once, noised to one level, in both directions. The base model never saw more than one noisy block, so
a copy of it is first taught to denoise such windows (`velocity`); only then do its lower layers tell the head anything.

Source: arXiv 2605.22717 (post-training); ConvNeXt blocks from arXiv 2201.03545.
Shapes: B batch, T latent of the window, G generated latent, C latent channel, D width. Runs in: training.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from engines.lmdm.model import LMDM, Layer
from engines.lmdm.rollout import Conditions

HEAD_BLOCKS, HEAD_REACH = 2, 7  # ConvNeXt blocks; latents under one filter


class ConvNeXtBlock(nn.Module):
    """Each channel over time, then all channels at each time; added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(width, width, HEAD_REACH, padding=HEAD_REACH // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.over_channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, G, D) -> (B, G, D)"""
        mixed = self.over_time(x.transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm(mixed))


class Head(nn.Module):
    """Hidden states -> one score per position, 0 for all at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(HEAD_BLOCKS)))
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, G, D) -> (B, G)"""
        return self.score(self.norm_out(self.blocks(self.norm_in(hidden))))[..., 0].float()


class Discriminator(nn.Module):
    """A copy of the base model that sees windows in both directions, and the head on its lower `depth` layers."""

    def __init__(self, base: LMDM, depth: int) -> None:
        super().__init__()
        assert 0 < depth <= base.config.layers
        self.base, self.depth, self.head = copy.deepcopy(base), depth, Head(base.config.width)

    def hidden(self, noisy: Tensor, t: Tensor, told: Conditions, depth: int) -> Tensor:
        """Windows (B, T, C) at levels t (B,) -> states (B, T, D) after `depth` layers. The global token is dropped before any crop."""
        base, length = self.base, noisy.shape[1]
        rotation = base.transformer.rotary_pos_emb(torch.cat([torch.arange(length), torch.tensor([-1])]))
        words = base.to_cond_embed(told.states)
        x = torch.cat([base.target_tokens(noisy, told.sketch, told.partner), base.global_tokens(t, told.pooled)[:, None]], 1)
        for layer in base.transformer.layers[:depth]:
            assert isinstance(layer, Layer)
            x, _, _ = layer(x, rotation, None, None, layer.cross_attn.keys_values(words), 0)
        return x[:, :length]

    def velocity(self, noisy: Tensor, t: Tensor, told: Conditions) -> Tensor:
        """As a diffusion model of whole windows: v (B, T, C)."""
        hidden = self.hidden(noisy, t, told, self.base.config.layers)
        return self.base.velocity(hidden, noisy, self.base.global_tokens(t, told.pooled)[:, None]).float()

    def forward(self, noisy: Tensor, t: Tensor, told: Conditions, generated: int) -> Tensor:
        """Scores (B, G) of the last `generated` positions of windows (B, T, C) at levels t (B,); higher is more like real music."""
        return self.head(self.hidden(noisy, t, told, self.depth)[:, -generated:])
