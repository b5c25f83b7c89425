"""The Oobleck autoencoder of Stable Audio Open: 44.1 kHz stereo <-> latents at 21.53 Hz. Convolutions and snakes, nothing else.

The layout (names, shapes, order of operations) is that of stable-audio-tools, with weight norm folded into plain weights when a
checkpoint is loaded. Not causal: `reach` says how many latents a piece needs on each side to come out exact.

Shapes: B batch, A audio channel, N audio frame, C latent channel, T latent. Runs in: export, fine-tuning and evaluation.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engines.sao.config import OobleckConfig

DILATIONS = (1, 3, 9)


class Snake(nn.Module):
    """x + sin^2(x e^alpha) / e^beta, per channel (BigVGAN's variant; both parameters on a log scale)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(x * self.alpha.exp()[:, None]).square() / (self.beta.exp() + 1e-9)[:, None]


class ResidualUnit(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        wide = nn.Conv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation)
        self.layers = nn.Sequential(Snake(channels), wide, Snake(channels), nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Stage(nn.Module):
    """One change of rate with its residual units."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def down(inner: int, outer: int, stride: int) -> Stage:
    shrink = nn.Conv1d(inner, outer, 2 * stride, stride, padding=stride // 2)
    return Stage(*(ResidualUnit(inner, d) for d in DILATIONS), Snake(inner), shrink)


def up(inner: int, outer: int, stride: int) -> Stage:
    grow = nn.ConvTranspose1d(inner, outer, 2 * stride, stride, padding=stride // 2)
    return Stage(Snake(inner), grow, *(ResidualUnit(outer, d) for d in DILATIONS))


class Encoder(nn.Module):
    """(B, A, N) -> mean and scale of the latents, (B, 2C, T)."""

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multiples)]
        stages = [down(a, b, stride) for (a, b), stride in zip(pairwise(widths), config.strides, strict=True)]
        first = nn.Conv1d(config.audio_channels, widths[0], 7, padding=3)
        last = nn.Conv1d(widths[-1], 2 * config.latent_channels, 3, padding=1)
        self.layers = nn.Sequential(first, *stages, Snake(widths[-1]), last)

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(audio)


class Decoder(nn.Module):
    """(B, C, T) -> (B, A, N)."""

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multiples)][::-1]
        stages = [up(a, b, stride) for (a, b), stride in zip(pairwise(widths), config.strides[::-1], strict=True)]
        first = nn.Conv1d(config.latent_channels, widths[0], 7, padding=3)
        last = nn.Conv1d(widths[-1], config.audio_channels, 7, padding=3, bias=False)
        self.layers = nn.Sequential(first, *stages, Snake(widths[-1]), last, nn.Tanh() if config.final_tanh else nn.Identity())

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents)


class Autoencoder(nn.Module):
    """Both halves, between audio and the latents that the diffusion model sees (B, C, T)."""

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def encode(self, audio: Tensor) -> Tensor:
        """The mean: the noise that the autoencoder was trained with is left out."""
        return self.encoder(audio)[:, : self.config.latent_channels] / self.config.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents * self.config.scale)


class Reach(NamedTuple):
    """Latents on each side that can change one latent's worth of output."""

    left: int
    right: int


def reach(half: Encoder | Decoder, latent_frames: int) -> Reach:
    """Walk back from one latent (or its audio) to the inputs that it depends on: 8 and 8, 10 and 10 for Stable Audio Open."""
    unit_in, unit_out = (latent_frames, 1) if isinstance(half, Encoder) else (1, latent_frames)
    first, last = 0, unit_out - 1
    for conv in [m for m in half.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)][::-1]:
        kernel, stride, dilation, padding = conv.kernel_size[0], conv.stride[0], conv.dilation[0], int(conv.padding[0])
        if isinstance(conv, nn.ConvTranspose1d):
            first, last = -((kernel - 1 - padding - first) // stride), (last + padding) // stride
        else:
            first, last = first * stride - padding, last * stride - padding + (kernel - 1) * dilation
    return Reach(math.ceil(-first / unit_in), math.ceil((last + 1 - unit_in) / unit_in))
