"""Takeovers with real processes: one that succeeds, each way to fail, and kills of either worker in each state."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.config import Config, ConfigError
from appliance.fit import Fit
from appliance.main import Supervisor
from appliance.slot import Slot
from appliance.stats import Counter, Ledger, answered
from appliance.takeover import SPARE_BYTES, TakeoverError, TakeoverState, admit_memory, memory_available, memory_needed
from appliance.worker import MEEK_NICE
from engines.bundle import REFERENCE, read_spec
from tests.appliance.rig import largest_step
from tests.appliance.stage_takeover import (
    BLOCK,
    DELAY,
    Wait,
    active,
    leftovers,
    over,
    play,
    played,
    reached,
    second_bundle,
    send,
    wet_and_dry,
)

CLICK = 0.01
LOADING, PRIMING, CROSSFADING = TakeoverState.LOADING, TakeoverState.PRIMING, TakeoverState.CROSSFADING


# Policy, without processes


def test_memory_comes_first() -> None:
    needed = memory_needed(str(REFERENCE))
    assert 150 << 20 < needed < 400 << 20
    admit_memory("one", needed, needed + SPARE_BYTES)
    with pytest.raises(TakeoverError, match=r"engine 'one' needs \d+ MB beside the one that plays, and \d+ MB are free: restart with it"):
        admit_memory("one", needed, needed + SPARE_BYTES - 1)


def test_a_bundle_that_does_not_say_is_guessed_by_its_size(tmp_path: Path) -> None:
    told = memory_needed(str(REFERENCE))
    silent = memory_needed(str(second_bundle(tmp_path / "silent.ghost", memory_bytes=0)))
    assert told <= silent <= 1.5 * told


def test_available_memory_is_that_of_the_machine_or_the_services_limit(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:    2000 kB\n")
    assert memory_available(proc, groups) == 2000 * 1024
    (proc / "self/cgroup").write_text("0::/pedal.slice\n")
    group = groups / "pedal.slice"
    group.mkdir(parents=True)
    for limit, left in (("max", 2000 * 1024), ("1000000", 400_000)):
        (group / "memory.max").write_text(limit + "\n")
        (group / "memory.current").write_text("600000\n")
        assert memory_available(proc, groups) == left


def test_what_needs_other_rings_is_refused() -> None:
    config, spec = Config(), read_spec("echo")
    fit = Fit.of(config, spec)
    for change in ({"block_frames": 8192}, {"sample_rate": 48_000}, {"codec_delay_frames": fit.layout.ring_frames}):
        with pytest.raises(ConfigError, match="restart with"):
            fit.with_engine(config, replace(spec, **change))
    slow = fit.with_engine(config, replace(spec, codec_delay_frames=1536))
    assert slow.layout.ring_frames == fit.layout.ring_frames
    assert slow.delays.shortest_frames == fit.delays.shortest_frames + 1536 and slow.delays.longest_frames == fit.delays.longest_frames


# Real processes


@pytest.mark.system
def test_from_engine_to_engine_and_back(tmp_path: Path) -> None:
    """echo -> a bundle of the reference engine's making -> echo, while a guitar plays."""
    second = second_bundle(tmp_path / "second.ghost")
    prompts: list[str] = []
    niceness: list[int] = []

    def script(pedal: Supervisor) -> Iterator[Wait]:
        yield played(pedal, 3)
        pedal.player.wishes["prompt"] = "flute"  # what a preset for another engine has left
        pedal.take_over(str(second))
        with pytest.raises(TakeoverError, match="'second' is taking over: wait"):
            pedal.take_over("echo")
        yield reached(pedal, PRIMING)
        niceness.append(nice_of(pedal.takeover.coming))
        yield over(pedal)
        niceness.append(nice_of(pedal.slot))
        prompts.append(pedal.player.prompt)
        yield played(pedal, 4)
        pedal.take_over("echo")
        yield over(pedal)
        prompts.append(pedal.player.prompt)
        yield played(pedal, 4)

    report, pedal, story = play(tmp_path, script, "[controls]\nmix = 1.0\nrepeats = 0.3", real_guitar=True)
    assert story.seen == ["idle", *["loading", "priming", "crossfading", "done"] * 2], pedal.takeover.reason
    assert (report.late_blocks, report.silent_frames, report.fallback_frames, report.engine_restarts) == (0, 0, 0, 0)
    assert prompts == ["flute", "echo"] and pedal.player.wishes["prompt"] == "flute" and pedal.address == "echo"
    wanted = pedal.config.realtime.worker_nice
    assert niceness == [wanted + MEEK_NICE, wanted] or niceness[1] != wanted, "it keeps back until it is its turn, where that is permitted"
    (there, back), (wet, dry) = story.turns[1:], wet_and_dry(tmp_path, pedal)
    assert [(turn.slot, turn.from_frames % BLOCK) for turn in (there, back)] == [(1, 0), (0, 0)]
    heard = input_heard(pedal, wet, dry)
    assert np.array_equal(wet[: there.from_frames], heard[: there.from_frames]), "as if nobody had been loading"
    between = slice(there.from_frames + BLOCK, back.from_frames)
    assert np.sqrt(np.mean(wet[between] ** 2)) > 0.01 and not np.allclose(wet[between], heard[between], atol=0.01)
    for turn in (there, back):
        seam = slice(turn.from_frames - 1024, turn.from_frames + BLOCK + 1024)
        assert largest_step(wet[seam]) <= max(largest_step(heard[seam]), largest_step(wet[between])) + CLICK
    rows = answered(Ledger(pedal.memory.ledger, BLOCK).blocks())
    assert len(rows) >= report.blocks - 1 and report.answered_blocks >= report.blocks - 1, "the history is that of what was heard"
    assert report.answered_blocks <= report.blocks


