"""MIDI as a control surface, through ALSA's sequencer: controllers, program changes and clock of whatever is plugged in, and when.

    midi:                            every input but ALSA's own "Midi Through"
    midi:NAME                        those with NAME in theirs
    midi:NAME?channel=1&map=FILE     one channel of 1 to 16 (default: all); the table of hw/midi_map.py that `ghostnote board learn` fills
    midi:?api=jack                   JACK's MIDI ports instead of ALSA's

Inputs are looked for once a second, so that one may come and go. Messages are stamped where they arrive, in a thread of the library.

Runs in: the main process.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import rtmidi

from hw.board import BoardError, BoardEvent, ControlEvent, Lights
from hw.clock import AudioClock
from hw.midi_map import ClockTaps, MidiMap

log = logging.getLogger("ghostnote")

LOOK_SECONDS = 1.0
APIS = {"alsa": rtmidi.API_LINUX_ALSA, "jack": rtmidi.API_UNIX_JACK}
CLIENT = "ghostnote"
NOBODY = "Midi Through"
CC, PROGRAM = 0xB0, 0xC0
CLOCK, START, CONTINUE = 0xF8, 0xFA, 0xFB

Message = tuple[float, list[int]]  # CLOCK_MONOTONIC, bytes


@dataclass(frozen=True)
class MidiAddress:
    """What follows `midi:`."""

    name: str = ""
    channel: int = 0  # 0: all
    map: Path | None = None
    api: str = "alsa"

    @classmethod
    def parse(cls, text: str) -> MidiAddress:
        """Raises BoardError."""
        name, _, query = text.partition("?")
        address = cls(unquote(name))
        for item in filter(None, query.split("&")):
            key, _, value = item.partition("=")
            address = address._with(key, unquote(value))
        return address

    def _with(self, key: str, value: str) -> MidiAddress:
        if key == "channel" and value.isdecimal() and 1 <= int(value) <= 16:
            return replace(self, channel=int(value))
        if key == "map" and value:
            return replace(self, map=Path(value))
        if key == "api" and value in APIS:
            return replace(self, api=value)
        known = ", ".join(one.name for one in fields(self)[1:])
        raise BoardError(f"board midi: option {key}={value} makes no sense: use {known}, such as midi:?channel=1&map=midi.toml")


class MidiBoard:
    """A BoardPort on all inputs that an address means. It has no lights."""

    answers = True

    def __init__(self, address: MidiAddress) -> None:
        self.address, self.map = address, MidiMap.load(address.map) if address.map else MidiMap()
        self._audio, self._taps = AudioClock(), ClockTaps()
        self._arrived: deque[Message] = deque(maxlen=4_096)
        self._scout = _client(address.api)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._inputs: dict[str, Any] = {}
        self._looked = float("-inf")
        self._look(time.monotonic())
        if not self._inputs:
            log.warning("no MIDI input%s is plugged in: it is looked for all the time", f" named {address.name!r}" if address.name else "")

    @classmethod
    def from_address(cls, text: str) -> MidiBoard:
        return cls(MidiAddress.parse(text))

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self._inputs)

    def poll(self, until_seconds: float) -> list[BoardEvent]:
        now = time.monotonic()
        self._audio.tick(now, until_seconds)
        events = (self._event(self._audio.seconds(moment), message) for moment, message in self.messages())
        return [event for event in events if event is not None]

    def messages(self) -> list[Message]:
        """What has arrived since the last call, raw, in order."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._look(now)
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass
        return [self._arrived.popleft() for _ in range(len(self._arrived))]

    def show(self, lights: Lights, alive: bool) -> None:
        """Nothing to see."""

    def wake_fds(self) -> tuple[int, ...]:
        return (self._wake_fd,)

    def close(self) -> None:
        for one in self._inputs.values():
            one.close_port()
        self._inputs.clear()
        os.close(self._wake_fd)

    def _event(self, seconds: float, message: list[int]) -> BoardEvent | None:
        status = message[0]
        if status == CLOCK:
            tap = self._taps.pulse(seconds)
            return None if tap is None else ControlEvent(tap, "tap", 1.0)
        if status in (START, CONTINUE):
            self._taps.restart()
        elif self.address.channel in (0, status % 16 + 1):
            if status & 0xF0 == CC and len(message) == 3:
                return self.map.event(seconds, message[1], message[2])
            if status & 0xF0 == PROGRAM and len(message) == 2:
                return ControlEvent(seconds, "preset", float(message[1]))
        return None

    def _look(self, now: float) -> None:
        self._looked = now
        there = {name: port for port, name in enumerate(self._scout.get_ports()) if self._means(name)}
        for name in [name for name in self._inputs if name not in there]:
            self._inputs.pop(name).close_port()
            log.warning("MIDI input %r is gone", name)
        for name, port in there.items():
            if name not in self._inputs:
                self._open(name, port)

    def _means(self, name: str) -> bool:
        return self.address.name in name if self.address.name else NOBODY not in name

    def _open(self, name: str, port: int) -> None:
        one = _client(self.address.api)
        one.ignore_types(sysex=True, timing=False, active_sense=True)
        one.set_callback(self._arrive)
        try:
            one.open_port(port, "in")
        except (rtmidi.RtMidiError, ValueError):  # gone between the look and now
            return
        self._inputs[name] = one
        log.info("MIDI input %r is here", name)

    def _arrive(self, message: tuple[list[int], float], data: object) -> None:
        """Called by the library's thread."""
        self._arrived.append((time.monotonic(), message[0]))
        os.eventfd_write(self._wake_fd, 1)


def _client(api: str) -> Any:
    try:
        return rtmidi.MidiIn(APIS[api], CLIENT)
    except rtmidi.RtMidiError as error:
        if api == "jack":
            raise BoardError("MIDI by JACK: no server runs; start one, or leave out api=jack") from error
        raise BoardError("MIDI needs ALSA's sequencer, which is not there: run `modprobe snd-seq`, or use midi:?api=jack") from error
