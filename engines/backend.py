"""What runs an engine's graphs. An engine asks by graph name and knows nothing of the runtime behind it.

Runs in: the worker process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.bundle import Bundle

Array = NDArray[Any]

WEIGHTS_FILE, WEIGHTS_INDEX = "weights.bin", "weights.json"


class Graph(Protocol):
    """One static graph: named arrays in, arrays out in the order in which the graph declares them."""

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]: ...


class Backend(Protocol):
    """A runtime on a device."""

    name: str

    def load(self, onnx: bytes, weights: Mapping[str, Array]) -> Graph:
        """Compile one graph; `weights` are its external tensors by name."""


@dataclass(frozen=True)
class Weights:
    """The tensors that a bundle's graphs share: stored once, in the narrowest type that holds them exactly."""

    index: dict[str, Any]
    data: bytes

    @classmethod
    def of(cls, bundle: Bundle) -> Weights:
        return cls(json.loads(bundle.read(WEIGHTS_INDEX)), bundle.read(WEIGHTS_FILE))

    def for_graph(self, graph: str) -> dict[str, Array]:
        """Name -> array for every external tensor of `graph`; views, no copies."""
        return {name: self._view(name) for name in self.index["graphs"][graph]}

    def array(self, name: str) -> Array:
        """An array that the engine itself needs (initial state, prompts), by the name that the packer gave it."""
        return self._view(self.index["arrays"][name])

    def _view(self, tensor: str) -> Array:
        dtype, shape, offset = self.index["tensors"][tensor]
        return np.frombuffer(self.data, np.dtype(dtype), int(np.prod(shape)), offset).reshape(shape)
