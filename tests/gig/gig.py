"""The simulated set: the real pedal, from its main process down to bytes for card and board, on a computer whose time is virtual.

Real: the supervisor with all it does each tick, the audio loop, ALSA port with its recovery, worker, governor, monitor, presets and last
state on a real folder, the board's host side. Simulated: the clock, processes, the ALSA library and the card behind it, the board behind
its wire, /proc and /sys, and systemd, which starts the pedal again. The engine is a cheap one that can be recognised.

Import this module only after tests.gig.machine.install().
"""

from __future__ import annotations

import gc
import logging
import os
import resource
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import appliance.child
import appliance.main
import appliance.takeover
import appliance.worker
import hw.alsa
import hw.serial_board
from appliance.config import Config, parse_config
from appliance.controls import PROMPTS_OF_SLOT, Control
from appliance.main import RunOptions, Supervisor
from appliance.observer import Observer
from appliance.presets import Place, Preset, PresetStore, Sound
from appliance.slot import SlotState
from appliance.state import State
from appliance.stats import Counter, WorkerCounter
from appliance.vitals import MachineVitals, ProcessVitals, Vitals
from tests.gig.board import Board
from tests.gig.card import UsbCard
from tests.gig.durations import Durations
from tests.gig.engine import Load, number_of, spec_of
from tests.gig.guitar import Guitar
from tests.gig.infliction import Infliction
from tests.gig.judge import Judge, Share
from tests.gig.machine import Killed, Machine, Process
from tests.gig.processes import Computer, Subprocess
from tests.gig.score import Move, Score
from tests.gig.tape import Tape

RESTART_SECONDS = 0.05  # RestartSec of deploy/systemd/ghostnote.service
KEPT_SECONDS = 2.5  # a state is written once a second
COUNTED = (Counter.CAPTURE_XRUNS, Counter.PLAYBACK_XRUNS, Counter.GAPS, Counter.REOPENS, Counter.LATE_BLOCKS, Counter.FALLBACK_FRAMES)
SETTLED_SECONDS = 9.0  # longer than the longest delay and the engine's own
QUEUE_NS = 2 * 128 * 1_000_000_000 // 44_100
COOL_MHZ, COOL_CELSIUS = 1_500.0, 58.0
CONFIG = """
[audio]
port = "alsa:hw:1,0"
sample_format = "FLOAT"
[engine]
bundle = "ash"
backend = "onnxruntime"
[controls]
mix = 0.5
repeats = 0.25
[knobs]
soft_takeover = true
[monitor]
status = false
celsius = 85.0
[flight]
minutes = 0
[storage]
folder = "{folder}"
[board]
port = "serial:/dev/ghostnote-board,script:{script}"
"""


def presets() -> list[Preset]:
    """Four to step through: short and long, dark and thin, with another prompt each."""
    sounds = [
        Sound(prompt="choir", delay_ms=600, mix=0.5, repeats=0.3),
        Sound(prompt="strings", second_prompt="glass", morph=0.4, delay_ms=1_100, mix=0.7, repeats=0.45, tone=0.3),
        Sound(prompt="brass", delay_ms=2_400, mix=0.35, repeats=0.1, level=1.2),
        Sound(prompt="glass", delay_ms=750, mix=0.6, repeats=0.5, tone=0.75, stray=0.5),
    ]
    return [Preset(sound.prompt, sound) for sound in sounds]


@dataclass(frozen=True)
class Miss:
    """What the monitor said, and when."""

    at: float
    cause: str


@dataclass
class Life:
    """One run of the main process, when it has ended."""

    began: float
    ended: float
    counters: dict[str, int]
    worker: dict[str, int]
    audio_restarts: int
    engine_restarts: int
    generated: int  # by the engines themselves
    prefilled: int
    periods: int  # on the tape
    least_limit: int
    switches: int  # of engines, tried


