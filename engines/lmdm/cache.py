"""The cached context of a stream, and the positions of its rows. numpy only.

Shapes as in stream.py. Runs in: the worker process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from engines.lmdm.config import HIDDEN, ModelConfig

Array = NDArray[np.float32]

EDITIONS = count()


class Rotary:
    """cos and sin of absolute positions, from float64 angles."""

    def __init__(self, inv_freq: Array) -> None:
        self.inv_freq = inv_freq.astype(np.float64)

    def __call__(self, positions: NDArray[np.int64]) -> dict[str, Array]:
        angles = positions[:, None] * self.inv_freq
        angles = np.concatenate([angles, angles], 1)
        return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


@dataclass
class Cache:
    """Keys and values of the last W clean blocks, as a ring; `bias` hides rows that hold nothing."""

    keys: Array  # (L, 1, H, P, E)
    values: Array
    bias: Array  # (P,)
    edition: int = field(default_factory=lambda: next(EDITIONS))  # another number whenever keys and values are others

    @classmethod
    def empty(cls, config: ModelConfig) -> Cache:
        shape = (config.layers, 1, config.heads, config.context_latents, config.head_width)
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.full(config.context_latents, HIDDEN, np.float32))

    def inputs(self) -> dict[str, Array]:
        return {"cache_bias": self.bias, "cache_keys": self.keys, "cache_values": self.values}

    def store(self, rows: slice, keys: Array, values: Array) -> None:
        self.keys[..., rows, :] = keys
        self.values[..., rows, :] = values
        self.bias[rows] = 0
        self.edition = next(EDITIONS)

    def replace(self, keys: Array, values: Array) -> None:
        self.keys, self.values, self.edition = keys, values, next(EDITIONS)

    def bias_with(self, rows: slice, value: float) -> Array:
        """The bias as it is while `rows` are hidden, or once they hold something."""
        bias = self.bias.copy()
        bias[rows] = value
        return bias
