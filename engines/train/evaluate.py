"""Evaluate an engine: what a player would hear, against what it should be, beside baselines.

    python -m engines.train.evaluate engines/bundles/reference.ghost --data build/data --out docs/evaluation

The engine is opened as a pedal opens it and fed block by block; its answer is compared with the player (notes), with the same
music played by the instrument that was asked for (notes, log-mel, timbre), and with itself ten minutes later. Written to `--out`:
evaluation.md, evaluation.png and evaluation.json. Everything follows from the seed; one thread.

Runs in: training, offline.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from engines.bundle import open_engine
from engines.lmdm.stream import StreamingEngine
from engines.train import clips, metrics, timbre
from engines.train.audition import Case, Ears, Heard, Player
from engines.train.codec_check import RoundTrip
from engines.train.data import play_plain
from engines.train.instruments import TARGETS, name_of
from engines.train.notes import NoteDetector, transcribed
from engines.train.report import REAL_GUITAR, SYSTEMS, TRANSCRIBED, UNSEEN, Evaluation, Example, Row, Silence, write

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
    drift_instruments: tuple[int, ...] = (48, 11)  # one that holds its notes, one that lets them ring
    silence_seconds: float = 20.0
    takes: int = 3  # of real guitars and of long rollouts, with other noise


QUICK = Plan(
    scores=2, seconds=10.0, instruments=tuple(TARGETS)[:4], real_seconds=8.0, real_instruments=1,
    drift_minutes=2, drift_instruments=(48,), silence_seconds=8.0, takes=1,
)


@dataclass
class Evaluator:
    """Runs every part of a plan; see `evaluate`."""

    plan: Plan
    player: Player
    ears: Ears
    result: Evaluation
    embeddings: dict[tuple[str, str], list[NDArray[np.float64]]] = field(default_factory=dict)  # by split and system

    def __post_init__(self) -> None:
        engine = self.player.engine
        self.trip = RoundTrip.of_engine(engine) if isinstance(engine, StreamingEngine) else None
        self.prompts = {p: i for p, i in self.player.targets().items() if p in self.plan.instruments}

    def split(self, data: Path, split: str) -> None:
        """Unseen scores: the engine, the baselines, and the ceilings."""
        scores = clips.scores(data, split, self.plan.scores, self.plan.seconds)
        cases: dict[tuple[int, str], tuple[Case, Heard]] = {}
        work = [(which, score, turn, program) for which, score in enumerate(scores) for turn, program in enumerate(self.prompts)]
        for which, score, turn, program in track(work, description=f"{split} scores"):
            case = Case.of(self.ears, split, score, turn, program)
            played = score.inputs[case.guitar]
            answer = self.ears.hear(self.player.answer(played, self.prompts[program]))
            cases[program, score.name] = case, answer
            self._baselines(case, answer, score.targets[program])
            self._unseen_wording(case, played, which)
        self._shuffled(cases, self.prompts)
        true = self._embedded(split, "true target")
        self.result.frechet |= {(split, system): metrics.frechet(self._embedded(split, system), true) for system in SYSTEMS}

    def _embedded(self, split: str, system: str) -> NDArray[np.float64]:
        """The judge's embeddings of all loud windows of a system, (rows, 64)."""
        rows = self.embeddings.get((split, system), [])
        return np.concatenate(rows) if rows else np.zeros((0, 64))

    def _judge(self, case: Case, system: str, heard: Heard) -> None:
        """One signal into the result, as a row and as embeddings."""
        self.result.rows.append(case.row(self.ears, system, heard))
        self.embeddings.setdefault((case.split, system), []).append(self.ears.embed(heard.mel, case.truth.mel))

    def _unseen_wording(self, case: Case, played: Samples, turn: int) -> None:
        """The same, asked for in words that were held out from training; they take turns."""
        wordings = self.player.unseen_wordings().get(case.program)
        if wordings:
            self._judge(case, UNSEEN, self.ears.hear(self.player.answer(played, wordings[turn % len(wordings)])))

    def _baselines(self, case: Case, answer: Heard, truth: Samples) -> None:
        mean = self.ears.judge.mean_mel[timbre.CLASSES.index(case.program)].expand(len(case.truth.mel), -1)
        systems = {"engine": answer, "true target": case.truth, "copy of the input": case.player, "mean spectrum": Heard(mean, None)}
        if self.trip:
            systems["true target through the codec"] = self.ears.hear(self.trip(truth))
        for system, heard in systems.items():
            self._judge(case, system, heard)
        if self.result.example is None:
            self.result.example = Example(name_of(case.guitar), name_of(case.program), case.player.mel, answer.mel, case.truth.mel)

    def _shuffled(self, cases: dict[tuple[int, str], tuple[Case, Heard]], programs: Iterable[int]) -> None:
        """The same prompt, but the answer to another score: what following nobody would give."""
        for program in programs:
            pairs = [pair for (p, _), pair in cases.items() if p == program]
            for (case, own), (_, other) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
                if other is not own:
                    self._judge(case, "shuffled conditioning", other)

    def real(self) -> None:
        """Real guitars: no true target, so notes against the player, and timbre. What a true instrument could reach: it plays each note
        that the judge of notes hears of the guitar."""
        prompts, turns = list(self.player.targets().items()), self.plan.real_instruments
        work = [
            (clip, *prompts[(index + turn * len(prompts) // turns) % len(prompts)])
            for index, clip in enumerate(clips.real_guitars(self.plan.real_seconds))
            for turn in range(turns)
        ]
        for clip, program, prompt in track(work, description="real guitar"):
            played = self.ears.hear(clip.audio)
            answers = [("engine", take.answer(clip.audio, prompt)) for take in self._takes()]
            answers += [(TRANSCRIBED, audio) for audio in self._transcribed(clip.audio, played, program)]
            for system, heard in ((system, self.ears.hear(audio)) for system, audio in answers):
                self.result.rows.append(Row(
                    f"{REAL_GUITAR}, {clip.kind}", clip.name, name_of(program), "real guitar", system,
                    note_player=self.ears.follows(played, heard), note_target=np.nan,
                    timbre=self.ears.timbre(heard.mel, program, played.mel), mel_db=np.nan,
                ))

    def _takes(self) -> list[Player]:
        """They differ in their noise only."""
        return [replace(self.player, seed=self.player.seed + take) for take in range(self.plan.takes)]

    @staticmethod
    def _transcribed(audio: Samples, played: Heard, program: int) -> list[Samples]:
        """None where no soundfont is installed."""
        assert played.notes is not None
        made = play_plain(transcribed(played.notes), program, len(audio) / clips.SAMPLE_RATE)
        return [] if made is None else [made]

    def drift(self, data: Path) -> None:
        """One excerpt, played over and over: any change from minute to minute is the engine's."""
        score = clips.scores(data, "val", 1, 30.0)[0]
        seconds = 60 * self.plan.drift_minutes
        prompts = self.player.targets()
        wanted = [program for program in self.plan.drift_instruments if program in prompts]
        for program in track(wanted, description=f"{self.plan.drift_minutes} minutes"):
            played, truth = (np.resize(a, seconds * clips.SAMPLE_RATE) for a in (score.inputs[score.guitar(0)], score.targets[program]))
            wanted_mel = self.ears.judge.log_mel(truth)
            answers = (take.answer(played, prompts[program]) for take in self._takes())
            takes = [metrics.minutes(self.ears.judge.log_mel(made), wanted_mel) for made in answers]
            self.result.drift[name_of(program)] = metrics.mean_take(takes)

    def silence(self, data: Path) -> None:
        """Nothing in: nothing out, from the start and after having played."""
        quiet = np.zeros(int(self.plan.silence_seconds * clips.SAMPLE_RATE), np.float32)
        score = clips.scores(data, "val", 1, 10.0)[0]
        music = score.inputs[score.guitar(0)]
        for program, prompt in track(self.prompts.items(), description="silence"):
            fresh = self.player.answer(quiet, prompt)
            after = self.player.answer(np.concatenate([music, quiet]), prompt)[-len(quiet) // 2 :]
            loudest = (metrics.loudest_second_db(audio, clips.SAMPLE_RATE) for audio in (fresh, after))
            self.result.silence.append(Silence(name_of(program), *loudest))


def evaluate(address: str, data: Path, plan: Plan, player: Player, command: str) -> Evaluation:
    """Run a whole plan."""
    judge, accuracy = timbre.open_judge(data, data.parent / "judge.pt")
    cross = timbre.accuracy(judge, data, "cross")
    spec = player.engine.spec
    result = Evaluation(address, spec, player.steps or spec.steps, player.seed, command, accuracy, cross)
    run = Evaluator(plan, player, Ears(judge, NoteDetector.open()), result)
    run.split(data, "val")
    run.split(data, "cross")
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
    parser.add_argument("--scores", type=int, default=Plan.scores, help="unseen scores of each split")
    parser.add_argument("--quick", action="store_true", help="a few short clips: a look, not a figure to quote")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options = [f"--steps {args.steps}"] * bool(args.steps) + ["--quick"] * args.quick
    options += [f"--scores {args.scores}"] * (args.scores != Plan.scores)
    command = " ".join([parser.prog, args.engine, f"--data {args.data} --out {args.out} --seed {args.seed}", *options])
    player = Player(open_engine(args.engine), args.steps, args.seed)
    plan = QUICK if args.quick else replace(Plan(), scores=args.scores)
    result = evaluate(args.engine, args.data, plan, player, command)
    for path in write(result, args.out):
        print(path)


if __name__ == "__main__":
    main()
