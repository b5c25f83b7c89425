"""The worker: which blocks it answers, which it only hears, and what it forgets."""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest

from appliance.controls import Control, Controls
from appliance.ring import Ring, WetRing
from appliance.shared import Layout, SharedMemory
from appliance.stats import BlockMode, Counter, Counters, Ledger, WorkerCounter, answered
from appliance.worker import PRIME_BLOCKS, Worker, WorkerSettings, warm_up
from engines.bundle import open_engine
from engines.engine import Audio, EngineControls, EngineSpec, Stamp, no_stamp

BLOCK, PERIOD, RING_BLOCKS, ALLOWANCE_NS = 1024, 128, 12, 1_000_000


@dataclass
class Diary:
    """An engine that writes down what is asked of it. It answers with the negative of what it heard."""

    spec: EngineSpec = field(default_factory=lambda: EngineSpec("diary", 44_100, BLOCK, 64, ("a", "b", "c"), 2, 4))
    lines: list[str] = field(default_factory=list)
    answer: float = -1.0
    controls: EngineControls | None = None

    def reset(self, seed: int) -> None:
        self.lines.append(f"reset {seed}")

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        self.lines.append(f"generate {block[0]:.0f}")
        self.controls = controls
        for stage in ("encoded", "step", "step", "decoded"):
            stamp(stage)
        return self.answer * block

    def prefill(self, block: Audio) -> None:
        self.lines.append(f"prefill {block[0]:.0f}")


class Stage:
    """An audio process reduced to its facts: a position, a ledger, and blocks whose samples are their number."""

    def __init__(self) -> None:
        self.memory = SharedMemory.create(Layout(44_100, PERIOD, BLOCK, 64, RING_BLOCKS * BLOCK, 1024))
        self.input, self.wet = Ring(self.memory.input, 1024), WetRing(self.memory)
        self.counters, self.worker_counters = Counters(self.memory.counters), Counters(self.memory.worker_counters)
        self.ledger, self.now_ns, self.blocks = Ledger(self.memory.ledger, BLOCK), 0, 0
        self.engine = Diary()
        self.worker = self.start_worker()

    def start_worker(self) -> Worker:
        self.engine.lines.clear()
        self.worker = Worker(self.engine, self.memory, 7, lambda: self.now_ns)
        return self.worker

    def hear(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.input.write(self.blocks * BLOCK, np.full(BLOCK, self.blocks, np.float32))
            self.now_ns += 10_000_000
            self.counters.set(Counter.POSITION, (self.blocks + 1) * BLOCK)
            self.ledger.capture(self.blocks * BLOCK, self.now_ns, self.now_ns + ALLOWANCE_NS)
            self.blocks += 1

    def work(self) -> list[str]:
        """Let the worker do all that it can. Returns what the engine was asked since the last time."""
        while (start := self.worker.pending()) is not None:
            self.worker.turn(start)
        lines, self.engine.lines = self.engine.lines, []
        return lines

    def count(self, counter: WorkerCounter) -> int:
        return self.worker_counters.get(counter)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_block_is_answered_at_its_own_place(stage: Stage) -> None:
    assert stage.work() == ["reset 7"]
    stage.hear()
    stage.hear()
    stage.now_ns -= 10_000_000  # as if both came at once: neither is late
    assert stage.work() == ["generate 0", "generate 1"]
    assert stage.wet.written(0) and stage.wet.written(1) and not stage.wet.written(2)
    assert (stage.wet.copy(BLOCK - 64, BLOCK) == -1.0).all()
    assert stage.count(WorkerCounter.GENERATED) == 2


def test_an_unfinished_block_is_waited_for(stage: Stage) -> None:
    stage.counters.set(Counter.POSITION, BLOCK - PERIOD)
    assert stage.worker.pending() is None


def test_a_block_is_taken_up_only_when_its_row_is_open(stage: Stage) -> None:
    """Between the position and the row there is a moment in which the worker must not look: the row would be cleared after it."""
    stage.counters.set(Counter.POSITION, BLOCK)
    assert stage.worker.pending() is None
    stage.counters.set(Counter.POSITION, BLOCK + PERIOD)  # audio died in that moment, and went on
    assert stage.worker.pending() == 0
    assert stage.work() == ["reset 7", "prefill 0"]


def test_stages_are_stamped(stage: Stage) -> None:
    stage.hear()
    stage.work()
    (row,) = stage.ledger.blocks()
    assert row["mode"] == BlockMode.GENERATED and row["steps"] == 2
    assert all(row[stage_name] == stage.now_ns for stage_name in ("started", "encoded", "first_step", "last_step", "decoded", "written"))
    assert list(row["step_ns"][:3]) == [stage.now_ns, stage.now_ns, 0]


def test_what_would_come_too_late_is_only_heard(stage: Stage) -> None:
    stage.hear(4)  # a stall of four blocks: only the last can still be answered
    assert stage.work() == ["reset 7", "prefill 0", "prefill 1", "prefill 2", "generate 3"]
    assert [row["mode"] for row in stage.ledger.blocks()] == [BlockMode.PREFILLED] * 3 + [BlockMode.GENERATED]
    assert [stage.wet.written(block) for block in range(4)] == [False, False, False, True]
    stage.hear()
    stage.now_ns += ALLOWANCE_NS
    assert stage.work() == ["generate 4"]  # at the very last moment
    stage.hear()
    stage.now_ns += ALLOWANCE_NS + 1
    assert stage.work() == ["prefill 5"]


def test_further_behind_than_the_ring_holds(stage: Stage) -> None:
    stage.hear(RING_BLOCKS - 1)
    assert len(stage.work()) == 1 + RING_BLOCKS - 1  # all of it can still be heard
    stage.hear(RING_BLOCKS)
    assert stage.work() == ["reset 7", f"generate {2 * RING_BLOCKS - 2}"]
    assert stage.count(WorkerCounter.RESETS) == 1


def test_a_worker_that_starts_late_hears_what_was_just_played(stage: Stage) -> None:
    stage.hear(3)
    stage.start_worker()
    assert stage.work() == ["reset 7", "prefill 0", "prefill 1", "generate 2"]
    stage.hear(20)
    stage.start_worker()
    heard = [f"prefill {block}" for block in range(23 - min(PRIME_BLOCKS, RING_BLOCKS - 2), 22)]
    assert stage.work() == ["reset 7", *heard, "generate 22"]


def test_a_restarted_worker_does_not_rewrite_history(stage: Stage) -> None:
    for _ in range(3):
        stage.hear()
        stage.work()
    stage.hear()
    stage.now_ns += 2 * ALLOWANCE_NS
    stage.start_worker()
    stage.work()
    modes = [row["mode"] for row in stage.ledger.blocks()]
    assert modes == [BlockMode.GENERATED] * 3 + [BlockMode.PREFILLED]
    assert len(answered(stage.ledger.blocks())) == 3


@pytest.mark.parametrize("answer", [np.nan, np.inf])
def test_an_answer_that_is_no_audio_is_not_written(stage: Stage, answer: float) -> None:
    stage.hear()
    stage.work()
    stage.engine.answer = answer
    stage.hear()
    assert stage.work() == ["generate 1", "reset 7"]
    assert not stage.wet.written(1)
    assert stage.count(WorkerCounter.RESETS) == 1
    stage.engine.answer = 1.0
    stage.hear()
    stage.work()
    assert stage.wet.written(2)


@pytest.mark.parametrize(("prompt", "steps", "wish"), [(0, 0, (0, 0)), (2, 4, (2, 4)), (99, 99, (2, 4)), (-1, -1, (0, 0))])
def test_wishes_stay_within_what_the_engine_can(stage: Stage, prompt: int, steps: int, wish: tuple[int, int]) -> None:
    controls = Controls(stage.memory.controls)
    controls.set(Control.PROMPT, prompt)
    controls.set(Control.STEPS, steps)
    stage.hear()
    stage.work()
    assert stage.engine.controls == EngineControls(*wish)


def test_an_engine_for_other_blocks_is_refused(stage: Stage) -> None:
    with pytest.raises(AssertionError, match="engine and rings must agree"):
        Worker(open_engine("echo"), stage.memory)


def test_warming_up_walks_every_path() -> None:
    engine = Diary()
    warm_up(engine)
    assert engine.lines == ["generate 0", "generate 0", "prefill 0"]


# The process


def process(memory: SharedMemory, engine: str) -> tuple[subprocess.Popen[str], WorkerSettings]:
    doorbell, answer = os.eventfd(0), os.eventfd(0)
    settings = WorkerSettings(memory.fd, doorbell, answer, engine)
    command = settings.command()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, pass_fds=settings.pass_fds, cwd=Path(__file__).parents[2], text=True, **pipes), settings


