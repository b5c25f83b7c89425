"""What the other uses and tones are judged by: signals that agree, signals that do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.lmdm.codec import SAMPLE_RATE
from engines.train import jamming, metrics, tones, uses, uses_page


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


def test_companions_that_belong_to_their_partners_stand_out_from_all_others() -> None:
    rng, count = np.random.default_rng(0), 7
    partners = [jamming.Sounding(rng.random((400, 12)) < 0.02, rng.random(400)) for _ in range(count)]
    echoing = [jamming.Sounding(p.classes, p.onsets) for p in partners]
    strangers = [jamming.Sounding(rng.random((400, 12)) < 0.02, rng.random(400)) for _ in range(count)]
    with_them, without = (jamming.Pairings.of(partners, band).agreement("", 0, 0) for band in (echoing, strangers))
    assert max(with_them.notes_p, with_them.beat_p) < 0.002 and with_them.notes > with_them.notes_shuffled
    assert min(without.notes_p, without.beat_p) > 0.01
    both = jamming.together([jamming.Pairings.of(partners, echoing)], [jamming.Pairings.of(partners, strangers)])
    assert both.agreement("", 0, 0).beat < with_them.beat and both.agreement("", 0, 0).notes == with_them.notes
    assert math.isnan(both.agreement("drums", 0, 0, pitched=False).notes_p)


def test_a_morph_between_its_ends_is_told_from_one_beside_them() -> None:
    first, last = np.zeros(8), np.eye(8)[0]
    halfway = uses.place("", "a", "b", [first, 0.2 * last, 0.5 * last, 0.8 * last, last])
    assert halfway.between and halfway.places == pytest.approx((0, 0.2, 0.5, 0.8, 1)) and halfway.aside == 0
    beside = uses.place("", "a", "b", [first, first, 0.5 * last + np.eye(8)[1], last, last])
    assert not beside.between and beside.places[2] == 0.5 and beside.aside == 1
    assert not uses.place("", "a", "b", [first, first, 1.1 * last, last, last]).between


def test_goals_are_judged_by_what_was_measured() -> None:
    change = uses.Change("val0000", "choir", "flute", "flute", 0.9)
    missed = uses.Change("val0001", "flute", "choir", "flute", math.nan)
    takes = [[metrics.Minute(-20, -30 + slope * i, 1000, 5) for i in range(3)] for slope in (1, -1)]
    jam = jamming.Agreement("all", -1, 14, 0.5, 0.2, 0.0001, 0.1, 0.1, 0.4)
    result = uses.Uses("a command", 0, [change, missed], [], [], [jam], {"choir, frozen": takes})
    met = {goal.what: goal.met for goal in uses_page.goals(result)}
    assert list(met.values()) == [False, False, True, False, True]
    text = uses_page.markdown(result)
    assert "| flute | 1 | 1.00 [1.00, 1.00] | 0.90" in text and "nan" not in text
    assert "| choir, frozen | 2.00, 2.00 |" in text, "what each take does by itself is told"
