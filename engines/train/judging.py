"""What the discriminator of ARC-Forcing is asked, and what its answers cost it and the generator.

Two windows are compared that differ in one thing only. Recorded and made: same past, same noise, same level, told the same. Right
and wrong: the same recorded window, told what belongs to it and told what belongs to another.

Source: arXiv 2605.22717 (relativistic and contrastive losses); the contrast of what was heard is our own.
Shapes: B batch, T latent of the window, G generated latent, C latent channel. Runs in: training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.lmdm.rollout import Conditions
from engines.train.discriminator import Discriminator


@dataclass
class Example:
    """A window of recorded music and all that a rollout over it is told: what is dropped is dropped for all of its blocks and steps."""

    real: Tensor  # (B, T, C)
    past: Tensor  # (B, T, C) what the context holds before the first generated block; `real`, or what sounded before the words changed
    told: Conditions


@dataclass(frozen=True)
class Contrast:
    """Weights: recorded music must score higher with what belongs to it than with what belongs to another example."""

    words: float = 1.0
    heard: float = 1.0  # sketch and partner


def rolled_words(told: Conditions) -> tuple[Conditions, Tensor]:
    """Everybody gets the words of the example before, in copies -> and (B,) 1 where both were told and differ."""
    states, pooled = told.states.roll(1, 0).clone(), told.pooled.roll(1, 0).clone()
    both = (told.pooled != 0).any(1) & (pooled != 0).any(1)
    return replace(told, states=states, pooled=pooled), (both & (pooled != told.pooled).any(1)).float()


def rolled_heard(told: Conditions) -> tuple[Conditions, Tensor]:
    """Everybody gets what the example before heard, in copies -> and (B,) 1 where both heard something."""
    sketch, partner = (None if rows is None else rows.roll(1, 0).clone() for rows in (told.sketch, told.partner))
    count = len(told.pooled)
    heard = torch.zeros(count, dtype=torch.bool, device=told.pooled.device)
    for rows in (told.sketch, told.partner):
        if rows is not None:
            heard = heard | (rows[..., 0] > 0).any(1)
    other = torch.arange(count).roll(1).ne(torch.arange(count)).to(heard.device)  # one example alone has no other
    return replace(told, sketch=sketch, partner=partner), (heard & heard.roll(1, 0) & other).float()


def untold(told: Conditions, keep: Tensor) -> Conditions:
    """What was heard, taken away where keep (B,) is 0."""
    sketch, partner = (None if rows is None else rows * keep[:, None, None] for rows in (told.sketch, told.partner))
    return replace(told, sketch=sketch, partner=partner)


def behind(lower: Tensor, higher: Tensor) -> Tensor:
    """Relativistic loss (B,): how far `lower` is from scoring below `higher`, position by position."""
    return F.softplus(lower - higher).mean(1)


@dataclass(frozen=True)
class Noised:
    """Noise for windows, and its level."""

    t: Tensor  # (B,)
    noise: Tensor  # (B, T, C)

    @staticmethod
    def draw(like: Tensor, rng: torch.Generator) -> Noised:
        """For windows of the shape of `like`."""
        t = torch.sigmoid(torch.randn(len(like), generator=rng))
        return Noised(t.to(like), torch.randn(like.shape, generator=rng).to(like))

    def window(self, clean: Tensor) -> Tensor:
        t = self.t[:, None, None]
        return (1 - t) * clean + t * self.noise


@dataclass(frozen=True)
class Judged:
    """A window as recorded and as made, noised alike, with what the discriminator is told about it."""

    real: Tensor  # (B, T, C)
    fake: Tensor  # (B, T, C)
    t: Tensor  # (B,)
    told: Conditions
    generated: int

    @staticmethod
    def draw(example: Example, fake: Tensor, tell_heard: float, rng: torch.Generator) -> Judged:
        """`fake` (B, G, C): what was made of the window's last G positions."""
        generated, alike = fake.shape[1], Noised.draw(example.real, rng)
        keep = (torch.rand(len(fake), generator=rng) < tell_heard).to(fake)
        past, real = example.past[:, :-generated], example.real[:, -generated:]
        recorded, made = (alike.window(torch.cat([past, rows], 1)) for rows in (real, fake))
        return Judged(recorded, made, alike.t, untold(example.told, keep), generated)

    def generator_loss(self, judge: Discriminator) -> Tensor:
        with torch.no_grad():
            real = judge(self.real, self.t, self.told, self.generated)
        return behind(real, judge(self.fake, self.t, self.told, self.generated)).mean()

    def discriminator_loss(self, judge: Discriminator, contrast: Contrast) -> tuple[Tensor, Tensor]:
        """-> loss, share of positions at which recorded music scores higher than made music."""
        real = judge(self.real, self.t, self.told, self.generated)
        fake = judge(self.fake.detach(), self.t, self.told, self.generated)
        loss = behind(fake, real).mean()
        for weight, roll in ((contrast.words, rolled_words), (contrast.heard, rolled_heard)):
            if weight:
                other, counts = roll(self.told)
                wrong = judge(self.real, self.t, other, self.generated)
                loss = loss + weight * (behind(wrong, real) * counts).sum() / counts.sum().clamp(min=1)
        return loss, (real > fake).float().mean()
