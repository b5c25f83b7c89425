"""The reference codec, decoder half: latents -> 44.1 kHz audio, block by block, with the phase carried from block to block.

A small causal network predicts, for every 512-sample hop, the magnitude of each spectrum bin and how fast its phase turns (the
instantaneous frequency, as a 2-vector whose length is its confidence). The phase is then integrated from the last block on,
so a steady tone stays a tone: a feed-forward decoder given a constant latent can only answer with something periodic at the hop,
which is a buzz. A peak spans several bins; if each turned at its own guess they would beat against each other, so the advance of
a bin is the mean of its neighbourhood, weighted by power. Two corrections bring the magnitudes back to the mel energies that the
latents state; one Griffin-Lim turn (Griffin and Lim, 1984) over the new and three carried frames makes neighbours agree, with
the samples already played held fixed.

The output lags its latents by 1536 samples (35 ms): a sample is final when its last frame is known.

Shapes: B batch, T latent, F frame (4 per latent), K bin (1025), D width. Runs in: the worker process (as a graph) and training.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.lmdm.codec import (
    HOP_FRAMES,
    LATENT_CHANNELS,
    LOW_BINS,
    MEL_FLOOR,
    MELS,
    STACK,
    Encoder,
    Spectrum,
    denormalise_mel,
    log_of_mel,
    mel_filterbank,
    mel_interpolation,
)
from engines.lmdm.dft import BINS, SIZE

DELAY_FRAMES = SIZE - HOP_FRAMES
CARRIED = DELAY_FRAMES // HOP_FRAMES  # frames that still touch samples not yet played
SEAM_FRAMES = 1024
KERNEL = 5
LOG_MAGNITUDE_LIMIT = 7.0
LOUDEST_MEL = 5.0  # normalised; full scale reaches 4.4
QUIETEST_POWER = 1e-12  # against the loudest bin of a frame: below it all bins weigh alike


class CausalConvNeXt(nn.Module):
    """A ConvNeXt layer (Liu et al., 2022) that looks back only: depthwise kernel 5, then a pointwise bottleneck."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.gain = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D) and the 4 rows before it -> y (B, T, D) and the rows to carry on."""
        rows = torch.cat([history, x], 1)
        h = self.depthwise(rows.transpose(1, 2)).transpose(1, 2)
        return x + self.gain * self.contract(F.gelu(self.expand(self.norm(h)))), rows[:, 1 - KERNEL :]