@dataclass
class Track:
    """What the timeline is drawn of, and what is judged once the set is over."""

    slack_ms: list[tuple[float, float]] = field(default_factory=list)  # of each answered block
    limit: list[tuple[float, int]] = field(default_factory=list)  # the governor's, whenever it changed
    heard: list[tuple[float, float, float, float]] = field(default_factory=list)  # seconds; share of engine, plain delay, neither
    memory: list[tuple[float, float, int]] = field(default_factory=list)  # seconds, MB, file descriptors
    health: list[tuple[float, str]] = field(default_factory=list)


class GigVitals(Vitals):
    """What Linux would say of the machine's processes."""

    def __init__(self, gig: Gig) -> None:
        super().__init__()
        self._gig = gig

    def _find(self, pid: int) -> Process | None:
        found = [process for process in self._gig.machine.running if process.pid == pid and process.returncode is None]
        return found[0] if found else None

    def process(self, pid: int) -> ProcessVitals | None:
        process = self._find(pid)
        return ProcessVitals(process.state, process.cpu_ns, process.queued_ns, 0, 0, 0) if process else None

    def state(self, pid: int) -> str:
        process = self._find(pid)
        return process.state if process else ""

    def machine(self) -> MachineVitals:
        times = self._gig.load.times if self._gig.hot else 1.0
        return MachineVitals(clock_mhz=COOL_MHZ / times, celsius=COOL_CELSIUS + (35 if times > 1.05 else 0))


