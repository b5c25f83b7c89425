"""A board that is a text file: one event per line, `TIME CONTROL VALUE`, blank lines and `# comments` aside.

    0        mix 0.8            # TIME: seconds, minutes:seconds or hours:minutes:seconds since the first period
    0:02.5   prompt choir       # the rest of the line is the prompt; a number is its index
    12.0     bypass on          # switches: on, off, 1 or 0
    14       tap                # no value

Lines may come in any order; those of the same time keep theirs. Names are CONTROL_NAMES of hw/board.py; what range a value may have
is the player's business. Runs in: the main process.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path

from hw.board import CONTROL_NAMES, SWITCHES, TEXTS, BoardError, BoardEvent, ControlEvent, Lights

_SWITCH_VALUES = {"on": 1.0, "off": 0.0, "1": 1.0, "0": 0.0}


class ScriptBoard:
    """A BoardPort that plays a list of events."""

    answers = True

    def __init__(self, events: Sequence[ControlEvent]) -> None:
        self._events = sorted(events, key=lambda event: event.seconds)
        self._next = 0

    @classmethod
    def from_file(cls, path: str | Path) -> ScriptBoard:
        """Raises BoardError, with the file's name and the line's number."""
        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise BoardError(f"script {path} can't be read ({error.strerror}): name a text file of events") from error
        except UnicodeDecodeError as error:
            raise BoardError(f"script {path} is not a text file: write one event per line, such as `0:02.5 mix 0.8`") from error
        return cls(parse_script(text, str(path)))

    def poll(self, until_seconds: float) -> list[BoardEvent]:
        first = self._next
        while self._next < len(self._events) and self._events[self._next].seconds <= until_seconds:
            self._next += 1
        return [*self._events[first : self._next]]

    def show(self, lights: Lights, alive: bool) -> None:
        """A script has no lights."""

    def wake_fds(self) -> tuple[int, ...]:
        return ()

    def close(self) -> None:
        self._next = len(self._events)


def parse_script(text: str, origin: str) -> list[ControlEvent]:
    """The events of `text`, in the order of its lines. `origin` names it in errors. Raises BoardError."""
    events = []
    for number, line in enumerate(text.splitlines(), 1):
        words = _without_comment(line).split()
        try:
            if words:
                events.append(_event(words))
        except ValueError as error:
            raise BoardError(f"script {origin}, line {number}: {error}") from None
    return events


def _without_comment(line: str) -> str:
    """A # begins a comment where a word could begin."""
    for at, letter in enumerate(line):
        if letter == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line


def _event(words: list[str]) -> ControlEvent:
    if len(words) < 2:
        raise ValueError(f"{words[0]!r} stands alone: write TIME CONTROL VALUE, such as `0:02.5 mix 0.8`")
    name = words[1].lower()
    if name not in CONTROL_NAMES:
        near = difflib.get_close_matches(name, CONTROL_NAMES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(CONTROL_NAMES)}"
        raise ValueError(f"control {words[1]!r} is unknown: {hint}")
    return ControlEvent(_seconds(words[0]), name, _value(name, words[2:]))


def _seconds(word: str) -> float:
    """`12.5`, `1:02.5` or `1:00:02.5`: only the last part may have a fraction, and only the first be 60 or more."""
    *heads, last = word.split(":")
    try:
        numbers = [float(int(head)) if head.isdecimal() else -1.0 for head in heads] + [float(last)]
    except ValueError:
        numbers = [-1.0]
    carried = any(number >= 60 for number in numbers[1:])
    if len(heads) > 2 or carried or not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"time {word!r} makes no sense: write seconds or minutes:seconds, such as 2.5 or 1:02.5")
    total = 0.0
    for number in numbers:
        total = total * 60 + number
    return total


def _value(name: str, words: list[str]) -> float | str:
    if name == "tap":
        if words:
            raise ValueError(f"tap takes no value: leave out {' '.join(words)!r}")
        return 1.0
    if not words:
        raise ValueError(f"{name} has no value: write TIME {name} VALUE")
    if name in TEXTS:
        return _text_or_index(name, " ".join(words))
    if len(words) > 1:
        raise ValueError(f"{name} takes one value: leave out {' '.join(words[1:])!r}")
    return _switch(name, words[0]) if name in SWITCHES else _number(name, words[0])


def _text_or_index(name: str, text: str) -> float | str:
    return float(text) if name != "subdivision" and text.isdecimal() else text


def _switch(name: str, word: str) -> float:
    if word.lower() not in _SWITCH_VALUES:
        raise ValueError(f"{name} is a switch, not {word!r}: use on or off")
    return _SWITCH_VALUES[word.lower()]


def _number(name: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} needs a number from 0 on, not {word!r}")
    return value
