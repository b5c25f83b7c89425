"""A bundle -> the checkpoints that it was packed from, to train on from there.

    python -m engines.export.unpack engines/bundles/reference.ghost --codec build/codec.pt --model build/lmdm.pt

A graph's tensors are named as the exporter pleases, and some are turned or joined. So a network of the same sizes with other numbers in
every place is exported too: where one of its parameters turns up, the bundle holds that parameter. What comes back are the
rounded weights that play; the optimiser's state and the weights before averaging never were in the bundle.

Runs in: export, offline. Needs torch, of the version that packed the bundle.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from engines.backend import Weights
from engines.bundle import Bundle, BundleError
from engines.export.package import export
from engines.lmdm import sampler
from engines.lmdm.config import ModelConfig, Regime
from engines.lmdm.decoder import SpectrumNet
from engines.lmdm.model import LMDM
from engines.manifest import GRAPH_SUFFIX, WEIGHTS_FILE
from engines.train import checkpoint

Array = NDArray[np.float32]
Tensors = Mapping[tuple[str, str], Array]  # graph and name -> values

CONSTANTS = ("beta", "inv_freq")  # which the stock layout keeps among its weights


@dataclass(frozen=True)
class Place:
    """Where a bundle holds a parameter."""

    tensor: tuple[str, str]
    first: int = 0  # of the values, where several parameters were joined
    turned: bool = False

    def read(self, tensors: Tensors, shape: tuple[int, ...]) -> Array:
        found = tensors[self.tensor]
        values = (found.T if self.turned else found).reshape(-1)[self.first :][: int(np.prod(shape))]
        return values.reshape(shape).astype(np.float32)


def tensors_of(files: Mapping[str, bytes]) -> dict[tuple[str, str], Array]:
    """Every tensor of float32 in the float32 graphs among a bundle's files, by the name that the exporter gave it."""
    weights, found = Weights.of_files(files), dict[tuple[str, str], Array]()
    for graph in (name for name in weights.graphs if "/" not in name):
        model = onnx.load_from_string(files[graph + GRAPH_SUFFIX])
        stored = weights.for_graph(graph)
        kept = [tensor for tensor in model.graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
        named = {tensor.name: numpy_helper.to_array(tensor) for tensor in kept}
        named |= {node.output[0]: stored[node.input[0]].astype(np.float32) for node in model.graph.node if node.input[0] in stored}
        found |= {(graph, name): values for name, values in named.items() if values.dtype == np.float32}
    return found


def learnt(module: nn.Module) -> dict[str, Tensor]:
    """What training, fitting or chance made of a module, by name; `copy_` into it changes the module."""
    return {name: value for name, value in module.state_dict().items() if name.rpartition(".")[2] not in CONSTANTS}


@torch.no_grad()
def fill(module: nn.Module, draw: torch.Generator) -> None:
    """Other numbers everywhere, all of which float16 holds and none of which is 0."""
    for value in learnt(module).values():
        value.copy_((0.5 + torch.rand(value.shape, generator=draw)).half().float())


def place_of(wanted: Array, tensors: Tensors) -> Place | None:
    """The first tensor that holds these numbers: as they are, turned, or among others in a row."""
    size = wanted.size
    for name, values in tensors.items():
        if values.size == size and np.array_equal(values.reshape(-1), wanted.reshape(-1)):
            return Place(name)
        if wanted.ndim == 2 and values.shape == wanted.shape[::-1] and np.array_equal(values.T, wanted):
            return Place(name, turned=True)
        if wanted.ndim == values.ndim == 1 < size < values.size:
            for first in np.flatnonzero(values[: values.size - size + 1] == wanted[0]):
                if np.array_equal(values[first : first + size], wanted):
                    return Place(name, int(first))
    return None


@torch.no_grad()
def refill(module: nn.Module, made: Tensors, held: Tensors) -> list[str]:
    """Put what `held` has where `made` has the numbers of `module` into it; returns the names of what is not found."""
    missing = []
    for name, value in learnt(module).items():
        place = place_of(value.numpy(), made)
        if place is None or place.tensor not in held or held[place.tensor].shape != made[place.tensor].shape:
            missing.append(name)
        else:
            value.copy_(torch.from_numpy(place.read(held, tuple(value.shape)).copy()))
    return missing


@dataclass(frozen=True)
class Marked:
    """A model and a codec with other numbers in every place, and what they are exported to."""

    model: LMDM
    net: SpectrumNet
    tensors: Tensors

    @classmethod
    def of(cls, config: ModelConfig, ways: int) -> Marked:
        model, net, draw = LMDM(config).eval(), SpectrumNet().eval(), torch.Generator().manual_seed(0)
        for module in (model, net):
            fill(module, draw)
        return cls(model, net, tensors_of(export(model, net, ways)[1].files()))


def recover(marked: Marked, files: Mapping[str, bytes]) -> tuple[LMDM, SpectrumNet]:
    """The model and the codec whose graphs and weights these files are, in place of those that were marked. Raises LookupError with the
    name of a parameter that is not there: another version packed them, or two have the same values, which only untrained ones do."""
    held = tensors_of(files)
    missing = [name for module in (marked.model, marked.net) for name in refill(module, marked.tensors, held)]
    if missing:
        raise LookupError(missing[0])
    return marked.model, marked.net


def unpack(bundle: Bundle) -> tuple[LMDM, SpectrumNet]:
    """The model and the codec in a bundle. Raises BundleError."""
    facts = bundle.manifest.facts.get("model")
    if bundle.manifest.kind != "lmdm" or not isinstance(facts, dict):
        raise BundleError(f"{bundle.path}: is of the kind {bundle.manifest.kind!r}, which has no weights to train on")
    config = ModelConfig(**{**facts["config"], "regime": Regime(facts["config"]["regime"])})
    wanted = [name for name in (entry.path for entry in bundle.manifest.files) if name == WEIGHTS_FILE or name.endswith(GRAPH_SUFFIX)]
    try:
        return recover(Marked.of(config, sampler.ways(facts["guidance"])), {name: bundle.read(name) for name in wanted})
    except LookupError as missing:
        said = f"{bundle.path}: holds no {missing} where this version packs it; unpack it with the version that packed it"
        raise BundleError(said) from missing


def write(model: LMDM, net: SpectrumNet, model_path: Path, codec_path: Path) -> None:
    """As `engines.train` reads them with `--start-from`; there is nothing to resume."""
    average: dict[str, Tensor] = model.state_dict()
    checkpoint.save(model_path, {"average": average, "config": json.dumps(asdict(model.config))})
    checkpoint.save(codec_path, {"net": net.state_dict()})


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack a bundle into checkpoints.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--codec", type=Path, default=Path("build/codec.pt"))
    parser.add_argument("--model", type=Path, default=Path("build/lmdm.pt"))
    args = parser.parse_args()
    taken = next((path for path in (args.codec, args.model) if path.exists()), None)
    if taken:
        sys.exit(f"{taken} is there already; move it away, or name another with --codec and --model")
    try:
        model, net = unpack(Bundle.open(args.bundle))
    except BundleError as wrong:
        sys.exit(str(wrong))
    write(model, net, args.model, args.codec)
    print(f"{args.model}, {args.codec}: release {Bundle.open(args.bundle).manifest.release} of {args.bundle}")


if __name__ == "__main__":
    main()
