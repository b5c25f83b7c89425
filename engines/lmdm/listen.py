"""What an engine makes of its input: latents and sketch, from one pass over the same samples.

Shapes: B batch, N sample, T latent. Runs in: the worker process (as the graph `encode`) and training.
"""

from __future__ import annotations

from torch import Tensor, nn

from engines.lmdm import codec, sketch

HISTORY_FRAMES = sketch.HISTORY_FRAMES  # samples before a block that its analysis reaches back to


class Listen(nn.Module):
    """`forward`: (B, 7168 + 2048 T) samples, history first -> latents (B, T, 196), sketch (B, T, 132)."""

    def __init__(self, encoder: codec.Encoder) -> None:
        super().__init__()
        self.encoder, self.sketcher = encoder, sketch.Sketch()

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        cqt, loudness = self.sketcher.magnitudes(audio)
        latents = self.encoder(audio[:, HISTORY_FRAMES - codec.HISTORY_FRAMES :], cqt)
        return latents, self.sketcher.thin(cqt, loudness)
