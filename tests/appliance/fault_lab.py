"""A pedal with real processes, on which faults are inflicted one after the other; and what its monitor calls them.

The clock of the processor can't be throttled from here: for that fault the engine really slows down, and the monitor reads a folder that
stands in for a machine that is hot and slow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile

from appliance.causes import Cause
from appliance.config import AudioConfig, Config, MonitorConfig, RealtimeConfig, StorageConfig
from appliance.main import RunOptions, Supervisor
from appliance.observer import Observer
from appliance.vitals import Vitals
from hw.file_audio import FileOptions, file_address
from tests.appliance.faulty_worker import FAULT, PRIORITY, Fault
from tests.firmware.rig import Rig

WARM_UP_SECONDS, FAULT_SECONDS, CALM_SECONDS = 3.5, 1.2, 1.6  # a fault covers three blocks, and a board may be silent for one second
HOGS = 16
CORE = max(os.sched_getaffinity(0))
HOG = f"""
import os, sys
os.sched_setaffinity(0, {{int(sys.argv[1])}})
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param({PRIORITY + 1}))
except PermissionError:
    [os.fork() for _ in range({HOGS.bit_length() - 1})]  # as many as it takes
while True:
    pass
"""
Undo = Callable[[], None]


class FakeMachine:
    """A folder that looks like /sys of a machine with a clock and a thermometer."""

    def __init__(self, sys: Path) -> None:
        self.root = sys
        self._clock = sys / "devices/system/cpu/cpufreq/policy0/scaling_cur_freq"
        self._heat = sys / "class/thermal/thermal_zone0/temp"
        for path in (self._clock, self._heat):
            path.parent.mkdir(parents=True)
        self.set(2000, 61)

    def set(self, mhz: int, celsius: int) -> None:
        self._clock.write_text(f"{mhz * 1000}\n")
        self._heat.write_text(f"{celsius * 1000}\n")


def faulty_config(folder: Path) -> Config:
    """A pedal that plays noise for ever, with as much of real time as this machine permits; nothing else that runs here is its fault."""
    guitar = folder / "guitar.wav"
    soundfile.write(guitar, 0.1 * np.random.default_rng(0).standard_normal(44_100).astype(np.float32), 44_100)
    config = Config()
    return replace(
        config,
        engine=replace(config.engine, bundle="echo"),
        audio=AudioConfig(port=file_address(guitar, FileOptions(loop=True)), periods=8, sample_format="FLOAT"),
        realtime=RealtimeConfig(worker_core=CORE, lock_memory=False),
        monitor=MonitorConfig(governor=False, status=False),
        storage=StorageConfig(folder=str(folder / "state")),
    )


def use_faulty_processes(pedal: Supervisor) -> None:
    """Instead of the real ones, from which they differ in what can befall them."""
    pedal.slot.child.command[2] = "tests.appliance.faulty_worker"
    pedal.audio.command[2] = "tests.appliance.faulty_audio"


@dataclass
class Lab:
    """Inflicts `kinds` in turn on a running pedal: `run` says what each was called."""

    folder: Path
    kinds: list[str]
    board: Rig  # real firmware on a line of its own
    found: list[tuple[str, Tally[str]]] = field(default_factory=list)

    def run(self) -> list[tuple[str, Tally[str]]]:
        self.machine = FakeMachine(self.folder / "sys")
        config = faulty_config(self.folder)
        config = replace(config, board=replace(config.board, port=f"serial:{self.board.device}"))
        self.pedal = Supervisor(config, RunOptions(wait_for_engine=True, on_tick=self._tick))
        self.pedal.observer = Observer(self.pedal.memory, self.pedal.config, Vitals(sys=self.machine.root))
        use_faulty_processes(self.pedal)
        self._undo: Undo | None = None
        self._next_at, self._before = time.monotonic() + WARM_UP_SECONDS, Tally[str]()
        self.report = self.pedal.run()
        return self.found

    def _tick(self, pedal: Supervisor) -> None:
        if time.monotonic() < self._next_at:
            return
        if self._undo:
            self._undo()
            self._undo, self._next_at = None, time.monotonic() + CALM_SECONDS
            return
        causes = Tally(pedal.observer.monitor.causes)
        if self.kinds_begun:
            self.found.append((self.kinds[self.kinds_begun - 1], causes - self._before))
        self._before = causes
        if self.kinds_begun == len(self.kinds):
            pedal.stop()
            return
        self._undo = INFLICT[self.kinds[self.kinds_begun]](self)
        self.kinds_begun += 1
        self._next_at = time.monotonic() + FAULT_SECONDS

    kinds_begun: int = 0

    # What can befall a pedal: each returns what ends it

    def command(self, fault: Fault) -> Undo:
        self.pedal.controls.values[FAULT] = fault
        return lambda: self.pedal.controls.values.__setitem__(FAULT, Fault.NONE)

    def throttle(self) -> Undo:
        undo = self.command(Fault.SLOW)
        self.machine.set(250, 97)

        def cool() -> None:
            undo()
            self.machine.set(2000, 61)

        return cool

    def hog(self) -> Undo:
        """Other programs on the engine's core."""
        hogs = subprocess.Popen([sys.executable, "-c", HOG, str(CORE)], start_new_session=True)

        def end() -> None:
            os.killpg(hogs.pid, signal.SIGKILL)
            hogs.wait()

        return end

    def freeze(self) -> Undo:
        worker = self.pedal.slot.child.process
        assert worker
        worker.send_signal(signal.SIGSTOP)
        return lambda: worker.send_signal(signal.SIGCONT)

    def stop_board(self) -> Undo:
        board = self.board.process
        assert board
        board.send_signal(signal.SIGSTOP)
        return lambda: board.send_signal(signal.SIGCONT)


INFLICT: dict[str, Callable[[Lab], Undo]] = {
    "slow engine": lambda lab: lab.command(Fault.SLOW),
    "CPU hog": Lab.hog,
    "page faults": lambda lab: lab.command(Fault.PAGING),
    "throttled clock": Lab.throttle,
    "stopped worker": Lab.freeze,
    "xrun": lambda lab: lab.command(Fault.CARD),
    "stopped board": Lab.stop_board,
}
CALLED = {
    "slow engine": Cause.ENGINE,
    "CPU hog": Cause.STARVED,
    "page faults": Cause.STARVED,
    "throttled clock": Cause.THERMAL,
    "stopped worker": Cause.STARVED,
    "xrun": Cause.CARD,
    "stopped board": Cause.BOARD,
}


def right(kind: str, causes: Tally[str]) -> bool:
    """Whether most of what was missed during a fault was put down to it."""
    return bool(causes) and causes.most_common(1)[0][0] == CALLED[kind].value