def test_settings_travel_as_json() -> None:
    settings = WorkerSettings(3, 4, 5, "echo", core=1, nice=-5)
    assert WorkerSettings.from_json(settings.command()[-1]) == settings
    assert asdict(settings)["engine"] == "echo"


def test_the_process_announces_itself_answers_and_ends_when_told() -> None:
    spec = open_engine("echo").spec
    memory = SharedMemory.create(Layout(44_100, PERIOD, spec.block_frames, 0, 4 * spec.block_frames, 1024))
    controls, ledger = Controls(memory.controls), Ledger(memory.ledger, spec.block_frames)
    controls.set(Control.RUNNING, 1)
    worker, settings = process(memory, "echo")
    os.eventfd_read(settings.answer_fd)
    assert Counters(memory.worker_counters).get(WorkerCounter.READY) == 1
    memory.input[: spec.block_frames] = 0.25
    Counters(memory.counters).set(Counter.POSITION, spec.block_frames)
    ledger.capture(0, 0, 1 << 62)
    os.eventfd_write(settings.doorbell_fd, 1)
    os.eventfd_read(settings.answer_fd)
    assert WetRing(memory).written(0) and (memory.wet[: spec.block_frames] == 0.25).all()
    controls.set(Control.RUNNING, 0)
    os.eventfd_write(settings.doorbell_fd, 1)
    assert worker.wait(2) == 0


def test_an_engine_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.ghost").write_bytes(b"no bundle")
    memory = SharedMemory.create(Layout(44_100, PERIOD, 16_384, 0, 4 * 16_384, 1024))
    worker, _ = process(memory, str(tmp_path / "x.ghost"))
    _, errors = worker.communicate(timeout=10)
    assert worker.returncode == 2
    assert errors == f"{tmp_path / 'x.ghost'}: is not a bundle\n"
