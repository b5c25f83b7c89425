"""The tone control: against a recursion written out sample by sample, and what it may never do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.tone import MOST, PIVOT_HZ, Tone, weights
from tests.appliance.rig import Array, largest_step, noise, sine

RATE = 44_100


def played(samples: Array, tone: float, period_frames: int = 128) -> Array:
    one, heard = Tone(period_frames, RATE, 1024), []
    one.jump(tone)
    for at in range(0, len(samples), period_frames):
        one.aim(tone)
        heard.append(one.process(samples[at : at + period_frames]).copy())
    return np.concatenate(heard)


def recursion(samples: Array, tone: float) -> Array:
    share, low = 1 - math.exp(-2 * math.pi * PIVOT_HZ / RATE), 0.0
    dark, thin = weights(tone)
    out = []
    for sample in samples.astype(np.float64):
        low += share * (sample - low)
        out.append(sample - dark * (sample - low) - thin * low)
    return np.array(out, np.float32)


@pytest.mark.parametrize("tone", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("period_frames", [16, 100, 128, 1024])
def test_it_is_the_recursion(tone: float, period_frames: int) -> None:
    samples = noise(32 * 1600 // 16 * 4, 1)[: period_frames * (6400 // period_frames)]
    assert np.allclose(played(samples, tone, period_frames), recursion(samples, tone), atol=2e-6)


def test_in_the_middle_every_bit_stays() -> None:
    samples = noise(128 * 50, 2, 1.0)
    assert np.array_equal(played(samples, 0.5), samples)


@pytest.mark.parametrize(("hz", "tone", "gain_db"), [(100, 0.0, -0.1), (10_000, 0.0, -15.0), (100, 1.0, -17.0), (10_000, 1.0, -0.1)])
def test_dark_takes_the_highs_and_thin_the_lows(hz: float, tone: float, gain_db: float) -> None:
    samples = sine(128 * 300, hz)
    heard = played(samples, tone)[128 * 100 :]
    assert 20 * math.log10(np.sqrt(np.mean(heard**2)) / np.sqrt(np.mean(samples**2))) == pytest.approx(gain_db, abs=1.0)


@pytest.mark.parametrize("tone", np.linspace(0, 1, 9))
def test_no_frequency_is_raised(tone: float) -> None:
    click = np.zeros(128 * 64, np.float32)
    click[0] = 1.0
    assert np.max(np.abs(np.fft.rfft(played(click, float(tone))))) <= 1.0 + 1e-5


@given(tones=st.lists(st.floats(0, 1), min_size=1, max_size=8), turns=st.integers(1, 20))
@settings(max_examples=40)
def test_turning_it_does_not_click(tones: list[float], turns: int) -> None:
    samples, one, heard = sine(128 * 400, 220, 0.5), Tone(128, RATE, 1024), []
    for period in range(400):
        one.aim(tones[min(period // turns, len(tones) - 1)])
        heard.append(one.process(samples[period * 128 : (period + 1) * 128]).copy())
    assert largest_step(np.concatenate(heard)) <= largest_step(samples) + 0.005


@pytest.mark.parametrize("tone", [math.nan, math.inf, -3.0, 1e9])
def test_what_is_no_tone_changes_nothing(tone: float) -> None:
    assert weights(tone) == (0.0, 0.0) and max(weights(0.0)) == MOST


def test_silence_ends_in_zeros() -> None:
    """No denormal numbers linger, which would slow the processor down."""
    one = Tone(128, RATE, 1024)
    one.jump(0.2)
    one.process(noise(128, 1))
    for _ in range(100):
        heard = one.process(np.zeros(128, np.float32))
    assert not heard.any() and one._chunk[0] == 0.0
