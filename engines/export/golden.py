"""Golden vectors at packing time: known inputs through the torch modules. What they are: engines/golden.py. Runs in: export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engines.backend import Array, Weights
from engines.export.graphs import GraphSpec
from engines.golden import Golden, kept_places

SCALES = {"audio": 0.1, "times": 0.3}


def compared(output: str) -> bool:
    """The carried phase of bins that hold nothing is arbitrary, and that of tones a sum in which the last bits of their pitches add up:
    both are compared through the samples that they make."""
    return output not in ("phase_next", "tone_phase_next")


def golden_vectors(specs: Sequence[GraphSpec], weights: Weights) -> bytes:
    """The file `golden.json` for these graphs; `weights` as they are in the bundle."""
    graphs: dict[str, Any] = {spec.name: {"inputs": _inputs(spec, weights), "outputs": {}} for spec in specs}
    golden = Golden(graphs, weights)
    for spec in specs:
        graphs[spec.name]["outputs"] = _outputs(spec, golden.inputs(spec.name))
    return json.dumps(graphs, separators=(",", ":")).encode()


def _inputs(spec: GraphSpec, weights: Weights) -> dict[str, Any]:
    """A rule for every input. A carried state starts as the engine starts; whatever hides rows hides none."""
    rules: dict[str, Any] = {}
    for name, example in spec.inputs.items():
        if f"decoder/{name}" in weights.tensors:
            rules[name] = {"rule": "array", "array": f"decoder/{name}"}
        elif name.endswith("_bias"):
            rules[name] = {"rule": "zeros", "shape": list(example.shape)}
        else:
            rules[name] = {"rule": "normal", "shape": list(example.shape), "scale": SCALES.get(name, 1.0)}
    return rules


@torch.inference_mode()
def _outputs(spec: GraphSpec, inputs: Mapping[str, Array]) -> dict[str, Any]:
    found = spec.module(*(torch.from_numpy(np.array(inputs[name])) for name in spec.inputs))
    found = found if isinstance(found, tuple) else (found,)
    return {name: _kept(name, value.numpy()) for name, value in zip(spec.outputs, found, strict=True)}


def _kept(name: str, output: Array) -> dict[str, Any]:
    values = output.reshape(-1).astype(np.float64)
    at = kept_places(values.size)
    return {
        "size": int(values.size), "at": at.tolist(), "values": [float(f"{value:.8g}") for value in values[at]],
        "rms": float(np.sqrt(np.mean(values**2))), "largest": float(np.abs(values).max()), "compared": compared(name),
    }  # fmt: skip
