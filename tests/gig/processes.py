"""What `appliance.child` starts in the simulated gig: the real processes less what they ask the operating system for.

The command line of each child is read as Python would read it. Its body is what `appliance.audio` and `appliance.worker` do in `main`,
without signals, real-time scheduling, locked memory and confinement: those would befall the process that simulates.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.audio import AudioLoop, AudioSettings
from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters, WorkerCounter
from appliance.worker import Worker, WorkerSettings, serve, warm_up
from hw.audio import PortError, open_audio
from tests.gig.durations import Durations
from tests.gig.engine import CODEC_DELAY, GigEngine, Load
from tests.gig.machine import Machine, Process
from tests.gig.tape import Tape

CANNOT_OPEN = 2


@dataclass
class Computer:
    """Everything outside of the pedal's own code."""

    machine: Machine
    durations: Durations
    tape: Tape
    load: Load
    next_load: Load | None = None  # of the next engine that is started
    audio: Process | None = None
    workers: tuple[Process, ...] = ()  # those that were started and have not been seen dead, the newest last
    engines: tuple[GigEngine, ...] = ()  # of all lives of the present pedal

    def popen(self, command: Sequence[str], **_: Any) -> Process:
        module, text = next((word, command[at + 1]) for at, word in enumerate(command) if word in ("appliance.audio", "appliance.worker"))
        process = self._audio(text) if module == "appliance.audio" else self._worker(text)
        reader, writer = os.pipe()
        os.close(writer)
        process.stdout = os.fdopen(reader, "rb", 0)
        return process

    def forget(self) -> None:
        """A pedal has ended: its processes and engines are no longer of interest."""
        self.audio, self.workers, self.engines = None, (), ()

    def kill_all(self) -> None:
        """What the kernel does to the children of a main process that died."""
        for process in (self.audio, *self.workers):
            if process and not process.ended:
                self.machine.kill(process)

    # Bodies

    def _audio(self, text: str) -> Process:
        settings = AudioSettings.from_json(text)

        def body() -> int:
            memory = SharedMemory.attach(settings.memory_fd)
            starts = Counters(memory.counters).get(Counter.STARTS)
            self.machine.sleep(self.durations.audio_restart() / 1e9)
            try:
                port = open_audio(settings.port, settings.format)
            except PortError:
                return CANNOT_OPEN
            self.tape.begin(memory, anew=starts == 0)
            loop = AudioLoop(port, memory, settings.doorbell_fds, settings.wet, recorder=self.tape)  # type: ignore[arg-type]
            self.tape.loop = loop
            try:
                while loop.turn():
                    pass
                port.close()
            finally:
                self.tape.release()  # what the kernel does, however it ends
            return 0

        self.audio = self.machine.spawn("audio", body)
        self.audio.lateness = self.tape.lateness
        return self.audio

    def _worker(self, text: str) -> Process:
        settings, load = WorkerSettings.from_json(text), self.next_load or self.load
        self.next_load = None

        def body() -> int:
            memory = SharedMemory.attach(settings.memory_fd, settings.slot)
            counters = Counters(memory.worker_counters)
            counters.add(WorkerCounter.STARTS, 1)
            self.machine.sleep(self.durations.engine_restart() / 1e9)
            engine = GigEngine(settings.engine, self.machine, self.durations, Load())
            warm_up(engine)
            engine.generated = engine.prefilled = 0
            engine.load = load
            self.engines = (*self.engines, engine)
            worker = Worker(engine, memory, settings.seed, governor=settings.governor)
            engine.on_first = lambda: self.tape.judge.join(worker.next_start - CODEC_DELAY)
            try:
                serve(worker, settings)
            finally:
                engine.on_first = lambda: None  # what is counted afterwards is the engine, not its process's memory
            return 0

        worker = self.machine.spawn("engine", body)
        worker.lateness = self.durations.block_wake
        self.workers = (*(one for one in self.workers if not one.ended), worker)
        return worker


class Subprocess:
    """In the place of the module subprocess, as appliance.child uses it."""

    PIPE, DEVNULL, STDOUT, TimeoutExpired = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT, subprocess.TimeoutExpired

    def __init__(self, popen: Callable[..., Process]) -> None:
        self.Popen = popen
