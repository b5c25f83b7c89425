"""Checkpoints that survive a power cut: written beside, then renamed; a run resumes from the last one exactly.

Runs in: training.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from engines.lmdm.config import ModelConfig, Regime
from engines.lmdm.model import LMDM


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    os.replace(scratch, path)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote; tensors only, nothing is executed."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def load_model(path: Path) -> LMDM:
    """The averaged weights that a training stage made."""
    state = load(path)
    facts = json.loads(state["config"])
    model = LMDM(ModelConfig(**{**facts, "regime": Regime(facts["regime"])}))
    model.load_state_dict(state["average"])
    return model.eval()
