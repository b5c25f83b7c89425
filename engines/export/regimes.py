"""What a block costs, uncached and cached: one model, one set of weights, one run, one thread of ONNX Runtime.

    python -m engines.export.regimes

Three ways to make a block of 10 latents after 230 (the paper's generative delay): ordinary outpainting, which recomputes the whole
window in every denoising step; enc-dec, which recomputes the context once per block; block-causal, which commits only the newest
block, fused with the first step. Costs are CPU time, medians over rounds in which the ways take turns, so that a shared
machine slows all alike. Runs in: export; needs torch to build the graphs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from engines.backend import Graph, Weights
from engines.export.graphs import GraphSpec, model_graphs
from engines.export.onnx import SharedWeights, round_parameters, to_onnx
from engines.lmdm import visibility
from engines.lmdm.config import PRESETS, ModelConfig, Regime
from engines.lmdm.model import LMDM
from engines.manifest import GRAPH_SUFFIX
from engines.ort import OrtBackend

STEPS = (1, 2, 4, 8)
DELAY = replace(PRESETS["reference"], block_latents=10, context_blocks=23)  # 230 / 10


class Outpaint(nn.Module):
    """Ordinary outpainting: all tokens in every step, all of them told the text."""

    def __init__(self, model: LMDM) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("bias", visibility.as_bias(visibility.window(model.config, model.config.context_blocks)), persistent=False)

    def forward(
        self, clean: Tensor, noisy: Tensor, sketch_rows: Tensor, partner: Tensor, told: Tensor, cos: Tensor, sin: Tensor,
        text_keys: Tensor, text_values: Tensor,
    ) -> Tensor:
        tokens = torch.cat([self.model.clean_tokens(clean), self.model.target_tokens(noisy, sketch_rows, partner), told], 1)
        hidden, _ = self.model.transformer(tokens, (cos, sin), self.bias, None, (text_keys, text_values), clean=0)
        n = clean.shape[1]
        return self.model.velocity(hidden[:, n : n + noisy.shape[1]], noisy, told)


def outpaint_spec(model: LMDM) -> GraphSpec:
    c = model.config
    step = next(spec for spec in model_graphs(model) if spec.name == "step").inputs
    cos, sin = model.transformer.rotary_pos_emb(visibility.window_positions(c, c.context_blocks))
    clean = torch.randn(1, c.context_latents, c.latent_channels)
    names = ("noisy", "sketch_rows", "partner", "told")
    inputs = {"clean": clean, **{n: step[n] for n in names}, "cos": cos, "sin": sin, **{n: step[n] for n in ("text_keys", "text_values")}}
    return GraphSpec("outpaint", Outpaint(model), inputs, ("v",))


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds of one block."""

    way: str
    steps: int
    block_ms: float
    speed_up: float  # over outpainting at the same number of steps


def load(config: ModelConfig) -> dict[str, Callable[[], object]]:
    """The passes as calls without arguments, all on the same weights."""
    torch.manual_seed(0)
    causal = LMDM(config).eval()
    round_parameters(causal)
    enc_dec = LMDM(replace(config, regime=Regime.ENC_DEC)).eval()
    enc_dec.load_state_dict(causal.state_dict())
    specs = {spec.name: spec for model in (enc_dec, causal) for spec in model_graphs(model)} | {"outpaint": outpaint_spec(causal)}
    shared, backend, calls = SharedWeights(), OrtBackend(), {}
    for name in ("outpaint", "context", "step", "first"):
        shared.take(name, to_onnx(specs[name]))
    files = shared.files()
    weights = Weights.of_files(files)
    for name in shared.graphs:
        calls[name] = _bound(backend.load(files[name + GRAPH_SUFFIX], weights.for_graph(name)), specs[name])
    return calls


def _bound(graph: Graph, spec: GraphSpec) -> Callable[[], object]:
    inputs = {name: value.numpy() for name, value in spec.inputs.items()}
    return lambda: graph(inputs)


def measure(config: ModelConfig = DELAY, rounds: int = 15) -> list[Cost]:
    """Median CPU time of whole blocks, every way and step count taking turns."""
    calls = load(config)
    ways: dict[str, Callable[[int], list[str]]] = {
        "uncached": lambda steps: ["outpaint"] * steps,
        "enc-dec": lambda steps: ["context", *["step"] * steps],
        "block-causal": lambda steps: ["first", *["step"] * (steps - 1)],
    }
    times: dict[tuple[str, int], list[float]] = {(way, steps): [] for way in ways for steps in STEPS}
    for turn in track(range(rounds + 1), "measuring blocks", console=Console(stderr=True)):
        for (way, steps), found in times.items():
            started = time.process_time()
            for name in ways[way](steps):
                calls[name]()
            if turn:  # the first round warms up
                found.append((time.process_time() - started) * 1e3)
    medians = {key: statistics.median(found) for key, found in times.items()}
    return [Cost(way, steps, medians[way, steps], medians["uncached", steps] / medians[way, steps]) for way, steps in times]


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a block in each caching regime, as JSON; `ghostnote bench` shows it as a table.")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps([vars(cost) for cost in measure(rounds=args.rounds)]))


if __name__ == "__main__":
    main()
