"""Training pairs from the rendered corpus: what a guitar played, what another instrument made of it, the words for that.

Two kinds. *Following*: a target instrument plays the guitar's own notes; now and then the guitar is heard with echoes of the target, as
repeats feed them back, and the target has them too. *Jamming*: a companion plays its own part, and of the guitar is known only what was
played one or more blocks before. Gain is applied to linear magnitudes, so a quieter copy is exact; of two sounds the powers are added.

Shapes: B batch, T latent, S sketch channel, C latent channel. Runs in: training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from engines.lmdm import codec, text
from engines.lmdm.sketch import PER_LATENT, Sketch
from engines.train.corpus import CQT, LOUDNESS, MEL, ROW, Rows, Score
from engines.train.instruments import TARGETS, training_phrases

TEMPLATES = (
    "{}", "play {}", "the sound of {}", "make it sound like {}", "{} please", "{}, played softly", "{} with feeling", "I would like {}",
    "turn my guitar into {}", "{} in a large room",
)
BEFORE_DB = (-9.0, 6.0)  # level of what sounded before, against what should sound: the player decides, not the past
CHANGED = 0.5  # share of windows whose words may have changed
LAGS = (0, 1, 2)  # blocks by which a jamming partner is known late: future visibility of +1, 0 and -1 blocks
REPEATS = (0.3, 0.85)  # how loud an answer is heard again, where it is fed back
REPEAT_LATENTS = (10, 24)  # how much later
ECHOES = 3  # of an answer that are heard again


@dataclass(frozen=True)
class Choice:
    """One training window."""

    score: int
    heard: int  # part index of the guitar
    target: int  # part index
    before: int  # part index of what sounded before; often the target itself
    at: int  # first latent
    lag: int = 0  # latents by which `heard` lies earlier
    repeats: float = 0.0  # how loud the target is heard again, beside the guitar,
    repeat: int = 0  # so many latents later


@dataclass
class Batch:
    """What one training step sees."""

    target: Tensor  # (B, T, C) clean latents of what was asked for
    before: Tensor  # (B, T, C) the same music at another level, often by what was asked for before
    heard: Tensor  # (B, T, C) latents of the guitar, `lag` latents earlier
    lag: Tensor  # (B,) latents
    jam: Tensor  # (B,) bool: the target accompanies instead of following
    sketch: Tensor  # (B, T, S) of the guitar
    states: Tensor  # (B, 16, 384)
    pooled: Tensor  # (B, 384)
    own: Tensor | None = None  # (B, T, C) what the model itself made of it, where the context shall hold that


def louder(rows: Tensor, gain: Tensor) -> Tensor:
    """Rows of features (B, T, 644) of the same sound with another gain (B,)."""
    gain = gain[:, None, None]
    magnitude = (codec.denormalise_mel(rows[..., MEL]) - codec.MEL_FLOOR).clamp(min=0)
    return torch.cat([codec.normalise_mel(magnitude * gain), rows[..., MEL.stop :] * gain], -1)


def silence(count: int, length: int) -> Tensor:
    """Rows of features (B, T, 644) of nothing."""
    mel = codec.normalise_mel(torch.zeros(count, length, MEL.stop))
    return torch.cat([mel, torch.zeros(count, length, ROW - MEL.stop)], -1)


def together(rows: Tensor, more: Tensor) -> Tensor:
    """Rows of features (B, T, 644) of two sounds at once: their powers add."""
    mel, other = (codec.denormalise_mel(r[..., MEL]) - codec.MEL_FLOOR for r in (rows, more))
    rest, besides = rows[..., MEL.stop :], more[..., MEL.stop :]
    return torch.cat([codec.normalise_mel(torch.hypot(mel, other)), torch.hypot(rest, besides)], -1)


def magnitudes(rows: Tensor) -> Tensor:
    """The constant-Q magnitudes (B, 2T, 64) in rows of features (B, T, 644)."""
    return rows[..., CQT].unflatten(-1, (PER_LATENT, -1)).flatten(1, 2)


@cache
def wordings(program: int) -> list[text.Prompt]:
    """What may be said for it, embedded."""
    templates = TEMPLATES if program in TARGETS else ("{}",)
    return [text.encode(template.format(words)) for words in training_phrases(program) for template in templates]


class Pairs:
    """Draws aligned windows from the scores of the splits that it is given."""

    def __init__(self, scores: Sequence[Score], encoder: codec.Encoder, jam_share: float = 0.5, repeat_share: float = 0.35) -> None:
        self.encoder, self.sketch, self.jam_share, self.repeat_share = encoder, Sketch(), jam_share, repeat_share
        self.scores = list(scores)
        self.following = [i for i, score in enumerate(self.scores) if score.indices("target")]
        self.jamming = [i for i, score in enumerate(self.scores) if score.indices("companion")]

    def latents(self, rows: Tensor) -> Tensor:
        """Rows of features (B, T, 644) -> (B, T, C)"""
        return self.encoder.project(rows[..., MEL], magnitudes(rows))

    def window(self, rng: np.random.Generator, choices: Sequence[Choice], length: int, vary: bool) -> Batch:
        """The windows of `choices`, `length` latents long; varied in level and wording, or as they are."""
        count = len(choices)
        both_db = torch.from_numpy(rng.uniform(-10, 4, count)) if vary else torch.zeros(count)
        heard_db = both_db + torch.from_numpy(rng.uniform(-3, 3, count)) if vary else both_db
        target, before, heard = (self._rows(choices, which, length) for which in ("target", "before", "heard"))
        both, own = (10 ** (db.float() / 20) for db in (both_db, heard_db))
        other = both * 10 ** (torch.from_numpy(rng.uniform(*BEFORE_DB, count)).float() / 20) if vary else both
        target, before, heard = louder(target, both), louder(before, other), louder(heard, own)
        again = louder(self._echoes(choices, length), both)
        target, before, heard = together(target, again), together(before, again), together(heard, again)
        programs = [self.scores[c.score].parts[c.target].program for c in choices]
        said = [wordings(program) for program in programs]
        prompts = [every[rng.integers(len(every)) if vary else 0] for every in said]
        return Batch(
            self.latents(target), self.latents(before), self.latents(heard),
            torch.tensor([c.lag for c in choices]),
            torch.tensor([self.scores[c.score].parts[c.target].role == "companion" for c in choices]),
            self.sketch.thin(magnitudes(heard), heard[..., LOUDNESS]),
            torch.stack([p.states for p in prompts]),
            torch.stack([p.pooled for p in prompts]),
        )

    def _rows(self, choices: Sequence[Choice], which: str, length: int) -> Tensor:
        rows: list[Rows] = []
        for c in choices:
            at = c.at - (c.lag if which == "heard" else 0)
            rows.append(self.scores[c.score].rows[getattr(c, which), at : at + length])
        return torch.from_numpy(np.stack(rows)).float()

    def _echoes(self, choices: Sequence[Choice], length: int) -> Tensor:
        """What is heard of the targets again, each echo a repeat later than the last (B, T, 644)."""
        echoes = silence(len(choices), length)
        for turn in range(ECHOES, 0, -1):
            earlier = [replace(c, at=c.at - turn * c.repeat) for c in choices]
            gain = torch.tensor([c.repeats**turn for c in choices])
            echoes = together(echoes, louder(self._rows(earlier, "target", length), gain))
        return echoes

    def draw(self, rng: np.random.Generator, length: int, per_block: int) -> Choice:
        """A random window of `length` latents."""
        jam = bool(self.jamming) and rng.random() < self.jam_share
        index = int(rng.choice(self.jamming if jam else self.following))
        score = self.scores[index]
        guitar = int(rng.choice(score.indices("guitar")))
        others = score.indices("companion" if jam else "target")
        target, before = (int(part) for part in rng.choice(others, 2))
        before = before if rng.random() < CHANGED else target
        lag = int(rng.choice(LAGS)) * per_block if jam else 0
        repeated = not jam and rng.random() < self.repeat_share
        repeats = float(rng.uniform(*REPEATS)) if repeated else 0.0
        repeat = int(rng.integers(*REPEAT_LATENTS)) if repeated else 0
        at = int(rng.integers(max(lag, ECHOES * repeat), score.latents - length))
        return Choice(index, guitar, target, target if jam else before, at, lag, repeats, repeat)

    def batch(self, rng: np.random.Generator, count: int, length: int, per_block: int) -> Batch:
        """`count` random windows of `length` latents."""
        return self.window(rng, [self.draw(rng, length, per_block) for _ in range(count)], length, vary=True)
