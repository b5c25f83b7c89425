"""The supervisor: starts the audio process and the engine's slot, applies what the player does, and keeps both alive.

    dry sound first, the engine as soon as it is ready (or the other way round, for a recording that must be answered from the start)

It never touches a sample. Everything that an operator can get wrong fails in `Supervisor(...)`, before anything plays.

Runs in: the main process; imports no runtime.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from appliance.audio import AudioSettings
from appliance.caretaker import Caretaker
from appliance.child import STOP_SECONDS, Child
from appliance.config import Config
from appliance.controls import Control, Controls
from appliance.delay import WetSettings
from appliance.desk import Desk
from appliance.fit import Fit
from appliance.flight_keeper import FlightKeeper
from appliance.journal import about
from appliance.observer import Observer, governor_of
from appliance.playing import Playing
from appliance.preset_orders import preset_orders
from appliance.prompt_commands import prompt_folder
from appliance.report import Report, Session, collect, own_peak_rss_mb
from appliance.shared import SLOTS, SharedMemory
from appliance.slot import Slot, SlotState, ending
from appliance.stats import Counter, Counters
from appliance.takeover import Takeover
from appliance.worker import WorkerSettings
from engines.bundle import locate, read_spec, verify
from engines.engine import EngineSpec
from hw.board import open_board

log = logging.getLogger("ghostnote")

TICK_MS = 10  # how late a control event may be applied
MEASURE_SECONDS = 1.0
HANG_SECONDS = 1.5  # audio that makes no progress for so long is as good as dead (a card that vanished can leave a read hanging)
HANG_AT_START_SECONDS = 10.0  # ... except while it opens the card
DRY_FIRST_SECONDS = 2.0  # so long the engine's start waits for the first sound, which has the processor for itself until then
ENGINE_PATIENCE_SECONDS = 120.0  # for an engine that must be ready before anything plays
NOTES = 20  # lines of the children that the report keeps
CANNOT_OPEN = 2  # exit code of a child that has already said, in one line, what it can't open


class StartError(Exception):
    """Something that must be there at the start is not. An empty message: the process concerned has said why."""


@dataclass(frozen=True)
class RunOptions:
    """What a command wants of a run beyond the configuration."""

    wait_for_engine: bool = False  # engine ready before the first period
    record: Path | None = None  # an existing folder: keep dry, wet and output there
    record_frames: int = 0
    remember: bool = False  # presets, and the last state from run to run
    patient: bool = False  # a sound card or an engine that can't be opened is tried again until it can
    on_tick: Callable[[Supervisor], None] | None = None


class Supervisor:
    """One run of the pedal. Raises ConfigError, BundleError and BoardError at once; StartError from `run`."""

    def __init__(self, config: Config, options: RunOptions | None = None) -> None:
        self.options = options or RunOptions()
        self.caretaker = Caretaker(config, self.options.remember)
        self.config = config = self.caretaker.config
        if config.engine.bundle != "echo" and not self.options.patient:
            verify(locate(config.engine.bundle))
        self.address = config.engine.bundle  # of the engine that sounds
        fit = Fit.of(config, read_spec(self.address, str(prompt_folder(config))))
        self.board = open_board(config.board.port)
        self.memory = SharedMemory.create(fit.layout)
        self.answer_fd, *self.doorbell_fds = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(1 + SLOTS))
        self.controls, self.counters = Controls(self.memory.controls), Counters(self.memory.counters)
        self.playing = Playing(config, fit, self.memory, self.options.remember)
        self.player = self.playing.player
        settings = self._audio_settings(fit.wet)
        self.audio = Child("audio", settings.command(), settings.pass_fds)
        self.flights = FlightKeeper(config, self.options.remember)
        self.playing.save_flight = self.flights.asked
        engines = self.caretaker.orders(lambda: self)
        self.desk = Desk({**preset_orders(self.playing), **self.flights.orders(), **engines}, self.options.remember)
        self.slot = Slot(self.memory.of(0), self.worker_settings(0, self.address))
        self.takeover, self._restarts_before = Takeover(self), 0
        self.observer = Observer(self.memory, config)
        self.stopping = self.ended = False
        self.startup_seconds: float | None = None
        self.notes: list[str] = []
        self._began = self._measured_at = self._progress_at = 0.0
        self._periods, self._opening = 0, True

    def run(self) -> Report:
        """Play until the port ends or someone says stop."""
        self._began = time.monotonic()
        self.controls.set(Control.RUNNING, 1)
        with self._signals():
            try:
                self._start()
                while not (self.stopping or self.ended):
                    self._tick()
            finally:
                self._stop()
        return self.report()

    def stop(self) -> None:
        """May be called from a signal handler."""
        self.stopping = True

    def take_over(self, address: str) -> None:
        """Begin to replace the engine that plays by the one at `address`, without a gap; `takeover` says how far that is.

        Raises TakeoverError, and nothing has changed."""
        self.takeover.begin(address)

    def engine_changed(self, slot: Slot, address: str) -> None:
        """Only the engine in `slot` is heard from now on."""
        self._restarts_before += self.slot.child.restarts
        self.slot, self.address = slot, address
        self.memory.look_at(slot.number)
        self.observer.engine_changed()

    @property
    def spec(self) -> EngineSpec:
        """Of the engine that the player plays with."""
        return self.player.spec

    @property
    def engine_restarts(self) -> int:
        return self._restarts_before + self.slot.child.restarts

    @property
    def seconds(self) -> float:
        """The audio clock: what the board's events are timed by."""
        return self.counters.get(Counter.POSITION) / self.spec.sample_rate

    @property
    def waits_for_card(self) -> bool:
        """No sound yet, because the sound card can't be opened."""
        return self.options.patient and self._cannot_open()

    def report(self) -> Report:
        peaks = {"main": own_peak_rss_mb(), "audio": self.audio.peak_rss_mb, "engine": self.slot.child.peak_rss_mb}
        session = Session(
            engine=self.spec.name,
            prompt=self.player.prompt,
            delay_frames=int(self.controls.get(Control.DELAY_FRAMES)),
            startup_seconds=self.startup_seconds,
            peak_rss_mb=peaks,
            audio_restarts=self.audio.restarts,
            engine_restarts=self.engine_restarts,
            notes=tuple(self.notes),
            misses=dict(self.observer.monitor.causes),
            breaches=dict(self.observer.monitor.watch.breaches),
        )
        return collect(self.memory, session)

    def _start(self) -> None:
        if self.options.wait_for_engine:
            self.slot.start()
            self._await_engine()
        if not self.stopping:
            self._start_audio()

    def _start_audio(self) -> None:
        self.audio.start()
        self._await_progress()

    def _await_progress(self) -> None:
        self._progress_at, self._opening = time.monotonic(), True

    def _await_engine(self) -> None:
        give_up_at = time.monotonic() + ENGINE_PATIENCE_SECONDS
        while self.startup_seconds is None and not self.stopping:
            self._rest()
            self._follow_slot()
            if self.slot.state is SlotState.DEAD or time.monotonic() > give_up_at:
                raise StartError(f"engine {self.spec.name!r} did not start; try `ghostnote check`")

    def _tick(self) -> None:
        self._rest(*self.board.wake_fds())
        self._follow_audio()
        self._follow_slot()
        self.takeover.tick()
        now = time.monotonic()
        for line in self.playing.take(self.board.poll(self.seconds), self.seconds, self.board.answers):
            log.info("%s", line, extra=about("playing"))
        self.board.show(*self.playing.show(now, self.slot.state, self.observer.health))
        if now - self._measured_at > MEASURE_SECONDS:
            self._measured_at = now
            self._measure()
        self.observer.tick(self)
        self.flights.tick(self)
        self.caretaker.tick(self)
        self.desk.tick()
        if self.options.on_tick:
            self.options.on_tick(self)

    def _rest(self, *board_fds: int) -> None:
        """Until the worker or the board has something, at most one tick."""
        poll = select.poll()
        for fd in (self.answer_fd, *board_fds):
            poll.register(fd, select.POLLIN)
        if any(fd == self.answer_fd for fd, _ in poll.poll(TICK_MS)):
            os.eventfd_read(self.answer_fd)

    def _follow_audio(self) -> None:
        self.listen(self.audio)
        if self.audio.ended():
            self._audio_ended()
        elif not self.audio.running and self.audio.restart_when_due():
            self._await_progress()
        elif self._hangs():
            log.error("the audio process hangs: it is ended and starts again", extra=about("audio-hangs"))
            self.audio.kill()

    def _audio_ended(self) -> None:
        code = self.audio.exit_code
        if code == 0:
            self.ended = True
        elif not self._cannot_open():
            log.error("the audio process ended (%s): it starts again", ending(code), extra=about("audio-died", ending=ending(code)))
        elif not self.options.patient:
            raise StartError("")

    def _cannot_open(self) -> bool:
        return self.audio.exit_code == CANNOT_OPEN and not self.counters.get(Counter.PERIODS)

    def _hangs(self) -> bool:
        now, periods = time.monotonic(), self.counters.get(Counter.PERIODS)
        if not self.audio.running or periods != self._periods:
            self._opening = self._opening and periods == self._periods
            self._periods, self._progress_at = periods, now
            return False
        return now - self._progress_at > (HANG_AT_START_SECONDS if self._opening else HANG_SECONDS)

    def _follow_slot(self) -> None:
        if self.slot.state is SlotState.EMPTY and self._dry_sound_had_its_chance():
            self.slot.start()
        before = self.slot.state
        self.listen(self.slot.child)
        state = self.slot.watch()
        if state is SlotState.DEAD and before is not state:
            if self.slot.never_ready and self.slot.child.exit_code == CANNOT_OPEN and not self.options.patient:
                raise StartError("")
            how = ending(self.slot.child.exit_code)
            log.error("the engine ended (%s): it starts again, the plain delay plays on", how, extra=about("engine-died", ending=how))
        if self.startup_seconds is None and state in (SlotState.READY, SlotState.ACTIVE):
            self.startup_seconds = time.monotonic() - self._began
            extra = about("engine-ready", engine=self.spec.name, seconds=self.startup_seconds)
            log.info("engine %s is ready after %.1f s", self.spec.name, self.startup_seconds, extra=extra)

    def _dry_sound_had_its_chance(self) -> bool:
        """An engine that loads would take the processor from an audio process that starts: guitar first."""
        return self.counters.get(Counter.PERIODS) > 0 or time.monotonic() - self._began > DRY_FIRST_SECONDS

    def listen(self, child: Child) -> None:
        """Say what a process has printed, and keep it for the report."""
        for line in child.lines():
            log.info("%s", line)
            if line not in self.notes:
                self.notes = [*self.notes, line][-NOTES:]

    def _measure(self) -> None:
        self.audio.measure()
        self.slot.child.measure()

    def _stop(self) -> None:
        """Ask both to end, and see to it. Takes less than a second."""
        self._measure()
        self.controls.set(Control.RUNNING, 0)
        deadline = time.monotonic() + STOP_SECONDS
        self.audio.stop(deadline)
        self.slot.retire(deadline)
        self.takeover.close(deadline)
        self.listen(self.audio)
        self.listen(self.slot.child)
        self.board.close()
        for line in self.playing.end():
            log.error("%s", line, extra=about("not-kept"))
        self.desk.close()
        self.observer.close()
        self.flights.close()
        self.caretaker.close()
        self.memory.close()
        for fd in (self.answer_fd, *self.doorbell_fds):
            os.close(fd)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stop()

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _audio_settings(self, wet: WetSettings) -> AudioSettings:
        realtime, options = self.config.realtime, self.options
        return AudioSettings(
            memory_fd=self.memory.fd,
            doorbell_fds=tuple(self.doorbell_fds),
            port=self.config.audio.port,
            format=self.config.audio.format(),
            wet=wet,
            priority=realtime.priority,
            core=_core(realtime.audio_core),
            lock_memory=realtime.lock_memory,
            record=str(options.record) if options.record else None,
            record_frames=options.record_frames,
        )

    def worker_settings(self, slot: int, address: str) -> WorkerSettings:
        engine, realtime = self.config.engine, self.config.realtime
        return WorkerSettings(
            memory_fd=self.memory.fd,
            doorbell_fd=self.doorbell_fds[slot],
            answer_fd=self.answer_fd,
            engine=address,
            prompts=str(prompt_folder(self.config)),
            verify=self.options.patient or address != engine.bundle,
            backend=engine.backend,
            threads=engine.threads,
            seed=engine.seed,
            core=_core(realtime.worker_core),
            nice=realtime.worker_nice,
            governor=governor_of(self.config),
            flight=self.flights.settings(slot),
        )


def _core(configured: int) -> int | None:
    return None if configured < 0 else configured
