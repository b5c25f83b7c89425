"""Codec and sketch: streamed equals whole, the future has no influence, the transform is a transform, pitches land in their bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.lmdm import codec, config, sketch
from engines.lmdm.decoder import DELAY_FRAMES, Decoder, DecoderState, Neighbourhoods, SpectrumNet, without_pattern
from engines.lmdm.dft import BINS, SIZE, RealDFT
from engines.lmdm.listen import Listen
from engines.lmdm.low_tones import BIN_OVER_ROWS, SOUNDED, TONES, TURNED, LowPitches, LowTones, Oscillators

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
    latents, sketched = (torch.cat(parts, 1) for parts in zip(*pieces, strict=True))
    wanted_latents, wanted_sketch = listen(audio)
    torch.testing.assert_close(latents, wanted_latents, atol=2e-5, rtol=1e-5)  # scaling lifts the rounding of the least channels
    torch.testing.assert_close(sketched, wanted_sketch, atol=1e-5, rtol=1e-5)


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
def low_pitches(audio: Tensor) -> Tensor:
    """(1, 7168 + 2048 T) samples -> how fast the phase of the lower spectrum bins turns, (T, 2, 96)."""
    rows = codec.normalise_low(sketch.Sketch().magnitudes(audio)[0])
    mel = codec.LogMel()(audio[:, sketch.HISTORY_FRAMES - codec.HISTORY_FRAMES :])
    turns: Tensor = LowPitches()(LowTones()(rows, mel.unflatten(-1, (codec.STACK, -1)).flatten(1, 2)))[0]
    return turns


def tone(hz: float) -> Tensor:
    t = torch.arange(sketch.HISTORY_FRAMES + codec.LATENT_FRAMES, dtype=torch.float64) / codec.SAMPLE_RATE
    return (0.1 * sum(torch.cos(2 * torch.pi * hz * h * t + h * h) / h for h in range(1, 7))).float()[None]  # type: ignore[union-attr]


@pytest.mark.parametrize("partial", [1, 2, 5])
@pytest.mark.parametrize("hz", [65.4, 70.0, 80.0, 82.4, 84.0, 98.0, 110.0, 131.7, 196.0, 220.0, 333.3])
def test_constant_q_rows_tell_how_fast_the_phase_of_a_low_note_turns(hz: float, partial: int) -> None:
    """Within 4 cents, between semitones too, for the spectrum bin that the partial is loudest in."""
    bin_hz = codec.SAMPLE_RATE / SIZE
    nearest = round(partial * hz / bin_hz)
    re, im = low_pitches(tone(hz))[0, :, nearest].tolist()
    found = nearest * bin_hz + np.angle(re + 1j * im) * codec.SAMPLE_RATE / (2 * np.pi * codec.HOP_FRAMES)
    assert abs(1200 * np.log2(found / (partial * hz))) < 4


@pytest.mark.parametrize("hz", [0.0, 587.3, 1760.0])
def test_where_there_is_no_low_note_nothing_is_told(hz: float) -> None:
    """Neither silence nor the sidelobes of a high note are low notes."""
    turns = low_pitches(tone(hz) if hz else torch.zeros_like(tone(1.0)))
    assert torch.equal(turns, torch.zeros(1, 2, TURNED))


def heard(hz: Tensor, loud: Tensor, frames: int) -> Tensor:
    """Spectra (F, 1025) of steady tones; the first is of a window whose middle is one hop after time 0."""
    t = (torch.arange(SIZE + codec.HOP_FRAMES * (frames - 1)) - SIZE // 2 + codec.HOP_FRAMES) / codec.SAMPLE_RATE
    wave = (loud[:, None] * torch.cos(2 * torch.pi * hz[:, None].double() * t)).sum(0)
    return torch.complex(*codec.Spectrum()(wave.float()))


@pytest.mark.parametrize("apart", [25.0, 33.0, 47.0])
def test_low_notes_that_share_bins_beat_as_they_should(apart: float) -> None:
    """Two tones from 110 Hz on, whose bins a network says the right power of but nothing of their phase: over two blocks they are what
    they would be, and what lies above stays."""
    latents, hz, loud = 8, torch.tensor([110.0, 110.0 + apart]), torch.tensor([1.0, 0.7])
    tones = torch.zeros(latents, 2, TONES)
    tones[:, 0], tones[:, 0, [10, 13]], tones[:, 1, [10, 13]] = 1.0, hz, BIN_OVER_ROWS * loud
    wanted = heard(hz, loud, 2 * latents * codec.STACK)
    sound, phase, made = Oscillators(latents), torch.tensor([[1.0], [0.0]]).expand(2, TONES), []
    for said in wanted.abs().split(latents * codec.STACK):
        angle = 2 * torch.pi * torch.rand(said.shape, generator=torch.Generator().manual_seed(0))
        magnitude, re, im, phase = sound(tones, said, angle.cos(), angle.sin(), phase)
        made.append(torch.complex(magnitude * re, magnitude * im))
        for before, after in ((said, magnitude), (angle.cos(), re), (angle.sin(), im)):
            assert torch.equal(before[:, SOUNDED:], after[:, SOUNDED:])
    bins = slice(5, 8)
    off = (torch.cat(made) - wanted)[:, bins].abs().square().sum() / wanted[:, bins].abs().square().sum()
    assert 10 * torch.log10(off) < -12


@pytest.mark.parametrize("hz", [[], [110.0], [110.0, 330.0]], ids=["none", "one", "two far apart"])
def test_bins_of_a_single_tone_stay_as_the_network_says(hz: list[float]) -> None:
    """A phase that turns evenly serves them well, and the network's magnitudes flutter as bowed strings do."""
    tones = torch.zeros(8, 2, TONES)
    tones[:, 0] = 1.0
    tones[:, 0, : 9 * len(hz) : 9], tones[:, 1, : 9 * len(hz) : 9] = torch.tensor(hz), float(BIN_OVER_ROWS)
    angle = 2 * torch.pi * torch.rand(32, BINS, generator=torch.Generator().manual_seed(0))
    said = heard(torch.tensor([110.0, 330.0]), torch.ones(2), 32).abs() + 0.1
    magnitude, re, im, _ = Oscillators(8)(tones, said, angle.cos(), angle.sin(), torch.tensor([[1.0], [0.0]]).expand(2, TONES))
    torch.testing.assert_close((magnitude, re, im), (said, angle.cos(), angle.sin()), rtol=1e-3, atol=1e-3)


