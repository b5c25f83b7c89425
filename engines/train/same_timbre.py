"""Is the instrument that was asked for heard as often in float16 as in float32? One engine, and the same with a GPU's roundings.

    python -m engines.train.same_timbre engines/bundles/reference.ghost --data build/data

The judge of timbre hears both engines' answers to the same guitars; its accuracy is the share of loud windows of one second in which it
hears the instrument that was asked for. Exit code 1 where the two differ by more than a point.

Runs in: evaluation, offline; needs the corpus.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from engines.bundle import Bundle, open_engine
from engines.export.precision import Style, rewrite
from engines.train import clips, timbre
from engines.train.audition import Player
from engines.train.instruments import name_of

TOLERANCE = 0.01


def verdicts(player: Player, judge: timbre.Judge, scores: list[clips.Score]) -> Iterator[Tensor]:
    """Per answer: in which loud windows the judge hears what was asked for (B,)."""
    work = [(score, turn, program) for score in scores for turn, program in enumerate(player.targets()) if program in score.targets]
    for score, turn, program in track(work, "answers"):
        answer = player.answer(score.inputs[score.guitar(turn)], player.prompts()[program])
        yield judge.verdicts(judge.log_mel(answer), program, judge.log_mel(score.targets[program]))


def main() -> int:
    parser = argparse.ArgumentParser(description="Timbre accuracy of an engine in float32 and in float16.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, default=Path("build/data"))
    parser.add_argument("--scores", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge, trusted = timbre.open_judge(args.data, args.data.parent / "judge.pt")
    scores = clips.scores(args.data, "val", args.scores, args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        rounded = rewrite(Bundle.open(args.bundle), Style.ROUNDED, Path(folder, "rounded.ghost"))
        wide, narrow = (
            torch.cat(list(verdicts(Player(open_engine(str(path)), 0, 0), judge, scores))) for path in (args.bundle, rounded.path)
        )
    names = ", ".join(sorted({name_of(program) for score in scores for program in score.targets}))
    before, after, alike = (float(share.float().mean()) for share in (wide, narrow, wide == narrow))
    print(f"timbre accuracy over {len(wide)} windows ({names}): float32 {before:.4f}, float16 {after:.4f}")
    print(f"the judge is right about {trusted:.3f} of true renderings; its verdicts on the two agree in {alike:.4f}")
    return 0 if abs(before - after) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
