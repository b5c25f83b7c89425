"""Evaluate an engine: what a player would hear, against what it should be, beside baselines.

    python -m engines.train.evaluate engines/bundles/reference.ghost --data build/data --out docs/evaluation

The engine is opened as a pedal opens it and fed block by block; its answer is compared with the player (notes), with the same
music played by the instrument that was asked for (notes, log-mel, timbre), and with itself ten minutes later. Written to `--out`:
evaluation.md, evaluation.png and evaluation.json. Everything follows from the seed; one thread.

Runs in: training, offline.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from engines.bundle import open_engine
from engines.engine import Engine, EngineControls
from engines.lmdm.stream import StreamingEngine
from engines.train import clips, codec_check, metrics, timbre
from engines.train.instruments import HELD_OUT, TARGETS, held_out_phrases, name_of
from engines.train.notes import Activations, NoteDetector, note_f
from engines.train.report import SYSTEMS, Evaluation, Example, Row, Silence, TripRow, write

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """How much is evaluated."""

    scores: int = 8
    seconds: float = 30.0
    instruments: tuple[int, ...] = tuple(TARGETS)
    real_seconds: float = 20.0
    real_instruments: int = 4  # per recording; they take turns
    drift_minutes: int = 10
    drift_instruments: tuple[int, ...] = (48, 89)
    silence_seconds: float = 20.0
    sweep_scores: int = 2
    sweep_steps: tuple[int, ...] = (1, 2, 4, 8)


QUICK = Plan(
    scores=2, seconds=10.0, instruments=tuple(TARGETS)[:4], real_seconds=8.0, real_instruments=1, drift_minutes=2,
    drift_instruments=(48,), silence_seconds=8.0, sweep_scores=1,
)


@dataclass
class Player:
    """Feeds an engine as the worker does, with no pedal around it, and takes the time of every block."""

    engine: Engine
    steps: int
    seed: int
    block_ms: list[float] = field(default_factory=list)  # CPU time

    def prompts(self) -> dict[int, int]:
        """Instrument -> index of the prompt that asks for it by name. An engine that knows none is asked for all, by prompt 0."""
        known = {p: self.engine.spec.prompts.index(name_of(p)) for p in TARGETS if name_of(p) in self.engine.spec.prompts}
        return known or dict.fromkeys(TARGETS, 0)

    def unseen_wordings(self) -> dict[int, int]:
        """The same for a phrase of each instrument that was held out from training, as far as the engine has it."""
        prompts = self.engine.spec.prompts
        wordings = {p: held_out_phrases(p)[index % HELD_OUT] for index, p in enumerate(TARGETS)}
        return {p: prompts.index(words) for p, words in wordings.items() if words in prompts}

    def answer(self, heard: Samples, prompt: int) -> Samples:
        """The engine's answer to all of `heard`, aligned to it to the sample."""
        spec = self.engine.spec
        self.engine.reset(self.seed)
        blocks = math.ceil((len(heard) + spec.codec_delay_frames) / spec.block_frames)
        padded = np.zeros(blocks * spec.block_frames, np.float32)
        padded[: len(heard)] = heard
        wet = []
        for block in padded.reshape(blocks, spec.block_frames):
            began = time.process_time_ns()
            wet.append(self.engine.generate(block, EngineControls(prompt, self.steps)))
            self.block_ms.append((time.process_time_ns() - began) / 1e6)
        return np.concatenate(wet)[spec.codec_delay_frames :][: len(heard)]


@dataclass(frozen=True)
class Heard:
    """A signal, as the judges hear it."""

    mel: Tensor  # (T, 512)
    notes: Activations | None  # none for a signal that exists as a spectrum only


@dataclass(frozen=True)
class Ears:
    """The two judges."""

    judge: timbre.Judge
    detector: NoteDetector

    def hear(self, audio: Samples) -> Heard:
        return Heard(self.judge.log_mel(audio), self.detector.notes(audio, clips.SAMPLE_RATE))

    def timbre(self, heard: Heard, program: int, active: Tensor) -> float:
        """Share of the active windows in which the asked instrument is heard."""
        classes = self.judge.hear(heard.mel)[: len(active)]
        return float((classes == timbre.CLASSES.index(program))[active[: len(classes)]].float().mean())


