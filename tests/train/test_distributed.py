"""Nothing but time depends on how many processes train, how they divide a step, or how often a run is interrupted."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.lmdm.model import LMDM
from engines.train import checkpoint, distributed, pretrain
from engines.train.distributed import ALONE, Precision, World
from engines.train.imagined import Imagined
from engines.train.packing import Packed, pack
from engines.train.pretrain import loss_of
from tests.train.runs import RECIPE, SMALL, train, trainer

REPO = Path(__file__).parents[2]
ALONE_FP32 = World(precision=Precision.FP32)


def under_torchrun(out: Path, processes: int, *arguments: str) -> None:
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-m", *launch, "-m", "tests.train.runs", str(out), *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def same(a: Path, b: Path, tolerance: float) -> None:
    first, second = checkpoint.load(a), checkpoint.load(b)
    for part in ("model", "average"):
        torch.testing.assert_close(first[part], second[part], atol=tolerance, rtol=0)


def identical(a: Path, b: Path) -> None:
    """Weights, average and the optimiser's state, to the last bit."""
    first, second = checkpoint.load(a), checkpoint.load(b)
    for part in ("model", "average", "optimiser", "step"):
        torch.testing.assert_close(first[part], second[part], atol=0, rtol=0)


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """torchrun with two gloo processes, one draw each, against one process with two draws: same losses, same weights."""
    under_torchrun(tmp_path / "two.pt", 2, "4", "1", "fp32")
    losses = train(tmp_path / "one.pt", 4, World(accumulate=2, precision=Precision.FP32))
    assert checkpoint.load(tmp_path / "two.losses")["losses"] == pytest.approx(losses, abs=1e-6)
    same(tmp_path / "one.pt", tmp_path / "two.pt", 1e-6)


def test_an_interrupted_run_is_an_unbroken_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole.pt", 6)
    first = train(tmp_path / "parts.pt", 2)
    assert first + train(tmp_path / "parts.pt", 6) == whole
    identical(tmp_path / "whole.pt", tmp_path / "parts.pt")


def slices(packed: Packed, count: int) -> list[Packed]:
    rows = len(packed.clean) // count
    take = lambda i: {f.name: getattr(packed, f.name)[i * rows : (i + 1) * rows] for f in fields(packed)}  # noqa: E731
    return [replace(packed, **take(i)) for i in range(count)]


def test_accumulated_gradients_are_those_of_a_large_batch(tmp_path: Path) -> None:
    running = trainer(tmp_path / "none.pt", ALONE_FP32)
    per_block = SMALL.block_latents
    batch = Imagined(SMALL).batch(np.random.default_rng(0), 8, RECIPE.blocks * per_block, per_block)
    packed = pack(batch, RECIPE.drops, running.seen, per_block, torch.Generator().manual_seed(0))

    def gradients(parts: int) -> list[torch.Tensor]:
        running.optimiser.zero_grad()
        world = World(accumulate=parts, precision=Precision.FP32)
        for part in slices(packed, parts):
            world.backward(loss_of(running.model, part, running.rotation))
        return [p.grad for p in running.model.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(4), gradients(1), atol=1e-6, rtol=1e-4)


def test_draws_never_meet() -> None:
    """Over steps and processes every draw is made once; one process with two draws makes those of two processes."""
    for accumulate in (1, 3):
        pair = [World(rank, 2, accumulate) for rank in (0, 1)]
        assert [d for step in range(4) for world in pair for d in world.draws(step)] == list(range(8 * accumulate))
    assert list(World(accumulate=2).draws(5)) == [*World(0, 2).draws(5), *World(1, 2).draws(5)]
    assert list(ALONE.draws(7)) == [7]


def test_precision_is_that_of_the_passes_only(tmp_path: Path) -> None:
    running = trainer(tmp_path / "none.pt", ALONE)
    with ALONE.autocast():
        assert running.model.transformer.project_in(torch.zeros(1, SMALL.latent_channels)).dtype is torch.bfloat16
    with ALONE_FP32.autocast():
        assert running.model.transformer.project_in(torch.zeros(1, SMALL.latent_channels)).dtype is torch.float32
    running.train_step()
    assert {p.dtype for p in running.model.parameters()} == {torch.float32}


def test_nothing_stays_behind_on_the_cpu(tmp_path: Path) -> None:
    """Forward and backward on the meta device, which refuses to work with tensors of any other: what can be checked without a GPU."""
    running = trainer(tmp_path / "none.pt", ALONE_FP32)
    model, world = LMDM(SMALL).to("meta"), World(device=torch.device("meta"))
    batch = Imagined(SMALL).batch(np.random.default_rng(0), 2, RECIPE.blocks * SMALL.block_latents, SMALL.block_latents)
    packed = pack(batch, RECIPE.drops, running.seen, SMALL.block_latents, torch.Generator().manual_seed(0))
    loss_of(model, world.here(packed), tuple(world.here(part) for part in running.rotation)).backward()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.parameters())


def test_dry_run_says_what_a_run_would_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It needs neither corpus nor codec, and writes nothing."""
    monkeypatch.setitem(pretrain.PRESETS, "tiny", SMALL)
    arguments = ["--preset", "tiny", "--device", "cpu", "--batch", "2", "--steps", "1000", "--accumulate", "2", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["pretrain", *arguments, "--out", str(tmp_path / "lmdm.pt")])
    pretrain.main()
    found = json.loads(capsys.readouterr().out)
    assert found["latents per step"] == 2 * 2 * 16 * SMALL.block_latents
    assert found["latents per second"] > 0
    assert found["TFLOP per step"] > 0
    assert found["peak GB per process"] > 0
    assert found["hours"] > 0
    assert not list(tmp_path.iterdir())


def test_a_process_alone_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    parser = argparse.ArgumentParser()
    distributed.add_arguments(parser)
    args = parser.parse_args(["--device", "cpu"])
    assert distributed.join(args) == ALONE
