"""What jamming and tones are judged by: signals that agree, signals that do not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.lmdm.codec import SAMPLE_RATE
from engines.train import jamming, tones
from engines.train.metrics import Minute
from engines.train.uses_page import drift, scatter


def clicks(bpm: float, seconds: float = 8.0) -> np.ndarray:
    audio = 0.001 * np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE))
    for start in np.arange(0.3, seconds - 0.2, 60 / bpm):
        at = int(start * SAMPLE_RATE)
        audio[at : at + 2000] += np.random.default_rng(1).standard_normal(2000) * np.exp(-np.arange(2000) / 300)
    return audio.astype(np.float32)


def test_the_same_beat_agrees_and_another_does_not() -> None:
    same = jamming.beat_agreement(jamming.onsets(clicks(100)), jamming.onsets(clicks(100)))
    other = jamming.beat_agreement(jamming.onsets(clicks(100)), jamming.onsets(clicks(131)))
    assert same > 0.9 and other < 0.5


def sounding(*pitches: int) -> np.ndarray:
    notes = np.zeros((400, 88), np.float32)
    notes[:, [pitch - 21 for pitch in pitches]] = 1
    return notes


def test_notes_agree_in_any_octave_and_within_a_second() -> None:
    partner, octave, other = (jamming.pitch_classes(n) for n in (sounding(60, 64), sounding(36, 76), sounding(61)))
    assert partner[0].nonzero()[0].tolist() == [0, 4]
    assert jamming.note_agreement(partner, octave) == 1
    assert jamming.note_agreement(partner, other) == 0
    late = partner.copy()
    late[300:] = False  # sounded until frame 300: remembered for a second
    assert jamming.note_agreement(late, octave) == pytest.approx((300 + jamming.MEMORY_FRAMES) / 400, abs=0.01)
    assert jamming.note_agreement(partner, np.zeros_like(partner)) == 0


def test_a_permutation_test_knows_chance_from_agreement() -> None:
    rng = np.random.default_rng(3)
    _, _, agreeing = jamming.permutation_p(rng.random((10, 10)) * 0.2 + np.eye(10), 0)
    _, _, chance = jamming.permutation_p(rng.random((10, 10)), 0)
    assert agreeing < 0.001 < 0.05 < chance


def test_a_steady_tone_is_judged_pure_and_in_tune_and_a_sharp_one_sharp() -> None:
    for hz in (80.0, 329.6):
        same = tones.judge(hz, tones.steady(hz))
        assert same.harmonic_to_other_db > 60 and abs(same.cents) < 0.5
        sharp = tones.judge(hz, tones.steady(hz * 2 ** (10 / 1200)))
        assert sharp.cents == pytest.approx(10, abs=0.5)
    noisy = tones.steady(110.0) + 0.02 * np.random.default_rng(0).standard_normal(len(tones.steady(110.0)))
    assert tones.judge(110.0, noisy.astype(np.float32)).harmonic_to_other_db < 25


def test_drift_is_a_trend_and_scatter_is_not() -> None:
    steady = [Minute(0, db, 1000, 2) for db in (0.5, -0.5, 0.5, -0.5, -0.5, 0.5, -0.5, 0.5)]
    assert abs(drift(steady)["energy"]) < 0.01 < 0.4 < scatter(steady)
    rising = [Minute(0, 0.3 * i, 1000 * 2 ** (0.1 * i), 2) for i in range(10)]
    assert drift(rising)["energy"] == pytest.approx(2.7)
    assert drift(rising)["centroid"] == pytest.approx(20 * np.log10(2**0.9))
