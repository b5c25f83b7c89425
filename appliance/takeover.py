"""From one engine to another while music plays: the new one loads beside the old one, proves itself in the dark, and is faded to.

    IDLE -> LOADING -> PRIMING -> CROSSFADING -> DONE        FAILED from each of the three, with a reason; the old one has played on

    LOADING      there is memory for both; the new worker's process opens its bundle and warms up, behind all that has a deadline
    PRIMING      it hears what was played last, then answers blocks that nobody hears: DARK_BLOCKS of them in a row, on time
    CROSSFADING  what is played from the next block on is the new one's (appliance/delay.py). The old one answers too until it is no
                 longer heard: a new one that dies, is late or says what is no audio is left again without a gap

DONE and FAILED are reached when the process that is not needed has ended, so that the next takeover may begin.

Runs in: the main process, which calls `tick` every few milliseconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from appliance.config import ConfigError
from appliance.controls import Control, Turn
from appliance.fit import Fit
from appliance.journal import about
from appliance.prompt_commands import prompt_folder
from appliance.shared import SharedMemory, SlotFact
from appliance.slot import Slot, SlotState, ending
from appliance.stats import BlockMode, Counter, Ledger, WorkerCounter
from engines.bundle import BundleError, locate, read_manifest, read_spec

if TYPE_CHECKING:
    from appliance.main import Supervisor

log = logging.getLogger("ghostnote")

PATIENCE_SECONDS = 120.0  # for an engine that loads
DARK_BLOCKS = 4  # answered on time in a row, before anybody hears one
PRIMING_BLOCKS = 24  # it may take so long until it has done that
WORKER_BYTES = 48 << 20  # of a worker without an engine, where a bundle does not say what it needs
BYTES_PER_BYTE = 9  # ... and of each byte of the bundle, once it is loaded; the reference engine's takes 8.2
SPARE_BYTES = 64 << 20  # that must be left for everything else


class TakeoverError(Exception):
    """It can't begin: one line that says why, and what to do."""


class TakeoverState(Enum):
    IDLE = "idle"
    LOADING = "loading"
    PRIMING = "priming"
    CROSSFADING = "crossfading"
    DONE = "done"
    FAILED = "failed"

    @property
    def under_way(self) -> bool:
        return self in (TakeoverState.LOADING, TakeoverState.PRIMING, TakeoverState.CROSSFADING)