class SpectrumNet(nn.Module):
    """Latents -> log-magnitude (B, F, 1025) and phase advance (B, F, 2, 1025). 2.4 M parameters."""

    def __init__(self, width: int = 256, latent_width: int = 192, latent_layers: int = 2, frame_layers: int = 4) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.enter = nn.Linear(LATENT_CHANNELS, latent_width)
        self.latent_layers = nn.ModuleList(CausalConvNeXt(latent_width) for _ in range(latent_layers))
        self.widen = nn.Linear(latent_width, STACK * width)
        self.enter_mel = nn.Linear(MELS + LOW_BINS, width)
        self.frame_layers = nn.ModuleList(CausalConvNeXt(width) for _ in range(frame_layers))
        self.norm = nn.LayerNorm(width)
        self.magnitude = nn.Linear(width, BINS)
        self.advance = nn.Linear(width, 2 * BINS)
        self.register_buffer("interpolation", mel_interpolation(), persistent=False)
        nn.init.zeros_(self.magnitude.weight)
        nn.init.zeros_(self.magnitude.bias)

    def histories(self, batch: int = 1) -> tuple[Tensor, Tensor]:
        """Silent convolution histories: (L1, B, 4, D1) and (L2, B, 4, D2)."""
        return (
            torch.zeros(len(self.latent_layers), batch, KERNEL - 1, self.enter.out_features),
            torch.zeros(len(self.frame_layers), batch, KERNEL - 1, self.norm.normalized_shape[0]),
        )

    def forward(self, latents: Tensor, latent_rows: Tensor, frame_rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Latents (B, T, 88) and histories -> log-magnitude, advance, normalised mel (B, F, 128), histories."""
        mel = self.encoder.mel_of(latents)
        low = self.encoder.low_of(latents).repeat_interleave(STACK, 1)
        h = self.enter(latents / self.encoder.deviation)
        carried: list[list[Tensor]] = [[], []]
        for layer, rows in zip(self.latent_layers, latent_rows.unbind(0), strict=True):
            h, row = layer(h, rows)
            carried[0].append(row)
        h = self.widen(h).unflatten(-1, (STACK, -1)).flatten(1, 2) + self.enter_mel(torch.cat([mel, low], -1))
        for layer, rows in zip(self.frame_layers, frame_rows.unbind(0), strict=True):
            h, row = layer(h, rows)
            carried[1].append(row)
        h = self.norm(h)
        magnitude = log_of_mel(mel) @ self.interpolation + self.magnitude(h).float()
        return magnitude, self.advance(h).float().unflatten(-1, (2, BINS)), mel, torch.stack(carried[0]), torch.stack(carried[1])


def _with_neighbours(x: Tensor) -> Tensor:
    """(F, K) -> sums over each bin and the two beside it."""
    return x + F.pad(x[:, 1:], (0, 1)) + F.pad(x[:, :-1], (1, 0))


def _unit(re: Tensor, im: Tensor) -> Tensor:
    """What brings each complex number to length 1. A floor, not a sum: runtimes take x + 1e-16 for x, and nothing has no direction."""
    return torch.rsqrt((re * re + im * im).clamp(min=1e-30))


class DecoderState(NamedTuple):
    """What the decoder carries from block to block; the order is that of the graph's inputs and outputs."""

    latent_rows: Tensor  # (2, 1, 4, 192) convolution histories
    frame_rows: Tensor  # (4, 1, 4, 256)
    phase: Tensor  # (2, 1025) unit phasor of the last frame
    played: Tensor  # (1536,) the last samples given out
    spectra: Tensor  # (2, 3, 1025) the carried frames
    magnitudes: Tensor  # (3, 1025) and their magnitudes


class Decoder(nn.Module):
    """`forward`: latents (1, T, 64) and state -> samples (2048 T,), state; T is fixed when the graph is made."""

    def __init__(self, net: SpectrumNet, latents: int, mel_corrections: int = 2) -> None:
        super().__init__()
        self.net, self.frames, self.mel_corrections = net, latents * STACK, mel_corrections
        self.spectrum = Spectrum()
        bank = mel_filterbank()
        quarter_turns = torch.arange(BINS) % 4  # bin k turns by k pi / 2 per hop
        overlap = torch.zeros((self.frames + 2 * CARRIED) * HOP_FRAMES)
        for t in range(self.frames + CARRIED):
            overlap[t * HOP_FRAMES : t * HOP_FRAMES + SIZE] += self.spectrum.window**2
        constants = {
            "bank": bank,
            "unbank": bank.T / (bank.sum(1) + 1e-3),
            "turn_cos": torch.tensor([1.0, 0.0, -1.0, 0.0])[quarter_turns],
            "turn_sin": torch.tensor([0.0, 1.0, 0.0, -1.0])[quarter_turns],
            "window_gain": 1 / overlap.clamp(min=0.05),
            "seam": 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(SEAM_FRAMES) + 0.5) / SEAM_FRAMES),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def initial_state(self, seed: int = 0) -> DecoderState:
        angle = torch.rand(BINS, generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
        return DecoderState(
            *self.net.histories(),
            torch.stack([angle.cos(), angle.sin()]),
            torch.zeros(DELAY_FRAMES),
            torch.zeros(2, CARRIED, BINS),
            torch.full((CARRIED, BINS), 1e-7),
        )

    def forward(self, latents: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        old = DecoderState(*state)
        log_magnitude, advance, mel, latent_rows, frame_rows = self.net(latents, old.latent_rows, old.frame_rows)
        magnitude = self._match_mel(torch.exp(log_magnitude[0].clamp(max=LOG_MAGNITUDE_LIMIT)), mel[0])
        re, im = self._integrate(magnitude, advance[0], old.phase)
        re = torch.cat([old.spectra[0], magnitude * re])
        im = torch.cat([old.spectra[1], magnitude * im])
        magnitudes = torch.cat([old.magnitudes, magnitude])
        re, im = self._griffin_lim(re, im, magnitudes, old.played)
        samples = self._seam(re, im, old.spectra)
        last = _unit(re[-1], im[-1])
        new = DecoderState(
            latent_rows, frame_rows,
            torch.stack([re[-1] * last, im[-1] * last]),
            torch.cat([old.played, samples])[-DELAY_FRAMES:],
            torch.stack([re[-CARRIED:], im[-CARRIED:]]),
            magnitudes[-CARRIED:],
        )
        return samples, *new

    def _match_mel(self, magnitude: Tensor, mel: Tensor) -> Tensor:
        """Multiplicative updates towards the mel energies that the latents state (Lee and Seung, 2000)."""
        wanted = (denormalise_mel(mel.clamp(max=LOUDEST_MEL)) - MEL_FLOOR).clamp(min=1e-5)
        for _ in range(self.mel_corrections):
            magnitude = magnitude * ((wanted / (magnitude @ self.bank).clamp(min=1e-6)) @ self.unbank)
        return magnitude.clamp(min=1e-7)

    def _integrate(self, magnitude: Tensor, advance: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the carried phase on, frame by frame; the loop is unrolled in the graph."""
        power = ((magnitude / magnitude.amax(1, keepdim=True)) ** 2).clamp(min=QUIETEST_POWER)
        step_re = _with_neighbours(power * (advance[:, 0] * self.turn_cos - advance[:, 1] * self.turn_sin))
        step_im = _with_neighbours(power * (advance[:, 0] * self.turn_sin + advance[:, 1] * self.turn_cos))
        scale = _unit(step_re, step_im)
        step_re, step_im = step_re * scale, step_im * scale
        re, im = phase[0:1], phase[1:2]
        rows: list[tuple[Tensor, Tensor]] = []
        for t in range(self.frames):
            a, b = step_re[t : t + 1], step_im[t : t + 1]
            re, im = a * re - b * im, a * im + b * re
            scale = _unit(re, im)
            re, im = re * scale, im * scale
            rows.append((re, im))
        return torch.cat([r for r, _ in rows]), torch.cat([i for _, i in rows])

    def _overlap_add(self, re: Tensor, im: Tensor) -> Tensor:
        """Spectra (F, 1025) -> (F + 3) 512 samples, windowed and summed, not yet normalised."""
        quarters = (self.spectrum.dft.inverse(re, im) * self.spectrum.window).unflatten(-1, (SIZE // HOP_FRAMES, HOP_FRAMES))
        return sum(F.pad(quarters[:, j], (0, 0, j, CARRIED - j)) for j in range(SIZE // HOP_FRAMES)).flatten()

    def _griffin_lim(self, re: Tensor, im: Tensor, magnitudes: Tensor, played: Tensor) -> tuple[Tensor, Tensor]:
        """One turn: to samples, what was played put back in place, and to spectra again with the wanted magnitudes."""
        samples = self._overlap_add(re, im) * self.window_gain
        re, im = self.spectrum(torch.cat([played, samples[DELAY_FRAMES:]]))
        scale = magnitudes * _unit(re, im)
        return re * scale, im * scale

    def _seam(self, re: Tensor, im: Tensor, old_spectra: Tensor) -> Tensor:
        """The samples of this block; its start is faded in from what the last block's frames would have gone on with."""
        samples = (self._overlap_add(re, im) * self.window_gain)[DELAY_FRAMES : DELAY_FRAMES + self.frames * HOP_FRAMES]
        head = slice(CARRIED, 2 * CARRIED)
        before = self._overlap_add(torch.cat([old_spectra[0], re[head]]), torch.cat([old_spectra[1], im[head]])) / 1.5
        before = before[DELAY_FRAMES : DELAY_FRAMES + SEAM_FRAMES]
        start = before * (1 - self.seam) + samples[:SEAM_FRAMES] * self.seam
        return torch.cat([start, samples[SEAM_FRAMES:]])
