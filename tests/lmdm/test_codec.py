"""Codec and sketch: streamed equals whole, the future has no influence, the transform is a transform, pitches land in their bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.lmdm import codec, config, sketch
from engines.lmdm.decoder import DELAY_FRAMES, Decoder, DecoderState, SpectrumNet
from engines.lmdm.dft import SIZE, RealDFT
from engines.lmdm.listen import Listen

BLOCK = 8 * codec.LATENT_FRAMES


@pytest.fixture(name="audio")
def _audio() -> Tensor:
    """Three blocks of noise and tones, after the longest history."""
    n = sketch.HISTORY_FRAMES + 3 * BLOCK
    t = torch.arange(n) / codec.SAMPLE_RATE
    tones = 0.1 * torch.sin(2 * torch.pi * 110 * t) + 0.05 * torch.sin(2 * torch.pi * 523.25 * t)
    return (tones + 0.01 * torch.randn(n, generator=torch.Generator().manual_seed(0)))[None]


@pytest.fixture(name="listen")
def _listen() -> Listen:
    torch.manual_seed(0)
    encoder = codec.Encoder()
    for pca in (encoder.mel, encoder.low):
        rows = len(pca.mean)
        pca.fit(torch.randn(2000, rows) @ torch.randn(rows, rows) * 0.05)
    return Listen(encoder)


def test_dft_is_the_fft_and_its_inverse() -> None:
    frames = torch.randn(7, SIZE, generator=torch.Generator().manual_seed(1))
    re, im = RealDFT()(frames)
    expected = torch.fft.rfft(frames.double()) * (-1.0) ** torch.arange(SIZE // 2 + 1)
    torch.testing.assert_close(torch.complex(re, im), expected.to(torch.complex64), atol=2e-4, rtol=0)
    torch.testing.assert_close(RealDFT().inverse(re, im), frames, atol=1e-5, rtol=0)


@torch.no_grad()
def test_listening_block_by_block_equals_the_whole(audio: Tensor, listen: Listen) -> None:
    pieces = [listen(audio[:, i * BLOCK : i * BLOCK + sketch.HISTORY_FRAMES + BLOCK]) for i in range(3)]
    for parts, whole in zip(zip(*pieces, strict=True), listen(audio), strict=True):
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


def test_latents_and_sketch_look_back_only(audio: Tensor, listen: Listen) -> None:
    audio = audio.clone().requires_grad_(True)
    latents, sketched = listen(audio)
    end = sketch.HISTORY_FRAMES + 5 * codec.LATENT_FRAMES
    for part in (latents[:, :5], sketched[:, :5]):
        (gradient,) = torch.autograd.grad(part.sum(), audio, retain_graph=True)
        assert gradient[:, end:].abs().max() == 0
        assert gradient[:, end - 512 : end].abs().max() > 0


@pytest.mark.parametrize("pitch", [36, 40, 45, 52, 64, 76, 88])
@torch.no_grad()
def test_sketch_finds_the_note(pitch: int) -> None:
    """A plain harmonic tone, from a dropped low C (65 Hz) to the 24th fret: its strongest bin is its own."""
    hz = 440 * 2 ** ((pitch - 69) / 12)
    t = torch.arange(sketch.HISTORY_FRAMES + 4 * codec.LATENT_FRAMES, dtype=torch.float64) / codec.SAMPLE_RATE
    tone = sum(torch.cos(2 * torch.pi * hz * h * t + h * h) / h for h in range(1, 7)) * 0.1
    found = sketch.Sketch()(tone.float()[None])[0, -1]
    assert int(found[: sketch.BINS].argmax()) + sketch.LOWEST_PITCH == pitch
    assert int((found[: sketch.BINS] > 0).sum()) <= sketch.PEAKS


@torch.no_grad()
def test_a_louder_input_gives_the_same_peaks_louder(audio: Tensor) -> None:
    """Training applies gain to magnitudes; that must be what a louder guitar gives."""
    sketcher = sketch.Sketch()
    magnitudes, loudness = sketcher.magnitudes(audio)
    torch.testing.assert_close(sketcher.thin(magnitudes * 3, loudness * 3), sketcher(audio * 3), atol=1e-4, rtol=0)


def test_config_knows_the_sketch() -> None:
    assert config.SKETCH_CHANNELS == sketch.CHANNELS


@torch.no_grad()
def test_decoder_network_does_not_see_block_edges() -> None:
    """Cut into blocks of 4 or of 8 latents, the magnitudes and convolution histories at the end are the same."""
    torch.manual_seed(0)
    net = SpectrumNet().eval()
    latents = torch.randn(1, 16, codec.LATENT_CHANNELS)
    ends = {}
    for per_block in (4, 8):
        decoder = Decoder(net, per_block).eval()
        state, samples = decoder.initial_state(), []
        for start in range(0, 16, per_block):
            out, *rest = decoder(latents[:, start : start + per_block], *state)
            state = DecoderState(*rest)
            samples.append(out)
        ends[per_block] = state
        assert torch.cat(samples).shape == (16 * codec.LATENT_FRAMES,)
    for name in ("latent_rows", "frame_rows", "magnitudes"):
        torch.testing.assert_close(getattr(ends[4], name), getattr(ends[8], name), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_decoder_carries_its_state_exactly() -> None:
    """Two blocks one after the other give the same whether or not the state went through a copy in between."""
    torch.manual_seed(0)
    decoder = Decoder(SpectrumNet().eval(), 8).eval()
    latents = torch.randn(1, 8, codec.LATENT_CHANNELS)
    _, *state = decoder(latents, *decoder.initial_state())
    again, *_ = decoder(latents, *state)
    copied, *_ = decoder(latents, *(torch.from_numpy(np.array(s.numpy())) for s in state))
    assert torch.equal(again, copied)
    assert DELAY_FRAMES / codec.SAMPLE_RATE <= 0.05
