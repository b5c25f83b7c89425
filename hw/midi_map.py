"""What MIDI messages mean: a table from controller numbers to targets, kept in a TOML file, and a clock's pulses as taps.

    [cc]
    20 = "mix"            # a control that turns: the controller's 0 to 127 is its whole range, at once
    64 = "freeze"         # a control that switches: on from 64 up
    80 = "switch 1"       # as if the footswitch went down (from 64 up) and up: presses, holds and chords mean what they do there
    11 = "expression"     # as if the pedal, or `knob 1` to `knob 6`, was moved: soft takeover and the config's mapping apply
    84 = "tap"

Program changes are presets; neither needs the table. Runs in: the main process.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hw.board import EXPRESSION, KNOBS, SWITCHES, BoardError, BoardEvent, ControlEvent, KnobEvent, SwitchEvent

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SPANS = {**dict.fromkeys((*KNOBS, "time"), 1.0), "repeats": 0.95, "level": 2.0}
FOOTSWITCHES, POTS = 4, 6
SURFACE = {f"switch {n + 1}": n for n in range(FOOTSWITCHES)} | {f"knob {n + 1}": n for n in range(POTS)} | {"expression": EXPRESSION}
TARGETS = (*SPANS, *SWITCHES, "tap", *SURFACE)
ON = 64
FACTORY = {
    7: "level", 11: "expression", 20: "mix", 21: "time", 22: "repeats", 23: "morph", 24: "stray", 25: "tone",
    64: "freeze", 80: "switch 1", 81: "switch 2", 82: "switch 3", 83: "switch 4", 84: "tap", 85: "bypass", 86: "jam", 87: "tuner",
}


@dataclass(frozen=True)
class MidiMap:
    """Controller number -> target."""

    cc: Mapping[int, str] = field(default_factory=lambda: dict(FACTORY))

    @classmethod
    def load(cls, path: Path) -> MidiMap:
        """The table in `path`; the factory's if there is none yet. Raises BoardError."""
        try:
            tree = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BoardError(f"MIDI table {path} can't be read ({error}): mend it, or remove it for the factory's") from error
        table = tree.get("cc", {})
        if set(tree) - {"cc"} or not isinstance(table, dict):
            raise BoardError(f"MIDI table {path}: only the table [cc] is known, with lines such as 20 = \"mix\"")
        return cls({_number(path, number): _target(f"MIDI table {path}", target) for number, target in table.items()})

    def learned(self, cc: int, target: str) -> MidiMap:
        """With `target` on `cc` and nowhere else. Raises BoardError."""
        _target("MIDI learn", target)
        return MidiMap({**{n: t for n, t in self.cc.items() if t != target}, cc: target})

    def save(self, path: Path) -> None:
        """All of it or nothing, whatever happens meanwhile."""
        lines = ["[cc]", *(f'{number} = "{target}"' for number, target in sorted(self.cc.items()))]
        fresh = path.with_name(f".{path.name}.new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def event(self, seconds: float, cc: int, value: int) -> BoardEvent | None:
        """What controller `cc` at `value`, 0 to 127, means; None if nothing."""
        target = self.cc.get(cc)
        if target is None or (target == "tap" and value < ON):
            return None
        if target in SURFACE:
            place = SURFACE[target]
            return SwitchEvent(seconds, place, value >= ON) if target.startswith("switch") else KnobEvent(seconds, place, value / 127)
        return ControlEvent(seconds, target, SPANS[target] * value / 127 if target in SPANS else float(value >= ON))


def _number(path: Path, text: str) -> int:
    if text.isdecimal() and int(text) < 120:
        return int(text)
    raise BoardError(f"MIDI table {path}: controller {text!r} does not exist: use 0 to 119")


def _target(where: str, target: object) -> str:
    if target in TARGETS:
        return str(target)
    raise BoardError(f"{where}: target {target!r} is unknown: use one of {', '.join(TARGETS)}")


class ClockTaps:
    """A MIDI clock's pulses, 24 to the beat, as a few taps each time that the tempo is new: enough for TapTempo, and no jitter after."""

    PULSES = 24
    TAPS = 6
    NEW_TEMPO = 0.01  # share by which the beat must differ to be a new one
    PAUSE_SECONDS = 0.25  # slower than 10 beats a minute: the clock has stopped

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The song starts: the next pulse is on a beat."""
        self._pulses: deque[float] = deque(maxlen=2 * self.PULSES + 1)
        self._count = 0
        self._beat_seconds = self._tapped = 0.0
        self._taps_left = 0

    def pulse(self, seconds: float) -> float | None:
        """Returns the moment of a tap, or None."""
        if self._pulses and not 0 <= seconds - self._pulses[-1] < self.PAUSE_SECONDS:
            self.restart()
        self._pulses.append(seconds)
        on_beat = self._count % self.PULSES == 0
        self._count += 1
        if not on_beat or self._count <= self.PULSES:
            return None
        beat = (seconds - self._pulses[0]) * self.PULSES / (len(self._pulses) - 1)
        if abs(beat - self._beat_seconds) > self.NEW_TEMPO * beat:
            self._beat_seconds, self._taps_left, self._tapped = beat, self.TAPS, 0.0
        if not self._taps_left:
            return None
        self._taps_left -= 1
        even = self._tapped + self._beat_seconds
        self._tapped = even if abs(even - seconds) < 0.1 * beat else seconds
        return self._tapped