class Gig:
    """`play` once; then `lives`, `misses`, `track`, `judge.findings` and the card say how it was."""

    def __init__(
        self, machine: Machine, score: Score, seed: int, folder: Path, on_progress: Callable[[float], None] = lambda seconds: None
    ):
        self.machine, self.score, self.folder, self.on_progress = machine, score, folder, on_progress
        self.began_ns = machine.now_ns
        durations, self.load, self.hot = Durations(seed), Load(), False
        self.judge, self.track = Judge(0, 18 * 16_384), Track()
        self.judge.on_share = self._learn
        self.tape = Tape(machine, durations, self.judge, 128, QUEUE_NS)
        self.card = UsbCard(machine, Guitar(score.songs).play, self.tape)
        self.tape.card = self.card
        self.board = Board(machine, seed)
        self.computer = Computer(machine, durations, self.tape, self.load)
        self.lives: list[Life] = []
        self.misses: list[Miss] = []
        self.lines: list[str] = []
        self.pedal: Supervisor | None = None
        self.engine = "ash"
        self.switches: list[tuple[float, str, str]] = []  # when it was asked for, how it ended, and why
        self.switching = -1.0
        self.asked: list[Callable[[], None]] = []  # of the main process, at its next tick
        self._causes: Tally[str] = Tally()
        self._looked = self._judged_block = 0
        self.strange: list[tuple[float, int]] = []  # periods in which the wet bus had a number that was not asked for
        self.known = 0  # periods in which it was known
        self.counted: list[tuple[float, str, int]] = []  # what the audio process counted in a second
        self._counts: dict[str, int] = {}
        self.forgotten: list[str] = []
        self.remembered = 0
        self.before: tuple[float, State] | None = None  # how a pedal that was killed stood
        self._moved_at = 0.0
        self._settled: tuple[tuple[str | float, ...], float] = ((), 0.0)

    @property
    def seconds(self) -> float:
        return (self.machine.now_ns - self.began_ns) / 1e9

    def at(self, seconds: float, do: Callable[[], None]) -> None:
        self.machine.at(self.began_ns + int(seconds * 1e9), do)

    # The evening

    def play(self) -> None:
        self._outside()
        store = PresetStore(self.folder)
        for number, preset in enumerate(presets()):
            store.save(Place(1, number + 1), preset)
        for move in self.score.moves:
            self.at(move.at, lambda move=move: self._move(move))  # type: ignore[misc]
        infliction = Infliction(self)
        for fault in self.score.faults:
            self.at(fault.at, lambda fault=fault: infliction.inflict(fault))  # type: ignore[misc]
        while self.seconds < self.score.seconds:
            self._live()
            self.machine.sleep(RESTART_SECONDS + self.computer.durations.main_start() / 1e9)
        self.tape.flush()

    def _outside(self) -> None:
        """The edges of the pedal's code."""
        appliance.child.subprocess = Subprocess(self.computer.popen)  # type: ignore[attr-defined]
        appliance.main.read_spec = appliance.takeover.read_spec = lambda address, *_: spec_of(address)  # type: ignore[assignment]
        appliance.takeover.memory_needed = lambda address: appliance.takeover.WORKER_BYTES
        appliance.worker.come_forward = lambda nice: None  # it would befall the process that simulates
        hw.alsa.PyAlsaAudio = lambda: self.card  # type: ignore[assignment,misc]
        hw.serial_board.open_line = self.board.open_line  # type: ignore[assignment]
        logging.getLogger("ghostnote").addHandler(_Lines(self))
        logging.getLogger("ghostnote").propagate = False

    def config(self) -> Config:
        script = self.folder / "said.txt"
        now = self.seconds
        script.write_text("".join(f"{at - now:.3f} {what}\n" for at, what in self.score.said if at > now))
        return parse_config(CONFIG.format(folder=self.folder, script=script).replace('"ash"', f'"{self.engine}"'), "gig")

    def _live(self) -> None:
        """One life of the main process, as systemd starts it."""
        began = self.seconds
        self._causes, self._judged_block, self._counts = Tally(), 0, {}
        self.computer.forget()
        periods = self.tape.periods
        self.pedal = pedal = Supervisor(self.config(), RunOptions(remember=True, patient=True, on_tick=self._tick))
        pedal.observer = Observer(pedal.memory, pedal.config, GigVitals(self))
        stop, pedal._stop = pedal._stop, lambda: self._end(stop)  # type: ignore[method-assign]
        self.machine.main.lateness = self.computer.durations.block_wake
        try:
            pedal.run()
        except Killed:
            self.machine.main.doomed, self.machine.main.returncode = False, None
        if pedal.stopping and self.seconds < self.score.seconds:
            raise KeyboardInterrupt  # the supervisor has taken it for itself
        self.lives.append(self._life(pedal, began, self.tape.periods - periods))
        self.pedal = None
        del pedal
        gc.collect()  # what ends with a process is gone at once

    def _end(self, stop: Callable[[], None]) -> None:
        """Of the main process: by its own doing, or by the kernel's."""
        pedal = self.pedal
        assert pedal
        if not self.machine.main.doomed:
            stop()
            return
        if pedal.playing.storage:
            pedal.playing.storage.close()
        pedal.board.close()
        pedal.observer.close()
        pedal.memory.close()
        for fd in (pedal.answer_fd, *pedal.doorbell_fds):
            os.close(fd)
        slots = (pedal.slot, pedal.takeover.coming, pedal.takeover._leaving)
        for child in (pedal.audio, *(slot.child for slot in slots if slot)):
            if child.process and child.process.stdout:
                child.process.stdout.close()

    def _life(self, pedal: Supervisor, began: float, periods: int) -> Life:
        counters = {counter.name: pedal.counters.get(counter) for counter in Counter}
        worker = {counter.name: int(pedal.memory.carried[counter]) + pedal.slot.counters.get(counter) for counter in WorkerCounter}
        engines = self.computer.engines
        return Life(
            began, self.seconds, counters, worker, pedal.audio.restarts, pedal.engine_restarts,
            sum(engine.generated for engine in engines), sum(engine.prefilled for engine in engines), periods,
            min((limit for at, limit in self.track.limit if at >= began and limit), default=0),
            sum(at >= began for at, _, _ in self.switches),
        )  # fmt: skip

    # Each tick

    def _tick(self, pedal: Supervisor) -> None:
        if self.before:
            self._compare(*self.before)
            self.before = None
        causes = pedal.observer.monitor.causes
        if causes != self._causes:
            self.misses += [Miss(self.seconds, cause) for cause in (Tally(causes) - self._causes).elements()]
            self._causes = Tally(causes)
        while self.asked:
            self.asked.pop()()
        if self.switching >= 0 and not pedal.takeover.state.under_way and not pedal.takeover._leaving:
            self.switches.append((self.switching, pedal.takeover.state.value, pedal.takeover.reason))
            self.switching = -1.0
        self.engine = pedal.address
        if self.seconds >= self._looked:
            self._looked = int(self.seconds) + 1
            self._look(pedal)
        if self.seconds >= self.score.seconds:
            pedal.stop()

    def _look(self, pedal: Supervisor) -> None:
        """Once a second."""
        for row in pedal.observer.monitor.ledger.blocks(self._judged_block):
            if row["written"]:
                self._judged_block = int(row["start"]) + 1
                self.track.slack_ms.append((self.seconds, (int(row["due"]) - int(row["written"])) / 1e6))
        counts = {counter.name: pedal.counters.get(counter) for counter in COUNTED}
        self.counted += [
            (self.seconds, name, count - self._counts.get(name, 0)) for name, count in counts.items() if count != self._counts.get(name, 0)
        ]
        self._counts = counts
        limit = pedal.slot.counters.get(WorkerCounter.STEP_LIMIT)
        if not self.track.limit or self.track.limit[-1][1] != limit:
            self.track.limit.append((self.seconds, limit))
        health = pedal.observer.health.value if pedal.slot.state is SlotState.ACTIVE else "no engine"
        if not self.track.health or self.track.health[-1][1] != health:
            self.track.health.append((self.seconds, health))
        if self._looked % 30 == 0:
            self.track.memory.append((self.seconds, _resident_mb(), len(os.listdir("/proc/self/fd"))))
        self.on_progress(self.seconds)

    def _compare(self, killed_at: float, before: State) -> None:
        """The state of the pedal that was killed, unless it was moved too shortly before that."""
        assert self.pedal
        said = any(killed_at - KEPT_SECONDS < at <= killed_at for at, _ in self.score.said)
        if said or killed_at - self._moved_at < KEPT_SECONDS:
            return
        self.remembered += 1
        now = self.pedal.playing.state()
        if now != before:
            self.forgotten.append(f"at {killed_at:.1f} s: {before} became {now}")

    def _learn(self, share: Share) -> None:
        """Who was heard in some periods, and whether it was who should be."""
        at = (share.ns - self.began_ns) / 1e9
        numbers = share.numbers[~np.isnan(share.numbers)]
        plain = numbers > 0.985
        count = max(1, len(share.numbers))
        self.track.heard.append(
            (at, float(np.count_nonzero(~plain)) / count, float(np.count_nonzero(plain)) / count, 1 - len(numbers) / count)
        )
        self._expect(at, share, numbers[~plain])

    def _expect(self, at: float, share: Share, numbers: np.ndarray) -> None:
        """Where prompts and morph have stood still for longer than the longest delay, the engine's number is known."""
        words = PROMPTS_OF_SLOT[int(share.controls[-1, Control.TURN]) % 2]
        wishes = share.controls[:, [*words, Control.MORPH, Control.FREEZE]]
        first = tuple(wishes[0])
        switching = self.pedal is None or self.pedal.takeover.state.under_way
        if switching or first[3] or np.any(wishes != wishes[0]) or self._settled[0] != (self.engine, *first):
            self._settled = ((self.engine, *wishes[-1]), at + 1.5)
            return
        if at - self._settled[1] < SETTLED_SECONDS or not len(numbers):
            return
        wanted = number_of(self.engine, int(first[0]), int(first[1]), float(first[2]))
        strange = int(np.count_nonzero(np.abs(numbers - wanted) > 0.004))
        self.known += len(numbers)
        if strange:
            self.strange.append((at, strange))

    # What is done to it

    def _move(self, move: Move) -> None:
        self._moved_at = self.seconds
        if move.switch:
            self.board.switch(move.what, move.value > 0)
        else:
            self.board.turn(move.what, move.value)


class _Lines(logging.Handler):
    def __init__(self, gig: Gig) -> None:
        super().__init__()
        self.gig = gig

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or len(self.gig.lines) < 2_000:
            self.gig.lines.append(f"{self.gig.seconds:10.3f} {record.getMessage()}")


def _resident_mb() -> float:
    with open("/proc/self/statm") as facts:
        return int(facts.read().split()[1]) * resource.getpagesize() / 1e6
