"""The tuner: steady tones within a cent, plucked strings within three, and silence where there is no note."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.audio import AudioLoop
from appliance.tuner import Reading, Tuner, pitch_hz
from tests.appliance.rig import Rig, sine

RATE = 44_100
PARTIALS = {
    "sine": (1.0,),
    "falling": (1.0, 0.5, 0.3, 0.2, 0.1),
    "weak fundamental": (0.3, 1.0, 0.7, 0.5, 0.4, 0.3, 0.2),
    "hardly a fundamental": (0.05, 1.0, 0.8, 0.5, 0.4),
    "saw": tuple(1 / n for n in range(1, 12)),
}


def cents(found: float | None, hz: float) -> float:
    assert found is not None, f"nothing heard at {hz:.1f} Hz"
    return 1200 * math.log2(found / hz)


def steady(hz: float, partials: tuple[float, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    t = np.arange(RATE // 4) / RATE
    tone = sum(a * np.sin(2 * np.pi * n * hz * t + rng.uniform(0, 6.28)) for n, a in enumerate(partials, 1) if n * hz < 20_000)
    return (0.2 * tone + rng.normal(0, 1e-4, len(t))).astype(np.float32)


def plucked(hz: float, stiffness: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Partial n of a stiff string at n f sqrt(1 + B n^2), each dying in its own time; `hz` is what the first one has."""
    t = np.arange(2 * RATE) / RATE
    string = np.zeros(len(t))
    for n in range(1, 25):
        partial_hz = n * hz * math.sqrt((1 + stiffness * n * n) / (1 + stiffness))
        if partial_hz < 18_000:
            loud = abs(math.sin(math.pi * 0.17 * n)) / n
            string += loud * np.sin(2 * np.pi * partial_hz * t + rng.uniform(0, 6.28)) * np.exp(-t * (1.2 + 0.25 * n))
    return (0.3 * string + rng.normal(0, 1e-4, len(t))).astype(np.float32)


@pytest.mark.parametrize("kind", PARTIALS)
def test_steady_tones_within_a_cent(kind: str) -> None:
    rng = np.random.default_rng(1)
    off = {hz: cents(pitch_hz(steady(hz, PARTIALS[kind], rng), RATE), hz) for hz in np.geomspace(65, 1300, 60)}
    assert max(map(abs, off.values())) <= 1.0, off


@pytest.mark.parametrize("stiffness", [0.0, 3e-5, 1.5e-4])
def test_plucked_strings_within_three_cents(stiffness: float) -> None:
    rng = np.random.default_rng(2)
    for hz in (65.4, 82.41, 110.0, 146.83, 196.0, 246.94, 329.63, 440.0, 659.3, 880.0, 1174.7, 1300.0):
        string = plucked(hz, stiffness, rng)
        for seconds in (0.25, 0.5, 1.0, 1.5):
            off = cents(pitch_hz(string[: round(seconds * RATE)], RATE), hz)
            assert abs(off) <= 3.0, (hz, seconds, off)


def test_silence_noise_and_too_little_are_no_note() -> None:
    assert pitch_hz(np.zeros(RATE, np.float32), RATE) is None
    assert pitch_hz(np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32), RATE) is None
    assert pitch_hz(sine(1000, 440), RATE) is None
    assert pitch_hz(np.full(RATE, 0.5, np.float32), RATE) is None


@pytest.mark.parametrize(
    ("hz", "says"), [(82.41, "E2 +0 cents"), (445.0, "A4 +20 cents"), (430.0, "A4 -40 cents"), (277.18, "C♯4 -0 cents")]
)
def test_readings(hz: float, says: str) -> None:
    assert str(Reading.of(hz)) == says


def test_another_reference() -> None:
    assert Reading.of(432.0, 432.0).note == "A4" and abs(Reading.of(432.0, 432.0).cents) < 1e-9


@pytest.mark.parametrize("controls", [{"tuner": 2.0}, {"tuner": 1.0}, {"bypass": 1.0, "repeats": 0.9}], ids=str)
def test_it_hears_the_dry_signal_whatever_is_sent_to_the_engine(controls: dict[str, float]) -> None:
    frames = 2048 * 20
    rig = Rig(sine(frames, 196.0, 0.2), sine(frames, 311.0), **controls)
    assert isinstance(rig.loop, AudioLoop)
    rig.play(frames // 128)
    reading = Tuner(rig.memory, 440.0).hear(rig.loop.position)
    assert reading is not None and reading.note == "G3" and abs(reading.cents) < 1
    rig.close()
