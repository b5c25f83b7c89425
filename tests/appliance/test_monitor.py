"""The monitor in virtual time: what it judges when, what it calls it, and what the light and the budgets say."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from appliance.budgets import REMEMBERED_SECONDS, Budgets, Watch
from appliance.deadline import Health
from appliance.histogram import Measure, histogram
from appliance.misses import NAME, MissLog
from appliance.monitor import Monitor, Scene
from appliance.shared import Layout, SharedMemory
from appliance.stats import BlockMode, Counter, WorkerCounter
from appliance.vitals import MachineVitals, ProcessVitals, Sample, Vitals

MS = 1_000_000
BLOCK = 16_384
BLOCK_MS, ALLOWANCE_MS, TICK_MS = 372, 163, 10
BUDGETS = Budgets(10.0, 2902, 1451, 85.0, 5.8)


class ScriptedVitals(Vitals):
    """A machine whose figures are set by the test."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def sample(self, pids: object) -> Sample:
        stage = self.stage
        engine = ProcessVitals(stage.state, stage.cpu_ms * MS, stage.wait_ms * MS, 0, 0, 0)
        return Sample(stage.now_ms * MS, stage.machine, {"engine": engine, "audio": ProcessVitals("S", 0, 0, 0, 0, 0)})

    def state(self, pid: int) -> str:
        return self.stage.state


class Stage:
    """A pedal reduced to its shared memory; every tick of main is one call of `follow`."""

    def __init__(self, folder: Path) -> None:
        self.memory = SharedMemory.create(Layout(44_100, 128, BLOCK, 0, 8 * BLOCK, 1024))
        self.now_ms, self.cpu_ms, self.wait_ms, self.blocks, self.state = 1000, 0, 0, 0, "S"
        self.machine = MachineVitals(2000.0, None, 60.0)
        self.folder, self.scene = folder, Scene(11, 12, True)
        self.monitor = Monitor(self.memory, BUDGETS, MissLog(folder, 1 << 20), ScriptedVitals(self), lambda: self.now_ms * MS)

    def play(self, work_ms: int | None, cpu_ms: int = 40, wait_ms: int = 0) -> None:
        """One block, answered after so long (None: never), for which the engine's process used so much."""
        ledger, start = self.monitor.ledger, self.blocks * BLOCK
        ledger.capture(start, self.now_ms * MS, (self.now_ms + ALLOWANCE_MS) * MS)
        self.blocks += 1
        self.memory.counters[Counter.POSITION] = self.blocks * BLOCK
        for ms in range(0, BLOCK_MS, TICK_MS):
            self.memory.counters[Counter.PERIODS] += 3
            if work_ms is not None:
                row = ledger.row(start)
                row["started"] = self.now_ms * MS - ms * MS
                if ms >= work_ms and not row["written"]:
                    row["written"], row["mode"] = row["started"] + work_ms * MS, BlockMode.GENERATED
            self.monitor.follow(self.scene)
            self.cpu_ms += cpu_ms * TICK_MS // ALLOWANCE_MS if ms < ALLOWANCE_MS else 0
            self.wait_ms += wait_ms * TICK_MS // ALLOWANCE_MS if ms < ALLOWANCE_MS else 0
            self.now_ms += TICK_MS

    def records(self) -> list[dict[str, object]]:
        path = self.folder / NAME
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_blocks_on_time_are_no_news(stage: Stage) -> None:
    for _ in range(10):
        stage.play(40)
    assert not stage.records() and stage.monitor.health is Health.ON_TIME
    assert stage.monitor.watch.least_slack_ms == pytest.approx(ALLOWANCE_MS - 40)


def test_a_late_block_is_recorded_when_it_is_due_with_its_cause(stage: Stage) -> None:
    for _ in range(6):
        stage.play(40)
    stage.state = "R"
    stage.play(250, cpu_ms=160)
    stage.state = "S"
    stage.play(40)
    (record,) = stage.records()
    assert (record["kind"], record["cause"]) == ("block", "engine slow")
    assert record["use"]["window_ms"] == pytest.approx(ALLOWANCE_MS, abs=2 * TICK_MS)  # type: ignore[index]
    assert len(record["blocks"]) == 7 and stage.monitor.causes["engine slow"] == 1  # type: ignore[arg-type]


def test_a_block_that_nobody_answers_is_one_miss(stage: Stage) -> None:
    for _ in range(6):
        stage.play(40)
    stage.state = "R"
    stage.play(None, cpu_ms=10, wait_ms=150)
    stage.state = "S"
    for _ in range(3):
        stage.play(40)
    assert [record["cause"] for record in stage.records()] == ["starved"]


