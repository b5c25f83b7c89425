"""The other uses of one engine: changing the words, morphing, straying, jamming, freezing, feeding the answer back.

    python -m engines.train.uses engines/bundles/reference.ghost --data build/data --out docs/evaluation

The engine is opened as a pedal opens it and fed block by block on unseen scores. Written to `--out`: uses.md, uses.json and uses.png.
Everything follows from the seed; parts are played side by side in `--workers` processes of one thread each. Shapes: T latent, B window.
Runs in: evaluation, offline.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from engines.bundle import open_engine
from engines.engine import EngineControls
from engines.lmdm import codec
from engines.lmdm.stream import StreamingEngine
from engines.train import clips, metrics, timbre
from engines.train.audition import Ears, Player, Wishes, echoes
from engines.train.instruments import COMPANIONS, DRUMS, TARGETS, name_of
from engines.train.jamming import Agreement, Pairings, Sounding, together
from engines.train.notes import NoteDetector
from engines.train.uses_page import ALL, TRUE, write
from engines.train.workers import pool

Samples = NDArray[np.float32]

SETTLED_BLOCKS = 17  # between changes of words: the context is full of the old sound, and the new one has time to show
WITHIN_BLOCKS = 2  # of a change, after which the new words must be heard
MORPHS = (0.0, 0.25, 0.5, 0.75, 1.0)
STRAYS = (0.0, 0.25, 0.5, 0.75, 1.0)
VISIBLE = {1: 0, 2: -1}  # lag of the partner in blocks -> blocks of its future that are known
REPEATS = 0.7
LOOP_SECONDS = 30  # of the long rollouts; the first time round is not counted


@dataclass(frozen=True)
class Plan:
    """How much is evaluated."""

    change_clips: int = 16
    change_seconds: float = 44.5
    morphs: int = 12
    strays: int = 6
    seconds: float = 12.0  # of a clip that strays or morphs
    jams: int = 14  # partners: the guitars of the unseen bands, then others
    jam_seconds: float = 44.0
    minutes: int = 10
    programs: tuple[int, ...] = (48, 11)  # of the long rollouts: one that holds its notes, one that lets them ring
    takes: int = 3  # of each jam, with other noise
    long_takes: int = 9  # of each long rollout: a line through the minutes of one take slopes by 2 dB by chance


QUICK = Plan(change_clips=2, morphs=2, strays=1, jams=4, jam_seconds=10.0, minutes=2, programs=(48,), takes=1, long_takes=1)


@dataclass(frozen=True)
class Change:
    """The words changed while playing. `first` is what is heard in the one second that begins two blocks later."""

    score: str
    before: str
    after: str
    first: str
    later: float  # share of the seconds from then to the next change in which the new instrument is heard; NaN: silent


@dataclass(frozen=True)
class Morph:
    """Where morphs of two prompts lie in the judge's embedding: `places` along the way from the first (0) to the second (1)."""

    score: str
    first: str
    second: str
    places: tuple[float, ...]  # for MORPHS
    aside: float  # how far off that way the morph at 0.5 is, as a share of it
    between: bool  # the morph at 0.5 is nearer to either end than the ends are to each other


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
    seed: int
    changes: list[Change] = field(default_factory=list)
    morphs: list[Morph] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    jams: list[Agreement] = field(default_factory=list)  # the true bands, then for each visibility all companions together, and each
    rollouts: dict[str, list[list[metrics.Minute]]] = field(default_factory=dict)  # several takes of each


@dataclass(frozen=True)
class Subject:
    """What is evaluated, on what, and how much."""

    address: str
    data: Path
    plan: Plan
    seed: int


