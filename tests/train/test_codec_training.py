"""How the decoder learns from what is heard of it."""

from __future__ import annotations

import torch

from engines.lmdm import codec
from engines.lmdm.decoder import Decoder, SpectrumNet
from engines.train.codec import BLOCK_LATENTS, Learning, SoundLoss


def spoken(net: SpectrumNet, latents: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    log_magnitude, advance, *_ = net(torch.randn(2, latents, codec.LATENT_CHANNELS), *net.histories(2))
    return log_magnitude, advance


def test_it_learns_from_what_plays() -> None:
    """The same samples as the decoder gives, block after block; and a slope for magnitudes and phases alike."""
    torch.manual_seed(0)
    net = SpectrumNet()
    log_magnitude, advance = spoken(net, 3 * BLOCK_LATENTS)
    plays, learns = Decoder(net, BLOCK_LATENTS), Learning(net, BLOCK_LATENTS)
    state, same = plays.initial_state()[3:], learns.initial_state()[3:]
    for block in zip(log_magnitude[0].split(plays.frames), advance[0].split(plays.frames), strict=True):
        samples, *state = plays.sound(*block, *state)
        learnt, *same = learns.sound(*block, *same)
        torch.testing.assert_close(learnt, samples, atol=1e-4 * float(samples.detach().abs().max()), rtol=0)
    log_magnitude.retain_grad(), advance.retain_grad()
    loss, _ = SoundLoss(net)(log_magnitude, advance, torch.randn(2, 3 * BLOCK_LATENTS * codec.LATENT_FRAMES) * 0.1, 0)
    loss.backward()
    for said in (log_magnitude, advance):
        assert said.grad is not None and said.grad.isfinite().all() and said.grad.abs().sum() > 0


def test_too_quiet_is_worse() -> None:
    """What cancels in the overlap is heard as missing: a network that said less of everything is further away."""
    torch.manual_seed(0)
    net = SpectrumNet()
    log_magnitude, advance = spoken(net, 3 * BLOCK_LATENTS)
    judge = SoundLoss(net)
    with torch.no_grad():
        true = torch.stack([judge._play(*one, 0) for one in zip(log_magnitude, advance, strict=True)])
        aligned = torch.nn.functional.pad(true[:, codec.HISTORY_FRAMES :], (0, codec.HISTORY_FRAMES))
        losses = [float(judge(log_magnitude - quieter, advance, aligned, 0)[0]) for quieter in (0.0, 0.1, 0.3)]
    assert losses[0] < 1e-4 < losses[1] < losses[2]
