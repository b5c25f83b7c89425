"""A short pretraining run on random data, as a program of its own: what torchrun starts, and what a test compares it with.

    python -m tests.train.runs OUT STEPS ACCUMULATE PRECISION
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from engines.lmdm.config import PRESETS, SKETCH_CHANNELS
from engines.lmdm.model import LMDM
from engines.train import checkpoint, distributed
from engines.train.distributed import ALONE, World
from engines.train.imagined import Imagined
from engines.train.pretrain import Recipe, Trainer

SMALL = replace(PRESETS["tiny"], sketch_channels=SKETCH_CHANNELS)
RECIPE = Recipe(steps=8, batch=2, blocks=5, warm_up_steps=2, own_context=0.5, own_from=2)


def trainer(out: Path, world: World = ALONE, recipe: Recipe = RECIPE) -> Trainer:
    torch.manual_seed(world.rank)  # only the first process's weights count
    made = Trainer(LMDM(SMALL), recipe, Imagined(SMALL), out, world)
    made.resume()
    return made


def train(out: Path, steps: int, world: World = ALONE) -> list[float]:
    """Go on to step `steps`, save -> losses."""
    running = trainer(out, world)
    losses = [running.train_step() for _ in range(steps - running.step)]
    if world.first:
        running.save()
    return losses


def main() -> None:
    out, steps, accumulate, precision = sys.argv[1:]
    options = ["--accumulate", accumulate, "--precision", precision, "--device", "cpu"]
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    world = distributed.join(parser.parse_args(options))
    losses = train(Path(out), int(steps), world)
    if world.first:
        checkpoint.save(Path(out).with_suffix(".losses"), {"losses": losses})
    distributed.leave(world)
    left = [name for task in Path("/proc/self/task").iterdir() if "gloo" in (name := (task / "comm").read_text())]
    assert not left, f"{left} would race with the interpreter's end"


if __name__ == "__main__":
    main()
