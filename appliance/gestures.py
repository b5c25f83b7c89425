"""From switches that go down and up to what the foot meant: press, hold, double press, chord.

    down ----------------------- Press, at once: nothing waits to see what follows
    still down after hold ------ Hold, on top of the press; at the release, Release
    down again within double --- Double, and before it TakeBack of the first press; only for switches where it is turned on
    two down within chord ------ Chord, and before it TakeBack of the first press; neither of the two holds afterwards

Time is what the events carry; no clock is read. The same events give the same gestures, however often `advance` is called between.

Runs in: the main process.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from hw.board import SwitchEvent


@dataclass(frozen=True)
class Press:
    seconds: float
    switch: int


@dataclass(frozen=True)
class TakeBack:
    """What the last press of this switch did was not meant."""

    seconds: float
    switch: int


@dataclass(frozen=True)
class Hold:
    seconds: float
    switch: int


@dataclass(frozen=True)
class Release:
    """The end of a hold."""

    seconds: float
    switch: int


@dataclass(frozen=True)
class Double:
    seconds: float
    switch: int


@dataclass(frozen=True)
class Chord:
    seconds: float
    switches: tuple[int, int]  # lower first


Gesture = Press | TakeBack | Hold | Release | Double | Chord


@dataclass(frozen=True)
class Timing:
    hold_seconds: float = 0.5
    double_seconds: float = 0.3
    chord_seconds: float = 0.08


@dataclass
class _Foot:
    """One switch that is down."""

    since: float
    spent: bool = False  # part of a chord or a double: it neither holds nor joins another chord
    held: bool = False


@dataclass
class Gestures:
    """`take` each event, `advance` at least once a tick."""

    timing: Timing = Timing()
    doubles: Collection[int] = ()  # switches whose double press means something
    _down: dict[int, _Foot] = field(default_factory=dict)
    _pressed: dict[int, float] = field(default_factory=dict)  # switch -> its last plain press, while a second may still follow
    _now: float = 0.0

    def take(self, event: SwitchEvent) -> list[Gesture]:
        """The gestures that are complete with this event, oldest first. Events that contradict what is known are set right."""
        gestures = self.advance(event.seconds)
        if event.switch in self._down:  # an up, or a down whose up was lost on the way
            gestures += self._up(event.switch)
        if event.down:
            gestures += self._press(event.switch)
        return gestures

    def advance(self, seconds: float) -> list[Gesture]:
        """Holds that are due by now. Time never goes back: a board that starts again may say so."""
        self._now = max(self._now, seconds)
        due = [(foot.since + self.timing.hold_seconds, switch) for switch, foot in self._down.items() if not (foot.spent or foot.held)]
        gestures: list[Gesture] = []
        for at, switch in sorted(due):
            if at <= self._now:
                self._down[switch].held = True
                gestures.append(Hold(at, switch))
        return gestures

    def let_go(self) -> list[Gesture]:
        """The board is gone: whatever was down is up."""
        return [gesture for switch in list(self._down) for gesture in self._up(switch)]

    def _up(self, switch: int) -> list[Gesture]:
        foot = self._down.pop(switch)
        return [Release(self._now, switch)] if foot.held else []

    def _press(self, switch: int) -> list[Gesture]:
        partner, first = self._partner(), self._pressed.pop(switch, None)
        foot = self._down[switch] = _Foot(self._now)
        if partner is not None:
            foot.spent = self._down[partner].spent = True
            self._pressed.pop(partner, None)
            return [TakeBack(self._now, partner), Chord(self._now, (min(partner, switch), max(partner, switch)))]
        if first is not None and self._now - first <= self.timing.double_seconds:
            foot.spent = True
            return [TakeBack(self._now, switch), Double(self._now, switch)]
        if switch in self.doubles:
            self._pressed[switch] = self._now
        return [Press(self._now, switch)]

    def _partner(self) -> int | None:
        """The other switch that has just gone down, if there is one that means nothing else yet."""
        for switch, foot in self._down.items():
            if not (foot.spent or foot.held) and self._now - foot.since <= self.timing.chord_seconds:
                return switch
        return None
