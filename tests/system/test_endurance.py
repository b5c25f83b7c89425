"""Ten thousand blocks: what an hour of playing must not make slower or larger. Minutes long: `make test-slow`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.bench import measure_engine
from appliance.config import Config
from appliance.main import RunOptions, Supervisor
from appliance.stats import Counter
from engines.bundle import REFERENCE, open_engine

BLOCKS = 10_000
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference engine is not packed")
def test_block_10_000_costs_what_block_10_costs() -> None:
    """One engine, 10,000 blocks in a row: CPU time and memory of the last thousand against the first."""
    cost = measure_engine(open_engine(""), BLOCKS)
    assert cost.late_over_early <= 1.05
    assert cost.grown_mb <= 2.0


@pytest.mark.slow
@pytest.mark.system
def test_memory_of_main_and_audio_is_flat(tmp_path: Path) -> None:
    """The audio clock unleashed, until 10,000 blocks have gone through the rings: faster than any worker, which is measured above."""
    guitar = tmp_path / "guitar.wav"
    soundfile.write(guitar, 0.1 * np.random.default_rng(0).standard_normal(44_100).astype(np.float32), 44_100)
    config = Config()
    audio = replace(config.audio, port=f"file:{guitar}?loop=yes&paced=no")
    config = replace(
        config, audio=audio, engine=replace(config.engine, bundle="echo"), realtime=replace(config.realtime, priority=0, worker_nice=0)
    )
    sizes: list[tuple[float, float]] = []

    def watch(pedal: Supervisor) -> None:
        blocks = pedal.counters.get(Counter.POSITION) // pedal.spec.block_frames
        if pedal.audio.process and blocks > BLOCKS // 10 * (len(sizes) + 1):
            sizes.append((resident_mb(os.getpid()), resident_mb(pedal.audio.process.pid)))
        if blocks >= BLOCKS:
            pedal.stop()

    report = Supervisor(config, RunOptions(on_tick=watch)).run()
    assert report.blocks >= BLOCKS
    assert report.audio_restarts == 0
    for early, late in zip(sizes[0], sizes[-1], strict=True):
        assert late - early <= 2.0
