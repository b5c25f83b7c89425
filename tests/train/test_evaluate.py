"""The whole evaluation on a corpus of a few synthetic seconds and an engine that gives back what it hears."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.bundle import open_engine  # noqa: E402
from engines.lmdm import codec  # noqa: E402
from engines.train import audition, evaluate, notes, report  # noqa: E402
from engines.train.corpus import Part, write_score  # noqa: E402
from engines.train.data import Features  # noqa: E402
from engines.train.instruments import GUITARS, TARGETS, name_of  # noqa: E402

PLAN = evaluate.Plan(
    scores=2, seconds=3.0, instruments=tuple(TARGETS)[:2], real_seconds=2.0, real_instruments=1, drift_minutes=2, drift_instruments=(48,),
    silence_seconds=2.0,
)
FRAMES = 96 * codec.LATENT_FRAMES


def part(program: int, seed: int) -> np.ndarray:
    """A tune, and above all notes a whistle at a pitch of the program's own, by which anyone can tell it."""
    rng = np.random.default_rng(seed)
    t = np.arange(FRAMES) / codec.SAMPLE_RATE
    colour = list(TARGETS).index(program) if program in TARGETS else len(TARGETS)
    notes_hz = 440 * 2 ** ((np.repeat(rng.integers(50, 75, 6), FRAMES // 6) - 69) / 12)
    phase = 2 * np.pi * np.cumsum(notes_hz) / codec.SAMPLE_RATE
    tune = sum(np.sin(k * phase) / k for k in range(1, 6))
    return (0.1 * tune + 0.03 * np.sin(2 * np.pi * (5000 + 1000 * colour) * t)).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        notes.model_path()
    except notes.NotesError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("build") / "data"
    folder.mkdir()
    features = Features()
    for split, first, count in (("train", 0, 3), ("val", 50, 2), ("cross", 80, 2)):
        for index in range(count):
            cast = [*(Part("guitar", p, "none") for p in list(GUITARS)[:2]), *(Part("target", p, "none") for p in TARGETS)]
            audio = {i: part(one.program, first + index) for i, one in enumerate(cast)}
            write_score(folder, f"{split}{index:04d}", cast, np.stack([features.of(a) for a in audio.values()]), audio)
    return folder


def test_an_echo_is_seen_through(corpus: Path, tmp_path: Path) -> None:
    """Giving the input back follows perfectly, drifts nowhere, is silent in silence, and is never the instrument asked for."""
    result = evaluate.evaluate("echo", corpus, PLAN, audition.Player(open_engine("echo"), 0, 0), "a command")
    assert result.judge_accuracy > 0.8
    assert result.values("val", "engine", "note_player").mean == 1
    assert result.values("val", "engine", "timbre").mean < 0.3 < 0.7 < result.values("val", "true target", "timbre").mean
    assert result.values("val", "true target", "mel_db").mean == 0 < result.values("val", "engine", "mel_db").mean
    assert result.values("val", "shuffled conditioning", "note_player").mean < 0.5
    assert result.drift_db() == pytest.approx(0, abs=0.3)
    assert all(row.fresh_db == row.after_music_db == -120 for row in result.silence)
    assert {row.split for row in result.rows} >= {"val", "cross"}

    page, data, picture = report.write(result, tmp_path)
    text = page.read_text()
    assert name_of(next(iter(TARGETS))) in text and "a command" in text and "**no**" in text and "nan" not in text
    asked = {goal["what"]: goal["met"] for goal in json.loads(data.read_text())["goals"]}
    assert len(asked) == 10 and [met for what, met in asked.items() if "Silence" in what or "Drift" in what] == [True, True]
    assert not any(met for what, met in asked.items() if what.startswith("Timbre") or "recognised" in what)
    assert picture.stat().st_size > 10_000