def test_heat_is_seen_from_the_clock(stage: Stage) -> None:
    for _ in range(6):
        stage.play(40)
    stage.machine, stage.state = MachineVitals(800.0, None, 97.0), "R"
    stage.play(250, cpu_ms=160)
    assert [record["cause"] for record in stage.records()] == ["thermal"]


def test_nothing_is_judged_before_the_engine_is_ready(stage: Stage) -> None:
    stage.scene = Scene(11, 12, False)
    for _ in range(4):
        stage.play(None)
    stage.scene = Scene(11, 12, True)
    stage.play(None)  # was begun before anyone could answer
    for _ in range(3):
        stage.play(40)
    assert not stage.records()


def test_an_engine_that_died_is_called_by_its_name(stage: Stage) -> None:
    for _ in range(4):
        stage.play(40)
    stage.scene = Scene(11, None, False)
    stage.play(None)
    (record,) = stage.records()
    assert record["cause"] == "engine slow" and "had ended" in str(record["why"])


def test_a_block_that_came_while_the_engine_started_again_is_the_engines(stage: Stage) -> None:
    """Also if it is ready, and seen to run, before the block is due."""
    for _ in range(4):
        stage.play(40)
    stage.monitor.follow(Scene(11, None, False))
    stage.state = "R"
    stage.play(None)
    (record,) = stage.records()
    assert record["cause"] == "engine slow" and "starting again" in str(record["why"])


def test_xruns_and_the_board(stage: Stage) -> None:
    for _ in range(4):
        stage.play(40)
    stage.memory.counters[Counter.CAPTURE_XRUNS] += 2
    stage.play(40)
    stage.scene = Scene(11, 12, True, board_answers=False)
    for _ in range(2):
        stage.play(40)
    stage.scene = Scene(11, 12, True)
    stage.play(40)
    assert [(record["kind"], record["cause"]) for record in stage.records()] == [("period", "card"), ("board", "board")]
    assert "2 xruns of capture" in str(stage.records()[0]["why"])


def test_the_light_is_amber_when_steps_are_shed_and_red_for_a_while_after_a_late_block(stage: Stage) -> None:
    for _ in range(4):
        stage.play(40)
    stage.memory.worker_counters[WorkerCounter.STEP_LIMIT] = 2
    assert stage.monitor.health is Health.CLOSE
    stage.play(None)
    assert stage.monitor.health is Health.FALLBACK
    stage.memory.worker_counters[WorkerCounter.STEP_LIMIT] = 0
    healths = []
    for _ in range(20):
        stage.play(40)
        healths.append(stage.monitor.health)
    assert healths[:4] == [Health.FALLBACK] * 4 and healths[4] is Health.CLOSE and healths[-1] is Health.ON_TIME


# Budgets


def watch() -> tuple[Watch, SharedMemory]:
    memory = SharedMemory.create(Layout(44_100, 128, BLOCK, 0, 8 * BLOCK, 1024))
    return Watch(memory, BUDGETS), memory


def test_a_breach_is_said_once_and_shown_for_a_while() -> None:
    one, _ = watch()
    one.slack(8.0)
    assert one.follow(60.0) == ["over budget: slack 8 ms, at least 10 ms are wanted"] and one.breached
    assert one.follow(60.0) == [] and one.breached
    for _ in range(8):
        one.slack(90.0)
    shown = list(itertools.takewhile(lambda _: one.follow(60.0) == [] and one.breached, range(20)))
    assert len(shown) == REMEMBERED_SECONDS - 1 and one.breaches["slack_ms"] == 1


def test_periods_over_budget_are_counted_from_the_histograms() -> None:
    one, memory = watch()
    late = histogram(memory.histograms, Measure.PERIOD_LATE)
    late.add(2000)
    assert one.follow(None) == []
    for _ in range(3):
        late.add(4000)
    assert one.follow(None) == ["over budget: 3 periods, period late us above 2902"]
    assert one.follow(None) == []


def test_heat_around_the_limit_is_one_message() -> None:
    one, _ = watch()
    said = [one.follow(celsius) for celsius in (84.0, 86.0, 84.0, 86.0, 84.5, 86.0)]
    assert [len(lines) for lines in said] == [0, 1, 0, 0, 0, 0] and one.breaches["celsius"] == 1
