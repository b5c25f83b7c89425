"""`pretrain --init-from`: the base model's weights, then ordinary training steps."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.lmdm.config import PRESETS, SKETCH_CHANNELS
from engines.sao.checkpoint import init_from, load_codec
from engines.sao.conditioner import Conditioner
from engines.sao.latents import LatentPairs, encode_audio, encode_score, write_prompts
from engines.train import pretrain
from engines.train.corpus import ROW, Part, Score, write_score
from engines.train.imagined import Imagined
from engines.train.instruments import TARGETS
from engines.train.pretrain import Recipe, Trainer
from tests.sao.rig import Source, altered, write, write_t5

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


@pytest.fixture(name="wide", scope="module")
def _wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the full size's rates, and its text encoder, in one folder."""
    config = altered("model/pretransform/config/downsampling_ratio", 2048)
    for half in ("encoder", "decoder"):
        config["model"]["pretransform"]["config"][half]["config"].update(channels=4, c_mults=[1, 1, 1, 2, 2], strides=[2, 4, 4, 8, 8])
    folder = tmp_path_factory.mktemp("wide")
    write_t5(folder, channels=24)
    (folder / "config.json").replace(folder / "t5.json")
    path = write(folder, Source(config=config).tensors(), "sao.safetensors", config)
    (folder / "t5.json").replace(folder / "config.json")
    return path


@pytest.fixture(name="corpus", scope="module")
def _corpus(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scores of noise, encoded and worded as `engines.sao.latents` leaves them."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    parts = [Part("guitar", 27, "fluid"), *(Part("target", program, "fluid") for program in list(TARGETS)[:2])]
    for name in ("train0000", "val0000"):
        rows = rng.random((len(parts), 150, ROW)).astype(np.float16)
        audio = {i: rng.normal(0, 0.1, 140 * 2048 + 5).astype(np.float32) for i in range(len(parts))}
        write_score(folder, name, parts, 0.0, rows, audio)
        encode_score(load_codec(wide), Score.open(folder / f"{name}.json"), torch.device("cpu"))
    write_prompts(folder, Conditioner(wide, wide.parent))
    return folder


def test_the_corpus_is_encoded_exactly(wide: Path, corpus: Path) -> None:
    codec, rng = load_codec(wide), np.random.default_rng(3)
    audio = rng.normal(0, 0.1, 2048 * 80 + 7).astype(np.float32)
    with torch.no_grad():
        whole = codec.encode(torch.from_numpy(audio[: 2048 * 80]).expand(1, 2, -1))[0].T
    torch.testing.assert_close(torch.from_numpy(encode_audio(codec, audio, torch.device("cpu"))).float(), whole, atol=2e-3, rtol=2e-3)
    pairs = LatentPairs(corpus, ("train",))
    batch = pairs.batch(np.random.default_rng(0), 3, 40, 10)
    assert batch.target.shape == batch.heard.shape == (3, 40, 8)
    assert batch.states.shape == (3, 5, 24)
    assert torch.equal(batch.states[:, -1], batch.pooled)
    assert not (corpus / "train0000.audio.npy").exists()


def test_fine_tuning_on_the_encoded_corpus(
    wide: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command: load, train, report, save; and again from where it stopped."""
    out = tmp_path / "out.pt"
    command = f"pretrain --init-from {wide} --preset reference --batch 1 --data {corpus} --out {out} --device cpu --steps "
    for steps in ("1", "2"):
        monkeypatch.setattr(sys, "argv", (command + steps).split())
        pretrain.main()
        facts = json.loads(next(line for line in capsys.readouterr().out.splitlines() if "latent error" in line))
        assert facts["step"] == int(steps)
        assert 0 < facts["latent error"] < 100


def test_a_corpus_without_latents_is_explained(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain", "--init-from", str(wide), "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"holds no latents .* make them with `python -m engines\.sao\.latents"):
        pretrain.main()


def test_a_wrong_checkpoint_ends_the_command_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain", "--init-from", str(tmp_path / "model.ckpt"), "--dry-run"])
    with pytest.raises(SystemExit, match=r"model_config\.json is missing: put the"):
        pretrain.main()