class Takeover:
    """`begin` once there is something to take over, then `tick`."""

    def __init__(self, pedal: Supervisor, clock: Callable[[], float] = time.monotonic) -> None:
        self.state, self.reason, self.engine = TakeoverState.IDLE, "", ""
        self.patience_seconds, self.priming_blocks, self.dark_blocks = PATIENCE_SECONDS, PRIMING_BLOCKS, DARK_BLOCKS
        self.coming: Slot | None = None  # loads, answers in the dark, or is faded to
        self._pedal, self._clock = pedal, clock
        self._outcome = TakeoverState.IDLE
        self._leaving: Slot | None = None  # what is not needed any more, until its process has ended
        self._fit = self._fit_before = pedal.player.fit
        self._address = ""
        self._began_at = 0.0
        self._first_start = 0  # of the blocks that it is judged by

    def begin(self, address: str) -> None:
        """Raises TakeoverError, and nothing has changed."""
        pedal = self._pedal
        if self.state.under_way:
            raise TakeoverError(f"engine {self.engine!r} is taking over: wait until it has")
        if pedal.slot.state is SlotState.EMPTY:
            raise TakeoverError("the first engine has not been started: wait until it plays")
        try:
            spec = read_spec(address, str(prompt_folder(pedal.config)))
            self._fit = pedal.player.fit.with_engine(pedal.config, spec)
        except (BundleError, ConfigError) as error:
            raise TakeoverError(str(error)) from None
        admit_memory(spec.name, memory_needed(address))
        self.state, self.reason, self.engine, self._address = TakeoverState.LOADING, "", spec.name, address
        self._began_at = self._clock()
        self.coming = self._open_slot(self._fit, address)
        pedal.player.meet(spec, self.coming.number)
        self.coming.start()
        log.info("engine %s is loading beside %s", spec.name, pedal.spec.name, extra=about("takeover", engine=spec.name))

    def tick(self) -> None:
        if self._leaving:
            self._see_off(self._leaving)
        elif self.coming:
            self._pedal.listen(self.coming.child)
            self._step(self.coming)

    def close(self, deadline: float) -> None:
        """The pedal stops."""
        for slot in (self.coming, self._leaving):
            if slot:
                slot.retire(deadline)

    def _open_slot(self, fit: Fit, address: str) -> Slot:
        pedal = self._pedal
        memory = pedal.memory.of(1 - pedal.slot.number)
        memory.clear_slot()
        memory.facts[SlotFact.CODEC_DELAY_FRAMES] = fit.spec.codec_delay_frames
        memory.facts[SlotFact.SHORTEST_DELAY_FRAMES] = fit.delays.shortest_frames
        memory.facts[SlotFact.TAKEN] = 1
        return Slot(memory, pedal.worker_settings(memory.slot, address), own_errors=True)

    # The way there

    def _step(self, coming: Slot) -> None:
        slot_state = coming.watch()
        if slot_state is SlotState.DEAD:
            self._fail(f"its process ended ({ending(coming.child.exit_code)}){self._last_words(coming)}")
        elif coming.counters.get(WorkerCounter.INVALID):
            self._fail("what it answered is no audio")
        elif self.state is TakeoverState.LOADING:
            self._load(slot_state)
        elif self.state is TakeoverState.PRIMING:
            self._prime(coming)
        else:
            self._cross(coming)

    def _load(self, slot_state: SlotState) -> None:
        if slot_state in (SlotState.READY, SlotState.ACTIVE):
            self.state, self._first_start = TakeoverState.PRIMING, self._pedal.counters.get(Counter.POSITION)
        elif self._clock() - self._began_at > self.patience_seconds:
            self._fail(f"it was not ready after {self.patience_seconds:.0f} s")

    def _prime(self, coming: Slot) -> None:
        block, position = coming.memory.layout.block_frames, self._pedal.counters.get(Counter.POSITION)
        on_time, late = self._dark_record(coming)
        if on_time >= self.dark_blocks:
            self._turn(coming, (position // block + 1) * block)
        elif position - self._first_start > self.priming_blocks * block:
            self._fail(f"it was late in the dark ({late} blocks of {self.priming_blocks}): try it alone, with a restart")

    def _dark_record(self, coming: Slot) -> tuple[int, int]:
        """How many blocks it has answered on time in a row, up to the newest that is due; and how many it has not, in all."""
        in_a_row, late, now_ns = 0, 0, time.monotonic_ns()
        for row in Ledger(coming.memory.ledger, coming.memory.layout.block_frames).blocks(self._first_start):
            written, due = int(row["written"]), int(row["due"])
            if 0 < written <= due:
                in_a_row += 1
            elif written or now_ns > due:
                in_a_row, late = 0, late + 1
        return in_a_row, late

    def _turn(self, coming: Slot, from_frames: int) -> None:
        """What is played from `from_frames` on is the new engine's."""
        pedal = self._pedal
        self.state, self._first_start = TakeoverState.CROSSFADING, from_frames
        self._fit_before = pedal.player.fit
        for line in pedal.player.turn_to(self._fit, coming.number):
            log.info("%s", line, extra=about("playing"))
        pedal.controls.set(Control.TURN, Turn(coming.number, from_frames).value)
        coming.wake()

    def _cross(self, coming: Slot) -> None:
        if self._pedal.counters.get(Counter.SLOT) == coming.number:
            self._complete(coming)
        elif self._dark_record(coming)[1]:
            self._fail("it was late when it took over")

    # The end of it

    def _complete(self, coming: Slot) -> None:
        """Only the new engine is heard: the pedal is its, and so is the history."""
        pedal, old = self._pedal, self._pedal.slot
        hand_over_history(pedal.memory, coming.memory, self._first_start)
        pedal.engine_changed(coming, self._address)
        self.coming = None
        log.info("engine %s has taken over", self.engine, extra=about("taken-over", engine=self.engine))
        self._leave(old, TakeoverState.DONE)

    def _fail(self, reason: str) -> None:
        assert self.coming
        if self.state is TakeoverState.CROSSFADING:
            self._pedal.controls.set(Control.TURN, Turn(self._pedal.slot.number).value)
            self._pedal.player.turn_back(self._fit_before, self._pedal.slot.number)
        self.reason = f"engine {self.engine!r} did not take over: {reason}"
        log.error("%s", self.reason, extra=about("takeover-failed", engine=self.engine))
        failed, self.coming = self.coming, None
        self._leave(failed, TakeoverState.FAILED)

    def _leave(self, slot: Slot, outcome: TakeoverState) -> None:
        self._pedal.player.part()
        self._leaving, self._outcome = slot, outcome
        slot.release()

    def _see_off(self, slot: Slot) -> None:
        if slot.gone():
            self._leaving, self.state = None, self._outcome

    def _last_words(self, slot: Slot) -> str:
        self._pedal.listen(slot.child)
        return f": {slot.child.last_line}" if slot.child.last_line else ""


ROWS_AHEAD = 64
MODE_COUNTED = {WorkerCounter.GENERATED: BlockMode.GENERATED, WorkerCounter.PREFILLED: BlockMode.PREFILLED}


def hand_over_history(old: SharedMemory, new: SharedMemory, from_frames: int) -> None:
    """The ledger and the counts of the engine that sounds tell of all blocks that were heard, whoever answered them."""
    for counter in WorkerCounter:
        if counter is not WorkerCounter.STEP_LIMIT:
            old.carried[counter] += _counted_before(old, counter, from_frames) - _counted_before(new, counter, from_frames)
    starts = old.ledger["start"]
    oldest = from_frames - (len(starts) - ROWS_AHEAD) * old.layout.block_frames  # whose place audio will not need soon
    heard_before = (starts >= max(0, oldest)) & (starts < from_frames)
    new.ledger[heard_before] = old.ledger[heard_before]


def _counted_before(memory: SharedMemory, counter: WorkerCounter, from_frames: int) -> int:
    """What a worker has counted, but for the blocks from that moment on where the ledger says which they are."""
    since = (memory.ledger["start"] >= from_frames) & (memory.ledger["mode"] == MODE_COUNTED.get(counter, -1))
    return int(memory.worker_counters[counter]) - int(np.count_nonzero(since))


# Memory for both


def memory_needed(address: str) -> int:
    """Bytes that a worker with this engine takes at most: as measured when it was packed, else guessed. Raises BundleError."""
    if address == "echo":
        return WORKER_BYTES
    path = locate(address)
    return read_manifest(path).memory_bytes or WORKER_BYTES + BYTES_PER_BYTE * path.stat().st_size


def admit_memory(engine: str, needed: int, available: int | None = None) -> None:
    """Raises TakeoverError where another engine does not fit beside the one that plays."""
    free = memory_available() if available is None else available
    if needed + SPARE_BYTES > free:
        wanted, there = (needed + SPARE_BYTES) >> 20, free >> 20
        raise TakeoverError(f"engine {engine!r} needs {wanted} MB beside the one that plays, and {there} MB are free: restart with it")


def memory_available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process and its children may still take: of the machine, and of the service's limit where it has one."""
    line = next(line for line in (proc / "meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    left = [1024 * int(line.split()[1])]
    try:
        group = groups / (proc / "self/cgroup").read_text().splitlines()[-1].rpartition(":")[2].strip("/")
        left.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, IndexError):
        pass  # "max", or no such group: no limit
    return min(left)
