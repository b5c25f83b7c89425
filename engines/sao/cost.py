"""What the full size of Stable Audio Open costs: memory, operations and time of every pass, measured with random weights.

    python -m engines.sao.cost --out docs/full-size.md

Cost does not depend on what the weights are, so no checkpoint is needed. Two minutes of one CPU core and 4 GB.

Runs in: export, by hand.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

from engines.export.graphs import GraphSpec, model_graphs
from engines.export.regimes import outpaint_spec
from engines.lmdm.config import PRESETS, ModelConfig, Regime
from engines.lmdm.model import LMDM
from engines.sao.config import SMALL_CODEC
from engines.sao.cost_page import page
from engines.sao.oobleck import Autoencoder, Decoder, Encoder, reach

FULL = PRESETS["sao_small"]
SHAPES = {"230/10": FULL, "192/48": replace(FULL, block_latents=48, context_blocks=4)}
ROUNDS = 3


@dataclass(frozen=True)
class PassCost:
    """One graph, run once."""

    shape: str  # context / block, in latents
    name: str
    gmac: float
    ms: float  # median CPU time
    working_mb: float  # most memory while it ran, beyond what was held before
    block_ms: float  # how long the block sounds


def coding(half: Encoder | Decoder, config: ModelConfig) -> GraphSpec:
    """Half of the autoencoder over one block in a stream: the block and all that it needs on both sides."""
    frames, c = SMALL_CODEC.latent_frames, SMALL_CODEC
    latents = config.block_latents + sum(reach(half, frames))
    if isinstance(half, Encoder):
        return GraphSpec("encode", half, {"audio": torch.randn(1, c.audio_channels, latents * frames) * 0.1}, ("latents",))
    return GraphSpec("decode", half, {"latents": torch.randn(1, c.latent_channels, latents)}, ("audio",))


def specs(model: LMDM, codec: Autoencoder, shape: ModelConfig) -> Iterator[GraphSpec]:
    """Every pass of both regimes and of none, on the same weights."""
    for regime, names in ((Regime.BLOCK_CAUSAL, ("first", "step", "commit")), (Regime.ENC_DEC, ("context",))):
        model.config = replace(shape, regime=regime)
        found = {spec.name: spec for spec in model_graphs(model)}
        yield from (found[name] for name in names)
    yield outpaint_spec(model)
    yield coding(codec.encoder, shape)
    yield coding(codec.decoder, shape)


def multiply_adds(spec: GraphSpec) -> float:
    """In units of 10^9, counted while it runs once."""
    with FlopCounterMode(display=False) as counter:
        spec.module(*spec.inputs.values())
    return counter.get_total_flops() / 2e9


def resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def working_memory(run: Callable[[], object]) -> float:
    """Most memory that `run` held beyond what was there before."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free, but kept, would hide what is taken
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    run()
    return resident_mb("VmHWM") - before


def median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        times.append((time.process_time() - started) * 1e3)
    return statistics.median(times)


@torch.inference_mode()
def measure(shape: str, spec: GraphSpec) -> PassCost:
    gmac = multiply_adds(spec)
    working = working_memory(lambda: spec.module(*spec.inputs.values()))
    ms = median_ms(lambda: spec.module(*spec.inputs.values()))
    block_ms = SHAPES[shape].block_latents * SMALL_CODEC.latent_frames / 44.1
    return PassCost(shape, spec.name, gmac, ms, working, block_ms)


def measured() -> list[PassCost]:
    """Both shapes."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, codec = LMDM(FULL).eval(), Autoencoder(SMALL_CODEC).eval()
    found = []
    for shape, config in SHAPES.items():
        for spec in track(specs(model, codec, config), shape, total=7, console=Console(stderr=True)):
            found.append(measure(shape, spec))
            print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the full size of Stable Audio Open and write the page about it.")
    parser.add_argument("--out", type=Path, default=Path("build/full-size.md"))
    args = parser.parse_args()
    args.out.write_text(page(measured()))


if __name__ == "__main__":
    main()
