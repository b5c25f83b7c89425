"""The governor in real time, with real processes: an engine slowed step by step to a third of its speed, and back. Slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.main import RunOptions, Supervisor
from appliance.report import Report
from appliance.stats import WorkerCounter
from tests.appliance.fault_lab import faulty_config, use_faulty_processes
from tests.appliance.faulty_worker import LOAD

BUDGET_MS = 110.0  # 87 without the fade: four steps of 10 ms fit, but not when each takes 30
CALM_SECONDS, CLIMB_SECONDS, HIGH_SECONDS, END_SECONDS = 4.0, 8.0, 22.0, 40.0


def load(seconds: float) -> float:
    """1 at first, 3 in the end in steps of a tenth, 1 again after HIGH_SECONDS."""
    if seconds > HIGH_SECONDS:
        return 1.0
    return 1 + round(20 * min(1.0, max(0.0, (seconds - CALM_SECONDS) / CLIMB_SECONDS))) / 10


def play(folder: Path, governor: bool) -> tuple[Report, Supervisor]:
    folder.mkdir()
    config = faulty_config(folder)
    monitor = replace(config.monitor, governor=governor)
    config = replace(config, engine=replace(config.engine, budget_ms=BUDGET_MS), monitor=monitor)

    def follow(pedal: Supervisor) -> None:
        pedal.controls.values[LOAD] = load(pedal.seconds)
        if pedal.seconds > END_SECONDS:
            pedal.stop()

    pedal = Supervisor(config, RunOptions(wait_for_engine=True, on_tick=follow))
    use_faulty_processes(pedal)
    return pedal.run(), pedal


@pytest.mark.slow
@pytest.mark.system
def test_late_blocks_are_shed_steps_instead(tmp_path: Path) -> None:
    without, _ = play(tmp_path / "without", governor=False)
    governed, pedal = play(tmp_path / "governed", governor=True)
    late = {"without": sum(without.misses.values()), "governed": sum(governed.misses.values())}
    print(late, "shed", governed.shed_blocks, "of", governed.blocks)
    assert late["without"] >= 20 and late["governed"] <= max(1, late["without"] // 100), (late, without.misses, governed.misses)
    assert governed.shed_blocks > 10 and pedal.slot.counters.get(WorkerCounter.STEP_LIMIT) == 0, "all steps again at the end"
