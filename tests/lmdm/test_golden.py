"""The model gives the numbers of the reference packages: stock DiT, both LMDM masks, cached context.

The golden data were made with the PyPI package stable-audio-tools and random weights of a tiny size.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.lmdm import visibility
from engines.lmdm.config import ModelConfig
from engines.lmdm.model import LMDM

DATA = Path(__file__).parents[1] / "data"
TOLERANCE = 1e-5


def load(name: str, prefix: str) -> tuple[LMDM, dict[str, Tensor]]:
    raw = np.load(DATA / name)
    facts = json.loads(str(raw[f"{prefix}cfg"]))
    config = ModelConfig(
        facts["embed_dim"], facts["depth"], facts["num_heads"], facts["cond_token_dim"], 5,
        latent_channels=facts["io_channels"], block_latents=3, context_blocks=4,
    )
    arrays = {key[len(prefix):]: torch.from_numpy(raw[key]) for key in raw.files if key.startswith(prefix) and not key.endswith("cfg")}
    model = LMDM(config).eval()
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"to_input_add_embed.weight"}
    return model, arrays


@pytest.mark.parametrize("prefix", ["tiny/", "tiny_h1/"])
@torch.no_grad()
def test_stock_layout(prefix: str) -> None:
    """Stable Audio Open's own forward: global token first, at position 0; everything sees everything and the text."""
    model, a = load("golden_dit_tiny.npz", prefix)
    x = a["x"].transpose(1, 2)
    level = model.global_tokens(a["t"], a["glob"])[:, None]
    tokens = torch.cat([level, model.target_tokens(x)], 1)
    rotation = model.transformer.rotary_pos_emb(torch.arange(tokens.shape[1]))
    hidden, _ = model.transformer(tokens, rotation, None, None, model.text(a["cross"]), clean=0)
    torch.testing.assert_close(model.velocity(hidden[:, 1:], x, level), a["y"].transpose(1, 2), atol=TOLERANCE, rtol=0)


@pytest.fixture(name="lmdm")
def _lmdm() -> tuple[LMDM, dict[str, Tensor]]:
    return load("golden_lmdm_tiny.npz", "")


def full_pass(model: LMDM, a: dict[str, Tensor], mask: Tensor, offset: int = 0) -> Tensor:
    """12 clean latents with text (as the reference has it), 3 targets, the global token last at position 0."""
    clean = model.clean_tokens(a["add"][:, 1:, :12].transpose(1, 2))
    noisy, level = a["x"][:, :, 12:].transpose(1, 2), model.global_tokens(a["t"], a["glob"])[:, None]
    tokens = torch.cat([clean, model.target_tokens(noisy), level], 1)
    positions = torch.cat([torch.arange(1, 16), torch.zeros(1, dtype=torch.long)]) + offset
    rotation = model.transformer.rotary_pos_emb(positions)
    hidden, _ = model.transformer(tokens, rotation, visibility.as_bias(mask), None, model.text(a["cross"]), clean=0)
    return model.velocity(hidden[:, 12:15], noisy, level)


@pytest.mark.parametrize("regime", ["encdec", "blockcausal"])
@pytest.mark.parametrize("offset", [0, 230_000])
@torch.no_grad()
def test_lmdm_masks(lmdm: tuple[LMDM, dict[str, Tensor]], regime: str, offset: int) -> None:
    """Both masks; positions may be absolute, three hours in."""
    model, a = lmdm
    expected = a[f"y_{regime}"][:, :, 12:].transpose(1, 2)
    torch.testing.assert_close(full_pass(model, a, a[f"mask_{regime}"], offset), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_context_keys_and_values(lmdm: tuple[LMDM, dict[str, Tensor]]) -> None:
    model, a = lmdm
    clean = model.clean_tokens(a["add"][:, 1:, :12].transpose(1, 2))
    rotation = model.transformer.rotary_pos_emb(torch.arange(1, 13))
    _, (keys, values) = model.transformer(clean, rotation, None, None, model.text(a["cross"]), clean=0)
    torch.testing.assert_close(keys, a["ctx_K"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(values, a["ctx_V"], atol=TOLERANCE, rtol=0)


def test_our_enc_dec_mask_is_the_reference_one(lmdm: tuple[LMDM, dict[str, Tensor]]) -> None:
    model, a = lmdm
    assert torch.equal(visibility.window(model.config, model.config.context_blocks), a["mask_encdec"])
