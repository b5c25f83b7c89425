"""What playing costs on this machine: a block of the engine, a period of the audio loop, and caching against none.

All times are CPU time of one thread, measured in one run: on a shared machine wall clock says little, ratios and shares say
much. Runs in: `ghostnote bench`, alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from appliance.period_cost import measure_period_cost
from engines.bundle import locate, open_engine
from engines.engine import Engine, EngineControls

WARM_UP_BLOCKS = 10
REGIMES = [sys.executable, "-m", "engines.export.regimes"]
RACE = [sys.executable, "-m", "engines.race"]
RACE_BLOCKS = 24  # at most, of each runtime: the slowest of them is an interpreter
DEFAULT = "onnxruntime"


@dataclass(frozen=True)
class BlockCost:
    """CPU milliseconds of one block of an engine at its own number of steps."""

    engine: str
    steps: int
    block_ms: float  # how long a block sounds
    p50_ms: float
    p99_ms: float
    max_ms: float
    p99_share: float  # of block_ms
    late_over_early: float  # median of the last tenth over that of the first: 1 when cost does not grow
    grown_mb: float  # resident memory at the end, less that after the first tenth


def pluck(frames: int, sample_rate: int) -> NDArray[np.float32]:
    """Something to play: a plucked chord twice a second."""
    t = np.arange(frames) / sample_rate
    chord = sum(np.sin(2 * np.pi * hz * t) for hz in (110.0, 164.8, 220.0, 277.2))
    return (0.1 * chord * np.exp(-4 * (t % 0.5))).astype(np.float32)


def measure_engine(engine: Engine, blocks: int) -> BlockCost:
    """Generate `blocks` blocks one after the other."""
    spec = engine.spec
    audio = pluck(spec.block_frames * 8, spec.sample_rate).reshape(8, spec.block_frames)
    engine.reset(0)
    times, tenth, early_mb = np.empty(blocks), max(1, blocks // 10), 0.0
    for i in track(range(-WARM_UP_BLOCKS, blocks), f"playing {blocks} blocks", console=Console(stderr=True)):
        began = time.process_time()
        engine.generate(audio[i % 8], EngineControls())
        times[i] = (time.process_time() - began) * 1e3  # warm-up blocks are overwritten in turn
        early_mb = resident_mb() if i == tenth else early_mb
    block_ms = spec.block_frames / spec.sample_rate * 1e3
    p50, p99 = np.percentile(times, [50, 99])
    growth = float(np.median(times[-tenth:]) / np.median(times[:tenth]))
    share, grown_mb = float(p99 / block_ms), resident_mb() - early_mb
    return BlockCost(spec.name, spec.steps, block_ms, float(p50), float(p99), float(times.max()), share, growth, grown_mb)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_regimes() -> list[dict[str, Any]] | None:
    """Caching against none, in a process of its own; None where torch, which builds the graphs, is not installed."""
    if find_spec("torch") is None:
        return None
    done = subprocess.run(REGIMES, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_backends(engine: str, blocks: int) -> dict[str, Any] | None:
    """Every runtime that is here against each other, in a process of its own; None for an engine that needs none."""
    if engine == "echo":
        return None
    done = subprocess.run([*RACE, str(locate(engine)), "--blocks", str(blocks)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show_backends(console: Console, found: dict[str, Any]) -> None:
    """One row for each runtime; ratios are of one run in which they took turns."""
    table = Table("backend", "block", "CPU", f"as fast as {DEFAULT}", "golden vectors", title="every runtime here, blocks in turns")
    base = found["present"][DEFAULT]
    for name, cost in found["present"].items():
        times = f"{base['wall_ms'] / cost['wall_ms']:.2f}x  (CPU {base['cpu_ms'] / max(cost['cpu_ms'], 1e-3):.2f}x)"
        right = {True: "as packed", False: "[bold red]wrong[/]", None: "the bundle has none"}[cost["right"]]
        table.add_row(name, f"{cost['wall_ms']:.1f} ms", f"{cost['cpu_ms']:.1f} ms", times, right)
    for name, reason in found["absent"].items():
        table.add_row(name, "-", "-", "-", reason.replace("[", r"\["), style="dim")
    console.print(table)


def show(report: dict[str, Any]) -> None:
    console, block = Console(), report["block"]
    table = Table("what", "CPU", "of what there is", title=f"engine {block['engine']}, {block['steps']} steps, one thread")
    table.add_row("block, median", f"{block['p50_ms']:.1f} ms", f"{block['p50_ms'] / block['block_ms']:.1%} of {block['block_ms']:.0f} ms")
    table.add_row("block, p99", f"{block['p99_ms']:.1f} ms", f"{block['p99_share']:.1%}")
    table.add_row("last tenth of the blocks over the first", f"{block['late_over_early']:.3f}", "1 when cost does not grow")
    table.add_row("memory grown", f"{block['grown_mb']:.1f} MB", "")
    table.add_row("audio period of 128 frames", f"{report['period_us']:.1f} us", f"{report['period_us'] / 2902:.1%} of 2.9 ms")
    console.print(table)
    if report["backends"]:
        show_backends(console, report["backends"])
    if report["regimes"] is None:
        console.print("caching regimes were not measured: that needs torch (pip install 'ghostnote[train]')")
        return
    table = Table("CPU ms per block, 230 + 10 latents", *(f"{k} steps" for k in (1, 2, 4, 8)), title="what caching saves")
    for way in dict.fromkeys(row["way"] for row in report["regimes"]):
        table.add_row(way, *(f"{row['block_ms']:.1f}  ({row['speed_up']:.1f}x)" for row in report["regimes"] if row["way"] == way))
    console.print(table)


def run(engine: str = "", blocks: int = 200, as_json: bool = False) -> None:
    """Measure and print; `as_json` prints one JSON object instead of tables."""
    report = {
        "block": asdict(measure_engine(open_engine(engine), blocks)),
        "period_us": measure_period_cost(),
        "backends": measure_backends(engine, min(blocks, RACE_BLOCKS)),
        "regimes": measure_regimes(),
    }
    if as_json:
        print(json.dumps(report))
    else:
        show(report)
