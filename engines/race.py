"""What a block costs on every runtime that is here: one run, one process, blocks in turns, so that a busy machine slows all alike.

    python -m engines.race BUNDLE [--blocks 24]        JSON: costs of those present, reasons of those absent

Ratios of one run are worth something; milliseconds of a shared machine are not. A runtime that gives the bundle's golden vectors
counts as proved from then on (engines/proofs.py); onnxruntime always does. Runs in: `ghostnote bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import proofs
from engines.backend import Backend, BackendError, Weights
from engines.backends import DEFAULT, RUNTIMES, Need, open_backend
from engines.bundle import Bundle, locate
from engines.engine import EngineControls
from engines.golden import Golden
from engines.lmdm.stream import StreamingEngine

RACE_BLOCKS = 24
WARM_UP_BLOCKS = 4
TOLERANCE = 1e-4  # of golden vectors, for float32


@dataclass(frozen=True)
class Cost:
    """Medians for one block. CPU is this process's: on a GPU it says what is left for other things."""

    wall_ms: float
    cpu_ms: float

    def fair_ms(self, runtime: str) -> float:
        """What counts against others: CPU time where the CPU computes, for a busy machine lengthens only the other."""
        return self.wall_ms if RUNTIMES[runtime].on_gpu else self.cpu_ms


def phrase(block: int, frames: int, sample_rate: int) -> NDArray[np.float32]:
    """Block `block` of an endless set: a plucked chord twice a second, each on another fret, with a little noise."""
    t = (np.arange(frames) + block * frames) / sample_rate
    fret = 2 ** ((np.floor(t * 2) * 5 % 12) / 12)
    chord = sum(np.sin(2 * np.pi * hz * fret * t) for hz in (110.0, 164.8, 220.0))
    noise = 0.002 * np.random.default_rng(block).standard_normal(frames)
    return (0.1 * chord * np.exp(-4 * (t % 0.5)) + noise).astype(np.float32)


def timed_block(engine: StreamingEngine, block: int) -> tuple[Cost, list[float]]:
    """What a block took, and milliseconds of its steps; these by the GPU's clock where a runner has one, else from stamp to stamp."""
    audio = phrase(block, engine.spec.block_frames, engine.spec.sample_rate)
    at, cpu = [time.perf_counter_ns()], time.process_time_ns()
    engine.generate(audio, EngineControls(), lambda _: at.append(time.perf_counter_ns()))
    cpu_ms = (time.process_time_ns() - cpu) / 1e6
    took = [(b - a) / 1e6 for a, b in pairwise(at)]
    runner: Any = engine.runner
    return Cost(sum(took), cpu_ms), took[1:-1] if runner is None else list(runner.times.steps_ms)  # between "encoded" and "decoded"


def race(engines: Mapping[str, StreamingEngine], blocks: int) -> dict[str, Cost]:
    """Medians of each; they take turns."""
    costs: dict[str, list[Cost]] = {name: [] for name in engines}
    for one in engines.values():
        one.reset(3)
    for block in range(WARM_UP_BLOCKS + blocks):
        for name, one in engines.items():
            costs[name].append(timed_block(one, block)[0])
    kept = {name: found[WARM_UP_BLOCKS:] for name, found in costs.items()}
    return {
        name: Cost(float(np.median([cost.wall_ms for cost in found])), float(np.median([cost.cpu_ms for cost in found])))
        for name, found in kept.items()
    }


def right(bundle: Bundle, backend: Backend) -> bool | None:
    """Whether every graph gives the golden vectors; None for a bundle that was packed without."""
    golden, weights = Golden.of(bundle), Weights.of(bundle)
    if golden is None:
        return None
    graphs = {name: backend.load(bundle.read(f"{name}.onnx"), weights.for_graph(name)) for name in golden.graphs}
    return all(max(golden.differences(name, graph(golden.inputs(name))).values()) <= TOLERANCE for name, graph in graphs.items())


def race_all(bundle: Bundle, threads: int, blocks: int) -> dict[str, Any]:
    """Every runtime that is here, against each other; those that are right are recorded as proved."""
    present: dict[str, Backend] = {}
    absent: dict[str, str] = {}
    for name in RUNTIMES:
        try:
            present[name] = open_backend(name, Need(bundle, threads))
        except BackendError as error:
            absent[name] = str(error)
    costs = race({name: StreamingEngine(bundle, backend) for name, backend in present.items()}, blocks)
    good = {name: right(bundle, backend) for name, backend in present.items()}
    proofs.record(bundle, {name: cost.fair_ms(name) for name, cost in costs.items() if good[name] or name == DEFAULT})
    return {"present": {name: {**asdict(cost), "right": good[name]} for name, cost in costs.items()}, "absent": absent}


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost of a block on every runtime that is here, as JSON.")
    parser.add_argument("bundle", nargs="?", default="reference")
    parser.add_argument("--blocks", type=int, default=RACE_BLOCKS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    print(json.dumps(race_all(Bundle.open(locate(args.bundle)), args.threads, args.blocks)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
