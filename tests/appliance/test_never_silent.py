"""Whatever an engine does, every frame that should carry wet carries the engine or the plain delay, and no switch clicks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.stats import Counter
from tests.appliance.rig import LOST, Array, Rig, Size, noise

CLICK = 0.01  # 1 % of full scale above what either signal does by itself

Latencies = list[int | None]

on_time = st.just([0])
late = st.integers(0, 8000).map(lambda frames: [frames])
lost = st.just([LOST])
stalled = st.integers(2, 40).map(lambda blocks: [LOST] * blocks)  # seconds without an answer; a killed worker looks the same
slow = st.integers(1, 12).flatmap(lambda blocks: st.lists(st.integers(1500, 3000), min_size=blocks, max_size=blocks))
traces = st.lists(st.one_of(on_time, on_time, late, lost, stalled, slow), max_size=12).map(lambda parts: sum(parts, []))


def play(trace: Latencies, size: Size) -> Rig:
    """The trace, then five blocks on time."""
    blocks = len(trace) + 8
    frames = blocks * size.block_frames
    rig = Rig(noise(frames, 1), noise(frames, 2, 0.5), size)
    turns = (frames - size.block_frames) // size.period_frames
    rig.play(turns, dict(enumerate(trace)))
    rig.close()
    return rig


def at_output(rig: Rig, signal: Array) -> Array:
    """What `signal` is, one delay later: the part of it that the rig has played."""
    return signal[: rig.loop.position - rig.shortest_delay_frames]


def assert_never_silent(rig: Rig) -> None:
    heard = rig.amp[rig.shortest_delay_frames : rig.loop.position, 0]
    plain, engine = at_output(rig, rig.guitar[:, 0]), at_output(rig, rig.engine)
    assert rig.count(Counter.SILENT_FRAMES) == 0
    assert np.all(heard >= np.minimum(plain, engine) - 1e-6), "something other than a mean of engine and plain delay"
    assert np.all(heard <= np.maximum(plain, engine) + 1e-6), "something other than a mean of engine and plain delay"
    allowed = np.maximum(np.abs(np.diff(plain)), np.abs(np.diff(engine))) + CLICK
    assert np.all(np.abs(np.diff(heard)) <= allowed), "a click"


@given(trace=traces, codec_delay_frames=st.sampled_from([0, 300, 2048]))
@example(trace=[0, LOST] * 6, codec_delay_frames=0)
@example(trace=[LOST] * 3, codec_delay_frames=300)
@settings(max_examples=60)
def test_any_trace_of_latencies(trace: Latencies, codec_delay_frames: int) -> None:
    rig = play(trace, Size(codec_delay_frames=codec_delay_frames))
    assert_never_silent(rig)
    assert rig.count(Counter.LATE_BLOCKS) == rig.expected_late()


@given(trace=traces)
@settings(max_examples=20)
def test_the_engine_is_back_after_two_blocks_on_time(trace: Latencies) -> None:
    rig = play(trace, Size())
    size, end = rig.size, rig.loop.position
    assert np.array_equal(rig.bus[end - size.block_frames : end], rig.engine[: end - rig.shortest_delay_frames][-size.block_frames :])


@pytest.mark.parametrize("period_frames", [64, 96, 100, 256, 1024])
def test_other_periods(period_frames: int) -> None:
    """Also periods that do not divide a block."""
    rig = play([0, 0, LOST, 0, 0, 0, 2600, 0, 0, 0], Size(period_frames=period_frames))
    assert_never_silent(rig)
    assert rig.count(Counter.LATE_BLOCKS) == rig.expected_late()


def test_reference_size() -> None:
    trace: Latencies = [0, 0, LOST, 0, 0, 0, 17_500, 0]
    rig = play(trace, Size(block_frames=16_384, fade_frames=1024, codec_delay_frames=1536, ring_blocks=6))
    assert_never_silent(rig)
    assert rig.count(Counter.LATE_BLOCKS) == rig.expected_late() == 2


def test_an_engine_on_time_is_never_left() -> None:
    rig = play([0] * 6, Size())
    assert rig.count(Counter.LATE_BLOCKS) == rig.count(Counter.FALLBACK_FRAMES) == 0
    assert np.array_equal(rig.amp[rig.shortest_delay_frames : rig.loop.position, 0], at_output(rig, rig.engine))


def test_latest_moment_that_is_on_time() -> None:
    """A block that is there one period before its fade would begin is on time; one period later it is late."""
    size = Size()
    spare = size.block_frames - size.period_frames
    assert play([0, spare, 0], size).count(Counter.LATE_BLOCKS) == 0
    assert play([0, spare + size.period_frames + 1, 0], size).count(Counter.LATE_BLOCKS) == 1


@pytest.mark.parametrize("blocks_between", [1, 2, 5])
def test_the_engine_is_not_trusted_again_before_two_blocks_on_time(blocks_between: int) -> None:
    """Late, one block on time, late again: the second block in a row is the first that is heard."""
    trace = [0, LOST, *[0] * blocks_between, LOST, *[0] * 8]
    rig = play(trace, Size())
    music, block = rig.amp[rig.shortest_delay_frames :, 0], rig.size.block_frames
    trusted = [True, False, *(number > 1 for number in range(1, blocks_between + 1)), False]
    for number, by_engine in enumerate(trusted):
        middle = slice(number * block + 1100, (number + 1) * block - 640)  # between the fades
        assert np.array_equal(music[middle], rig.engine[middle]) == by_engine


def test_no_engine_at_all_is_a_plain_delay() -> None:
    rig = play([LOST] * 20, Size())
    end = 20 * rig.size.block_frames
    assert np.array_equal(rig.amp[rig.shortest_delay_frames : end, 0], rig.guitar[: end - rig.shortest_delay_frames, 0])


def test_death_in_the_middle_of_a_block() -> None:
    """A worker that dies while it writes leaves half a block, and no claim that it is whole."""
    size = Size()
    rig = Rig(noise(20 * 2048, 1), noise(20 * 2048, 2), size)
    rig.play(64, {4: LOST, 5: LOST})
    rig.play(17)
    rig.wet.blocks[4 % len(rig.wet.blocks)] = -1
    rig.wet.write(4 * size.block_frames, rig.answer(4)[:700])
    rig.play(128)
    assert_never_silent(rig)
    assert rig.count(Counter.LATE_BLOCKS) == 2


def test_silence_is_measured_not_assumed() -> None:
    """An engine that answers nothing at all, on time, is found by its sound, and told from a loss of what it said."""
    frames = 12 * 2048
    rig = Rig(noise(frames, 1), np.zeros(frames, np.float32))
    rig.play(frames // 128)
    assert rig.count(Counter.LATE_BLOCKS) == 0
    assert rig.count(Counter.RESTING_FRAMES) >= frames - rig.shortest_delay_frames - 128
    assert rig.count(Counter.SILENT_FRAMES) == 0


def test_silence_after_silence_is_no_fault() -> None:
    frames = 12 * 2048
    rig = Rig(noise(frames, 1, 1e-4), np.zeros(frames, np.float32))
    rig.play(frames // 128)
    assert rig.count(Counter.SILENT_FRAMES) == 0


def test_an_engine_that_writes_no_numbers() -> None:
    frames = 16 * 2048
    engine = noise(frames, 2)
    engine[8000:8010] = np.nan
    rig = Rig(noise(frames, 1), engine, repeats=0.5)
    rig.play(frames // 128)
    assert np.isfinite(rig.amp).all() and np.isfinite(rig.memory.input).all()
    assert rig.count(Counter.SILENT_FRAMES) == 0
