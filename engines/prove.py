"""A backend proves itself on the machine that it is to play on: every graph, then a set, then itself against itself, then endurance.

    python -m engines.prove BUNDLE --backend NAME [--blocks 200] [--soak-seconds 60] [--graphs-only]

One JSON object per line as each result is known: {"what", "passed" (null: nothing to judge), "detail"}. Exit code 0 if all passed, 1 if
not, 3 if the backend can't be had here. A process of its own: a runtime that takes it down takes nothing else with it.

What is compared: every graph with the bundle's golden vectors (torch, float32, from the day of packing); whole blocks with onnxruntime on
the CPU, closed loop, so that an error stays in the context and shows in all that follows; a captured block with a plainly enqueued
one, bit by bit. Runs in: `ghostnote check`, tests.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines import proofs
from engines.backend import Array, Backend, BackendError, Weights
from engines.backends import DEFAULT, RUNTIMES, Need, open_backend
from engines.bundle import Bundle, BundleError, locate
from engines.engine import EngineControls
from engines.golden import Golden
from engines.lmdm.stream import StreamingEngine
from engines.race import RACE_BLOCKS, WARM_UP_BLOCKS, phrase, race, timed_block

ABSENT = 3
GOLDEN_FLOAT32, GOLDEN_FLOAT16 = 1e-4, 2e-2  # largest difference over an output's largest value
REPLAY_FLOAT32, REPLAY_FLOAT16 = 1e-3, 5e-2  # rms of a block's difference over its own rms: the worst of all blocks
HALF_PRECISION = ("tensorrt",)
GROWTH_BYTES = 8 << 20  # what a soak may add to this process or to the GPU's memory in use
PROMPT_EVERY = 10  # blocks between changes of the words in a replay; a prefill comes between them


@dataclass(frozen=True)
class Result:
    what: str
    passed: bool | None
    detail: str


def wishes(block: int, prompts: int) -> EngineControls:
    return EngineControls(prompt=block // PROMPT_EVERY % prompts)


def golden_tolerance(backend: str) -> float:
    return GOLDEN_FLOAT16 if backend in HALF_PRECISION else GOLDEN_FLOAT32


def compare_graphs(bundle: Bundle, backend: Backend, tolerance: float) -> Iterator[Result]:
    """Every graph against the golden vectors."""
    golden = Golden.of(bundle)
    if golden is None:
        yield Result("golden vectors", None, "this bundle was packed without: pack it again to compare its graphs")
        return
    weights = Weights.of(bundle)
    for name in golden.graphs:
        found = golden.differences(name, backend.load(bundle.read(f"{name}.onnx"), weights.for_graph(name))(golden.inputs(name)))
        output, worst = max(found.items(), key=lambda one: one[1])
        yield Result(f"graph {name}", worst <= tolerance, f"{worst:.1e} at most, in {output!r} ({tolerance:.0e} is allowed)")


def play(engine: StreamingEngine, block: int) -> Array:
    """One block of the set -> its latents; every now and then a block that is only heard."""
    spec = engine.spec
    audio = phrase(block, spec.block_frames, spec.sample_rate)
    if block % PROMPT_EVERY == PROMPT_EVERY - 1:
        engine.prefill(audio)
    else:
        engine.generate(audio, wishes(block, len(spec.prompts)))
    assert engine.state.pending is not None
    return np.array(engine.state.pending)


def replay(engine: StreamingEngine, reference: StreamingEngine, blocks: int, tolerance: float) -> Result:
    """The same set through both, from the same seed."""
    for one in (engine, reference):
        one.reset(1)
    differences = [_apart(play(engine, block), play(reference, block)) for block in range(blocks)]
    worst, middle = max(differences), float(np.median(differences))
    says = f"{worst:.1e} at worst, {middle:.1e} in the middle, of a block's rms ({tolerance:.0e} is allowed)"
    return Result(f"{blocks} blocks against {DEFAULT}", worst <= tolerance, says)


def _apart(ours: Array, theirs: Array) -> float:
    """The rms of the difference over that of what it should be; infinite where ours is not numbers."""
    apart = float(np.sqrt(np.mean((ours - theirs) ** 2)) / (np.sqrt(np.mean(theirs**2)) + 1e-9))
    return apart if np.isfinite(apart) else float("inf")


def compare_capture(engine: StreamingEngine, blocks: int = 8) -> Result:
    """A block as one CUDA graph, and enqueued call by call: the same bits."""
    runner: Any = engine.runner
    if runner is None:
        return Result("captured block == plain", None, "this backend goes step by step: there is nothing to capture")
    if not runner.capture:
        return Result("captured block == plain", None, "plain only: pip install cuda-bindings, or a TensorRT whose plans can be captured")
    played = []
    for runner.capture in (True, False):
        engine.reset(2)
        played.append([play(engine, block) for block in range(blocks)])
    runner.capture = True
    same = all(np.array_equal(a, b) for a, b in zip(*played, strict=True))
    return Result("captured block == plain", same, f"{blocks} blocks, " + ("bit by bit" if same else "which differ"))


def soak(engine: StreamingEngine, seconds: float) -> list[Result]:
    """Play as fast as it goes for so long."""
    engine.reset(3)
    for block in range(WARM_UP_BLOCKS):
        timed_block(engine, block)
    blocks: list[float] = []
    steps: list[float] = []
    began, resident, gpu = time.monotonic(), _resident_bytes(), _gpu_bytes(engine)
    while not blocks or time.monotonic() - began < seconds:
        cost, steps_ms = timed_block(engine, len(blocks))
        blocks.append(cost.wall_ms)
        steps += steps_ms
    sounds_ms = 1000 * engine.spec.block_frames / engine.spec.sample_rate
    grown = (_resident_bytes() - resident, _gpu_bytes(engine) - gpu)
    in_time = float(np.percentile(blocks, 99)) < sounds_ms / 2
    return [
        Result("block, ms", in_time, f"{_spread(blocks)}; {len(blocks)} blocks; p99 may be half of the {sounds_ms:.0f} that it sounds"),
        Result("denoising step, ms", None, _spread(steps) if steps else "a captured block has no steps of its own"),
        Result("memory", max(grown) <= GROWTH_BYTES, _memory(engine, grown)),
    ]


def _spread(values: list[float]) -> str:
    p50, p99, p999 = np.percentile(values, [50, 99, 99.9])
    return f"p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f}, max {max(values):.2f}"


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _gpu_bytes(engine: StreamingEngine) -> int:
    """GPU memory in use by anyone, as far as this backend can ask."""
    runner: Any = engine.runner
    return 0 if runner is None else -int(runner.cuda.free_bytes())


def _memory(engine: StreamingEngine, grown: tuple[int, int]) -> str:
    says = f"process {_resident_bytes() / 1e6:.0f} MB, grown by {grown[0] / 1e6:.1f} MB in the soak"
    runner: Any = engine.runner
    if runner is None:
        return says
    held, free = runner.cuda.allocated_bytes / 1e6, runner.cuda.free_bytes() / 1e6
    return f"{says}; GPU: {held:.0f} MB in buffers, {free:.0f} MB free, grown by {grown[1] / 1e6:.1f} MB"


def prove(bundle: Bundle, name: str, blocks: int, soak_seconds: float) -> Iterator[Result]:
    """All of it, for one backend; a proof is recorded where all of it passes. Raises BackendError where the backend can't be had."""
    good = True
    for result in _results(bundle, name, blocks, soak_seconds):
        good &= result.passed is not False
        yield result
    engines = {one: StreamingEngine(bundle, open_backend(one, Need(bundle))) for one in dict.fromkeys((DEFAULT, name))}
    block_ms = {one: cost.fair_ms(one) for one, cost in race(engines, RACE_BLOCKS).items()}
    times = block_ms[DEFAULT] / block_ms[name]
    yield Result("against the CPU", None, f"{times:.2f} times as fast as {DEFAULT} ({block_ms[name]:.1f} and {block_ms[DEFAULT]:.1f} ms)")
    if good:
        proofs.record(bundle, block_ms)


