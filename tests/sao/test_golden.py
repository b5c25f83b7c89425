"""Loaded checkpoints give the numbers of stable-audio-tools, as recorded from the package with random weights of tiny sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.lmdm.config import PRESETS
from engines.lmdm.model import LMDM
from engines.sao.checkpoint import fill, fold_weight_norm, load_dit
from engines.sao.config import DitSizes, OobleckConfig, SaoConfig, SecondsRange, lmdm_config
from engines.sao.oobleck import Decoder, Encoder
from tests.sao.rig import base_forward, separate_projections

DATA = Path(__file__).parents[1] / "data"
DIT_TOLERANCE, CODEC_TOLERANCE = 1e-5, 1e-4
CODEC = OobleckConfig(4, (2, 4), (1, 2), channels=8)


def arrays(name: str, prefix: str = "") -> dict[str, Tensor]:
    raw = np.load(DATA / name)
    names = [key for key in raw.files if key.startswith(prefix) and not key.endswith("cfg")]
    return {key.removeprefix(prefix): torch.from_numpy(raw[key]) for key in names}


def weights(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize("form", [dict, separate_projections], ids=["to_qkv", "to_q + to_kv"])
@pytest.mark.parametrize("prefix", ["tiny/", "tiny_h1/"], ids=["2 heads", "1 head"])
def test_transformer(prefix: str, form: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    a = arrays("golden_dit_tiny.npz", prefix)
    facts = json.loads(str(np.load(DATA / "golden_dit_tiny.npz")[f"{prefix}cfg"]))
    sizes = DitSizes(facts["embed_dim"], facts["depth"], facts["num_heads"], facts["cond_token_dim"], facts["io_channels"])
    model = LMDM(lmdm_config(SaoConfig(44_100, sizes, CODEC, SecondsRange(0, 256), None), PRESETS["tiny"])).eval()
    load_dit(model, form(weights(a, "w/")), DATA)
    torch.testing.assert_close(base_forward(model, a["x"], a["t"], a["cross"], a["glob"]), a["y"], atol=DIT_TOLERANCE, rtol=0)


@torch.no_grad()
def test_autoencoder() -> None:
    a = arrays("golden_oobleck_tiny.npz")
    encoder, decoder = Encoder(CODEC), Decoder(CODEC)
    for half, prefix in ((encoder, "enc/w/"), (decoder, "dec/w/")):
        fill(half, fold_weight_norm(weights(a, prefix)), DATA)
    torch.testing.assert_close(encoder(a["x"]), a["enc_out"], atol=CODEC_TOLERANCE, rtol=0)
    torch.testing.assert_close(decoder(a["z"]), a["dec_out"], atol=CODEC_TOLERANCE, rtol=0)
