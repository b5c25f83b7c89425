"""The sketch: what was played, without how it sounded (arXiv 2605.22717, "sketch control").

Two constant-Q spectra per latent (64 semitones, A1 55 Hz to C7 2093 Hz), of which only the k strongest local peaks are kept, and
four loudness values. Windows look back only and end together, so the sketch of a latent is known when its last sample is, and
a stream cut into blocks gives the same numbers as the whole. Low bins use up to 8192 samples (186 ms) where a semitone would need
300 ms: neighbours leak, but the peak stays in its own bin down to C2 (65 Hz).

Shapes: B batch, N sample, T latent, Q constant-Q bin (64), S sketch channel (132). Runs in: the worker (as a graph) and training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.lmdm.codec import LATENT_FRAMES, SAMPLE_RATE
from engines.lmdm.config import LOUDNESS_VALUES, PEAKS, ROWS_PER_LATENT, SKETCH_BEND, sketch_peaks

LOWEST_PITCH, BINS = 33, 64
HOP_FRAMES = LATENT_FRAMES // ROWS_PER_LATENT
PER_LATENT = ROWS_PER_LATENT
LOUDNESS_FRAMES = LATENT_FRAMES // LOUDNESS_VALUES
LONG_FRAMES, SHORT_FRAMES = 8192, 4096
LOW_BINS = 24  # the bins below 220 Hz use the long window
HISTORY_FRAMES = LONG_FRAMES - HOP_FRAMES
CHANNELS = PER_LATENT * BINS + LOUDNESS_VALUES


def _kernels(first: int, count: int, window_frames: int) -> Tensor:
    """(2 count, 1024, window / 1024): real, then imaginary parts of Hann-windowed tones that end with the window."""
    rows = []
    quality = 1 / (2 ** (1 / 12) - 1)
    for pitch in range(LOWEST_PITCH + first, LOWEST_PITCH + first + count):
        hz = 440 * 2 ** ((pitch - 69) / 12)
        length = min(window_frames, math.ceil(quality * SAMPLE_RATE / hz))
        window = torch.zeros(window_frames, dtype=torch.float64)
        window[-length:] = torch.hann_window(length, dtype=torch.float64)
        angle = 2 * math.pi * hz / SAMPLE_RATE * torch.arange(window_frames, dtype=torch.float64)
        rows.append(torch.stack([angle.cos(), angle.sin()]) * window * 2 / window.sum())
    kernels = torch.stack(rows, 1).flatten(0, 1)  # (2 count, window)
    return kernels.unflatten(-1, (-1, HOP_FRAMES)).transpose(1, 2).half().float().contiguous()  # float16 halves the bundle's share


class Sketch(nn.Module):
    """`forward`: (B, 7168 + 2048 T) samples, history first -> sketch (B, T, 132)."""

    def __init__(self, peaks: int = PEAKS) -> None:
        super().__init__()
        self.peaks = peaks
        self.register_buffer("long", _kernels(0, LOW_BINS, LONG_FRAMES), persistent=False)
        self.register_buffer("short", _kernels(LOW_BINS, BINS - LOW_BINS, SHORT_FRAMES), persistent=False)

    def magnitudes(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Linear constant-Q magnitudes (B, 2T, 64) and loudness (B, T, 4) of (B, 7168 + 2048 T) samples."""
        pieces = audio.unflatten(-1, (-1, HOP_FRAMES)).transpose(1, 2)  # (B, 1024, 7 + 2T)
        skip = (LONG_FRAMES - SHORT_FRAMES) // HOP_FRAMES
        parts = []
        for kernel, x in ((self.long, pieces), (self.short, pieces[..., skip:])):
            re, im = F.conv1d(x, kernel).chunk(2, 1)
            parts.append(torch.sqrt((re * re + im * im).clamp(min=1e-18)))
        heard = audio[:, HISTORY_FRAMES:].unflatten(-1, (-1, LATENT_FRAMES // LOUDNESS_FRAMES, LOUDNESS_FRAMES))
        return torch.cat(parts, 1).transpose(1, 2), torch.sqrt((heard * heard).mean(-1).clamp(min=1e-12))

    def thin(self, magnitudes: Tensor, loudness: Tensor) -> Tensor:
        """Keep the strongest local peaks and compress: (B, 2T, 64), (B, T, 4) -> sketch (B, T, 132)."""
        padded = F.pad(magnitudes, (1, 1))
        is_peak = (magnitudes >= padded[..., :-2]) & (magnitudes >= padded[..., 2:])
        peaks = torch.where(is_peak, magnitudes, torch.zeros_like(magnitudes))
        threshold = torch.topk(peaks, self.peaks, dim=-1).values[..., -1:]
        peaks = torch.where(peaks >= threshold, peaks, torch.zeros_like(peaks))
        bins = torch.log1p(peaks / SKETCH_BEND).unflatten(1, (-1, PER_LATENT)).flatten(-2)  # (B, T, 128)
        return torch.cat([bins, torch.log1p(loudness / SKETCH_BEND)], -1) / 4

    def forward(self, audio: Tensor) -> Tensor:
        return self.thin(*self.magnitudes(audio))


def stray(sketch: Tensor, share: Tensor) -> Tensor:
    """Keep the strongest peaks of every constant-Q row of sketches (B, T, S), the fewer the larger `share` (B,); at 1 nothing at all."""
    kept = torch.tensor([sketch_peaks(float(one)) for one in share])
    rows = sketch[..., :-LOUDNESS_VALUES].unflatten(-1, (PER_LATENT, BINS))
    strongest = torch.topk(rows, PEAKS, -1).values  # (B, T, 2, 10)
    last = (kept - 1).clamp(min=0)[:, None, None, None].expand(*strongest.shape[:3], 1)
    rows = torch.where(rows >= strongest.gather(-1, last), rows, torch.zeros_like(rows))
    return torch.cat([rows.flatten(-2), sketch[..., -LOUDNESS_VALUES:]], -1) * (kept > 0)[:, None, None]
