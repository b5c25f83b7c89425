"""What a player moves and sees: switches, knobs and lights, as timed events in one direction and colours in the other.

    "script:set.txt"                a text file of timed events (hw/script.py says how it reads)
    "none"                          no board: the config's values stay
    "serial:/dev/ghostnote-board"   footswitches, knobs and LEDs on a microcontroller (hw/serial_board.py)
    "midi:", "midi:NAME"            every MIDI input, or those with NAME in theirs (hw/midi.py has the options)
    "keys"                          this terminal (hw/keys_board.py)
    "serial:...,midi:"              several at once

A board reports what was moved (SwitchEvent, KnobEvent); what that means is decided by the player's mapping, in the main process.
A script, MIDI or a key press may also name the control itself (ControlEvent).

Runs in: the main process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

_NEXT_BOARD = re.compile(r",(?=(?:script|none|serial|midi|keys)\b)")  # a path may have commas of its own

SWITCHES = ("bypass", "kill_dry", "trails", "freeze", "jam", "tuner")
TEXTS = ("prompt", "second_prompt", "subdivision", "preset", "bank", "save")  # a prompt, preset or bank may also be a number
KNOBS = ("mix", "repeats", "level", "tone", "morph", "stray")
CONTROL_NAMES = (*KNOBS, *SWITCHES, *TEXTS, "delay_ms", "time", "tap", "steps")

EXPRESSION = 6  # index of the expression pedal among the knobs; 0 to 5 are the pots, left to right


class BoardError(Exception):
    """A board that can't be opened: one line that names what is wrong and what to do."""


@dataclass(frozen=True)
class ControlEvent:
    """At `seconds` since the first period: `control` (one of CONTROL_NAMES) takes `value`.

    For the switches the value is 0 or 1; `tap` counts a press (its time is what matters); `prompt` is an index or a text that the
    engine knows, `subdivision` a text such as 1/8. that says what a tapped beat sets. `time` is the delay as a knob has it, from 0 (the
    shortest) to 1 (the longest). `preset` is a program number from 0 on, a place such as 1.2, a name, next or previous; `bank` a number
    from 1 on, next or previous; `save` keeps the sound of now in a place, in the current one ("here") or in a free one ("new").
    """

    seconds: float
    control: str
    value: float | str


@dataclass(frozen=True)
class SwitchEvent:
    """At `seconds` on the audio clock footswitch `switch` (0 is the leftmost) went down, or up again. Debounced."""

    seconds: float
    switch: int
    down: bool


@dataclass(frozen=True)
class KnobEvent:
    """At `seconds` on the audio clock knob `knob` (0 to 5, or EXPRESSION) came to stand at `value`, 0 .. 1."""

    seconds: float
    knob: int
    value: float


BoardEvent = ControlEvent | SwitchEvent | KnobEvent


class Colour(IntEnum):
    """What a light can show; the numbers go over the wire."""

    OFF = 0
    RED = 1
    AMBER = 2
    GREEN = 3
    BLUE = 4
    VIOLET = 5
    WHITE = 6


class Pattern(IntEnum):
    """How a light shows it; the numbers go over the wire."""

    STEADY = 0
    SLOW_BLINK = 1
    FAST_BLINK = 2


@dataclass(frozen=True)
class Light:
    """One RGB LED."""

    colour: Colour = Colour.OFF
    pattern: Pattern = Pattern.STEADY


@dataclass(frozen=True)
class Lights:
    """Everything that the board shows, sent whenever it changes."""

    status: Light = Light()  # how far the pedal is: dry, plain delay, engine
    deadline: Light = Light()  # on time, close, or fallback
    switches: tuple[Light, ...] = ()  # one beside each footswitch
    clip: bool = False
    beat_seconds: float = 0.0  # what the tap light blinks; 0: it is dark
    relay_bypass: bool = False  # the player asks for the relay: input straight to output, nothing in between
    text: str = ""  # one line for a board that can write: the preset, or the note that the tuner hears


class BoardPort(Protocol):
    """A surface. Everything may vanish and come back: that is counted and shown, never raised."""

    @property
    def answers(self) -> bool:
        """False while a device that should be there is not, or is silent."""

    def poll(self, until_seconds: float) -> list[BoardEvent]:
        """Events due up to `until_seconds` on the audio clock, oldest first, each given once. Never blocks."""

    def show(self, lights: Lights, alive: bool) -> None:
        """Called every tick. `alive` is false when audio makes no progress: a board then puts its relay to true bypass."""

    def wake_fds(self) -> tuple[int, ...]:
        """What becomes readable when `poll` would have something, for a main that sleeps until then."""

    def close(self) -> None: ...


def open_board(address: str) -> BoardPort:
    """Open the board, or the boards, that `address` names. Raises BoardError."""
    parts = _NEXT_BOARD.split(address)
    if len(parts) == 1:
        return _open_one(address)
    from hw.merged_board import MergedBoard

    boards: list[BoardPort] = []
    try:
        boards.extend(map(_open_one, parts))
    except BoardError:
        MergedBoard(boards).close()
        raise
    return MergedBoard(boards)


def _open_one(address: str) -> BoardPort:
    kind, _, rest = address.partition(":")
    if kind in ("script", "none"):
        from hw.script import ScriptBoard

        return ScriptBoard.from_file(rest) if kind == "script" else ScriptBoard([])
    if kind == "keys":
        from hw.keys_board import KeysBoard

        return KeysBoard()
    if kind in ("serial", "midi"):
        return _open_device(kind, rest)
    raise BoardError(f"board {address!r} is unknown: use serial:DEVICE, midi:, keys, script:PATH or none")


def _open_device(kind: str, rest: str) -> BoardPort:
    try:
        if kind == "serial":
            from hw.serial_board import SerialBoard

            return SerialBoard(rest)
        from hw.midi import MidiBoard

        return MidiBoard.from_address(rest)
    except ModuleNotFoundError as error:
        raise BoardError(f"board {kind}: needs {error.name}: pip install 'ghostnote[device,midi]'") from error
