"""What the full size of Stable Audio Open costs: memory, operations and time of every pass, measured with random weights.

    python -m engines.sao.cost --found build/full-size.json --out docs/full-size.md

Cost does not depend on what the weights are, so no checkpoint is needed. Each pass is exported and run in a process of its own, one
thread of ONNX Runtime; what was measured stands in the JSON file and is not measured again. Takes 15 minutes of one core and 6 GB.

Runs in: export, by hand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from engines.backend import Weights
from engines.export.graphs import GraphSpec, model_graphs
from engines.export.onnx import SharedWeights, round_parameters, to_onnx
from engines.export.regimes import outpaint_spec
from engines.lmdm.config import PRESETS, ModelConfig, Regime
from engines.lmdm.model import LMDM
from engines.manifest import GRAPH_SUFFIX
from engines.ort import OrtBackend
from engines.sao.config import SMALL_CODEC
from engines.sao.cost_page import page
from engines.sao.oobleck import Decoder, Encoder, reach

FULL = PRESETS["sao_small"]
SHAPES = {"230/10": FULL, "192/48": replace(FULL, block_latents=48, context_blocks=4)}
CODING = ("encode", "decode")
PASSES = ("first", "step", *CODING, "commit", "context", "outpaint")
ROUNDS = 3


@dataclass(frozen=True)
class PassCost:
    """One graph, run once."""

    shape: str  # context / block, in latents
    name: str
    gmac: float
    ms: float | None  # median CPU time; None: counted, not run
    working_mb: float | None  # most memory while it ran, beyond what was held before
    block_ms: float  # how long the block sounds


def coding_spec(name: str, config: ModelConfig, device: str) -> GraphSpec:
    """`encode` or `decode` of one block in a stream: overlap included."""
    frames = SMALL_CODEC.latent_frames
    with torch.device(device):
        half = Encoder(SMALL_CODEC) if name == "encode" else Decoder(SMALL_CODEC)
    latents = config.block_latents + sum(reach(half, frames))
    inputs = (SMALL_CODEC.audio_channels, latents * frames) if name == "encode" else (SMALL_CODEC.latent_channels, latents)
    return GraphSpec(name, half, {"x": torch.zeros(1, *inputs)}, ("y",))


def spec_of(name: str, config: ModelConfig, device: str = "cpu") -> GraphSpec:
    """A graph by name, its parameters on `device`; `context` belongs to the enc-dec regime, `outpaint` caches nothing."""
    if name in CODING:
        return coding_spec(name, config, device)
    with torch.device(device):
        model = LMDM(replace(config, regime=Regime.ENC_DEC if name == "context" else Regime.BLOCK_CAUSAL)).eval()
    if name == "outpaint":
        return outpaint_spec(model)
    return next(spec for spec in model_graphs(model) if spec.name == name)


def multiply_adds(name: str, config: ModelConfig) -> float:
    """Counted, not run, in units of 10^9."""
    spec = spec_of(name, config, "meta")
    module, inputs = spec.module.to("meta"), [value.to("meta") for value in spec.inputs.values()]
    with FlopCounterMode(display=False) as counter, torch.device("meta"), torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() / 2e9


def resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def working_memory(run: Callable[[], object]) -> float:
    """Most memory that `run` held beyond what was there before."""
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


def measure(shape: str, name: str) -> PassCost:
    """Export one graph with random weights and run it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = SHAPES[shape]
    gmac = multiply_adds(name, config)
    spec = spec_of(name, config)
    round_parameters(spec.module)
    shared = SharedWeights()
    shared.take(name, to_onnx(spec))
    files, inputs = shared.files(), {key: value.numpy() for key, value in spec.inputs.items()}
    del spec, shared
    session = OrtBackend().load(files[name + GRAPH_SUFFIX], Weights.of_files(files).for_graph(name))
    working = working_memory(lambda: session(inputs))
    return PassCost(shape, name, round(gmac, 2), round(median_ms(lambda: session(inputs)), 1), round(working, 1), block_ms(shape))


def block_ms(shape: str) -> float:
    return SHAPES[shape].block_latents * SMALL_CODEC.latent_frames / 44.1


def read(path: Path) -> dict[tuple[str, str], PassCost]:
    """What was measured before."""
    found = [PassCost(**facts) for facts in json.loads(path.read_text())] if path.exists() else []
    return {(cost.shape, cost.name): cost for cost in found}


def run_all(path: Path) -> None:
    """Measure what the file does not hold yet."""
    for shape in SHAPES:
        for name in PASSES:
            found = read(path)
            if (shape, name) not in found:
                command = [sys.executable, "-m", "engines.sao.cost", "--only", shape, name]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[shape, name] = PassCost(**json.loads(done.stdout.splitlines()[-1]))
                print(found[shape, name], flush=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps([asdict(cost) for cost in found.values()], indent=1))


def every_pass(path: Path) -> list[PassCost]:
    """In the page's order; of what was not measured, the operations."""
    found, order = read(path), [(shape, name) for shape in SHAPES for name in PASSES]
    counted = lambda shape, name: PassCost(shape, name, multiply_adds(name, SHAPES[shape]), None, None, block_ms(shape))  # noqa: E731
    return [found.get(key) or counted(*key) for key in order]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the full size of Stable Audio Open and write the page about it.")
    parser.add_argument("--found", type=Path, default=Path("build/full-size.json"))
    parser.add_argument("--out", type=Path, default=Path("build/full-size.md"))
    parser.add_argument("--run", action=argparse.BooleanOptionalAction, default=True, help="measure what is missing, then write the page")
    parser.add_argument("--only", nargs=2, metavar=("SHAPE", "PASS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(asdict(measure(*args.only))))
        return
    if args.run:
        run_all(args.found)
    args.out.write_text(page(every_pass(args.found)))


if __name__ == "__main__":
    main()
