"""This terminal as a board, so that anyone can play without hardware: keys are switches and knobs, and the lights are drawn.

    1 2 3 4      step on a switch           q w e r     hold it down, and let go        [  ]   both left ones, both right ones
    a s d f g h  choose a knob, j the pedal      up down page-up page-down home end     turn it
    :            a line as in a script, such as `:prompt choir`, `:mix 0.8` or `:save new`          Ctrl-C ends

A terminal tells no key's release: hence the keys that hold. Whatever happens, the terminal is left as it was found.

Runs in: the main process.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import termios
import time
from dataclasses import replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hw.board import BoardError, BoardEvent, KnobEvent, Lights, SwitchEvent
from hw.board_face import face
from hw.script import parse_script

SWITCH_COUNT, KNOB_COUNT = 4, 7
TAP_SECONDS = 0.08  # how long a tapped switch stays down
DRAW_SECONDS = 0.1
LEGEND = "1-4 step · q w e r hold · [ ] two at once · a-j choose, arrows turn · : command · Ctrl-C ends"
_ARROWS = {b"A": 0.02, b"B": -0.02, b"5~": 0.1, b"6~": -0.1, b"H": -1.0, b"F": 1.0, b"1~": -1.0, b"4~": 1.0, b"7~": -1.0, b"8~": 1.0}
_SIDEWAYS = {b"C": 1, b"D": -1}
_TAPS = {ord(key): (switch,) for switch, key in enumerate("1234")} | {ord("["): (0, 1), ord("]"): (2, 3)}
_HOLDS = {ord(key): switch for switch, key in enumerate("qwer")}
_CHOICES = {ord(key): knob for knob, key in enumerate("asdfghj")}
_ENTER, _ESCAPE, _ERASE = (10, 13), 27, (8, 127)


class Keyboard:
    """Bytes of a terminal in, events out; no terminal and no clock of its own."""

    def __init__(self) -> None:
        self.down = [False] * SWITCH_COUNT
        self.knobs = [0.5] * KNOB_COUNT
        self.chosen = 0
        self.line: bytearray | None = None  # a command that is being typed
        self.answer = ""  # to the last command
        self._ups: list[tuple[float, int]] = []  # when a tapped switch comes up again
        self._rest = b""  # of an escape sequence that is not here yet

    def type(self, data: bytes, seconds: float) -> list[BoardEvent]:
        events, data, self._rest = self._lift(seconds), self._rest + data, b""
        while data:
            if self.line is None and data[0] == _ESCAPE:
                taken = _sequence(data)
                if taken is None:
                    self._rest = data
                    break
                events += self._arrow(taken[2:], seconds)
                data = data[len(taken) :]
            else:
                events += self._key(data[0], seconds)
                data = data[1:]
        return events

    def _lift(self, seconds: float) -> list[BoardEvent]:
        due = [(when, switch) for when, switch in self._ups if when <= seconds]
        self._ups = [one for one in self._ups if one not in due]
        return [event for when, switch in due for event in self._press(switch, False, when)]

    def _key(self, key: int, seconds: float) -> list[BoardEvent]:
        if self.line is not None:
            return self._write(key, seconds)
        if key == ord(":"):
            self.line, self.answer = bytearray(), ""
        elif key in _TAPS:
            return [event for switch in _TAPS[key] for event in self._tap(switch, seconds)]
        elif key in _HOLDS:
            return self._press(_HOLDS[key], not self.down[_HOLDS[key]], seconds)
        elif key in _CHOICES:
            self.chosen = _CHOICES[key]
        return []

    def _tap(self, switch: int, seconds: float) -> list[BoardEvent]:
        up = self._press(switch, False, seconds)  # a switch that is down is let go first
        self._ups = [one for one in self._ups if one[1] != switch] + [(seconds + TAP_SECONDS, switch)]
        return up + self._press(switch, True, seconds)

    def _press(self, switch: int, down: bool, seconds: float) -> list[BoardEvent]:
        if self.down[switch] == down:
            return []
        self.down[switch] = down
        return [SwitchEvent(seconds, switch, down)]

    def _arrow(self, code: bytes, seconds: float) -> list[BoardEvent]:
        self.chosen = (self.chosen + _SIDEWAYS.get(code, 0)) % KNOB_COUNT
        value = min(max(self.knobs[self.chosen] + _ARROWS.get(code, 0.0), 0.0), 1.0)
        if value == self.knobs[self.chosen]:
            return []
        self.knobs[self.chosen] = value
        return [KnobEvent(seconds, self.chosen, value)]

    def _write(self, key: int, seconds: float) -> list[BoardEvent]:
        assert self.line is not None
        if key in _ENTER:
            text, self.line = self.line.decode(errors="replace").replace("\0", ""), None
            return self._command(text, seconds)
        if key == _ESCAPE:
            self.line = None
        elif key in _ERASE:
            del self.line[-1:]
        else:
            self.line.append(key)
        return []

    def _command(self, text: str, seconds: float) -> list[BoardEvent]:
        try:
            return [replace(event, seconds=seconds) for event in parse_script(f"0 {text}" if text.strip() else "", "")]
        except BoardError as error:
            self.answer = str(error).partition(": ")[2]
            return []


def _sequence(data: bytes) -> bytes | None:
    """The escape sequence that `data` begins with; None if its end is missing. A lone escape is one by itself."""
    if len(data) == 1:
        return None
    if data[1] not in b"[O":
        return data[:1]
    for at in range(2, len(data)):
        if 0x40 <= data[at] <= 0x7E:
            return data[: at + 1]
    return None


class KeysBoard:
    """A BoardPort on the terminal that the program was started in."""

    answers = True

    def __init__(self) -> None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise BoardError("board 'keys' needs a terminal: run it in one, not in a service or a pipe")
        self.keyboard = Keyboard()
        self._fd = sys.stdin.fileno()
        self._was: Any = termios.tcgetattr(self._fd)
        self._drawn = float("-inf")
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._live: Live | None = None
        self._open = True
        atexit.register(self.close)
        termios.tcsetattr(self._fd, termios.TCSANOW, _silent(self._was))

    def poll(self, until_seconds: float) -> list[BoardEvent]:
        try:
            data = os.read(self._fd, 1_024) if self._open else b""
        except OSError:  # the terminal is gone, and the end is near
            data = b""
        return self.keyboard.type(data, until_seconds)

    def show(self, lights: Lights, alive: bool) -> None:
        now = time.monotonic()
        if self._open and now - self._drawn >= DRAW_SECONDS:
            self._drawn = now
            self._draw(lights, alive, now)

    def wake_fds(self) -> tuple[int, ...]:
        return (self._fd,) if self._open else ()

    def close(self) -> None:
        """As often as one likes."""
        if not self._open:
            return
        self._open = False
        for handler, stream in self._streams:
            handler.setStream(stream)
        if self._live is not None:
            self._live.stop()
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._was)
        except termios.error:
            pass
        atexit.unregister(self.close)

    def _draw(self, lights: Lights, alive: bool, now: float) -> None:
        if self._live is None:
            self._live = Live(console=Console(), auto_refresh=False, transient=True)
            self._live.start()
            self._log_above()
        keys = self.keyboard
        below = Text(f" :{keys.line.decode(errors='replace')}_") if keys.line is not None else Text(f" {keys.answer or LEGEND}", "dim")
        parts = [face(lights, keys.down, keys.knobs, now, keys.chosen), below]
        if not alive:
            parts.insert(0, Text(" no sound is running: a board with a relay would be at true bypass", "bold red"))
        try:
            self._live.update(Group(*parts), refresh=True)
        except OSError:  # the terminal is gone
            self._live = None

    def _log_above(self) -> None:
        """Log lines scroll by above the drawing instead of through it: rich has put its own stream in place of stderr."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__:
                self._streams.append((handler, handler.stream))
                handler.setStream(sys.stderr)


def _silent(was: list[Any]) -> list[Any]:
    """No echo, every key at once, reads that never wait, and no Ctrl-Z: a stopped program would hold the card."""
    mode = list(was)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    letters = list(mode[6])
    letters[termios.VMIN], letters[termios.VTIME], letters[termios.VSUSP] = 0, 0, b"\0"
    mode[6] = letters
    return mode
