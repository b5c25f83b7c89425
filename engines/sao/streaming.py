"""The autoencoder block by block, equal to one pass over the whole.

A piece is run together with the latents on each side that can change it, and cut out of the result: what it still misses on
its right is the look-ahead, what it needs on its left is the state that is carried. Shapes as in oobleck.py.

Runs in: export, fine-tuning and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engines.sao.oobleck import Autoencoder, Reach, reach


class Overlapped:
    """Runs a function of finite reach over a stream whose pieces are whole latents."""

    def __init__(self, run: Callable[[Tensor], Tensor], reach: Reach, in_per_latent: int, out_per_latent: int, out_channels: int) -> None:
        self.run, self.reach, self.out_channels = run, reach, out_channels
        self.in_per_latent, self.out_per_latent = in_per_latent, out_per_latent
        self.reset()

    def reset(self) -> None:
        """Before the first piece of a stream."""
        self.held: Tensor | None = None  # inputs: `self.left` latents that were given out, then those that were not
        self.left = 0

    def push(self, piece: Tensor) -> Tensor:
        """Add inputs (B, channels, whole latents) -> the outputs that they complete, `reach.right` latents late."""
        self.held = piece if self.held is None else torch.cat([self.held, piece], -1)
        return self._give(self.held, self.reach.right)

    def finish(self) -> Tensor:
        """The rest, as if nothing followed; the stream starts anew."""
        assert self.held is not None, "nothing was pushed"
        rest = self._give(self.held, 0)
        self.reset()
        return rest

    def _give(self, held: Tensor, kept_back: int) -> Tensor:
        """Outputs up to `kept_back` latents before the end; what they leave behind becomes the left side of the next."""
        done = held.shape[-1] // self.in_per_latent - kept_back
        if done <= self.left:
            return held.new_zeros(len(held), self.out_channels, 0)
        made = self.run(held)[..., self.left * self.out_per_latent : done * self.out_per_latent]
        self.left = min(self.reach.left, done)
        self.held = held[..., (done - self.left) * self.in_per_latent :]
        return made


def decode_stream(codec: Autoencoder, limit: int | None = None) -> Overlapped:
    """Latents in, audio out. `limit`: at most so many latents of look-ahead, which is exact no longer."""
    frames = codec.config.latent_frames
    exact = reach(codec.decoder, frames)
    sides = exact if limit is None else Reach(exact.left, min(exact.right, limit))
    return Overlapped(codec.decode, sides, 1, frames, codec.config.audio_channels)


def encode_stream(codec: Autoencoder, limit: int | None = None) -> Overlapped:
    """Audio in (whole latents), latents out; `limit` as for `decode_stream`."""
    frames = codec.config.latent_frames
    exact = reach(codec.encoder, frames)
    sides = exact if limit is None else Reach(exact.left, min(exact.right, limit))
    return Overlapped(codec.encode, sides, frames, 1, codec.config.latent_channels)


def look_ahead_frames(stream: Overlapped) -> int:
    """Audio frames by which the stream lags behind what comes in."""
    return stream.reach.right * max(stream.in_per_latent, stream.out_per_latent)
