"""What the running pedal says about itself: counters, and the ledger of every block. (How long things take: appliance/histogram.py.)

All of it lies in shared memory, each value with one writer, and outlives a crash of any process but main.

Runs in: every process. The methods that the audio loop calls allocate no array, log nothing and raise nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.shared import LEDGER_STAGES, SharedMemory
from engines.engine import Stamp

Rows = NDArray[Any]  # of appliance.shared.LEDGER


class Counter(IntEnum):
    """Index into `memory.counters`, written by the audio process. None of them is ever set back, not even by a restart."""

    PERIODS = 0  # turns of the loop: the watchdog is fed by their progress
    POSITION = 1  # frames heard: every block that ends at or before it is whole in the input ring
    CAPTURE_XRUNS = 2
    PLAYBACK_XRUNS = 3
    GAPS = 4
    GAP_FRAMES = 5
    REOPENS = 6
    LATE_BLOCKS = 7  # blocks whose samples were needed and not there, each counted once
    SILENT_FRAMES = 8  # wet was due, the plain delay had something there, and nothing was heard: must stay 0
    FALLBACK_FRAMES = 9  # frames in which the plain delay stood in, in part or whole
    CLIPPED_FRAMES = 10  # frames that would have gone over full scale without the limiter
    MAX_WORK_US = 11  # longest work of one period
    STARTS = 12  # of the audio process
    RESTING_FRAMES = 13  # as SILENT_FRAMES, but what was heard is the engine's own answer, on time: it chose to be silent
    CLIPPED_INPUTS = 14  # periods in which what came from the guitar was at full scale
    SLOT = 15  # whose engine sounds; while one takes over from the other, still the other


class WorkerCounter(IntEnum):
    """Index into `memory.worker_counters`, written by the worker process."""

    STARTS = 0
    READY = 1  # how often an engine became ready to play
    GENERATED = 2  # blocks answered
    PREFILLED = 3  # blocks only heard, because an answer would have come too late
    RESETS = 4  # times that the engine had to forget everything: too far behind, or what it answered was no audio
    STEP_LIMIT = 5  # denoising steps that the governor allows now; 0: as many as the player likes
    SHED = 6  # blocks answered with fewer steps than the player wished
    INVALID = 7  # answers that were no audio


class BlockMode(IntEnum):
    """What became of a block: the ledger's `mode`."""

    CAPTURED = 0  # nobody has taken it up
    GENERATED = 1
    PREFILLED = 2


class Counters:
    """A typed face of one of the shared arrays."""

    def __init__(self, values: NDArray[np.int64]) -> None:
        self._values = memoryview(values.data)  # plain integers, ten times quicker than numpy's scalars

    def get(self, counter: IntEnum) -> int:
        value: int = self._values[counter]
        return value

    def set(self, counter: IntEnum, value: int) -> None:
        self._values[counter] = value

    def add(self, counter: IntEnum, count: int) -> None:
        self._values[counter] += count


class WorkerTotals:
    """What the workers have counted, those of engines that have sounded before included, each as long as it sounded."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory

    def get(self, counter: WorkerCounter) -> int:
        now = int(self._memory.worker_counters[counter])
        return now if counter is WorkerCounter.STEP_LIMIT else now + int(self._memory.carried[counter])


class Ledger:
    """When each of the last blocks reached which stage. Audio opens a row with `capture`, the worker fills it with `stamper`."""

    def __init__(self, rows: Rows, block_frames: int) -> None:
        self.rows, self.block_frames = rows, block_frames

    def row(self, start: int) -> Any:
        """The row of the block that began at `start`: a view, whose fields can be read and set."""
        return self.rows[start // self.block_frames % len(self.rows)]

    def capture(self, start: int, captured_ns: int, due_ns: int) -> None:
        """Audio: a block is whole. Its row is cleared of the block that used it before."""
        row = self.row(start)
        row["start"] = -1  # a reader that looks now finds no block here
        row["mode"] = row["steps"] = 0
        for stage in LEDGER_STAGES:
            row[stage] = 0
        row["step_ns"] = 0
        row["captured"], row["due"] = captured_ns, due_ns
        row["start"] = start

    def stamper(self, start: int, clock: Callable[[], int] = time.monotonic_ns) -> Stamp:
        """Worker: a function for `Engine.generate` that stamps each stage; "step" counts denoising steps."""
        row = self.row(start)

        def stamp(stage: str) -> None:
            now_ns = clock()
            if stage != "step":
                row[stage] = now_ns
                return
            step = int(row["steps"])
            if step == 0:
                row["first_step"] = now_ns
            row["last_step"] = now_ns
            row["step_ns"][min(step, len(row["step_ns"]) - 1)] = now_ns
            row["steps"] = step + 1

        return stamp

    def blocks(self, first_start: int = 0) -> Rows:
        """A copy of the rows of all blocks from `first_start` on that the ledger still has, oldest first."""
        rows = self.rows[self.rows["start"] >= first_start]
        return rows[np.argsort(rows["start"], kind="stable")]


def answered(rows: Rows) -> Rows:
    """Those of the ledger's rows whose block has been answered."""
    return rows[rows["written"] > 0]


def slack_ms(rows: Rows) -> NDArray[np.float64]:
    """due - written of each answered block, in milliseconds."""
    done = answered(rows)
    return np.asarray((done["due"] - done["written"]) / 1e6, np.float64)


def compute_ms(rows: Rows) -> NDArray[np.float64]:
    """written - started of each answered block, in milliseconds."""
    done = answered(rows)
    return np.asarray((done["written"] - done["started"]) / 1e6, np.float64)
