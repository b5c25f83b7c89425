"""Words and seconds -> what Stable Audio Open's transformer is told.

The text encoder is T5, whose weights are not part of the checkpoint: they are taken from this disk, and nowhere else. A prompt is
64 text tokens, pad rows zero (they are seen, not masked), then one token for the seconds; that token is the pooled part too.

Shapes: B batch, S token, X condition channel. Runs in: fine-tuning and export; a device reads finished prompts from its bundle.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.lmdm.text import Prompt
from engines.sao.checkpoint import SECONDS, config_of, fill, part, read_tensors
from engines.sao.config import CheckpointError, SecondsRange, TextConfig

WINDOW_SECONDS = 11.0  # what Stable Audio Open Small was trained to make, and as much as an LMDM's window holds
FREQUENCIES = 128


class Frequencies(nn.Module):
    """x -> [x, sin(2 pi x w), cos(2 pi x w)]."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(FREQUENCIES) * 16)

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x[:, None] * self.weights
        return torch.cat([x[:, None], angle.sin(), angle.cos()], -1)


class Number(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Sequential(Frequencies(), nn.Linear(2 * FREQUENCIES + 1, channels))


class SecondsTotal(nn.Module):
    """Seconds (B,) -> (B, X)."""

    def __init__(self, limits: SecondsRange, channels: int) -> None:
        super().__init__()
        self.limits = limits
        self.embedder = Number(channels)

    def forward(self, seconds: Tensor) -> Tensor:
        low, high = self.limits.low, self.limits.high
        return self.embedder.embedding((seconds.clamp(low, high) - low) / (high - low))


def load_seconds(checkpoint: Path) -> SecondsTotal:
    """The seconds_total conditioner of a checkpoint."""
    sao = config_of(checkpoint)
    seconds = SecondsTotal(sao.seconds, sao.dit.condition_channels)
    fill(seconds, part(read_tensors(checkpoint), SECONDS, checkpoint), checkpoint)
    return seconds.eval()


class T5Text:
    """Words -> (S, X), pad rows zero. `folder`: the encoder's files; left out, the local model cache is asked by name."""

    def __init__(self, config: TextConfig, channels: int, folder: Path | None = None) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        self.tokens, self.channels = config.tokens, channels
        where = str(folder or config.model)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True)
            self.encoder = T5EncoderModel.from_pretrained(where, local_files_only=True).float().eval()
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the text encoder {where} is not on this disk: run `hf download {config.model}` where there is a network, or copy its "
                "config.json, model.safetensors and tokenizer.json into one folder and name that folder"
            ) from error
        if self.encoder.config.d_model != channels:
            raise CheckpointError(f"the text encoder {where} has {self.encoder.config.d_model} channels; the checkpoint wants {channels}")

    @torch.no_grad()
    def __call__(self, words: str) -> Tensor:
        tokens = self.tokenizer(words, truncation=True, max_length=self.tokens, return_tensors="pt")
        found = self.encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state[0]
        states = torch.zeros(self.tokens, self.channels)
        states[: len(found)] = found
        return states


class Conditioner:
    """Everything that a prompt of one checkpoint is made of."""

    def __init__(self, checkpoint: Path, text_folder: Path | None = None) -> None:
        sao = config_of(checkpoint)
        if sao.text is None:
            raise CheckpointError(f"{checkpoint} has no text encoder in its configuration")
        self.seconds = load_seconds(checkpoint)
        self.text = T5Text(sao.text, sao.dit.condition_channels, text_folder)

    @torch.no_grad()
    def prompt(self, words: str, seconds: float = WINDOW_SECONDS) -> Prompt:
        told = self.seconds(torch.tensor([seconds]))
        return Prompt(torch.cat([self.text(words), told]), told[0])
