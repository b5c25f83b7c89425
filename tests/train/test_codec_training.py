"""How the decoder learns: from what is heard of it, and the same whether stopped on the way or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.lmdm import codec
from engines.lmdm.decoder import SOUNDING, Decoder, SpectrumNet
from engines.train import checkpoint
from engines.train.codec import BLOCK_LATENTS, TRUST, Excerpts, Learning, Recipe, SoundLoss, Trainer


def spoken(net: SpectrumNet, latents: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    log_magnitude, advance, tones, *_ = net(torch.randn(2, latents, codec.LATENT_CHANNELS), *net.histories(2))
    return log_magnitude, advance, tones


def test_it_learns_from_what_plays() -> None:
    """The same samples as the decoder gives, block after block; and a slope for magnitudes and phases alike."""
    torch.manual_seed(0)
    net = SpectrumNet()
    log_magnitude, advance, tones = spoken(net, 3 * BLOCK_LATENTS)
    plays, learns = Decoder(net, BLOCK_LATENTS), Learning(net, BLOCK_LATENTS)
    state, same = plays.initial_state()[SOUNDING], learns.initial_state()[SOUNDING]
    frames = plays.frames
    for block in zip(log_magnitude[0].split(frames), advance[0].split(frames), tones[0].split(BLOCK_LATENTS), strict=True):
        samples, *state = plays.sound(*block, *state)
        learnt, *same = learns.sound(*block, *same)
        torch.testing.assert_close(learnt, samples, atol=1e-4 * float(samples.detach().abs().max()), rtol=0)
    log_magnitude.retain_grad(), advance.retain_grad()
    loss, _ = SoundLoss(net)((log_magnitude, advance, tones), torch.randn(2, 3 * BLOCK_LATENTS * codec.LATENT_FRAMES) * 0.1, 0)
    loss.backward()
    for said in (log_magnitude, advance):
        assert said.grad is not None and said.grad.isfinite().all() and said.grad.abs().sum() > 0


def test_too_quiet_is_worse() -> None:
    """What cancels in the overlap is heard as missing: a network that said less of everything is further away."""
    torch.manual_seed(0)
    net = SpectrumNet()
    log_magnitude, advance, tones = spoken(net, 3 * BLOCK_LATENTS)
    judge = SoundLoss(net)
    with torch.no_grad():
        true = torch.stack([judge._play(*one, 0) for one in zip(log_magnitude, advance, tones, strict=True)])
        aligned = torch.nn.functional.pad(true[:, codec.HISTORY_FRAMES :], (0, codec.HISTORY_FRAMES))
        losses = [float(judge((log_magnitude - quieter, advance, tones), aligned, 0)[0]) for quieter in (0.0, 0.1, 0.3)]
    assert losses[0] < 1e-4 < losses[1] < losses[2]


def trained(out: Path, *stops: int) -> dict[str, torch.Tensor]:
    """What a run of four steps ends with that was stopped there, the last two steps of which listen."""
    for stop in (*stops, 4):
        torch.manual_seed(0)
        noise = np.random.default_rng(0).integers(-9000, 9000, 1 << 16).astype(np.int16)
        trainer = Trainer(SpectrumNet(), Excerpts([noise], np.random.default_rng(0)), Recipe(4, 1e-3, 0.5), out)
        trainer.resume()
        while trainer.step < stop:
            trainer.train_step()
        trainer.save()
    state = checkpoint.load(out)
    assert torch.equal(state["net"]["trust.weight"], TRUST * state["mean"]["module.trust.weight"])
    return state["net"] | {f"learning {name}": value for name, value in state["learning"].items()}


def test_a_resumed_run_is_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.train.codec.BATCH", 1)
    monkeypatch.setattr("engines.train.codec.CLIP_FRAMES", BLOCK_LATENTS * codec.LATENT_FRAMES)
    whole, stopped = trained(tmp_path / "whole.pt"), trained(tmp_path / "stopped.pt", 1, 3)
    assert whole.keys() == stopped.keys() and all(torch.equal(value, stopped[name]) for name, value in whole.items())
    assert not torch.equal(whole["enter.weight"], whole["learning enter.weight"]), "a mean of weights"