def _results(bundle: Bundle, name: str, blocks: int, soak_seconds: float) -> Iterator[Result]:
    need = Need(bundle)
    backend = open_backend(name, need)
    half = name in HALF_PRECISION
    yield from compare_graphs(bundle, backend, golden_tolerance(name))
    began = time.monotonic()
    engine, reference = StreamingEngine(bundle, backend), StreamingEngine(bundle, open_backend(DEFAULT, need))
    yield Result("engine loads", True, f"in {time.monotonic() - began:.1f} s")
    yield replay(engine, reference, blocks, REPLAY_FLOAT16 if half else REPLAY_FLOAT32)
    yield compare_capture(engine)
    yield from soak(engine, soak_seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description="Prove a backend on this machine; one JSON object per line.")
    parser.add_argument("bundle", nargs="?", default="reference")
    parser.add_argument("--backend", choices=list(RUNTIMES), default=DEFAULT)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--soak-seconds", type=float, default=60.0)
    parser.add_argument("--graphs-only", action="store_true", help="compare with the golden vectors, and nothing else")
    args = parser.parse_args()
    good = True
    try:
        bundle = Bundle.open(locate(args.bundle))
        if args.graphs_only:
            results = compare_graphs(bundle, open_backend(args.backend, Need(bundle)), golden_tolerance(args.backend))
        else:
            results = prove(bundle, args.backend, args.blocks, args.soak_seconds)
        for result in results:
            good &= result.passed is not False
            print(json.dumps(asdict(result)), flush=True)
    except (BackendError, BundleError) as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return ABSENT
    except Exception as error:  # of whatever kind a runtime raises: it is the result
        good = False
        print(json.dumps(asdict(Result("ended", False, " ".join(f"{type(error).__name__}: {error}".split())))), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
