"""The memory that main, audio and worker share: one memfd, laid out from one frozen description.

    memory = SharedMemory.create(layout)           # in main; pass memory.fd to children with pass_fds
    memory = SharedMemory.attach(fd, slot)         # in a child; the layout is read back from the first page

Two engines have room here, each in a slot with a wet ring, a ledger and counters of its own. A `SharedMemory` shows what all share, and
what one slot has: `memory.of(slot)` is the same memory with the other slot's, `memory.look_at(slot)` turns this one to it.

Nothing is named in a file system, nothing outlives a crash. Every scalar is one aligned 8-byte value with a single writer.
ARM orders nothing between processes by itself: a writer stores data, rings an eventfd (a system call), and only then may a
reader trust it. Runs in: every process; does no logging and raises nothing after creation.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from appliance.histogram import BINS, Measure

_PAGE = 4096

LEDGER_STAGES = ("captured", "started", "encoded", "first_step", "last_step", "decoded", "written", "due")
LEDGER_BLOCKS = 4096
DRY_FRAMES = 16_384  # of the dry signal that a tuner can look back on
LEDGER = np.dtype(
    [("start", "i8"), ("mode", "i8"), ("steps", "i8")] + [(stage, "i8") for stage in LEDGER_STAGES] + [("step_ns", "i8", (16,))]
)
SLOTS = 2
Arrays: TypeAlias = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


class SlotFact(IntEnum):
    """Index into `memory.facts`: what main says of a slot's engine, to its worker and to audio."""

    CODEC_DELAY_FRAMES = 0
    SHORTEST_DELAY_FRAMES = 1  # that leaves it its budget
    TAKEN = 2  # 1: an engine is to live here; 0: its worker is to end, though the pedal plays on


@dataclass(frozen=True)
class Layout:
    """The facts that fix the size and meaning of every shared array."""

    sample_rate: int
    period_frames: int
    block_frames: int
    codec_delay_frames: int  # of the engine that plays first; each slot has its own among its facts
    ring_frames: int  # a multiple of block_frames; the longest delay plus two blocks must fit
    guard_frames: int  # the ring's first frames repeated behind its end, so that short reads never wrap
    controls: int = 64
    counters: int = 64

    def __post_init__(self) -> None:
        assert self.ring_frames % self.block_frames == 0, "a ring holds whole blocks"
        assert self.period_frames <= self.guard_frames <= self.ring_frames, "a period must fit into the guard"

    def common(self) -> Arrays:
        """What all share."""
        f32, f64, i64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
        return {
            "controls": ((self.controls,), f64),
            "counters": ((self.counters,), i64),  # written by the audio process
            "carried": ((self.counters,), i64),  # written by main: what the workers of engines that no longer sound have counted
            "histograms": ((len(Measure), BINS), i64),  # one row each; appliance.histogram says which process writes it
            "dry": ((DRY_FRAMES,), f32),  # what came from the guitar, whatever is sent to the engine
            "input": ((self.ring_frames + self.guard_frames,), f32),
        }

    def per_slot(self) -> Arrays:
        """What each slot has for itself."""
        f32, i64 = np.dtype(np.float32), np.dtype(np.int64)
        return {
            "facts": ((len(SlotFact),), i64),  # written by main
            "worker_counters": ((self.counters,), i64),  # written by the worker process
            "wet": ((self.ring_frames + self.guard_frames,), f32),
            "wet_blocks": ((self.ring_frames // self.block_frames,), i64),  # start of the block that was written last there
            "ledger": ((LEDGER_BLOCKS,), LEDGER),
        }


class SharedMemory:
    """Attributes named as in `Layout.common` and `Layout.per_slot`, each a numpy view of the same memory in every process."""

    controls: NDArray[np.float64]
    counters: NDArray[np.int64]
    carried: NDArray[np.int64]
    histograms: NDArray[np.int64]
    dry: NDArray[np.float32]
    input: NDArray[np.float32]
    facts: NDArray[np.int64]
    worker_counters: NDArray[np.int64]
    wet: NDArray[np.float32]
    wet_blocks: NDArray[np.int64]
    ledger: NDArray[Any]

    def __init__(self, fd: int, layout: Layout, slot: int = 0, mapped: mmap.mmap | None = None) -> None:
        self.fd, self.layout = fd, layout
        self._map = mapped or mmap.mmap(fd, _size(layout))
        self._show(layout.common(), _PAGE)
        self.look_at(slot)

    def of(self, slot: int) -> SharedMemory:
        """The same memory, with what `slot` has."""
        return SharedMemory(self.fd, self.layout, slot, self._map)

    def look_at(self, slot: int) -> None:
        """Show what `slot` has from now on. Whoever holds an array of the slot before keeps that."""
        self.slot = slot
        self._show(self.layout.per_slot(), _PAGE + _bytes(self.layout.common()) + slot * _bytes(self.layout.per_slot()))

    def _show(self, arrays: Arrays, offset: int) -> None:
        for name, (shape, dtype) in arrays.items():
            count = int(np.prod(shape))
            setattr(self, name, np.frombuffer(self._map, dtype, count, offset).reshape(shape))
            offset += _pages(count * dtype.itemsize)

    def clear_slot(self) -> None:
        """As if no engine had ever been in it. Only while no worker lives there, and audio does not read it."""
        self.worker_counters[:] = self.facts[:] = 0
        self.wet_blocks[:] = -1

    @classmethod
    def create(cls, layout: Layout) -> SharedMemory:
        fd = os.memfd_create("ghostnote")
        os.ftruncate(fd, _size(layout))
        os.pwrite(fd, json.dumps(asdict(layout)).encode().ljust(_PAGE, b"\0"), 0)
        memory = cls(fd, layout)
        for slot in reversed(range(SLOTS)):
            memory.look_at(slot)
            memory.clear_slot()
            memory.facts[SlotFact.CODEC_DELAY_FRAMES] = layout.codec_delay_frames
            memory.ledger["start"] = -1
        memory.facts[SlotFact.TAKEN] = 1  # slot 0, by the engine that plays first
        return memory

    @classmethod
    def attach(cls, fd: int, slot: int = 0) -> SharedMemory:
        return cls(fd, Layout(**json.loads(os.pread(fd, _PAGE, 0).rstrip(b"\0"))), slot)

    def close(self) -> None:
        """Give the file descriptor back; the arrays stay valid for as long as anyone holds them."""
        os.close(self.fd)


def _size(layout: Layout) -> int:
    return _PAGE + _bytes(layout.common()) + SLOTS * _bytes(layout.per_slot())


def _bytes(arrays: Arrays) -> int:
    return sum(_pages(int(np.prod(shape)) * dtype.itemsize) for shape, dtype in arrays.values())


def _pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
