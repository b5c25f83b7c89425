"""The monitor's place in the supervisor: what it is told each tick, and where what it finds goes.

Runs in: the main process, which calls `tick` every few milliseconds.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import prometheus
from appliance.budgets import Budgets
from appliance.config import Config
from appliance.controls import Control
from appliance.deadline import Health
from appliance.governor import GovernorSettings
from appliance.journal import about
from appliance.misses import MissLog
from appliance.monitor import Monitor, Scene
from appliance.shared import SharedMemory
from appliance.slot import SlotState
from appliance.status import SOCKET_NAME, Facts, Snapshot, StatusSocket, runtime_folder, snapshot
from appliance.storage import state_folder
from appliance.vitals import Vitals

if TYPE_CHECKING:
    from appliance.main import Supervisor

log = logging.getLogger("ghostnote")


def budgets_of(config: Config) -> Budgets:
    wanted, form = config.monitor, config.audio.format()
    queue_us = (form.periods - 1) * form.period_ns // 1000
    return Budgets(
        slack_ms=wanted.slack_ms,
        period_late_us=wanted.period_late_us or queue_us // 2,
        period_work_us=wanted.period_work_us or form.period_ns // 2000,
        celsius=wanted.celsius,
        queue_ms=queue_us / 1e3,
    )


def governor_of(config: Config) -> GovernorSettings:
    wanted = config.monitor
    return GovernorSettings(wanted.governor, wanted.least_steps, wanted.reserve)


class Observer:
    """`tick` follows a running pedal; nothing that goes wrong here stops it."""

    def __init__(self, memory: SharedMemory, config: Config, vitals: Vitals | None = None) -> None:
        misses = MissLog(state_folder(config.storage.folder), round(config.monitor.misses_mb * 1e6))
        self.monitor = Monitor(memory, budgets_of(config), misses, vitals)
        self._prometheus = Path(config.monitor.prometheus) if config.monitor.prometheus else None
        self._written_at = time.monotonic()
        self._socket: StatusSocket | None = None
        self._said: set[str] = set()
        if config.monitor.status:
            self._open_socket()

    @property
    def health(self) -> Health:
        return self.monitor.health

    def engine_changed(self) -> None:
        self.monitor.engine_changed()

    def tick(self, pedal: Supervisor) -> None:
        slot = pedal.slot
        worker, audio = slot.child.process, pedal.audio.process
        ready = slot.state in (SlotState.READY, SlotState.ACTIVE)
        self.monitor.follow(Scene(audio.pid if audio else None, worker.pid if worker else None, ready, pedal.board.answers))
        self._say(self.monitor.misses.failure)
        if self._socket:
            self._socket.serve(lambda: self.snapshot(pedal))
        if self._prometheus and time.monotonic() - self._written_at > prometheus.EVERY_SECONDS:
            self._written_at = time.monotonic()
            self._write_prometheus(self._prometheus, pedal)

    def snapshot(self, pedal: Supervisor) -> Snapshot:
        get, spec = pedal.controls.get, pedal.spec
        facts = Facts(
            engine=spec.name,
            prompt=pedal.player.prompt,
            state=pedal.slot.state.value,
            steps=int(get(Control.STEPS)) or spec.steps,
            delay_ms=1000 * get(Control.DELAY_FRAMES) / spec.sample_rate,
            audio_restarts=pedal.audio.restarts,
            engine_restarts=pedal.engine_restarts,
            forced=pedal.caretaker.forced(pedal.address),
            takeover=pedal.takeover.state.value,
            takeover_engine=pedal.takeover.engine,
            takeover_reason=pedal.takeover.reason,
            preset=str(pedal.player.place),
            prompts=spec.prompts,
            sound=asdict(pedal.player.sound()),
        )
        return snapshot(self.monitor, facts)

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def _open_socket(self) -> None:
        try:
            self._socket = StatusSocket(runtime_folder() / SOCKET_NAME)
        except OSError as error:
            self._say(f"`ghostnote status` will not find this pedal ({error.strerror})")

    def _write_prometheus(self, path: Path, pedal: Supervisor) -> None:
        try:
            prometheus.write(path, self.monitor, self.snapshot(pedal))
        except OSError as error:
            self._say(f"{path} can't be written ({error.strerror}): set [monitor] prometheus to a file in a folder that exists")

    def _say(self, trouble: str) -> None:
        if trouble and trouble not in self._said:
            self._said.add(trouble)
            log.warning("%s", trouble, extra=about("monitor"))
