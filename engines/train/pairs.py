"""Training pairs from the rendered corpus: a guitar's sketch and latents, an instrument's latents, the words for it.

Features are kept in memory as they lie on disk (float16); gain is applied to linear magnitudes, so a quieter copy is exact.
Shapes: B batch, T latent, M stacked mel (512), S sketch channel, C latent channel. Runs in: training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.lmdm import codec, text
from engines.lmdm.sketch import PER_LATENT, Sketch
from engines.train.instruments import GUITARS, TARGETS, training_phrases

Features = dict[str, NDArray[np.float16]]


def load_scores(folder: Path, split: str) -> list[Features]:
    """Every score of a split, without its audio."""
    scores = []
    for path in sorted(folder.glob(f"{split}*.npz")):
        with np.load(path) as arrays:
            scores.append({name: arrays[name] for name in arrays.files if not name.startswith("audio_")})
    return scores


@dataclass
class Batch:
    """What one training step sees."""

    target: Tensor  # (B, T, C) clean latents of the asked instrument
    heard: Tensor  # (B, T, C) latents of the guitar
    sketch: Tensor  # (B, T, S) of the guitar
    states: Tensor  # (B, 16, 384)
    pooled: Tensor  # (B, 384)
    instrument: Tensor  # (B,) index into TARGETS


class Pairs:
    """Draws aligned windows of (guitar, instrument) from the scores of one split."""

    def __init__(self, scores: list[Features], encoder: codec.Encoder) -> None:
        self.scores, self.encoder, self.sketch = scores, encoder, Sketch()
        self.prompts = {p: [text.encode(words) for words in training_phrases(p)] for p in TARGETS}
        self.guitars = [[g for g in GUITARS if f"mel_{g}" in score] for score in scores]

    def louder(self, mel: Tensor, gain: Tensor) -> Tensor:
        """Stacked log-mel (B, T, M) of the same sound with another gain (B,)."""
        magnitude = (codec.denormalise_mel(mel) - codec.MEL_FLOOR).clamp(min=0)
        return codec.normalise_mel(magnitude * gain[:, None, None])

    def window(self, rng: np.random.Generator, choices: list[tuple[int, int, int, int]], length: int, vary: bool) -> Batch:
        """choices: (score, guitar, target, first latent) per row."""
        rows = [
            (s[f"mel_{t}"][a:b], s[f"mel_{g}"][a:b], s[f"cqt_{g}"][a * PER_LATENT : b * PER_LATENT], s[f"loudness_{g}"][a:b])
            for s, g, t, a, b in ((self.scores[i], g, t, at, at + length) for i, g, t, at in choices)
        ]
        target, heard, cqt, loudness = (torch.from_numpy(np.stack(column)).float() for column in zip(*rows, strict=True))
        count = len(choices)
        both_db = torch.from_numpy(rng.uniform(-10, 4, count)) if vary else torch.zeros(count)
        guitar_db = both_db + torch.from_numpy(rng.uniform(-3, 3, count)) if vary else both_db
        both, guitar = (10 ** (db.float() / 20) for db in (both_db, guitar_db))
        prompts = [self.prompts[t][rng.integers(len(self.prompts[t])) if vary else 0] for _, _, t, _ in choices]
        return Batch(
            self.encoder.project(self.louder(target, both)),
            self.encoder.project(self.louder(heard, guitar)),
            self.sketch.thin(cqt * guitar[:, None, None], loudness * guitar[:, None, None]),
            torch.stack([p.states for p in prompts]),
            torch.stack([p.pooled for p in prompts]),
            torch.tensor([TARGETS.index(t) for _, _, t, _ in choices]),
        )

    def batch(self, rng: np.random.Generator, count: int, length: int) -> Batch:
        """`count` random windows of `length` latents."""
        choices = []
        for _ in range(count):
            i = int(rng.integers(len(self.scores)))
            guitar = int(rng.choice(self.guitars[i]))
            target = TARGETS[rng.integers(len(TARGETS))]
            available = len(self.scores[i][f"mel_{target}"])
            choices.append((i, guitar, target, int(rng.integers(0, available - length))))
        return self.window(rng, choices, length, vary=True)
