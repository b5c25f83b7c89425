"""A bundle of a preset's graphs with random weights: to compile and measure a size that nobody has trained yet. It does not play.

    python -m engines.export.blank sao_small --out build/sao_small.ghost

The codec is left out; at that size it is Stable Audio Open's. Runs in: export, tests; needs torch.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from engines.backend import Weights
from engines.bundle import Bundle, write_bundle
from engines.engine import EngineSpec
from engines.export.golden import golden_vectors
from engines.export.graphs import MAX_STEPS, model_graphs
from engines.export.onnx import SharedWeights, round_parameters, to_onnx
from engines.export.precision import with_half_graphs
from engines.golden import GOLDEN_FILE
from engines.lmdm.config import PRESETS, ModelConfig
from engines.lmdm.model import LMDM
from engines.manifest import head


@torch.no_grad()
def random_model(config: ModelConfig, seed: int = 0) -> LMDM:
    """Weights that keep every layer alive: stock initialisation leaves some at zero, and a compiler might fold them away."""
    torch.manual_seed(seed)
    model = LMDM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5)
    round_parameters(model)
    return model


def write_blank(preset: str, out: Path) -> Bundle:
    model = random_model(PRESETS[preset])
    specs, shared = model_graphs(model), SharedWeights()
    for spec in track(specs, "exporting", console=Console(stderr=True)):
        shared.take(spec.name, to_onnx(spec))
    files = with_half_graphs(shared.files())
    files[GOLDEN_FILE] = golden_vectors(specs, Weights.of_files(files))
    engine = EngineSpec(preset, 44_100, 2048 * model.config.block_latents, 0, ("nothing",), 8, MAX_STEPS)
    write_bundle(out, head("blank", engine, model={"config": asdict(model.config)}), files)
    return Bundle.open(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="A bundle with random weights, to compile and measure.")
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    bundle = write_blank(args.preset, args.out)
    print(f"{bundle.path}: {bundle.path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
