"""Evaluations from end to end on a corpus of a few synthetic seconds: engines that can be seen through, and the shipped one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from engines.bundle import REFERENCE, open_engine  # noqa: E402
from engines.echo import EchoEngine  # noqa: E402
from engines.engine import Audio, EngineControls, Stamp, no_stamp  # noqa: E402
from engines.lmdm import codec  # noqa: E402
from engines.train import audition, compare, compare_page, evaluate, notes, report, timbre, uses, uses_page  # noqa: E402
from engines.train.corpus import Part, write_score  # noqa: E402
from engines.train.data import BANKS, TRAINED_BANKS, Features  # noqa: E402
from engines.train.instruments import COMPANIONS, GUITARS, TARGETS, name_of  # noqa: E402

PLAN = evaluate.Plan(
    scores=2, seconds=3.0, instruments=tuple(TARGETS)[:2], real_seconds=2.0, real_instruments=1, takes=2,
    drift_minutes=2, drift_instruments=(48,), silence_seconds=2.0,
)
FRAMES = 96 * codec.LATENT_FRAMES


def part(program: int, seed: int, frames: int) -> np.ndarray:
    """A tune, and above all notes a whistle at a pitch of the program's own, by which anyone can tell it."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames) / codec.SAMPLE_RATE
    colour = list(TARGETS).index(program) if program in TARGETS else len(TARGETS)
    notes_hz = 440 * 2 ** ((np.repeat(rng.integers(50, 75, 6), frames // 6 + 1)[:frames] - 69) / 12)
    phase = 2 * np.pi * np.cumsum(notes_hz) / codec.SAMPLE_RATE
    tune = sum(np.sin(k * phase) / k for k in range(1, 6))
    return (0.1 * tune + 0.03 * np.sin(2 * np.pi * (5000 + 1000 * colour) * t)).astype(np.float32)


def write_scores(folder: Path, split: str, seeds: range, others: Iterable[int] = TARGETS, frames: int = FRAMES) -> None:
    """Two guitars and other instruments, one whistling tune per score."""
    role, features = "target" if others is TARGETS else "companion", Features()
    for index, seed in enumerate(seeds):
        cast = [*(Part("guitar", p, "none") for p in list(GUITARS)[:2]), *(Part(role, p, "none") for p in others)]
        audio = {i: part(one.program, seed, frames) for i, one in enumerate(cast)}
        write_score(folder, f"{split}{index:04d}", cast, 0.0, np.stack([features.of(a) for a in audio.values()]), audio)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        notes.model_path()
    except notes.NotesError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("build") / "data"
    folder.mkdir()
    for split, seeds in (("train", range(3)), ("val", range(50, 52)), ("cross", range(80, 82))):
        write_scores(folder, split, seeds)
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
    real = [row for row in result.rows if row.split.startswith(report.REAL_GUITAR) and row.system == "engine"]
    assert set(Counter((row.score, row.instrument) for row in real).values()) == {2}
    true = [row.note_player for row in result.rows if row.system == report.TRANSCRIBED]
    assert bool(true) == all(Path(bank.path).exists() for name, bank in BANKS.items() if name in TRAINED_BANKS)
    assert all(0 < value < 1 for value in true), "another instrument, though it makes no mistake"

    page, data, picture = report.write(result, tmp_path)
    text = page.read_text()
    assert name_of(next(iter(TARGETS))) in text and "a command" in text and "**no**" in text and "nan" not in text
    asked = {goal["what"]: goal["met"] for goal in json.loads(data.read_text())["goals"]}
    assert len(asked) == 10 and [met for what, met in asked.items() if "Silence" in what or "Drift" in what] == [True, True]
    assert not any(met for what, met in asked.items() if what.startswith("Timbre") or "recognised" in what)
    assert picture.stat().st_size > 10_000


class Deaf(EchoEngine):
    """Plays the same noise whatever it hears, the louder the more steps it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, name="deaf", steps=2, max_steps=4)

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        return (0.02 * controls.steps * np.random.default_rng(0).standard_normal(len(block))).astype(np.float32)


def test_engines_are_compared_on_the_same_clips(corpus: Path, tmp_path: Path) -> None:
    """An engine that follows against one that does not, at as many steps as each can take."""
    judge, accuracy = timbre.open_judge(corpus, corpus.parent / "judge.pt")
    ears = audition.Ears(judge, notes.NoteDetector.open())
    work = compare.clips_of(ears, corpus, 2, list(TARGETS)[:3], 3.0)
    assert len(work) == 6 and len({(one.score.name, one.case.program) for one in work}) == 6
    result = compare.Comparison("trial", "a command", 0, accuracy)
    compare.compare(result, ears, {"echo": EchoEngine(), "deaf": Deaf()}, (1, 4, 8), work)
    assert [system.name for system in result.systems] == ["echo, 0 steps", "deaf, 1 step", "deaf, 4 steps"]
    echo, deaf, loud = result.systems
    assert result.against(echo) is None and result.against(deaf) == result.against(loud) == echo
    assert result.value(echo.name, "note_player").mean == 1 and result.value(deaf.name, "note_player").mean < 0.3
    assert result.difference(deaf, echo, "note_player").high < -0.3
    louder = result.difference(loud, echo, "mel_db")
    assert louder.low < louder.mean < louder.high
    assert result.value("true target", "frechet").mean == pytest.approx(0, abs=1e-3)

    page, data, picture = compare_page.write(result, tmp_path)
    text = page.read_text()
    assert text.count("| deaf, 4 steps") == 2 and "against echo, 0 steps" in text and "nan" not in text
    assert len(json.loads(data.read_text())["differences"]) == 2 and picture.stat().st_size > 10_000


def test_the_other_uses_of_the_shipped_engine_are_played_and_judged(corpus: Path, tmp_path: Path) -> None:
    """On music that is none, every use but the long rollouts: what is asked is counted, whatever comes out."""
    folder = tmp_path / "data"
    folder.mkdir()
    timbre.open_judge(corpus, tmp_path / "judge.pt")
    write_scores(folder, "val", range(60, 61), frames=184 * codec.LATENT_FRAMES)
    write_scores(folder, "jamval", range(70, 72), COMPANIONS)
    plan = uses.Plan(change_clips=1, morphs=1, strays=1, seconds=2.5, jams=3, jam_seconds=2.5, minutes=1, programs=())
    result = uses.evaluate(uses.Subject(str(REFERENCE), folder, plan, 0), "a command", workers=2)
    assert [change.after != change.before for change in result.changes] == [True]
    assert result.morphs[0].places[0] == 0 and result.morphs[0].places[-1] == 1
    assert [jam.visible for jam in result.jams] == [1, *5 * [0], *5 * [-1]] and result.jams[1].pairs == 3
    text = uses_page.write(result, tmp_path)[0].read_text()
    assert "| 0.25 |" in text and "true accompaniment" in text and "nan" not in text
