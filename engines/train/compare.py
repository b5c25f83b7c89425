"""Compare engines, each at several numbers of denoising steps, on the same clips and prompts.

    python -m engines.train.compare build/base.ghost build/arc.ghost --steps 1 2 4 8 --data build/data --out docs/evaluation --title arc

The first engine is what the others are compared with, score by score: differences are paired, so that what the scores themselves do to all
engines cancels out. An engine that was trained by plain regression has one step, whatever is asked. Written to `--out`: TITLE.md, .json
and .png. Everything follows from the seed; one thread.

Runs in: evaluation, offline.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from engines.bundle import open_engine
from engines.engine import Engine
from engines.lmdm.stream import StreamingEngine
from engines.train import clips, metrics, timbre
from engines.train.audition import Case, Ears, Player
from engines.train.compare_page import write
from engines.train.notes import NoteDetector
from engines.train.report import Row, by_score

SPLIT, TRUTH = "val", "true target"
SECONDS = 24.0  # four contexts long: an engine must live with what it made itself
INSTRUMENTS_PER_SCORE = 4  # they take turns
Embeddings = dict[str, list[NDArray[np.float64]]]  # by score


@dataclass(frozen=True)
class System:
    """One engine at one number of denoising steps."""

    engine: str
    steps: int
    regression: bool = False

    @property
    def name(self) -> str:
        return f"{self.engine}, {'regression' if self.regression else f'{self.steps} steps' if self.steps != 1 else '1 step'}"


@dataclass
class Comparison:
    """Everything that was measured."""

    title: str
    command: str
    seed: int
    judge_accuracy: float
    systems: list[System] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    embeddings: dict[str, Embeddings] = field(default_factory=dict)  # by system
    block_ms: dict[str, list[float]] = field(default_factory=dict)  # CPU time, by system

    def groups(self, system: str, measure: str) -> dict[str, list[float]]:
        """Values by score; of the Fréchet distance what each score contributes to it."""
        if measure != "frechet":
            return by_score(self.rows, measure, system=system)
        made, wanted = ({s: np.concatenate(rows) for s, rows in self.embeddings[which].items()} for which in (system, TRUTH))
        return {score: [value] for score, value in metrics.pseudo_frechet(made, wanted).items()}

    def value(self, system: str, measure: str) -> metrics.Interval:
        return metrics.interval(self.groups(system, measure), self.seed)

    def against(self, system: System) -> System | None:
        """What a system is compared with: the first engine at as many steps, or at its own choice; None for itself."""
        first = [one for one in self.systems if one.engine == self.systems[0].engine]
        same = next((one for one in first if one.steps == system.steps and one is not system), None)
        return same or (first[0] if system is not first[0] else None)

    def difference(self, system: System, other: System, measure: str) -> metrics.Interval:
        return metrics.difference(self.groups(system.name, measure), self.groups(other.name, measure))


def systems_of(label: str, engine: Engine, steps: Sequence[int]) -> list[System]:
    """Its own number of steps first, then those that are asked for, as far as it can."""
    own = engine.spec.steps
    if isinstance(engine, StreamingEngine) and engine.facts.regression:
        return [System(label, own, regression=True)]
    wanted = [count for count in steps if 0 < count <= engine.spec.max_steps]
    return [System(label, count) for count in sorted(set(wanted) or {own}, key=lambda count: (count != own, count))]


@dataclass(frozen=True)
class Work:
    """One clip: a score's guitar, and the instrument that is asked for."""

    case: Case
    score: clips.Score


def clips_of(ears: Ears, data: Path, scores: int, programs: Sequence[int], seconds: float) -> list[Work]:
    """Every system plays these; guitars and instruments take turns."""
    found = []
    each = min(INSTRUMENTS_PER_SCORE, len(programs))
    for index, score in enumerate(track(clips.scores(data, SPLIT, scores, seconds), description="true targets")):
        for turn in range(index * each, (index + 1) * each):
            found.append(Work(Case.of(ears, SPLIT, score, turn, programs[turn % len(programs)]), score))
    return found


def judge(result: Comparison, ears: Ears, case: Case, name: str, audio: NDArray[np.float32] | None) -> None:
    """One answer (none: the true target itself) into the result."""
    heard = case.truth if audio is None else ears.hear(audio)
    result.rows.append(case.row(ears, name, heard))
    result.embeddings.setdefault(name, {}).setdefault(case.score, []).append(ears.embed(heard.mel, case.truth.mel))


def compare(result: Comparison, ears: Ears, engines: dict[str, Engine], steps: Sequence[int], work: Sequence[Work]) -> Comparison:
    """Every engine at every number of steps plays all clips."""
    for one in work:
        judge(result, ears, one.case, TRUTH, None)
    for label, engine in engines.items():
        for system in systems_of(label, engine, steps):
            result.systems.append(system)
            player = Player(engine, system.steps, result.seed)
            prompts = player.targets()
            for one in track(work, description=system.name):
                answer = player.answer(one.score.inputs[one.case.guitar], prompts[one.case.program])
                judge(result, ears, one.case, system.name, answer)
            result.block_ms[system.name] = player.block_ms
    return result


def labels(addresses: Sequence[str]) -> list[str]:
    """Short names of engines: of their files, or of files and folders where two files are called alike."""
    stems = [Path(address).stem for address in addresses]
    return stems if len(set(stems)) == len(stems) else [str(Path(address).with_suffix("")) for address in addresses]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m engines.train.compare", description="Compare engines on the same clips.")
    parser.add_argument("engines", nargs="+", help="paths of bundles; the others are compared with the first")
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="numbers of denoising steps; none: each engine's own")
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/evaluation"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scores", type=int, default=8, help="unseen scores, two at least; four clips of each")
    parser.add_argument("--title", help="name of the files that are written; the first engine's where not given")
    args = parser.parse_args(arguments)
    if len(set(args.engines)) < len(args.engines) or args.scores < 2:
        sys.exit("name each engine once, its numbers of steps with --steps, and at least two scores: differences are told from scatter")
    torch.set_num_threads(1)
    judging, accuracy = timbre.open_judge(args.data, args.data.parent / "judge.pt")
    ears, engines = Ears(judging, NoteDetector.open()), dict(zip(labels(args.engines), map(open_engine, args.engines), strict=True))
    known = [Player(engine, 0, 0).targets() for engine in engines.values()]
    programs = [program for program in known[0] if all(program in one for one in known)]
    if not programs:
        sys.exit("these engines know no instrument in common: nothing can be asked of all of them")
    options = [f"--steps {' '.join(map(str, args.steps))}"] * bool(args.steps) + [f"--title {args.title}"] * bool(args.title)
    command = [parser.prog, *args.engines, f"--data {args.data} --out {args.out} --seed {args.seed} --scores {args.scores}", *options]
    result = Comparison(args.title or Path(args.engines[0]).stem, " ".join(command), args.seed, accuracy)
    compare(result, ears, engines, args.steps, clips_of(ears, args.data, args.scores, programs, SECONDS))
    for path in write(result, args.out):
        print(path)


if __name__ == "__main__":
    main()
