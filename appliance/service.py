"""The pedal as a systemd service: ready once audio flows, alive for as long as it does, and one line a minute.

systemd's watchdog is fed by the progress of the audio clock as main sees it, and by nothing else. So a main process that hangs, an
audio process that can't be brought back, and a read from the sound card that never returns all end the same way: the service is
started anew. Outside systemd none of this happens, and the log goes to stderr.

Runs in: the main process, which calls `tick` every few milliseconds.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from appliance.controls import Control
from appliance.journal import about, log_to_journal
from appliance.minute import MINUTE_SECONDS, MinuteLine
from appliance.slot import SlotState
from appliance.stats import Counter

if TYPE_CHECKING:
    from appliance.main import Supervisor

log = logging.getLogger("ghostnote")

FLOWING_PERIODS = 16  # audio flows: so many turns of the card since the start
FEEDS_PER_WATCHDOG = 8
EXTEND_SECONDS = 30.0  # how long systemd waits for the next sign of a start that waits for its sound card
EXTEND_EVERY_SECONDS = 2.0


class Stage(Enum):
    """How far the pedal is: sound comes step by step, the dry guitar first."""

    WAITING = "waiting for the sound card"
    DRY = "dry sound"
    DELAY = "plain delay"
    ENGINE = "engine"

    @classmethod
    def of(cls, pedal: Supervisor, flows: bool) -> Stage:
        if not flows:
            return cls.WAITING
        if pedal.slot.state is SlotState.ACTIVE:
            return cls.ENGINE
        delayed = pedal.counters.get(Counter.POSITION) >= pedal.controls.get(Control.DELAY_FRAMES)
        return cls.DELAY if delayed else cls.DRY


class Notifier:
    """sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Without one, nothing."""

    def __init__(self, address: str = "") -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket:
            self._socket.setblocking(False)

    def __bool__(self) -> bool:
        return self._socket is not None

    def send(self, *assignments: str) -> None:
        """What systemd can't take right now is lost: it is said again soon, or does not matter."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            pass


class Service:
    """`tick` follows a running pedal. What it says to systemd depends on what it sees, never on its being called."""

    def __init__(self, notifier: Notifier, watchdog_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier, self._clock = notifier, clock
        self._feed_every_seconds = watchdog_seconds / FEEDS_PER_WATCHDOG if watchdog_seconds else MINUTE_SECONDS
        self._periods = self._reopens = 0
        self._fed_at = self._extended_at = float("-inf")
        self._flows = False
        self._stage: Stage | None = None
        self._said = ""
        self._minute: MinuteLine | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Service:
        """As systemd has started this process, or inert. Moves the log to the journal where there is one."""
        log_to_journal(environ)
        meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_seconds = int(environ.get("WATCHDOG_USEC", 0)) / 1e6 if meant else 0.0
        return cls(Notifier(environ.get("NOTIFY_SOCKET", "")), watchdog_seconds)

    @property
    def supervised(self) -> bool:
        """Whether systemd waits for what this process has to say."""
        return bool(self._notifier)

    def tick(self, pedal: Supervisor) -> None:
        if not self.supervised:
            return
        now = self._clock()
        self._follow_audio(pedal, now)
        self._follow_stage(pedal)
        self._follow_card(pedal)
        if self._minute is None:
            self._minute = MinuteLine(pedal.memory, now)
        elif line := self._minute.due(now):
            log.info("%s", line.text, extra=about("minute", stage=self._stage and self._stage.name.lower(), **line.fields))
            self._notifier.send(f"STATUS={self._status(pedal)}; {line.text}")

    def stopping(self) -> None:
        self._notifier.send("STOPPING=1", "STATUS=stopping")

    def _follow_audio(self, pedal: Supervisor, now: float) -> None:
        """Ready, watchdog: both follow from progress. A start that waits for its sound card says so, and is given time."""
        periods = pedal.counters.get(Counter.PERIODS)
        progress, self._periods = periods != self._periods, periods
        if not self._flows and periods >= FLOWING_PERIODS:
            self._flows, self._fed_at = True, now
            self._notifier.send("READY=1", "WATCHDOG=1")
            log.info("audio flows", extra=about("audio-flows"))
        elif self._flows and progress and now - self._fed_at >= self._feed_every_seconds:
            self._fed_at = now
            self._notifier.send("WATCHDOG=1")
        elif not self._flows and pedal.waits_for_card and now - self._extended_at >= EXTEND_EVERY_SECONDS:
            self._extended_at = now
            self._notifier.send(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1e6:.0f}")

    def _follow_stage(self, pedal: Supervisor) -> None:
        before, self._stage = self._stage, Stage.of(pedal, self._flows)
        status = self._status(pedal)
        if status != self._said:
            self._said = status
            self._notifier.send(f"STATUS={status}")
        if self._stage is not before:
            log.info("%s", status, extra=about("stage", stage=self._stage.name.lower()))

    def _follow_card(self, pedal: Supervisor) -> None:
        reopens = pedal.counters.get(Counter.REOPENS)
        if reopens != self._reopens:
            self._reopens = reopens
            log.warning("the sound card %s was opened again", pedal.config.audio.port, extra=about("card-reopened", reopens=reopens))

    def _status(self, pedal: Supervisor) -> str:
        if self._stage is Stage.WAITING:
            return f"{Stage.WAITING.value} {pedal.config.audio.port}"
        if self._stage is Stage.ENGINE:
            forced = "" if pedal.playing.certified else ", without a certificate"
            return f"{pedal.spec.name} plays “{pedal.player.prompt}”{forced}"
        assert self._stage
        return f"{self._stage.value}; engine {pedal.spec.name} is {pedal.slot.state.value}"
