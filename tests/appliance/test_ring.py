"""Rings: samples by absolute position, and blocks that are there or not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.ring import Ring, WetRing
from appliance.shared import Layout, SharedMemory

FRAMES, GUARD = 64, 16


def ring() -> Ring:
    return Ring(np.zeros(FRAMES + GUARD, np.float32), GUARD)


@given(lengths=st.lists(st.integers(1, FRAMES), min_size=1, max_size=30), start=st.integers(-100, 1000))
def test_every_sample_is_found_where_it_was_written(lengths: list[int], start: int) -> None:
    rings, position = ring(), start
    for length in lengths:
        rings.write(position, np.arange(position, position + length, dtype=np.float32))
        position += length
    held = min(FRAMES, position - start)
    first = position - held
    assert np.array_equal(rings.copy(first, held), np.arange(first, position))
    for at in range(first, position - GUARD):
        assert np.array_equal(rings.view(at, GUARD), np.arange(at, at + GUARD))


def test_a_view_is_no_copy() -> None:
    rings = ring()
    assert rings.view(5, GUARD).base is not None and np.shares_memory(rings.view(60, GUARD), rings.buffer)
    assert not np.shares_memory(rings.copy(5, GUARD), rings.buffer)


def wet(codec_delay_frames: int) -> WetRing:
    return WetRing(SharedMemory.create(Layout(44_100, 16, 64, codec_delay_frames, 256, 32)))


@pytest.mark.parametrize("codec_delay_frames", [0, 10, 64, 100])
def test_blocks_are_there_once_written(codec_delay_frames: int) -> None:
    rings = wet(codec_delay_frames)
    first = 128 - codec_delay_frames
    assert not rings.has(first, 64)
    rings.write_block(128, np.arange(64, dtype=np.float32))
    assert rings.has(first, 64) and rings.has(first + 10, 54)
    assert not rings.has(first - 1, 10) and not rings.has(first + 60, 5)
    assert np.array_equal(rings.copy(first, 64), np.arange(64))


def test_before_the_first_frame_there_is_nothing() -> None:
    rings = wet(0)
    assert not rings.has(-64, 64) and not rings.written(-1)


def test_a_block_is_gone_when_the_ring_comes_round() -> None:
    rings = wet(0)
    for block in range(5):
        rings.write_block(block * 64, np.full(64, block, np.float32))
    assert [rings.written(block) for block in range(6)] == [False, True, True, True, True, False]
    assert rings.has(64, 64) and not rings.has(0, 64)


def test_two_writers_of_the_same_memory_see_the_same() -> None:
    memory = SharedMemory.create(Layout(44_100, 16, 64, 0, 256, 32))
    here, there = WetRing(memory), WetRing(SharedMemory.attach(memory.fd))
    here.write_block(0, np.ones(64, np.float32))
    assert there.has(0, 64) and there.view(10, 16).all()


def test_an_engine_that_begins_anew_goes_on_without_a_step() -> None:
    rings = wet(0)
    before, after = np.full(64, 0.5, np.float32), np.full(64, -0.5, np.float32)
    rings.write_block(0, before)
    rings.write_block(64, after, anew=True)
    assert np.max(np.abs(np.diff(rings.copy(0, 128)))) < 0.02
    assert (rings.copy(127, 1)[0], rings.copy(64, 1)[0]) == (-0.5, 0.5)
    rings.write_block(192, after, anew=True)  # nothing to join: what came before it was never answered
    assert np.array_equal(rings.copy(192, 64), after) and np.array_equal(after, np.full(64, -0.5))
