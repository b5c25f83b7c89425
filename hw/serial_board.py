"""A board on a serial line: opened by the name that udev gave it, lost and found again at any time.

    serial:/dev/ghostnote-board      which is also what `serial:` alone means

    not there, or unplugged   -> the last values stay; its name is tried twice a second
    there, but silent         -> said once; after a few seconds the line is opened anew
    another wire version      -> said once, with what to update

Each of these is one line in the log, and one more when all is well again. Before and after, the lights go out with every tick.
pyserial opens and sets up the line; reading and writing go past it, because it waits in a write to a board that does not read.

Runs in: the main process.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import termios
import time
from collections.abc import Callable
from dataclasses import replace

import serial

from hw import wire
from hw.board import BoardEvent, KnobEvent, Lights, SwitchEvent
from hw.clock import AudioClock
from hw.link import Link

log = logging.getLogger("ghostnote")

DEVICE = "/dev/ghostnote-board"  # as deploy/udev names it
BAUD = 115_200  # what a UART runs at; USB ignores it
REOPEN_SECONDS = 0.5
SILENT_SECONDS = 1.0  # with heartbeats every 50 ms
SILENT_REOPEN_SECONDS = 5.0
BEAT_SECONDS = wire.HEARTBEAT_US / 1e6
READ_BYTES, MOST_READS = 4_096, 8  # per poll: a line that is flooded must not hold up main
LINE_ERRORS = (serial.SerialException, OSError, termios.error)  # which of them an unplugged line raises depends on the moment

WELL, AWAY, SILENT, STRANGE = "well", "away", "silent", "strange"


class SerialBoard:
    """A BoardPort. `state` is WELL, AWAY, SILENT or STRANGE (another wire version)."""

    def __init__(self, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.device, self.state = device or DEVICE, ""
        self.link = Link()
        self._now, self._audio = clock, AudioClock()
        self._line: serial.Serial | None = None
        self._tried = self._opened = self._beat_at = float("-inf")
        self._shown: tuple[Lights, bool] | None = None
        self._open()

    @property
    def answers(self) -> bool:
        return self.state in ("", WELL)  # before it was heard for the first time it may just be starting

    def poll(self, until_seconds: float) -> list[BoardEvent]:
        now = self._now()
        self._audio.tick(now, until_seconds)
        if self._line is None and now - self._tried >= REOPEN_SECONDS:
            self._open()
        events = self.link.receive(self._read(), now) if self._line else []
        self._judge(now)
        return [self._on_audio_clock(event) for event in events]

    def show(self, lights: Lights, alive: bool) -> None:
        now, wanted = self._now(), (replace(lights, text=""), alive)
        if self._line is None or (wanted == self._shown and now - self._beat_at < BEAT_SECONDS):
            return
        self._shown, self._beat_at = wanted, now
        self._write(self.link.beat(lights, alive, now))

    def wake_fds(self) -> tuple[int, ...]:
        return () if self._line is None else (self._line.fileno(),)

    def close(self) -> None:
        self._drop()

    def _on_audio_clock(self, event: SwitchEvent | KnobEvent) -> SwitchEvent | KnobEvent:
        return replace(event, seconds=self._audio.seconds(event.seconds))

    def _open(self) -> None:
        self._tried = now = self._now()
        try:
            self._line = open_line(self.device)
        except LINE_ERRORS as error:
            self._line = None
            self._become(AWAY, f"board {self.device} can't be opened ({reason(error)}): plug it in; it is tried again all the time")
            return
        self._opened, self._beat_at, self._shown = now, float("-inf"), None
        self.link.restart()

    def _drop(self) -> None:
        if self._line is not None:
            try:
                self._line.close()
            except LINE_ERRORS:
                pass
            self._line = None

    def _read(self) -> bytes:
        assert self._line is not None
        data, fd = b"", self._line.fileno()
        try:
            for _ in range(MOST_READS):
                piece = os.read(fd, READ_BYTES)
                data += piece
                if len(piece) < READ_BYTES:
                    break
            if not data and _hung_up(fd):
                self._lose("it hung up")
        except BlockingIOError:
            pass
        except LINE_ERRORS as error:
            self._lose(reason(error))
        return data

    def _write(self, data: bytes) -> None:
        """As much as the line takes now; half a frame is garbage to the board, and the next frame comes soon."""
        assert self._line is not None
        try:
            os.write(self._line.fileno(), data)
        except BlockingIOError:
            pass
        except LINE_ERRORS as error:
            self._lose(reason(error))

    def _lose(self, why: str) -> None:
        self._drop()
        self._become(AWAY, f"board {self.device} is gone ({why}): knobs and switches stay as they are until it is back")

    def _judge(self, now: float) -> None:
        """What the line tells, or does not tell, of the board."""
        if self._line is None:
            return
        heard, silent = self.link.last_heard_seconds >= self._opened, now - max(self.link.last_heard_seconds, self._opened)
        if heard and silent < SILENT_SECONDS:
            self._become(WELL, f"board {self.device} is here")
        elif self.link.decoder.other_version >= 0:
            self._become(STRANGE, version_line(self.device, self.link.decoder.other_version))
        elif silent >= SILENT_SECONDS:
            self._become(SILENT, f"board {self.device} says nothing: unplug it and plug it in, or `ghostnote board flash {self.device}`")
            if silent >= SILENT_REOPEN_SECONDS:
                self._drop()

    def _become(self, state: str, line: str) -> None:
        if state != self.state:
            log.log(logging.INFO if state == WELL else logging.WARNING, "%s", line)
        self.state = state


def open_line(device: str) -> serial.Serial:
    """An open line that nobody else has, raw and not blocking. Raises one of LINE_ERRORS."""
    return serial.Serial(device, BAUD, timeout=0, exclusive=True)


def reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EIO:
        return "it hung up"
    return os.strerror(number).lower() if number else str(error)


def version_line(device: str, version: int) -> str:
    what = f"board {device} speaks wire version {version}, this software {wire.VERSION}: "
    if version < wire.VERSION:
        return what + f"update the board with `ghostnote board flash {device}`"
    return what + f"update Ghostnote, or put its own firmware on the board with `ghostnote board flash {device}`"


def _hung_up(fd: int) -> bool:
    """A read of nothing: the end of the line, or only nothing yet (VMIN is 0)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(what & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, what in poll.poll(0))
