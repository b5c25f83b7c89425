"""The reference codec, encoder half: 44.1 kHz mono audio -> 196-d latents at 21.53 Hz, exact block by block.

Log-mel spectrogram (2048-point Hann frames, hop 512, 128 mels), four frames stacked, fixed PCA to 160 dimensions: at the rate of
Stable Audio Open's latents, a millionth of the cost. A mel frame cannot tell low notes apart (a semitone at 80 Hz is 5 Hz, a quarter
of a bin), so 36 more are a rotation of the log-magnitudes of the sketch's three lowest octaves of constant-Q bins, whose
windows are four times as long. All windows look back only, so a latent is known as soon as its last sample is; mel frame t
covers samples [512 (t + 1) - 2048, 512 (t + 1)).

Shapes: B batch, N sample, T latent, F frame (4 per latent), M mel (128), Q low constant-Q bin (36), C latent channel (196).
Runs in: the worker process (as a graph) and training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engines.lmdm.dft import BINS, SIZE, RealDFT

SAMPLE_RATE = 44_100
HOP_FRAMES = 512  # audio frames from one spectrum to the next
MELS = 128
STACK = 4  # spectra per latent
LATENT_FRAMES = HOP_FRAMES * STACK  # audio frames per latent
MEL_CHANNELS, LOW_CHANNELS = 160, 36
LATENT_CHANNELS = MEL_CHANNELS + LOW_CHANNELS
LOW_BINS = 36  # constant-Q bins from A1 (55 Hz) up, of the last row that a latent covers
HISTORY_FRAMES = SIZE - HOP_FRAMES  # samples before a block that its first spectrum covers
MEL_FLOOR = 1e-3
LOG_MAGNITUDE_LIMIT = 7.0  # what a log magnitude that is said may be at most
MEL_LOW_HZ, MEL_HIGH_HZ = 30.0, 20_000.0
_MEL_SHIFT, _MEL_SCALE = 2.5, 2.0  # brings log-mel values to about unit range


def _mel(hz: Tensor | float) -> Tensor:
    return 2595 * torch.log10(1 + torch.as_tensor(hz, dtype=torch.float64) / 700)


def _mel_edges() -> Tensor:
    return torch.linspace(float(_mel(MEL_LOW_HZ)), float(_mel(MEL_HIGH_HZ)), MELS + 2, dtype=torch.float64)


def mel_filterbank() -> Tensor:
    """(1025, 128): triangular filters on the mel scale, each summing to 1 over the bins that it covers."""
    edges = 700 * (10 ** (_mel_edges() / 2595) - 1)
    hz = torch.linspace(0, SAMPLE_RATE / 2, BINS, dtype=torch.float64)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    width = SAMPLE_RATE / SIZE  # low filters are narrower than a bin: widen them until each sees at least one
    rising = (hz - torch.minimum(low, centre - width)) / torch.maximum(centre - low, torch.tensor(width))
    falling = (torch.maximum(high, centre + width) - hz) / torch.maximum(high - centre, torch.tensor(width))
    bank = torch.minimum(rising, falling).clamp(min=0)
    return (bank / bank.sum(0, keepdim=True)).float()


def mel_interpolation() -> Tensor:
    """(128, 1025): linear interpolation on the mel scale from mel centres to spectrum bins."""
    centres = _mel_edges()[1:-1]
    bins = _mel(torch.linspace(0, SAMPLE_RATE / 2, BINS, dtype=torch.float64))
    place = ((bins - centres[0]) / (centres[1] - centres[0])).clamp(0, MELS - 1 - 1e-6)
    index, part = place.long(), (place - place.floor())
    matrix = torch.zeros(MELS, BINS, dtype=torch.float64)
    matrix[index, torch.arange(BINS)] = 1 - part
    matrix[index + 1, torch.arange(BINS)] += part
    return matrix.float()


def normalise_mel(mel: Tensor) -> Tensor:
    """Linear mel magnitudes -> the log scale that the PCA works on."""
    return (torch.log(mel + MEL_FLOOR) + _MEL_SHIFT) / _MEL_SCALE


def normalise_low(cqt: Tensor) -> Tensor:
    """Linear constant-Q magnitudes (..., 2T, at least 36) -> log rows (..., T, 36)."""
    return (torch.log(cqt[..., 1::2, :LOW_BINS] + MEL_FLOOR) + _MEL_SHIFT) / _MEL_SCALE


def denormalise_mel(normal: Tensor) -> Tensor:
    """The inverse of `normalise_mel` (still above the floor: subtract MEL_FLOOR for magnitudes)."""
    return torch.exp(log_of_mel(normal))


def log_of_mel(normal: Tensor) -> Tensor:
    """Normalised -> natural logarithm of mel magnitudes."""
    return normal * _MEL_SCALE - _MEL_SHIFT


DB_PER_UNIT = _MEL_SCALE * 20 / math.log(10)  # one unit of normalised mel, in dB


def frames_of(audio: Tensor) -> Tensor:
    """(..., 1536 + 512 F) samples -> (..., F, 2048) overlapping frames."""
    pieces = audio.unflatten(-1, (-1, HOP_FRAMES))
    count = pieces.shape[-2] - SIZE // HOP_FRAMES + 1
    return torch.cat([pieces[..., j : j + count, :] for j in range(SIZE // HOP_FRAMES)], -1)


class Spectrum(nn.Module):
    """Hann-windowed centred spectra: (..., 1536 + 512 F) samples -> (re, im), each (..., F, 1025)."""

    def __init__(self) -> None:
        super().__init__()
        self.dft = RealDFT()
        self.register_buffer("window", torch.hann_window(SIZE), persistent=False)

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        return self.dft(frames_of(audio) * self.window)


class Pca(nn.Module):
    """A fixed linear map (..., rows) -> (..., channels) and back, fitted once."""

    mean: Tensor
    basis: Tensor
    scale: Tensor
    deviation: Tensor

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(rows))
        self.register_buffer("basis", torch.zeros(rows, channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("deviation", torch.ones(channels))  # of the scaled channels, as fitted

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) @ self.basis / self.scale

    def back(self, channels: Tensor) -> Tensor:
        return (channels * self.scale) @ self.basis.T + self.mean

    @torch.no_grad()
    def fit(self, rows: Tensor) -> float:
        """Fit to (examples, rows) and return the share of variance kept.

        The scale of channel i is its standard deviation to the power 0.7, normalised to unit mean variance: loud channels
        stay louder than quiet ones, which a diffusion model follows better than full whitening.
        """
        self.mean.copy_(rows.mean(0))
        centred = (rows - self.mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        values, vectors = values.flip(0), vectors.flip(1)
        self.basis.copy_(vectors[:, : len(self.scale)])
        deviation = values[: len(self.scale)].sqrt()
        scale = deviation**0.7
        self.scale.copy_(scale * torch.sqrt((deviation**2 / scale**2).mean()))
        self.deviation.copy_(deviation / self.scale)
        return float(values[: len(self.scale)].sum() / values.sum())


class LogMel(nn.Module):
    """(B, 1536 + 2048 T) samples, history first -> stacked normalised log-mel (B, T, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = Spectrum()
        self.register_buffer("filterbank", mel_filterbank(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        re, im = self.spectrum(audio)
        mel = torch.sqrt((re * re + im * im).clamp(min=1e-18)) @ self.filterbank  # (B, 4T, 128)
        return normalise_mel(mel).unflatten(-2, (-1, STACK)).flatten(-2)


class Encoder(nn.Module):
    """`forward`: (B, 1536 + 2048 T) samples, history first, and their constant-Q magnitudes (B, 2T, 64) -> latents (B, T, 196)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.mel, self.low = Pca(STACK * MELS, MEL_CHANNELS), Pca(LOW_BINS, LOW_CHANNELS)

    @property
    def deviation(self) -> Tensor:
        """(196,) standard deviation of every channel, as fitted."""
        return torch.cat([self.mel.deviation, self.low.deviation])

    def project(self, log_mel: Tensor, cqt: Tensor) -> Tensor:
        """Stacked log-mel (..., T, 512) and linear constant-Q magnitudes (..., 2T, 64) -> latents (..., T, 196)."""
        return torch.cat([self.mel(log_mel), self.low(normalise_low(cqt))], -1)

    def mel_of(self, latents: Tensor) -> Tensor:
        """Latents (..., T, 196) -> normalised log-mel (..., 4T, 128)."""
        return self.mel.back(latents[..., :MEL_CHANNELS]).unflatten(-1, (STACK, MELS)).flatten(-3, -2)

    def low_of(self, latents: Tensor) -> Tensor:
        """Latents (..., T, 196) -> normalised log constant-Q rows (..., T, 36)."""
        return self.low.back(latents[..., MEL_CHANNELS:])

    def forward(self, audio: Tensor, cqt: Tensor) -> Tensor:
        return self.project(self.log_mel(audio), cqt)
