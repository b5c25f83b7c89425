"""`pretrain --init-from`: the base model's weights, then ordinary training steps."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines.lmdm.config import PRESETS, SKETCH_CHANNELS
from engines.sao.checkpoint import init_from
from engines.train import pretrain
from engines.train.imagined import Imagined
from engines.train.pretrain import Recipe, Trainer
from tests.sao.rig import Source, write

LIKE = replace(PRESETS["tiny"], sketch_channels=SKETCH_CHANNELS)  # as training draws it


@pytest.fixture(name="checkpoint")
def _checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path, Source().tensors())


def test_a_step_moves_old_and_new_layers(checkpoint: Path, tmp_path: Path) -> None:
    model = init_from(checkpoint, LIKE)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = Trainer(model, Recipe(10, batch=2, blocks=4), Imagined(model.config), tmp_path / "out.pt")
    losses = [trainer.train_step() for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses)))
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert not still
    trainer.save()
    resumed = Trainer(init_from(checkpoint, LIKE), trainer.recipe, trainer.pairs, trainer.out)
    resumed.resume()
    assert resumed.step == 3
    assert torch.equal(resumed.model.to_sketch_embed.weight, model.to_sketch_embed.weight)


def test_the_command_takes_the_sizes_of_the_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"pretrain --init-from {checkpoint} --preset sao_small --batch 1 --dry-run --out {tmp_path / 'o.pt'}"
    monkeypatch.setattr(sys, "argv", command.split())
    pretrain.main()
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["parameters"] == sum(p.numel() for p in init_from(checkpoint).parameters())


def test_a_wrong_checkpoint_ends_the_command_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain", "--init-from", str(tmp_path / "model.ckpt"), "--dry-run"])
    with pytest.raises(SystemExit, match=r"model_config\.json is missing: put the"):
        pretrain.main()
