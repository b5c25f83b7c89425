"""The shared memory: one layout, the same arrays in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from appliance.controls import Control, Controls
from appliance.shared import LEDGER_BLOCKS, Layout, SharedMemory

LAYOUT = Layout(44_100, 128, 2048, 300, 8 * 2048, 1024)


def test_another_process_reads_and_writes_the_same_arrays() -> None:
    memory = SharedMemory.create(LAYOUT)
    memory.input[5] = 0.25
    program = """
import sys
from appliance.shared import SharedMemory
memory = SharedMemory.attach(int(sys.argv[1]))
memory.wet[7], memory.counters[3] = memory.input[5] * 2, memory.layout.codec_delay_frames
"""
    subprocess.run([sys.executable, "-c", program, str(memory.fd)], pass_fds=[memory.fd], check=True)
    assert (memory.wet[7], memory.counters[3]) == (0.5, 300)


def test_fresh_memory_is_silent_and_knows_no_block() -> None:
    memory = SharedMemory.create(LAYOUT)
    assert not memory.input.any() and not memory.wet.any() and not memory.controls.any()
    assert (memory.wet_blocks == -1).all() and (memory.ledger["start"] == -1).all()


def test_arrays_do_not_overlap() -> None:
    memory = SharedMemory.create(LAYOUT)
    names = [*LAYOUT.common(), *LAYOUT.per_slot()]
    for name in names:
        getattr(memory, name).view(np.uint8)[...] = names.index(name) + 1
    for name in names:
        assert (getattr(memory, name).view(np.uint8) == names.index(name) + 1).all(), name


def test_scalars_are_aligned() -> None:
    memory = SharedMemory.create(LAYOUT)
    assert all(getattr(memory, name).ctypes.data % 8 == 0 for name in [*LAYOUT.common(), *LAYOUT.per_slot()])
    assert memory.ledger.dtype.itemsize % 8 == 0 and len(memory.ledger) == LEDGER_BLOCKS


def test_the_arrays_outlive_the_file_descriptor() -> None:
    memory = SharedMemory.create(LAYOUT)
    memory.close()
    memory.input[:] = 1.0
    with pytest.raises(OSError):
        os.fstat(memory.fd)


@pytest.mark.parametrize("wrong", [{"ring_frames": 5000}, {"guard_frames": 64}])
def test_a_layout_that_cannot_work_is_refused_at_once(wrong: dict[str, int]) -> None:
    with pytest.raises(AssertionError):
        replace(LAYOUT, **wrong)  # type: ignore[arg-type]


def test_controls_are_shared_and_plain_floats() -> None:
    memory = SharedMemory.create(LAYOUT)
    here, there = Controls(memory.controls), Controls(SharedMemory.attach(memory.fd).controls)
    here.set(Control.DELAY_FRAMES, 30_000)
    here.set(Control.RUNNING, np.float32(1))
    assert there.get(Control.DELAY_FRAMES) == 30_000.0 and type(there.get(Control.DELAY_FRAMES)) is float
    assert there.running
