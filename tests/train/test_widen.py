"""A codec and a model with more mel channels than they had: what they had stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engines.lmdm import codec
from engines.lmdm.config import PRESETS
from engines.lmdm.decoder import SpectrumNet
from engines.lmdm.model import LMDM
from engines.train.widen import kept, widen_codec, widen_model
from tests.lmdm.conftest import lively

OLD = 64  # mel channels before
SMALL = replace(PRESETS["reference"], layers=2)


@pytest.fixture(name="rows", scope="module")
def _rows() -> Tensor:
    """Stacked log-mel whose directions differ in strength, as those of music do."""
    draw = torch.Generator().manual_seed(0)
    size = codec.STACK * codec.MELS
    return torch.randn(4000, size, generator=draw) @ (torch.randn(size, size, generator=draw) * torch.logspace(-1, -4, size)[:, None])


@pytest.fixture(name="narrow", scope="module")
def _narrow(rows: Tensor) -> dict[str, Tensor]:
    """A codec with OLD mel channels."""
    torch.manual_seed(1)
    net, pca = SpectrumNet(), codec.Pca(codec.STACK * codec.MELS, OLD)
    net.encoder.low.fit(torch.randn(500, codec.LOW_BINS))
    pca.fit(rows)
    state = net.state_dict() | {f"encoder.mel.{name}": value for name, value in pca.state_dict().items()}
    return state | {"enter.weight": torch.randn(192, OLD + codec.LOW_CHANNELS)}


@torch.no_grad()
def test_a_codec_keeps_its_channels(rows: Tensor, narrow: dict[str, Tensor]) -> None:
    old = codec.Pca(len(rows[0]), OLD)
    old.load_state_dict({name: narrow[f"encoder.mel.{name}"] for name in old.state_dict()})
    net = widen_codec(narrow, rows)
    new = net.encoder.mel
    torch.testing.assert_close(new(rows)[:, :OLD], old(rows), atol=1e-4, rtol=1e-4)
    assert (new.back(new(rows)) - rows).pow(2).mean() < 0.5 * (old.back(old(rows)) - rows).pow(2).mean()
    torch.testing.assert_close(new(rows).std(0), new.deviation, rtol=0.02, atol=0)
    latents = torch.randn(1, 2, codec.LATENT_CHANNELS)
    entered = torch.nn.functional.linear(latents[..., kept(OLD)], narrow["enter.weight"], net.enter.bias)
    torch.testing.assert_close(net.enter(latents), entered)


@torch.no_grad()
def test_a_model_makes_of_its_channels_what_it_made(rows: Tensor, narrow: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "reference", SMALL)
    old = lively(replace(SMALL, latent_channels=OLD + codec.LOW_CHANNELS, skip=False))
    net, pooled = widen_codec(narrow, rows), torch.randn(6, SMALL.text_channels)
    new, t, channels = widen_model(old.state_dict(), net, pooled), torch.tensor([0.6]), kept(OLD)
    x, clean, partner = (torch.randn(1, SMALL.block_latents, codec.LATENT_CHANNELS) for _ in range(3))

    def velocity(model: LMDM, places: Tensor) -> Tensor:
        heard = torch.cat([torch.ones(1, SMALL.block_latents, 1), partner[..., places]], -1)
        noisy, text = x[..., places], model.text(torch.randn(1, 5, SMALL.text_channels, generator=torch.Generator().manual_seed(2)))
        context, targets = model.clean_tokens(clean[..., places], heard), model.target_tokens(noisy, None, heard)
        rotation = model.transformer.rotary_pos_emb(torch.arange(2 * SMALL.block_latents + 1))
        return model(context, noisy, targets, model.global_tokens(t, pooled[:1])[:, None], rotation, None, None, text)[0]

    made = velocity(new, torch.arange(codec.LATENT_CHANNELS))
    torch.testing.assert_close(made[..., channels], velocity(old, channels), atol=1e-4, rtol=1e-4)
    fresh, deviation = slice(OLD, codec.MEL_CHANNELS), net.encoder.deviation
    best = (t - (1 - t) * deviation**2) / ((1 - t) ** 2 * deviation**2 + t**2)
    torch.testing.assert_close(made[..., fresh], (best * x)[..., fresh], atol=0.1, rtol=0)