def test_two_notes_in_adjacent_bins_each_turn_their_own_way() -> None:
    """A whole tone near 380 Hz: equally loud, loudest in adjacent bins, and from hop to hop half a turn apart."""
    bins, hz = torch.tensor([17, 18]), torch.tensor([356.0, 399.0])
    magnitude, advance = torch.full((1, BINS), 1e-4), torch.zeros(1, 2, BINS)
    angle = 2 * torch.pi * codec.HOP_FRAMES * (hz / codec.SAMPLE_RATE - bins / SIZE)
    magnitude[0, bins], advance[0, :, bins] = 1.0, torch.stack([angle.cos(), angle.sin()])
    re, im, power = Neighbourhoods()(magnitude, advance)
    turn = 2 * torch.pi * codec.HOP_FRAMES / codec.SAMPLE_RATE * hz
    along = (re[0, bins] * turn.cos() + im[0, bins] * turn.sin()) / power[0, bins]
    assert (along > 0.2).all()


@torch.no_grad()
def test_latents_that_no_sound_has_give_numbers_all_the_same() -> None:
    """A model may make anything; what is carried on must not be spoilt by it."""
    torch.manual_seed(0)
    decoder = Decoder(SpectrumNet().eval(), 8).eval()
    made, *state = decoder(100 * torch.randn(1, 8, codec.LATENT_CHANNELS), *decoder.initial_state())
    assert all(torch.isfinite(part).all() for part in (made, *state))


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
    for name in ("latent_rows", "frame_rows", "magnitude_rows", "magnitudes"):
        torch.testing.assert_close(getattr(ends[4], name), getattr(ends[8], name), atol=1e-5, rtol=1e-4)


def test_what_comes_again_with_every_latent_is_taken_off_and_nothing_else() -> None:
    """A held tone does not waver at the latents' rate, a fading one has no steps; what flutters by chance keeps doing so."""
    held = torch.linspace(-6, 4, BINS).expand(1, 48, BINS)
    fades = held - 0.02 * torch.arange(48)[None, :, None]
    wavers = torch.tensor([0.15, -0.05, 0.05, -0.15]).repeat(12)[None, :, None]
    for true in held, fades:
        made, rows = without_pattern((true + wavers)[:, 16:], (true + wavers)[:, :16])
        left = (made - true[:, 16:])[:, 4:]
        assert left.std(1).max() < 0.02 * wavers.std()
        assert torch.equal(rows, (true + wavers)[:, -16:])
    chance = 0.15 * torch.randn(1, 48, BINS, generator=torch.Generator().manual_seed(0))
    made, _ = without_pattern((held + chance)[:, 16:], (held + chance)[:, :16])
    assert 0.8 < (made - held[:, 16:]).std() / chance.std() <= 1


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