@dataclass
class Evaluator:
    """Plays and judges one part of a plan at a time; see `evaluate`."""

    engine: StreamingEngine
    ears: Ears
    data: Path
    plan: Plan
    seed: int

    @classmethod
    @cache
    def of(cls, subject: Subject) -> Evaluator:
        """Opened once in each process."""
        torch.set_num_threads(1)
        engine = open_engine(subject.address)
        assert isinstance(engine, StreamingEngine), f"{subject.address} is not an LMDM: it has no such uses"
        judge, _ = timbre.open_judge(subject.data, subject.data.parent / "judge.pt")
        return cls(engine, Ears(judge, NoteDetector.open()), subject.data, subject.plan, subject.seed)

    def __post_init__(self) -> None:
        self.player = Player(self.engine, 0, self.seed)
        self.prompts, self.judge, self.per_block = self.player.prompts(), self.ears.judge, self.engine.config.block_latents
        self.scores = clips.scores(self.data, "val", 99, 60.0)

    def score(self, turn: int) -> clips.Score:
        return self.scores[turn % len(self.scores)]

    def follow(self, program: int, **wishes: float) -> EngineControls:
        return EngineControls(prompt=self.prompts[program], **wishes)  # type: ignore[arg-type]

    def changes(self) -> list[Change]:
        """Clip after clip, the words change again and again, in another order each time."""
        found, orders = [], np.random.default_rng(self.seed)
        for turn in range(self.plan.change_clips):
            score, order = self.score(turn), [int(program) for program in orders.permutation(list(TARGETS))]
            played = score.inputs[score.guitar(turn + turn // len(self.scores))][: int(self.plan.change_seconds * codec.SAMPLE_RATE)]
            answer = self.player.play(played, lambda block, o=order: self.follow(o[block // SETTLED_BLOCKS]))
            mel = self.judge.log_mel(answer)
            late, apart = WITHIN_BLOCKS * self.per_block, SETTLED_BLOCKS * self.per_block
            for index, at in enumerate(range(apart, len(mel) - late - timbre.WINDOW_LATENTS + 1, apart)):
                rows, programs = slice(at + late, at + apart), order[index : index + 2]
                truth = self.judge.log_mel(score.targets[programs[1]][: len(played)])[rows]
                found += self._change(score.name, programs, mel[rows], truth)
        return found

    def _change(self, score: str, programs: list[int], mel: Tensor, truth: Tensor) -> list[Change]:
        """One change, judged by the rows that begin two blocks later; none where nothing should sound just then."""
        loud, heard = timbre.loud(truth), self.judge.hear(mel)
        if not loud[0]:
            return []
        before, after = programs
        later = (heard == timbre.CLASSES.index(after))[1:][loud[1:]].float().mean()
        return [Change(score, name_of(before), name_of(after), timbre.called(int(heard[0])), float(later))]

    def morphs(self) -> list[Morph]:
        found, programs = [], list(TARGETS)
        for turn in range(self.plan.morphs):
            first, second = programs[turn % 12], programs[(turn + 4 + turn % 3) % 12]
            score = self.score(turn)
            played = score.inputs[score.guitar(turn)][: int(self.plan.seconds * codec.SAMPLE_RATE)]
            wishes = [self.follow(first, second_prompt=self.prompts[second], morph=morph) for morph in MORPHS]
            answers = [self.player.play(played, lambda block, w=one: w) for one in wishes]
            truth = self.judge.log_mel(played)
            points = [self.ears.embed(self.judge.log_mel(answer), truth).mean(0) for answer in answers]
            found.append(place(score.name, name_of(first), name_of(second), points))
        return found

    def strays(self) -> list[Stray]:
        found = []
        for share in STRAYS:
            follows, timbres = [], []
            for turn in range(self.plan.strays):
                score, program = self.score(turn), list(TARGETS)[2 * turn % 12]
                frames = int(self.plan.seconds * codec.SAMPLE_RATE)
                played, truth = (audio[:frames] for audio in (score.inputs[score.guitar(turn)], score.targets[program]))
                answer = self.ears.hear(self.player.play(played, lambda block, p=program, s=share: self.follow(p, stray=s)))
                follows.append(self.ears.follows(self.ears.hear(played), answer))
                timbres.append(self.ears.timbre(answer.mel, program, self.judge.log_mel(truth)))
            found.append(Stray(share, float(np.mean(follows)), float(np.nanmean(timbres))))
        return found

    def partners(self) -> tuple[list[clips.Score], list[Samples]]:
        """The unseen bands; and a guitar of each of them and of other unseen scores: no two play the same music, so that chance can be told
        from agreement."""
        bands = clips.scores(self.data, "jamval", self.plan.jams, self.plan.jam_seconds)
        frames = int(self.plan.jam_seconds * codec.SAMPLE_RATE)
        scores = [*bands, *self.scores][: self.plan.jams]
        return bands, [score.inputs[score.guitar(turn)][:frames] for turn, score in enumerate(scores)]

    def bands(self) -> dict[int, Pairings]:
        """The true accompaniments, beside the guitars of their bands."""
        bands, partners = self.partners()
        heard = [self._sounding(partner) for partner in partners[: len(bands)]]
        return {program: Pairings.of(heard, [self._sounding(band.targets[program]) for band in bands]) for program in COMPANIONS}

    def jam(self, lag: int, program: int) -> Pairings:
        """One companion beside every partner, who is known `lag` blocks late; all takes as one."""
        _, partners = self.partners()
        heard, self.engine.jam_lag_blocks = [self._sounding(partner) for partner in partners], lag
        takes = ([self._sounding(self._accompany(p, program, lag, take)) for p in partners] for take in range(self.plan.takes))
        return together([Pairings.of(heard, companions) for companions in takes], [])

    def _sounding(self, audio: Samples) -> Sounding:
        return Sounding.of(audio, self.ears.detector)

    def _accompany(self, partner: Samples, program: int, lag: int, take: int) -> Samples:
        """What is heard beside a partner: the answer to a block sounds `lag` blocks after it."""
        made = Player(self.engine, 0, self.seed + take).play(partner, lambda block: self.follow(program, jam=True))
        return np.pad(made, (lag * self.engine.spec.block_frames, 0))[: len(partner)]

    def rollout(self, program: int, repeats: float) -> list[list[metrics.Minute]]:
        """The same 30 seconds over and over: fed back, or with no repeats frozen after the first time round. (As they are: `evaluate`.)"""
        frames, turn = (60 * self.plan.minutes + LOOP_SECONDS) * codec.SAMPLE_RATE, self.plan.programs.index(program)
        score = self.score(turn)
        loops = (audio[: LOOP_SECONDS * codec.SAMPLE_RATE] for audio in (score.inputs[score.guitar(turn)], score.targets[program]))
        played, truth = (np.resize(loop, frames) for loop in loops)
        second = math.ceil(LOOP_SECONDS * codec.SAMPLE_RATE / self.engine.spec.block_frames)
        wishes: Wishes = lambda block: self.follow(program, freeze=not repeats and block >= second)  # noqa: E731
        wanted = echoes(truth, self.player.repeat_frames, repeats) if repeats else self._gone_round(truth, second)
        true = self.judge.log_mel(wanted)[second * self.per_block :]
        takes = (Player(self.engine, 0, self.seed + take).play(played, wishes, repeats) for take in range(self.plan.long_takes))
        return [metrics.minutes(self.judge.log_mel(made)[second * self.per_block :], true) for made in takes]

    def _gone_round(self, truth: Samples, frozen_from: int) -> Samples:
        """The true target of what a frozen engine hears: from block `frozen_from` on, the blocks of its context again and again."""
        size, at = self.engine.spec.block_frames, frozen_from * self.engine.spec.block_frames
        loop = truth[at - self.engine.config.context_blocks * size : at]
        return np.concatenate([truth[:at], np.resize(loop, len(truth) - at)])


def everyone(band: Mapping[int, Pairings]) -> Pairings:
    """A whole band's agreement; drums have no notes."""
    return together([one for program, one in band.items() if program != DRUMS], [one for program, one in band.items() if program == DRUMS])


def place(score: str, first: str, second: str, points: Sequence[NDArray[np.float64]]) -> Morph:
    """Where the embeddings of MORPHS lie, between that of the first and that of the last."""
    start, middle, end = points[0], points[len(points) // 2], points[-1]
    way = end - start
    along = [float((point - start) @ way / (way @ way)) for point in points]
    length = float(np.linalg.norm(way))
    aside = float(np.linalg.norm(middle - start - along[len(points) // 2] * way)) / length
    between = max(np.linalg.norm(middle - start), np.linalg.norm(middle - end)) < length
    return Morph(score, first, second, tuple(along), aside, bool(between))


def play_part(subject: Subject, name: str, which: Sequence[float]) -> Any:
    """What a method of Evaluator finds; in a process of its own."""
    return getattr(Evaluator.of(subject), name)(*which)


def evaluate(subject: Subject, command: str, workers: int = 1) -> Uses:
    """Run a whole plan, the long parts first."""
    known = Evaluator.of(subject).prompts  # opens the judge too, before several want to make it
    rollouts = [(program, repeats) for program in subject.plan.programs for repeats in (0.0, REPEATS)]
    jams = [(lag, program) for lag in VISIBLE for program in COMPANIONS if program in known]
    parts: list[tuple[str, tuple[float, ...]]] = [*(("rollout", one) for one in rollouts), *(("jam", one) for one in jams)]
    parts += [(name, ()) for name in ("changes", "morphs", "strays", "bands")]
    with pool(workers) as processes:
        jobs = {part: processes.submit(play_part, subject, *part) for part in parts}
        found = {part: job.result() for part, job in track(jobs.items(), description="other uses")}
    result = Uses(command, subject.seed, *(found[name, ()] for name in ("changes", "morphs", "strays")))
    result.jams.append(everyone(found["bands", ()]).agreement(TRUE, 1, subject.seed))
    for lag, visible in VISIBLE.items():
        made = {program: found["jam", (lag, program)] for _, program in jams[: len(jams) // len(VISIBLE)]}
        result.jams.append(everyone(made).agreement(ALL, visible, subject.seed))
        result.jams += [one.agreement(name_of(program), visible, subject.seed, program != DRUMS) for program, one in made.items()]
    result.rollouts = {
        f"{name_of(program)}, {f'repeats {repeats:.0%}' if repeats else 'frozen'}": found["rollout", (program, repeats)]
        for program, repeats in rollouts
    }
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m engines.train.uses", description="Evaluate the other uses of an engine.")
    parser.add_argument("engine", help="path of a bundle")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/evaluation"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few short clips: a look, not a figure to quote")
    parser.add_argument("--takes", type=int, default=Plan.takes, help="of each jam; they differ in their noise")
    parser.add_argument("--workers", type=int, default=1, help="processes; what they find is the same")
    args = parser.parse_args(arguments)
    options = " --quick" * args.quick + f" --takes {args.takes}" * (args.takes != Plan.takes)
    command = f"{parser.prog} {args.engine} --data {args.data} --out {args.out} --seed {args.seed}{options}"
    subject = Subject(args.engine, args.data, QUICK if args.quick else Plan(takes=args.takes), args.seed)
    result = evaluate(subject, command, args.workers)
    for path in write(result, args.out):
        print(path)


if __name__ == "__main__":
    main()