@dataclass(frozen=True)
class Case:
    """One guitar part, the instrument asked for, and what it should have become."""

    split: str
    score: str
    guitar: int
    program: int
    player: Heard
    truth: Heard

    def row(self, ears: Ears, system: str, heard: Heard) -> Row:
        with_notes = heard.notes is not None and self.player.notes is not None and self.truth.notes is not None
        return Row(
            self.split, self.score, name_of(self.program), name_of(self.guitar), system,
            note_player=note_f(self.player.notes, heard.notes) if with_notes else math.nan,
            note_target=note_f(self.truth.notes, heard.notes) if with_notes else math.nan,
            timbre=ears.timbre(heard, self.program, timbre.loud(self.truth.mel)),
            mel_db=metrics.mel_error_db(heard.mel, self.truth.mel),
        )


@dataclass
class Evaluator:
    """Runs every part of a plan; see `evaluate`."""

    plan: Plan
    player: Player
    ears: Ears
    trip: codec_check.RoundTrip | None
    result: Evaluation
    embeddings: dict[tuple[str, str], list[NDArray[np.float64]]] = field(default_factory=dict)  # by split and system

    def split(self, data: Path, split: str) -> None:
        """Unseen scores: the engine, the baselines, and the ceilings."""
        scores = clips.scores(data, split, self.plan.scores, self.plan.seconds)
        prompts = {p: i for p, i in self.player.prompts().items() if p in self.plan.instruments}
        cases: dict[tuple[int, str], tuple[Case, Heard]] = {}
        work = [(score, turn, program) for score in scores for turn, program in enumerate(prompts)]
        for score, turn, program in track(work, description=f"{split} scores"):
            case, answer = self._case(split, score, turn, program, prompts[program])
            cases[program, score.name] = case, answer
            self._baselines(case, answer, score.targets[program])
        self._shuffled(cases, prompts)
        true = self._embedded(split, "true target")
        self.result.frechet |= {(split, system): metrics.frechet(self._embedded(split, system), true) for system in SYSTEMS}

    def _embedded(self, split: str, system: str) -> NDArray[np.float64]:
        """The judge's embeddings of all loud windows of a system, (rows, 64)."""
        rows = self.embeddings.get((split, system), [])
        return np.concatenate(rows) if rows else np.zeros((0, 64))

    def _judge(self, case: Case, system: str, heard: Heard) -> None:
        """One signal into the result, as a row and as embeddings."""
        self.result.rows.append(case.row(self.ears, system, heard))
        loud = timbre.loud(case.truth.mel)
        windows = self.ears.judge.embed(heard.mel)[: len(loud)]
        self.embeddings.setdefault((case.split, system), []).append(windows[loud[: len(windows)]].double().numpy())

    def _case(self, split: str, score: clips.Score, turn: int, program: int, prompt: int) -> tuple[Case, Heard]:
        guitar = score.guitar(turn)
        played, truth = score.inputs[guitar], score.targets[program]
        case = Case(split, score.name, guitar, program, self.ears.hear(played), self.ears.hear(truth))
        answer = self.ears.hear(self.player.answer(played, prompt))
        unseen = self.player.unseen_wordings()
        if program in unseen:
            again = self.ears.hear(self.player.answer(played, unseen[program]))
            self._judge(case, "engine, unseen wording", again)
        if self.result.example is None:
            self.result.example = Example(name_of(guitar), name_of(program), case.player.mel, answer.mel, case.truth.mel)
        return case, answer

    def _baselines(self, case: Case, answer: Heard, truth: Samples) -> None:
        mean = self.ears.judge.mean_mel[timbre.CLASSES.index(case.program)].expand(len(case.truth.mel), -1)
        systems = {"engine": answer, "true target": case.truth, "copy of the input": case.player, "mean spectrum": Heard(mean, None)}
        if self.trip:
            systems["true target through the codec"] = self.ears.hear(self.trip(truth))
        for system, heard in systems.items():
            self._judge(case, system, heard)

    def _shuffled(self, cases: dict[tuple[int, str], tuple[Case, Heard]], programs: Iterable[int]) -> None:
        """The same prompt, but the answer to another score: what following nobody would give."""
        for program in programs:
            pairs = [pair for (p, _), pair in cases.items() if p == program]
            for (case, own), (_, other) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
                if other is not own:
                    self._judge(case, "shuffled conditioning", other)

    def sweep(self, data: Path) -> None:
        """The same clips at other numbers of denoising steps."""
        engine = self.player.engine
        prompts = {p: i for p, i in self.player.prompts().items() if p in self.plan.instruments}
        scores = clips.scores(data, "val", self.plan.sweep_scores, self.plan.seconds)
        wanted = [steps for steps in self.plan.sweep_steps if steps <= engine.spec.max_steps]
        work = [(steps, score, turn, program) for steps in wanted for score in scores for turn, program in enumerate(prompts)]
        for steps, score, turn, program in track(work, description="denoising steps"):
            player = Player(engine, steps, self.player.seed)
            played, truth = (self.ears.hear(audio) for audio in (score.inputs[score.guitar(turn)], score.targets[program]))
            case = Case("steps", score.name, score.guitar(turn), program, played, truth)
            answer = self.ears.hear(player.answer(score.inputs[score.guitar(turn)], prompts[program]))
            self.result.rows.append(case.row(self.ears, str(steps), answer))
            self.result.steps_ms.setdefault(str(steps), []).extend(player.block_ms)

    def real(self) -> None:
        """Real guitars: no true target, so notes against the player, and timbre."""
        prompts = list(self.player.prompts().items())
        work = [
            (clip, *prompts[(index + turn * len(prompts) // self.plan.real_instruments) % len(prompts)])
            for index, clip in enumerate(clips.real_guitars(self.plan.real_seconds))
            for turn in range(self.plan.real_instruments)
        ]
        for clip, program, prompt in track(work, description="real guitar"):
            played, answer = self.ears.hear(clip.audio), self.ears.hear(self.player.answer(clip.audio, prompt))
            assert played.notes is not None and answer.notes is not None
            share = self.ears.timbre(answer, program, timbre.loud(played.mel))
            row = Row(
                f"real, {clip.kind}", clip.name, name_of(program), "real guitar", "engine",
                note_f(played.notes, answer.notes), math.nan, share, math.nan,
            )
            self.result.rows.append(row)

    def drift(self, data: Path) -> None:
        """One excerpt, played over and over: any change from minute to minute is the engine's."""
        score = clips.scores(data, "val", 1, 30.0)[0]
        seconds = 60 * self.plan.drift_minutes
        prompts = self.player.prompts()
        wanted = [program for program in self.plan.drift_instruments if program in prompts]
        for program in track(wanted, description=f"{self.plan.drift_minutes} minutes"):
            played, truth = (np.resize(a, seconds * clips.SAMPLE_RATE) for a in (score.inputs[score.guitar(0)], score.targets[program]))
            made = self.ears.judge.log_mel(self.player.answer(played, prompts[program]))
            self.result.drift[name_of(program)] = metrics.minutes(made, self.ears.judge.log_mel(truth))

    def silence(self, data: Path) -> None:
        """Nothing in: nothing out, from the start and after having played."""
        quiet = np.zeros(int(self.plan.silence_seconds * clips.SAMPLE_RATE), np.float32)
        score = clips.scores(data, "val", 1, 10.0)[0]
        music = score.inputs[score.guitar(0)]
        for program, prompt in track(list(self.player.prompts().items()), description="silence"):
            if program not in self.plan.instruments:
                continue
            fresh = self.player.answer(quiet, prompt)
            after = self.player.answer(np.concatenate([music, quiet]), prompt)[-len(quiet) // 2 :]
            loudest = (metrics.loudest_second_db(audio, clips.SAMPLE_RATE) for audio in (fresh, after))
            self.result.silence.append(Silence(name_of(program), *loudest))

    def codec(self, data: Path) -> None:
        """The codec alone, on the kinds of sound that it must carry."""
        if self.trip is None:
            return
        seconds = min(15.0, self.plan.seconds)
        wanted = (("val", 27), ("val", 48), ("val", 11), ("val", 89), ("cross", 30))
        loaded = {split: clips.scores(data, split, 3, seconds) for split in ("val", "cross")}
        sounds: dict[str, Samples] = {}
        for split, program in wanted:
            having = [{**s.inputs, **s.targets}[program] for s in loaded[split] if program in {**s.inputs, **s.targets}]
            sounds |= {f"{name_of(program)} ({split})": having[0]} if having else {}
        sounds |= {f"{c.name} (real)": c.audio for c in clips.real_guitars(seconds) if len(c.audio) > 9 * clips.SAMPLE_RATE}
        for name, audio in track(sounds.items(), description="codec"):
            self.result.codec.append(self._round_trip(name, audio, self.trip))

    def _round_trip(self, name: str, audio: Samples, trip: codec_check.RoundTrip) -> TripRow:
        made = trip(audio)
        before, after = self.ears.hear(audio), self.ears.hear(made)
        assert before.notes is not None and after.notes is not None
        rough, hop = codec_check.rough_and_hop_db(audio, made)
        edge = codec_check.edge(audio, made, trip.delay_frames, trip.block_frames)
        return TripRow(name, metrics.mel_error_db(after.mel, before.mel), note_f(before.notes, after.notes), rough, hop, edge)


def evaluate(address: str, data: Path, plan: Plan, player: Player, codec: Path | None, command: str) -> Evaluation:
    """Run a whole plan."""
    judge, accuracy = timbre.open_judge(data, data.parent / "judge.pt")
    cross = timbre.accuracy(judge, data, "cross")
    engine = player.engine
    trip = codec_check.RoundTrip.of_engine(engine) if isinstance(engine, StreamingEngine) else None
    if trip is None and codec is not None:
        trip = codec_check.RoundTrip.of_checkpoint(codec)
    result = Evaluation(address, engine.spec, player.steps or engine.spec.steps, player.seed, command, accuracy, cross)
    run = Evaluator(plan, player, Ears(judge, NoteDetector.open()), trip, result)
    run.codec(data)
    run.split(data, "val")
    run.split(data, "cross")
    run.sweep(data)
    run.real()
    run.silence(data)
    run.drift(data)
    result.block_ms = player.block_ms
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m engines.train.evaluate", description="Evaluate an engine.")
    parser.add_argument("engine", help="path of a bundle, or echo")
    parser.add_argument("--data", type=Path, default=Path("build/data"), help="the corpus that engines.train.data rendered")
    parser.add_argument("--out", type=Path, default=Path("docs/evaluation"))
    parser.add_argument("--steps", type=int, default=0, help="denoising steps; 0 is the engine's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", type=Path, help="codec checkpoint, for engines that have none of their own")
    parser.add_argument("--scores", type=int, default=Plan.scores, help="unseen scores of each split")
    parser.add_argument("--quick", action="store_true", help="a few short clips: a look, not a figure to quote")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options = [f"--steps {args.steps}"] * bool(args.steps) + ["--quick"] * args.quick
    options += [f"--scores {args.scores}"] * (args.scores != Plan.scores)
    command = " ".join([parser.prog, args.engine, f"--data {args.data} --out {args.out} --seed {args.seed}", *options])
    player = Player(open_engine(args.engine), args.steps, args.seed)
    plan = QUICK if args.quick else replace(Plan(), scores=args.scores, sweep_scores=min(Plan.sweep_scores, args.scores // 2))
    result = evaluate(args.engine, args.data, plan, player, args.codec, command)
    for path in write(result, args.out):
        print(path)


if __name__ == "__main__":
    main()
