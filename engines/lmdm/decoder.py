"""The reference codec, decoder half: latents -> 44.1 kHz audio, block by block, with the phase carried from block to block.

A small causal network predicts, for every 512-sample hop, the magnitude of each spectrum bin and how fast its phase turns (the
instantaneous frequency, as a 2-vector whose length is its confidence). The phase is then integrated from the last block on,
so a steady tone stays a tone: a feed-forward decoder given a constant latent can only answer with something periodic at the hop,
which is a buzz. For the lower bins that is also read from the constant-Q rows, which tell a note that is held and its partials to a few
cents; the network says how far to trust them. A peak spans several bins; if each turned at its own guess they would beat against each
other, so the advance of a bin is the mean of its neighbourhood, weighted by power. The lowest bins, which several notes may share, are
sums of oscillators instead (low_tones.py). What the last latents all did alike to their four frames is taken off. One Griffin-Lim turn
(Griffin and Lim, 1984) over the new and three carried frames makes neighbours agree, with the samples already played held fixed.

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
    LOG_MAGNITUDE_LIMIT,
    LOW_BINS,
    MELS,
    STACK,
    Encoder,
    Spectrum,
    log_of_mel,
    mel_interpolation,
)
from engines.lmdm.dft import BINS, SIZE
from engines.lmdm.low_tones import BIN_OVER_ROWS, TONES, TURNED, LowPitches, LowTones, Oscillators, unit

DELAY_FRAMES = SIZE - HOP_FRAMES
CARRIED = DELAY_FRAMES // HOP_FRAMES  # frames that still touch samples not yet played
SEAM_FRAMES = 1024
KERNEL = 5
QUIETEST_POWER = 1e-12  # against the loudest bin of a frame: below it all bins weigh alike
BESIDE = 0.65  # what a bin beside counts in the mean of a neighbourhood; at 1, two notes in adjacent bins can leave nothing of each other
PATTERN_LATENTS, PATTERN_LIMIT = 4, 0.3  # over how many latents, and up to how many nepers, what comes again with each of them is sought
MOST_LIFT = 2.0  # by which Griffin-Lim may raise the loudest bin, and others by more: what loud neighbours cancel has no phase to keep


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
        self.low_tones, self.low_pitches, self.trust = LowTones(), LowPitches(), nn.Linear(width, TURNED)
        self.register_buffer("interpolation", mel_interpolation(), persistent=False)
        nn.init.zeros_(self.magnitude.weight)
        nn.init.zeros_(self.magnitude.bias)
        nn.init.ones_(self.trust.bias)

    def histories(self, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Empty convolution histories (L1, B, 4, D1) and (L2, B, 4, D2), and log magnitudes (B, 16, 1025)."""
        return (
            torch.zeros(len(self.latent_layers), batch, KERNEL - 1, self.enter.out_features),
            torch.zeros(len(self.frame_layers), batch, KERNEL - 1, self.norm.normalized_shape[0]),
            torch.zeros(batch, STACK * PATTERN_LATENTS, BINS),
        )

    def forward(self, latents: Tensor, latent_rows: Tensor, frame_rows: Tensor, magnitude_rows: Tensor) -> tuple[Tensor, ...]:
        """Latents (B, T, 196) and histories -> log-magnitude, advance, hz and spectrum magnitude of low tones (B, T, 2, 34), histories."""
        mel = self.encoder.mel_of(latents)
        low = self.encoder.low_of(latents)
        h = self.enter(latents / self.encoder.deviation)
        carried: list[list[Tensor]] = [[], []]
        for layer, rows in zip(self.latent_layers, latent_rows.unbind(0), strict=True):
            h, row = layer(h, rows)
            carried[0].append(row)
        h = self.widen(h).unflatten(-1, (STACK, -1)).flatten(1, 2) + self.enter_mel(torch.cat([mel, low.repeat_interleave(STACK, 1)], -1))
        for layer, rows in zip(self.frame_layers, frame_rows.unbind(0), strict=True):
            h, row = layer(h, rows)
            carried[1].append(row)
        h = self.norm(h)
        magnitude = log_of_mel(mel) @ self.interpolation + self.magnitude(h).float()
        tones = self.low_tones(low, mel)
        low_advance = self.trust(h).float()[..., None, :] * self.low_pitches(tones).repeat_interleave(STACK, 1)
        advance = self.advance(h).float().unflatten(-1, (2, BINS)) + F.pad(low_advance, (0, BINS - TURNED))
        magnitude, magnitude_rows = without_pattern(magnitude, magnitude_rows)
        sounding = torch.stack([tones.hz, BIN_OVER_ROWS * tones.loudest * torch.sqrt(tones.power.clamp(min=1e-12))], 2)
        return magnitude, advance, sounding, torch.stack(carried[0]), torch.stack(carried[1]), magnitude_rows