def nice_of(slot: Slot | None) -> int:
    assert slot and slot.child.process
    return os.getpriority(os.PRIO_PROCESS, slot.child.process.pid)


def input_heard(pedal: Supervisor, wet: np.ndarray, dry: np.ndarray) -> np.ndarray:
    """What echo says: the guitar and, one delay later, 0.3 of the wet bus."""
    heard = dry.copy()
    np.add(heard[DELAY:], np.float32(0.3) * wet[: len(wet) - DELAY], out=heard[DELAY:])
    return heard


def broken(module: str) -> Callable[[Slot], None]:
    def change(slot: Slot) -> None:
        slot.child.command[2] = f"tests.appliance.{module}"

    return change


def with_worker(pedal: Supervisor, change: Callable[[Slot], None]) -> None:
    """The next slot that is opened gets another worker program."""
    opened = type(pedal.takeover)._open_slot

    def open_slot(fit: Fit, address: str) -> Slot:
        slot = opened(pedal.takeover, fit, address)
        change(slot)
        del pedal.takeover._open_slot
        return slot

    pedal.takeover._open_slot = open_slot  # type: ignore[method-assign]


@pytest.mark.system
def test_each_way_to_fail_leaves_the_old_engine_playing(tmp_path: Path) -> None:
    small = second_bundle(tmp_path / "small.ghost", "small", block_frames=8192)
    damaged = second_bundle(tmp_path / "damaged.ghost", "damaged")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    reasons: list[str] = []
    before: list[tuple[int, int, int]] = []

    def script(pedal: Supervisor) -> Iterator[Wait]:
        takeover = pedal.takeover
        yield played(pedal, 2)
        before.append(leftovers(pedal))
        for address, why in ((tmp_path / "absent.ghost", "no bundle can be read"), (small, "it can't take over; restart with it")):
            with pytest.raises(TakeoverError, match=why):
                pedal.take_over(str(address))
        pedal.take_over(str(damaged))  # found by the worker, which reads every byte
        yield over(pedal)
        reasons.append(takeover.reason)
        for state in (LOADING, PRIMING, CROSSFADING):
            pedal.take_over("echo")
            yield reached(pedal, state)
            yield played(pedal, 0.2 if state is not CROSSFADING else 3.5)  # which is when it is heard
            send(takeover.coming, signal.SIGKILL)
            yield over(pedal)
            reasons.append(takeover.reason)
        takeover.patience_seconds = 0.3  # a process that hangs while it loads
        pedal.take_over("echo")
        send(takeover.coming, signal.SIGSTOP)
        yield over(pedal)
        reasons.append(takeover.reason)
        takeover.patience_seconds, takeover.priming_blocks = 60.0, 3
        pedal.take_over("echo")
        yield reached(pedal, PRIMING)
        send(takeover.coming, signal.SIGSTOP)  # too slow for this machine
        yield over(pedal)
        reasons.append(takeover.reason)
        takeover.priming_blocks = 24
        with_worker(pedal, broken("mute_worker"))
        pedal.take_over("echo")
        yield over(pedal)
        reasons.append(takeover.reason)
        pedal.take_over("echo")
        yield reached(pedal, CROSSFADING)
        send(takeover.coming, signal.SIGSTOP)
        yield over(pedal)
        reasons.append(takeover.reason)
        yield played(pedal, 3)
        assert leftovers(pedal)[:2] == before[0][:2]

    report, pedal, story = play(tmp_path, script)
    said = "".join(f"\n{reason}" for reason in reasons)
    expected = (
        "file 'weights.safetensors' in it is damaged", "ended (signal 9", "ended (signal 9", "ended (signal 9", "was not ready after 0 s",
        "late in the dark", "is no audio", "late when it took over",
    )  # fmt: skip
    assert len(reasons) == len(expected) and all(part in reason for part, reason in zip(expected, reasons, strict=True)), said
    assert "done" not in story.seen and story.seen.count("failed") == len(expected)
    wet, dry = wet_and_dry(tmp_path, pedal)
    assert np.array_equal(wet, dry), "to the last bit as if nothing had been tried"
    assert (report.late_blocks, report.silent_frames, report.fallback_frames, report.engine_restarts) == (0, 0, 0, 0)
    assert report.engine == "echo" and pedal.counters.get(Counter.SLOT) == 0


