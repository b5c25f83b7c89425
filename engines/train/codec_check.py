"""What the codec alone loses: encode and decode real audio, and measure buzz, hop noise and seams beside the usual.

Rough: energy of 20-150 Hz modulation in 24 bands against the original's (+ is buzz). Hop: modulation at the hop rate (86.13 Hz) and
its double, against its surroundings, against the original's. Edge: spectral flux at block seams over that elsewhere, against the
original's (1 is none).

Shapes: N sample, K band (24), S segment. Runs in: evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.lmdm import codec, decoder
from engines.lmdm.listen import HISTORY_FRAMES, Listen
from engines.lmdm.stream import StreamingEngine
from engines.train import checkpoint

BLOCK_LATENTS = 8
BLOCK_FRAMES = BLOCK_LATENTS * codec.LATENT_FRAMES
_RATE = codec.SAMPLE_RATE
_HOP_HZ = _RATE / codec.HOP_FRAMES
_STEP, _SIZE, _WINDOW, _BANDS, _SEGMENT = 64, 512, 384, 24, 512
_SEAM_SIZE, _SEAM_NEAR, _SEAM_FAR = 256, 192, 1024

Samples = NDArray[np.float32]
Values = NDArray[np.float64]


Encode = Callable[[Samples], Any]  # history and one block of samples -> latents
Decode = Callable[[Any], Samples]  # latents -> one block of samples


@dataclass(frozen=True)
class RoundTrip:
    """Audio -> latents -> audio, block by block with the streaming decoder, as an engine encodes and decodes."""

    start: Callable[[], tuple[Encode, Decode]]  # a fresh stream
    history_frames: int
    delay_frames: int
    block_frames: int

    def __call__(self, audio: Samples) -> Samples:
        """(N,) -> (N,), aligned: the decoder's delay is taken off."""
        encode, decode = self.start()
        blocks = -(-(len(audio) + self.delay_frames) // self.block_frames)
        padded = np.zeros(self.history_frames + blocks * self.block_frames, np.float32)
        padded[self.history_frames : self.history_frames + len(audio)] = audio
        pieces = [padded[i * self.block_frames :][: self.history_frames + self.block_frames] for i in range(blocks)]
        return np.concatenate([decode(encode(piece)) for piece in pieces])[self.delay_frames : self.delay_frames + len(audio)]

    @classmethod
    def of_engine(cls, engine: StreamingEngine) -> RoundTrip:
        """By the graphs that play."""

        def start() -> tuple[Encode, Decode]:
            state = {name: engine.weights.array(f"decoder/{name}") for name in engine.state.decoder}

            def decode(latents: Any) -> Samples:
                samples, *rest = engine.graphs["decode"]({"latents": latents, **state})
                state.update(zip(state, rest, strict=True))
                return np.asarray(samples)

            return (lambda audio: engine.graphs["encode"]({"audio": audio[None]})[0]), decode

        return cls(start, engine.facts.history_frames, engine.spec.codec_delay_frames, engine.spec.block_frames)

    @classmethod
    def of_checkpoint(cls, path: Path) -> RoundTrip:
        """By a codec in training."""
        net = decoder.SpectrumNet()
        net.load_state_dict(checkpoint.load(path)["net"])
        graph = decoder.Decoder(net.eval(), BLOCK_LATENTS).eval()

        def start() -> tuple[Encode, Decode]:
            state: list[torch.Tensor] = list(graph.initial_state())

            @torch.inference_mode()
            def decode(latents: Any) -> Samples:
                samples, *state[:] = graph(latents, *state)
                return np.asarray(samples.numpy())

            listen = Listen(net.encoder)
            return torch.inference_mode()(lambda audio: listen(torch.from_numpy(audio)[None])[0]), decode

        return cls(start, HISTORY_FRAMES, decoder.DELAY_FRAMES, BLOCK_FRAMES)


def _frames(audio: Samples, size: int) -> Samples:
    return np.lib.stride_tricks.sliding_window_view(audio, size)[::_STEP]


def _bands() -> Values:
    """(257, 24): triangles on the mel scale up to 10 kHz, each summing to 1."""
    top = 2595 * np.log10(1 + 10_000 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _BANDS + 2) / 2595) - 1)
    hz = np.linspace(0, _RATE / 2, _SIZE // 2 + 1)[:, None]
    width = _RATE / _SIZE
    rising = (hz - edges[:-2]) / np.maximum(edges[1:-1] - edges[:-2], width)
    falling = (edges[2:] - hz) / np.maximum(edges[2:] - edges[1:-1], width)
    bank = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(bank / (bank.sum(0) + 1e-9))


@dataclass(frozen=True)
class Modulation:
    """How the envelope of each band moves: power by modulation frequency (24, 257) and total energy (24,)."""

    power: Values
    energy: Values

    HZ = np.arange(_SEGMENT // 2 + 1) * _RATE / _STEP / _SEGMENT

    @classmethod
    def of(cls, audio: Samples) -> Modulation:
        window = np.zeros(_SIZE)
        window[(_SIZE - _WINDOW) // 2 : (_SIZE + _WINDOW) // 2] = np.hanning(_WINDOW)
        power = np.abs(np.fft.rfft(_frames(audio, _SIZE) * window)) ** 2
        envelope = np.sqrt(power @ _bands()).T  # (24, F) at 689 Hz
        segments = np.lib.stride_tricks.sliding_window_view(envelope, _SEGMENT, axis=1)[:, :: _SEGMENT // 2]
        moving = (segments - segments.mean(2, keepdims=True)) * np.hanning(_SEGMENT)
        return cls((np.abs(np.fft.rfft(moving)) ** 2).sum(1), (envelope**2).sum(1))

    def rough(self) -> Values:
        inside = (self.HZ >= 20) & (self.HZ <= 150)
        return np.asarray(self.power[:, inside].sum(1) / (self.energy + 1e-9))

    def hop_db(self) -> Values:
        """The line at the hop rate and its double against what lies within 14 Hz of them."""
        off = np.minimum(np.abs(self.HZ - _HOP_HZ), np.abs(self.HZ - 2 * _HOP_HZ))
        line, around = off < 2.1, (off >= 4) & (off < 14)
        return np.asarray(10 * np.log10(self.power[:, line].mean(1) / (self.power[:, around].mean(1) + 1e-12) + 1e-6))


def rough_and_hop_db(original: Samples, made: Samples) -> tuple[float, float]:
    """How much rougher, and how much more at the hop rate, `made` is; bands weigh as they sound in the original."""
    a, b = Modulation.of(original), Modulation.of(made)
    weight = np.sqrt(a.energy) / np.sqrt(a.energy).sum()
    rough = 10 * np.log10((b.rough() + 1e-7) / (a.rough() + 1e-7))
    return float(weight @ rough), float(weight @ (b.hop_db() - a.hop_db()))


def _flux(audio: Samples) -> Values:
    """How much the spectrum changes from step to step; 0 in silence."""
    spectra = np.abs(np.fft.rfft(_frames(audio, _SEAM_SIZE) * np.hanning(_SEAM_SIZE)))[:, 4:]
    return np.asarray(np.abs(np.diff(np.log(spectra + 3e-3), axis=0)).mean(1))


def edge(original: Samples, made: Samples, delay_frames: int, block_frames: int = BLOCK_FRAMES) -> float:
    """Spectral flux at the seams of aligned `made`, whose stream began `delay_frames` earlier, over that elsewhere, against the
    original's; where that is silent nothing counts."""
    before, after = _flux(original), _flux(made)
    centre, half = (np.arange(len(before)) + 0.5) * _STEP + _SEAM_SIZE / 2, block_frames // 2
    away = np.abs((centre - block_frames + delay_frames + half) % block_frames - half)
    seams, elsewhere = (before > 0) & (away < _SEAM_NEAR), (before > 0) & (away > _SEAM_FAR)
    at, around = after[seams].mean() / before[seams].mean(), np.median(after[elsewhere]) / np.median(before[elsewhere])
    return float(at / around)
