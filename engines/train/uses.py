"""The other uses of one engine: changing the words, morphing, straying, jamming, freezing, feeding the answer back.

    python -m engines.train.uses engines/bundles/reference.ghost --data build/data --out docs/evaluation

The engine is opened as a pedal opens it and fed block by block on unseen scores. Written to `--out`: uses.md and uses.json.
Everything follows from the seed; one thread. Shapes: T latent. Runs in: evaluation, offline.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from engines.bundle import open_engine
from engines.engine import EngineControls
from engines.lmdm import codec
from engines.lmdm.stream import StreamingEngine
from engines.train import clips, metrics, timbre
from engines.train.instruments import COMPANIONS, TARGETS, name_of
from engines.train.jamming import Agreement, agreement
from engines.train.notes import NoteDetector, note_f
from engines.train.timbre import Judge
from engines.train.uses_page import write

Samples = NDArray[np.float32]
Wishes = Callable[[int], EngineControls]  # block -> what the player wants

CHANGE_AT = 14  # block at which the words change
AFTER_BLOCKS = 2  # within which the change must be heard
MORPHS = (0.0, 0.25, 0.5, 0.75, 1.0)
STRAYS = (0.0, 0.25, 0.5, 0.75, 1.0)
VISIBLE = {1: 0, 2: -1}  # lag of the partner in blocks -> blocks of its future that are known
REPEATS, REPEAT_BLOCKS = 0.7, 2


@dataclass(frozen=True)
class Plan:
    """How much is evaluated."""

    changes: int = 24
    morphs: int = 8
    strays: int = 6
    jam_scores: int = 6
    seconds: float = 20.0
    jam_seconds: float = 40.0
    minutes: int = 10
    programs: tuple[int, ...] = (48, 11, 0, 71)  # of the long rollouts


QUICK = Plan(changes=4, morphs=2, strays=1, jam_scores=2, seconds=10.0, jam_seconds=12.0, minutes=2, programs=(48,))


@dataclass(frozen=True)
class Change:
    """The words changed while playing: how much of what follows is the new instrument."""

    before: str
    after: str
    heard: float  # share of the one-second windows that begin two blocks after the change
    steady: float  # the same share when the new words were there from the start


@dataclass(frozen=True)
class Morph:
    """Where morphs of two prompts lie between them: 0 is the first, 1 the second."""

    first: str
    second: str
    places: tuple[float, ...]  # for MORPHS


@dataclass(frozen=True)
class Stray:
    """How well the answer follows when it may stray."""

    share: float
    note_f: float  # against the player
    timbre: float


@dataclass
class Uses:
    """Everything that was measured."""

    command: str
    changes: list[Change] = field(default_factory=list)
    morphs: list[Morph] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    jams: list[Agreement] = field(default_factory=list)
    rollouts: dict[str, list[metrics.Minute]] = field(default_factory=dict)
    block_ms: list[float] = field(default_factory=list)


@dataclass
class Evaluator:
    """Runs every part of a plan; see `evaluate`."""

    engine: StreamingEngine
    judge: Judge
    detector: NoteDetector
    data: Path
    plan: Plan
    seed: int

    def __post_init__(self) -> None:
        names = self.engine.spec.prompts
        self.prompts = {p: names.index(name_of(p)) for p in (*TARGETS, *COMPANIONS) if name_of(p) in names}
        self.scores = clips.scores(self.data, "val", 8, max(self.plan.seconds, 30.0))

    def play(self, audio: Samples, wishes: Wishes, repeats: float = 0.0) -> Samples:
        """The answer to `audio`, aligned to it; with `repeats`, the engine also hears its own answer two blocks late."""
        spec = self.engine.spec
        size, lag = spec.block_frames, spec.codec_delay_frames
        self.engine.reset(self.seed)
        count = math.ceil((len(audio) + lag) / size)
        padded = np.pad(audio, (0, count * size - len(audio))).reshape(count, size)
        wet: list[Samples] = []
        for index, block in enumerate(padded):
            again = wet[index - REPEAT_BLOCKS] if repeats and index >= REPEAT_BLOCKS else np.float32(0)
            wet.append(self.engine.generate((block + np.float32(repeats) * again).astype(np.float32), wishes(index)))
        return np.concatenate(wet)[lag :][: len(audio)]

    def timbre(self, audio: Samples, program: int, active: Samples) -> float:
        """Share of the loud windows of `active` in which `audio` sounds like `program`."""
        loud = timbre.loud(self.judge.log_mel(active))
        heard = self.judge.hear(self.judge.log_mel(audio))[: len(loud)]
        chosen = (heard == timbre.CLASSES.index(program))[loud[: len(heard)]]
        return float(chosen.float().mean()) if len(chosen) else math.nan

    def case(self, turn: int) -> tuple[clips.Score, Samples]:
        score = self.scores[turn % len(self.scores)]
        return score, score.inputs[score.guitar(turn)][: int(self.plan.seconds * codec.SAMPLE_RATE)]

    def changes(self) -> list[Change]:
        found, programs = [], list(TARGETS)
        start = (CHANGE_AT + AFTER_BLOCKS) * self.engine.spec.block_frames
        for turn in track(range(self.plan.changes), description="changed words"):
            before, after = programs[turn % 12], programs[(5 * turn + 1 + turn // 12) % 12]
            if before == after:
                continue
            score, played = self.case(turn)
            moved = self.play(played, lambda block, a=before, b=after: self.follow(a if block < CHANGE_AT else b))
            steady = self.play(played, lambda block, b=after: self.follow(b))
            truth = score.targets[after][start : len(played)]
            shares = (self.timbre(audio[start:], after, truth) for audio in (moved, steady))
            found.append(Change(name_of(before), name_of(after), *shares))
        return found

    def follow(self, program: int, **wishes: float) -> EngineControls:
        return EngineControls(prompt=self.prompts[program], **wishes)  # type: ignore[arg-type]

    def morphs(self) -> list[Morph]:
        found, programs = [], list(TARGETS)
        for turn in track(range(self.plan.morphs), description="morphs"):
            first, second = programs[turn % 12], programs[(turn + 4 + turn // 12) % 12]
            _, played = self.case(turn)
            wishes = [self.follow(first, second_prompt=self.prompts[second], morph=morph) for morph in MORPHS]
            answers = [self.play(played, lambda block, w=one: w) for one in wishes]
            points = [self.judge.features(self.judge.log_mel(a)).mean(0) / self.judge.spread for a in answers]
            way = points[-1] - points[0]
            places = tuple(float((p - points[0]) @ way / (way @ way)) for p in points)
            found.append(Morph(name_of(first), name_of(second), places))
        return found

    def strays(self) -> list[Stray]:
        found = []
        for share in track(STRAYS, description="straying"):
            notes, timbres = [], []
            for turn in range(self.plan.strays):
                program = list(TARGETS)[2 * turn % 12]
                score, played = self.case(turn)
                answer = self.play(played, lambda block, p=program, s=share: self.follow(p, stray=s))
                notes.append(note_f(*(self.detector.notes(a, codec.SAMPLE_RATE) for a in (played, answer))))
                timbres.append(self.timbre(answer, program, score.targets[program][: len(played)]))
            found.append(Stray(share, float(np.mean(notes)), float(np.nanmean(timbres))))
        return found

    def jams(self) -> list[Agreement]:
        """Every companion beside every unseen guitar, at both lags."""
        found, band = [], clips.scores(self.data, "jamval", self.plan.jam_scores, self.plan.jam_seconds)
        for lag, visible in VISIBLE.items():
            self.engine.jam_lag_blocks = lag
            for program in track(COMPANIONS, description=f"jamming, {visible} blocks ahead"):
                partners, answers = [], []
                for score in band:
                    for partner in score.inputs.values():
                        made = self.play(partner, lambda block, p=program: self.follow(p, jam=True))
                        ahead = lag * self.engine.spec.block_frames
                        partners.append(partner)
                        answers.append(np.pad(made, (ahead, 0))[: len(partner)])
                found.append(agreement(name_of(program), visible, partners, answers, self.detector, self.seed))
        return found

    def rollouts(self) -> dict[str, list[metrics.Minute]]:
        """The same 30 seconds over and over; frozen after the first of them; fed back at 70 %."""
        found = {}
        score = self.scores[0]
        frames = 60 * self.plan.minutes * codec.SAMPLE_RATE
        frozen_from = 30 * codec.SAMPLE_RATE // self.engine.spec.block_frames
        for program in track(self.plan.programs, description=f"{self.plan.minutes} minutes, three ways"):
            played, truth = (np.resize(a, frames) for a in (score.inputs[score.guitar(0)], score.targets[program]))
            wanted = self.judge.log_mel(truth)
            freeze: Wishes = lambda block, p=program: self.follow(p, freeze=block >= frozen_from)  # type: ignore[misc] # noqa: E731
            ways = {"input": (lambda block, p=program: self.follow(p), 0.0), "freeze": (freeze, 0.0)}
            ways |= {"repeats 70 %": (lambda block, p=program: self.follow(p), REPEATS)}
            for way, (wishes, repeats) in ways.items():
                made = self.judge.log_mel(self.play(played, wishes, repeats))
                found[f"{name_of(program)}, {way}"] = metrics.minutes(made, wanted)
        return found


def evaluate(address: str, data: Path, plan: Plan, seed: int, command: str) -> Uses:
    """Run a whole plan."""
    engine = open_engine(address)
    assert isinstance(engine, StreamingEngine), f"{address} is not an LMDM: it has no such uses"
    judge, _ = timbre.open_judge(data, data.parent / "judge.pt")
    run = Evaluator(engine, judge, NoteDetector.open(), data, plan, seed)
    with torch.inference_mode():
        return Uses(command, run.changes(), run.morphs(), run.strays(), run.jams(), run.rollouts())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m engines.train.uses", description="Evaluate the other uses of an engine.")
    parser.add_argument("engine", help="path of a bundle")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/evaluation"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few short clips: a look, not a figure to quote")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    command = f"{parser.prog} {args.engine} --data {args.data} --out {args.out} --seed {args.seed}{' --quick' * args.quick}"
    result = evaluate(args.engine, args.data, QUICK if args.quick else Plan(), args.seed, command)
    for path in write(result, args.out):
        print(path)


if __name__ == "__main__":
    main()
