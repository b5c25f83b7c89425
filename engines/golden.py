"""Golden vectors: what every graph of a bundle gives for known inputs, written when it was packed, so that any device can check itself.

Inputs are not stored but drawn again from a rule and a seed, the same bits everywhere; of each output a few dozen values are kept, with
their places, and the root mean square of all. A few kilobytes per graph, in the bundle's `golden.json`:

    {"step": {"inputs": {"noisy": {"rule": "normal", "shape": [1, 8, 80], "scale": 1.0}, "cache_bias": {"rule": "zeros", ..}, ..},
              "outputs": {"v": {"size": 640, "at": [0, 13, ..], "values": [..], "rms": 1.03, "largest": 3.1, "compared": true}, ..}}, ..}

Runs in: packing, tests, `ghostnote check`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backend import Array, Weights
from engines.bundle import Bundle
from engines.manifest import GOLDEN_FILE as GOLDEN_FILE

VALUES_KEPT = 48  # of each output


def draw(seed: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Roughly normal numbers that depend on nothing but the arguments: a sum of four uniform ones, each a hash of its index."""
    size = int(np.prod(shape))
    start = zlib.crc32(seed.encode()) << 32
    with np.errstate(over="ignore"):
        state = (np.arange(4 * size, dtype=np.uint64) + np.uint64(start)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64 (Steele, Lea and Flood, 2014)
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    uniform = ((state ^ (state >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    drawn: NDArray[np.float32] = (uniform.reshape(4, size).sum(0) * np.sqrt(3)).astype(np.float32)
    return drawn.reshape(shape)


def kept_places(size: int) -> NDArray[np.int64]:
    """Which values of an output of `size` are kept: the first, the last, and some between."""
    return np.unique(np.linspace(0, size - 1, min(size, VALUES_KEPT)).round().astype(np.int64))


@dataclass(frozen=True)
class Golden:
    """The vectors of one bundle."""

    graphs: Mapping[str, Any]
    weights: Weights

    @classmethod
    def of(cls, bundle: Bundle) -> Golden | None:
        """None for a bundle that was packed without."""
        if not bundle.has(GOLDEN_FILE):
            return None
        return cls(bundle.json(GOLDEN_FILE), Weights.of(bundle))

    def inputs(self, graph: str) -> dict[str, Array]:
        return {name: self._input(graph, name, facts) for name, facts in self.graphs[graph]["inputs"].items()}

    def _input(self, graph: str, name: str, facts: Mapping[str, Any]) -> Array:
        shape = tuple(facts.get("shape", ()))
        if facts["rule"] == "array":
            return self.weights.array(facts["array"])
        if facts["rule"] == "zeros":
            return np.zeros(shape, np.float32)
        return draw(f"{name}/{graph}", shape) * np.float32(facts["scale"])

    def differences(self, graph: str, outputs: list[Array]) -> dict[str, float]:
        """Per compared output: the largest difference of a kept value, or of the rms, over the output's largest value (at least 1)."""
        found = {}
        for (name, facts), output in zip(self.graphs[graph]["outputs"].items(), outputs, strict=True):
            if facts["compared"]:
                found[name] = _difference(facts, output.reshape(-1).astype(np.float64))
        return found


def _difference(facts: Mapping[str, Any], values: NDArray[np.float64]) -> float:
    if values.size != facts["size"] or not np.isfinite(values).all():
        return float("inf")
    wrong = np.abs(values[facts["at"]] - facts["values"]).max()
    rms = abs(float(np.sqrt(np.mean(values**2))) - facts["rms"])
    return float(max(wrong, rms) / max(1.0, facts["largest"]))
