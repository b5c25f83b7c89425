"""A tiny LMDM with lively random weights: stock initialisation would ignore attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engines.lmdm.config import PRESETS, ModelConfig, Regime
from engines.lmdm.model import LMDM


def lively(config: ModelConfig, seed: int = 0) -> LMDM:
    torch.manual_seed(seed)
    model = LMDM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5)
    return model


@pytest.fixture(name="causal")
def _causal() -> LMDM:
    return lively(PRESETS["tiny"])


@pytest.fixture(name="enc_dec")
def _enc_dec() -> LMDM:
    return lively(replace(PRESETS["tiny"], regime=Regime.ENC_DEC))


@pytest.fixture(params=[Regime.BLOCK_CAUSAL, Regime.ENC_DEC], ids=lambda regime: regime.value, name="model")
def _model(request: pytest.FixtureRequest) -> LMDM:
    return lively(replace(PRESETS["tiny"], regime=request.param))
