"""A slot: one loaded engine in its own process, from start to retirement.

    EMPTY -> STARTING -> READY -> ACTIVE         ready: loaded and warm; active: has answered a block
                 ^                  |
                 +----- DEAD <------+            after any death, when the back-off allows

There are two, so that an engine can take over from another one: appliance/takeover.py.

What a slot believes follows from the worker's counters in shared memory and from whether its process lives: there are no messages.

Runs in: the main process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from appliance.child import STOP_SECONDS, Backoff, Child
from appliance.shared import SharedMemory, SlotFact
from appliance.stats import Counter, Counters, WorkerCounter
from appliance.worker import WorkerSettings


class SlotState(Enum):
    EMPTY = "empty"
    STARTING = "starting"
    READY = "ready"
    ACTIVE = "active"
    DEAD = "dead"


class Slot:
    """`watch` must be called often. `memory` shows what this slot has; with `own_errors` the child keeps what its process complains of."""

    def __init__(
        self, memory: SharedMemory, settings: WorkerSettings, clock: Callable[[], float] = time.monotonic, own_errors: bool = False
    ) -> None:
        self.memory, self.number, self.clock = memory, memory.slot, clock
        self.audio, self.counters = Counters(memory.counters), Counters(memory.worker_counters)
        self.patience_frames = 2 * memory.layout.ring_frames
        self.settings = replace(settings, memory_fd=memory.fd, slot=memory.slot)
        self.child = Child("engine", self.settings.command(), self.settings.pass_fds, Backoff(), clock, own_errors)
        self._released_at = 0.0
        self.state = SlotState.EMPTY
        self._ready_before = self._answers_before = 0
        self._heard = self._heard_at = 0

    @property
    def never_ready(self) -> bool:
        """No engine has ever been ready here: what keeps it from starting will not go away by itself."""
        return self.counters.get(WorkerCounter.READY) == 0

    def start(self) -> None:
        self._note()
        self.child.start()
        self.state = SlotState.STARTING

    def watch(self) -> SlotState:
        """Follow the process; start it again when it has died and the back-off has passed."""
        if self.state is SlotState.EMPTY:
            return self.state
        if self.child.ended():
            self.state = SlotState.DEAD
        elif self.state is SlotState.DEAD:
            self._note()
            if self.child.restart_when_due():
                self.state = SlotState.STARTING
        elif self.counters.get(WorkerCounter.READY) > self._ready_before:
            self._follow()
        return self.state

    def retire(self, deadline: float) -> None:
        """The controls no longer run: wake the worker so that it sees that, and see it end."""
        self.wake()
        self.child.stop(deadline)
        self.state = SlotState.EMPTY

    def wake(self) -> None:
        """Let the worker look at what main has written."""
        os.eventfd_write(self.settings.doorbell_fd, 1)

    def release(self) -> None:
        """The pedal plays on without this engine: its process is to end, and nobody waits for that."""
        self.memory.facts[SlotFact.TAKEN] = 0
        self.wake()
        self._released_at = self.clock()

    def gone(self) -> bool:
        """Whether the process of a released engine has ended. One that takes too long is killed."""
        if self.child.ended() or not self.child.running:
            self.state = SlotState.EMPTY
        elif self.clock() - self._released_at > STOP_SECONDS:
            self.child.kill()
        return self.state is SlotState.EMPTY

    def _follow(self) -> None:
        """The process lives and its engine is loaded. One that hears nothing for twice the rings' length hangs, and is ended."""
        position, started = self.audio.get(Counter.POSITION), self.state is SlotState.STARTING
        answers = self.counters.get(WorkerCounter.GENERATED)
        heard = answers + self.counters.get(WorkerCounter.PREFILLED)
        if started or heard != self._heard:
            self._heard, self._heard_at = heard, position
        elif position - self._heard_at > self.patience_frames:
            self.child.kill()
        self.state = SlotState.ACTIVE if answers > self._answers_before else SlotState.READY

    def _note(self) -> None:
        """Where the counters stand before a new process begins to count."""
        self._ready_before = self.counters.get(WorkerCounter.READY)
        self._answers_before = self.counters.get(WorkerCounter.GENERATED)


def ending(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is not None and exit_code < 0:
        return f"signal {-exit_code}, {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