@pytest.mark.system
def test_an_old_engine_that_dies_meanwhile_does_not_stop_the_new_one(tmp_path: Path) -> None:
    """Killed while the new one loads, while it primes, and while it is faded to."""

    def script(pedal: Supervisor) -> Iterator[Wait]:
        yield played(pedal, 2)
        for state in (LOADING, PRIMING, CROSSFADING):
            yield active(pedal)
            pedal.take_over("echo")
            yield reached(pedal, state)
            send(pedal.slot, signal.SIGKILL)
            yield over(pedal)
            assert pedal.takeover.state is TakeoverState.DONE, (state, pedal.takeover.reason)
        yield played(pedal, 3)

    report, pedal, story = play(tmp_path, script)
    assert story.seen.count("done") == 3 and report.silent_frames == 0
    wet, dry = wet_and_dry(tmp_path, pedal)
    assert np.count_nonzero(wet != dry) <= 6 * 1024  # echo and the plain delay are the same; where one begins anew it is joined
    assert pedal.slot.child.exit_code == 0 or not pedal.slot.child.running


@pytest.mark.system
@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_many_takeovers_leave_nothing_behind(tmp_path: Path, times: int) -> None:
    left: list[tuple[int, int, int]] = []

    def script(pedal: Supervisor) -> Iterator[Wait]:
        yield played(pedal, 2)
        for _ in range(times):
            pedal.take_over("echo")
            yield over(pedal)
            assert pedal.takeover.state is TakeoverState.DONE, pedal.takeover.reason
            left.append(leftovers(pedal))

    report, pedal, _ = play(tmp_path, script, seconds=30.0 + 8 * times)
    assert len(left) == times and len({(children, files) for children, files, _ in left}) == 1, left
    assert left[-1][2] - left[times // 2][2] < 2048, f"kilobytes: {[kilobytes for *_, kilobytes in left]}"
    wet, dry = wet_and_dry(tmp_path, pedal)
    assert np.count_nonzero(wet != dry) == 0
    assert (report.late_blocks, report.silent_frames) == (0, 0)
