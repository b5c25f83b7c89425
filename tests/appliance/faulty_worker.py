"""The real worker process with an engine that breaks on command: `python -m tests.appliance.faulty_worker SETTINGS`.

It needs so much processor time per block that it just fits; what else befalls it is said by a control that no one else uses.
"""

from __future__ import annotations

import mmap
import signal
import sys
import time
from enum import IntEnum

import numpy as np

from appliance.controls import Controls
from appliance.realtime import end_with_parent, enter_realtime
from appliance.shared import SharedMemory
from appliance.stats import Counters, WorkerCounter
from appliance.worker import Worker, WorkerSettings, serve, settle
from engines.engine import Audio, EngineControls, EngineSpec, Stamp, no_stamp

FAULT, LOAD = 63, 62  # indices into the shared controls; LOAD: so many times the usual cost, 0 is once
STEPS, STEP_MS = 4, 10.0
SLOW = 8  # times as long
ARENA_BYTES = 192 << 20
PRIORITY = 10  # SCHED_FIFO, where permitted: what else this machine does is no fault that was inflicted


class Fault(IntEnum):
    NONE = 0
    SLOW = 1  # the engine computes for longer
    PAGING = 2  # the system has taken its memory away: every page is faulted in again
    CARD = 3  # of the audio process: its card stalls


def burn(ms: float) -> None:
    """Processor time of this thread, not time of day: a core that is shared makes it longer, as it does real work."""
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass


class FaultyEngine:
    """Answers with what it heard."""

    def __init__(self, fault: Controls) -> None:
        self.spec = EngineSpec("echo", 44_100, 16_384, 0, ("echo",), STEPS, STEPS)
        self._controls = fault
        self._arena = mmap.mmap(-1, ARENA_BYTES)
        self._arena.madvise(mmap.MADV_NOHUGEPAGE)
        self._pages = np.frombuffer(self._arena, np.uint8)[:: mmap.PAGESIZE]

    def reset(self, seed: int) -> None:
        pass

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        fault = int(self._controls.values[FAULT])
        stamp("encoded")
        for _ in range(controls.steps or STEPS):
            burn(STEP_MS * (SLOW if fault == Fault.SLOW else max(1.0, self._controls.values[LOAD])))
            if fault == Fault.PAGING:
                self._arena.madvise(mmap.MADV_DONTNEED)
                self._pages[:] = 1
            stamp("step")
        stamp("decoded")
        return block.copy()

    def prefill(self, block: Audio) -> None:
        burn(STEP_MS / 2)


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    settings = WorkerSettings.from_json(argv[0])
    memory = SharedMemory.attach(settings.memory_fd, settings.slot)
    counters = Counters(memory.worker_counters)
    counters.add(WorkerCounter.STARTS, 1)
    settle(settings.core, settings.nice)
    enter_realtime(PRIORITY, settings.core, lock=False)
    worker = Worker(FaultyEngine(Controls(memory.controls)), memory, governor=settings.governor)
    serve(worker, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
