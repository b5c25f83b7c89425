"""The memory that main, audio and worker share: one memfd, laid out from one frozen description.

    memory = SharedMemory.create(layout)           # in main; pass memory.fd to children with pass_fds
    memory = SharedMemory.attach(fd)               # in a child; the layout is read back from the first page

Nothing is named in a file system, nothing outlives a crash. Every scalar is one aligned 8-byte value with a single writer.
ARM orders nothing between processes by itself: a writer stores data, rings an eventfd (a system call), and only then may a
reader trust it. Runs in: every process; does no logging and raises nothing after creation.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import asdict, dataclass
from typing import Any

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


@dataclass(frozen=True)
class Layout:
    """The facts that fix the size and meaning of every shared array."""

    sample_rate: int
    period_frames: int
    block_frames: int
    codec_delay_frames: int
    ring_frames: int  # a multiple of block_frames; the longest delay plus two blocks must fit
    guard_frames: int  # the ring's first frames repeated behind its end, so that short reads never wrap
    controls: int = 64
    counters: int = 64

    def __post_init__(self) -> None:
        assert self.ring_frames % self.block_frames == 0, "a ring holds whole blocks"
        assert self.period_frames <= self.guard_frames <= self.ring_frames, "a period must fit into the guard"

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        f32, f64, i64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
        ring = self.ring_frames + self.guard_frames
        return {
            "controls": ((self.controls,), f64),
            "counters": ((self.counters,), i64),  # written by the audio process
            "worker_counters": ((self.counters,), i64),  # written by the worker process
            "histograms": ((len(Measure), BINS), i64),  # one row each; appliance.histogram says which process writes it
            "dry": ((DRY_FRAMES,), f32),  # what came from the guitar, whatever is sent to the engine
            "input": ((ring,), f32),
            "wet": ((ring,), f32),
            "wet_blocks": ((self.ring_frames // self.block_frames,), i64),  # start of the block that was written last there
            "ledger": ((LEDGER_BLOCKS,), LEDGER),
        }


class SharedMemory:
    """Attributes named as in `Layout.arrays`, each a numpy view of the same memory in every process."""

    controls: NDArray[np.float64]
    counters: NDArray[np.int64]
    worker_counters: NDArray[np.int64]
    histograms: NDArray[np.int64]
    dry: NDArray[np.float32]
    input: NDArray[np.float32]
    wet: NDArray[np.float32]
    wet_blocks: NDArray[np.int64]
    ledger: NDArray[Any]

    def __init__(self, fd: int, layout: Layout) -> None:
        self.fd, self.layout = fd, layout
        self._map = mmap.mmap(fd, _size(layout))
        offset = _PAGE
        for name, (shape, dtype) in layout.arrays().items():
            count = int(np.prod(shape))
            setattr(self, name, np.frombuffer(self._map, dtype, count, offset).reshape(shape))
            offset += -(-count * dtype.itemsize // _PAGE) * _PAGE

    @classmethod
    def create(cls, layout: Layout) -> SharedMemory:
        fd = os.memfd_create("ghostnote")
        os.ftruncate(fd, _size(layout))
        os.pwrite(fd, json.dumps(asdict(layout)).encode().ljust(_PAGE, b"\0"), 0)
        memory = cls(fd, layout)
        memory.wet_blocks[:] = -1
        memory.ledger["start"] = -1
        return memory

    @classmethod
    def attach(cls, fd: int) -> SharedMemory:
        return cls(fd, Layout(**json.loads(os.pread(fd, _PAGE, 0).rstrip(b"\0"))))

    def close(self) -> None:
        """Give the file descriptor back; the arrays stay valid for as long as anyone holds them."""
        os.close(self.fd)


def _size(layout: Layout) -> int:
    sizes = (int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.arrays().values())
    return _PAGE + sum(-(-size // _PAGE) * _PAGE for size in sizes)