def without_pattern(log: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
    """Log magnitudes (B, F, K) and the 16 frames before them -> log magnitudes without what comes again with every latent, and 16 to carry.

    The four frames of a latent are guessed apart from each other, and where a tone is held each guess is off by the same little bit in
    latent after latent: sidebands at their rate (21.5 Hz). How frames stand off the line through their latent's mean, averaged over the
    last latents, is that bit; what flutters by chance, as bowed strings do, averages to little and stays.
    """
    rows = torch.cat([history, log], 1)
    latents = rows.unflatten(1, (rows.shape[1] // STACK, STACK))
    means = latents.mean(2)
    slopes = (means[:, 1:] - means[:, :-1]) / STACK
    places = torch.arange(STACK, dtype=log.dtype, device=log.device)[:, None] - (STACK - 1) / 2
    off = (latents[:, 1:] - means[:, 1:, None] - slopes[:, :, None] * places).clamp(-PATTERN_LIMIT, PATTERN_LIMIT)
    count = log.shape[1] // STACK
    pattern = sum(off[:, first : first + count] for first in range(PATTERN_LATENTS)) / PATTERN_LATENTS
    return log - pattern.flatten(1, 2), rows[:, -STACK * PATTERN_LATENTS :]


class Neighbourhoods(nn.Module):
    """How the phase turns from one frame to the next about each bin: the mean of the bin and, for less, of the two beside it, by power.

    `forward`: magnitudes (..., F, K) and advances (..., F, 2, K) -> phasors, re and im (..., F, K) each, whose length is the power that
    agrees; and the power that there is (..., F, K).
    """

    def __init__(self) -> None:
        super().__init__()
        quarter_turns = torch.arange(BINS) % 4  # bin k turns by k pi / 2 per hop
        self.register_buffer("cos", torch.tensor([1.0, 0.0, -1.0, 0.0])[quarter_turns], persistent=False)
        self.register_buffer("sin", torch.tensor([0.0, 1.0, 0.0, -1.0])[quarter_turns], persistent=False)

    def forward(self, magnitude: Tensor, advance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        power = ((magnitude / magnitude.amax(-1, keepdim=True)) ** 2).clamp(min=QUIETEST_POWER)
        more_re, more_im = advance.unbind(-2)
        re, im = more_re * self.cos - more_im * self.sin, more_re * self.sin + more_im * self.cos
        return self._sum(power * re), self._sum(power * im), self._sum(power)

    def _sum(self, x: Tensor) -> Tensor:
        return x + BESIDE * (F.pad(x[..., 1:], (0, 1)) + F.pad(x[..., :-1], (1, 0)))


class DecoderState(NamedTuple):
    """What the decoder carries from block to block; the order is that of the graph's inputs and outputs."""

    latent_rows: Tensor  # (2, 1, 4, 192) convolution histories
    frame_rows: Tensor  # (4, 1, 4, 256)
    magnitude_rows: Tensor  # (1, 16, 1025) log magnitudes as the network gave them
    phase: Tensor  # (2, 1025) unit phasor of the last frame
    tone_phase: Tensor  # (2, 34) and of the low tones
    played: Tensor  # (1536,) the last samples given out
    spectra: Tensor  # (2, 3, 1025) the carried frames
    magnitudes: Tensor  # (3, 1025) and the magnitudes wanted of them


SOUNDING = slice(3, None)  # of DecoderState: what the network does not carry


class Decoder(nn.Module):
    """`forward`: latents (1, T, 196) and state -> samples (2048 T,), state; T is fixed when the graph is made."""

    def __init__(self, net: SpectrumNet, latents: int) -> None:
        super().__init__()
        self.net, self.frames = net, latents * STACK
        self.spectrum = Spectrum()
        self.neighbourhoods, self.oscillators = Neighbourhoods(), Oscillators(latents)
        overlap = torch.zeros((self.frames + 2 * CARRIED) * HOP_FRAMES)
        for t in range(self.frames + CARRIED):
            overlap[t * HOP_FRAMES : t * HOP_FRAMES + SIZE] += self.spectrum.window**2
        constants = {
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
            torch.stack([angle.cos(), angle.sin()])[:, :TONES],
            torch.zeros(DELAY_FRAMES),
            torch.zeros(2, CARRIED, BINS),
            torch.full((CARRIED, BINS), 1e-7),
        )

    def forward(self, latents: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        old = DecoderState(*state)
        *said, latent_rows, frame_rows, magnitude_rows = self.net(latents, old.latent_rows, old.frame_rows, old.magnitude_rows)
        samples, *sounding = self.sound(*(part[0] for part in said), *old[SOUNDING])
        return samples, latent_rows, frame_rows, magnitude_rows, *sounding

    def sound(
        self,
        log_magnitude: Tensor,
        advance: Tensor,
        tones: Tensor,
        phase: Tensor,
        tone_phase: Tensor,
        played: Tensor,
        spectra: Tensor,
        old_magnitudes: Tensor,
    ) -> tuple[Tensor, ...]:
        """What the network said of a block, (F, 1025), (F, 2, 1025) and (T, 2, 34), and the last of DecoderState -> samples, these anew."""
        magnitude = torch.exp(log_magnitude.clamp(max=LOG_MAGNITUDE_LIMIT)).clamp(min=1e-7)
        re, im = self._integrate(magnitude, advance, phase)
        magnitude, re, im, tone_phase = self.oscillators(tones, magnitude, re, im, tone_phase)
        re = torch.cat([spectra[0], magnitude * re])
        im = torch.cat([spectra[1], magnitude * im])
        magnitudes = torch.cat([old_magnitudes, magnitude])
        re, im = self._griffin_lim(re, im, magnitudes, played)
        samples = self._seam(re, im, spectra)
        return (
            samples,
            torch.stack(unit(re[-1], im[-1])),
            tone_phase,
            torch.cat([played, samples])[-DELAY_FRAMES:],
            torch.stack([re[-CARRIED:], im[-CARRIED:]]),
            magnitudes[-CARRIED:],
        )

    def _integrate(self, magnitude: Tensor, advance: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the carried phase on by every frame's step and all before it: by products of 2, 4, 8 .. steps (Hillis and Steele, 1986), as
        a graph that goes from frame to frame has hundreds of nodes with next to nothing to do."""
        re, im, _ = self.neighbourhoods(magnitude, advance)
        re, im = unit(torch.cat([phase[0:1], re]), torch.cat([phase[1:2], im]))
        reach = 1
        while reach <= self.frames:
            a, b, c, d = re[reach:], im[reach:], re[:-reach], im[:-reach]
            re, im = torch.cat([re[:reach], a * c - b * d]), torch.cat([im[:reach], a * d + b * c])
            reach *= 2
        return unit(re[1:], im[1:])

    def _overlap_add(self, re: Tensor, im: Tensor) -> Tensor:
        """Spectra (F, 1025) -> (F + 3) 512 samples, windowed and summed, not yet normalised."""
        quarters = (self.spectrum.dft.inverse(re, im) * self.spectrum.window).unflatten(-1, (SIZE // HOP_FRAMES, HOP_FRAMES))
        return sum(F.pad(quarters[:, j], (0, 0, j, CARRIED - j)) for j in range(SIZE // HOP_FRAMES)).flatten()

    def _griffin_lim(self, re: Tensor, im: Tensor, magnitudes: Tensor, played: Tensor) -> tuple[Tensor, Tensor]:
        """One turn: to samples, what was played put back in place, and to spectra again with the wanted magnitudes."""
        samples = self._overlap_add(re, im) * self.window_gain
        re, im = self.spectrum(torch.cat([played, samples[DELAY_FRAMES:]]))
        least = magnitudes * magnitudes / (MOST_LIFT * magnitudes.amax(1, keepdim=True))
        scale = magnitudes * torch.rsqrt(torch.maximum(re * re + im * im, least * least).clamp(min=1e-30))
        return re * scale, im * scale

    def _seam(self, re: Tensor, im: Tensor, old_spectra: Tensor) -> Tensor:
        """The samples of this block; its start is faded in from what the last block's frames would have gone on with."""
        samples = (self._overlap_add(re, im) * self.window_gain)[DELAY_FRAMES : DELAY_FRAMES + self.frames * HOP_FRAMES]
        head = slice(CARRIED, 2 * CARRIED)
        before = self._overlap_add(torch.cat([old_spectra[0], re[head]]), torch.cat([old_spectra[1], im[head]])) / 1.5
        before = before[DELAY_FRAMES : DELAY_FRAMES + SEAM_FRAMES]
        start = before * (1 - self.seam) + samples[:SEAM_FRAMES] * self.seam
        return torch.cat([start, samples[SEAM_FRAMES:]])
