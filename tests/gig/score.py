"""The set, written down before it is played: songs, what feet and hands do in them, and what goes wrong. The same seed, the same set.

A song has presets, taps, knobs, freezes, bypass and jams; between songs the guitarist tunes. Faults come inside of songs, where they would
be heard, and far enough from each other that what is missed can be laid at one door.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from appliance.causes import Cause
from tests.gig.guitar import RATE, ROOTS_HZ, Song

BYPASS, TAP, PRESET, JAM = range(4)  # switches, as the configuration has them
HOLD_SECONDS, PRESS_SECONDS = 0.8, 0.09
FIRST_SECONDS = 3.0
LOOK_SECONDS = 25.0  # the guitarist sees by the lights what a press that was lost has left on
APART_SECONDS = 8.0  # from the end of what a fault may excuse to the next one
CARD, STARVED, ENGINE, BOARD, THERMAL = (cause.value for cause in (Cause.CARD, Cause.STARVED, Cause.ENGINE, Cause.BOARD, Cause.THERMAL))


@dataclass(frozen=True)
class Kind:
    """A fault: for how long it lasts, what may be missed because of it, and under which names."""

    name: str
    seconds: tuple[float, float]
    labels: tuple[str, ...] = ()
    missed: bool = True  # whether anything must be counted at all
    hole_seconds: float = 0.0  # beyond the fault itself: how long the amp may be without sound
    fallback_seconds: float = 0.0  # ... and how long the plain delay may stand in for the engine


# A fault of the engine costs the plain delay's time until a new engine was on time twice; one of audio or card, the time until sound flows.
KINDS = (
    Kind("card stalls", (0.02, 0.12), (CARD, STARVED), hole_seconds=0.1, fallback_seconds=6),
    Kind("audio starved", (0.015, 0.08), (CARD, STARVED), hole_seconds=0.1, fallback_seconds=6),
    Kind("card loses frames", (0.001, 0.06), (CARD, STARVED), hole_seconds=2.4, fallback_seconds=6),
    Kind("card fails once", (0, 0), (CARD,), hole_seconds=0.4, fallback_seconds=6),
    Kind("card unplugged", (0.5, 7), (CARD, STARVED), hole_seconds=0.6, fallback_seconds=9),
    Kind("audio killed", (0, 0), (CARD, STARVED), missed=False, hole_seconds=0.7, fallback_seconds=6),
    Kind("audio hangs", (0, 0), (CARD, STARVED), missed=False, hole_seconds=2.6, fallback_seconds=8),
    Kind("engine killed", (0, 0), (ENGINE,), missed=False, fallback_seconds=9),
    Kind("engine hangs", (0, 0), (ENGINE, STARVED), fallback_seconds=24),
    Kind("engine stopped", (2.6, 3.4), (STARVED,), fallback_seconds=11),  # longer than the longest delay gives an engine
    Kind("engine slow", (1.2, 2), (ENGINE,), missed=False, fallback_seconds=10),
    Kind("heat", (24, 40), (THERMAL, ENGINE), missed=False, fallback_seconds=10),
    Kind("board unplugged", (0.8, 6), (BOARD,)),
    Kind("board silent", (1.5, 7), (BOARD,)),
    Kind("garbage on the wire", (0, 0), missed=False),
    Kind("flood on the wire", (0, 0), missed=False),
    Kind("main killed", (0, 0), missed=False, hole_seconds=2.5, fallback_seconds=12),
    Kind("engine switch", (11, 11), missed=False),
    Kind("new engine dies", (6, 6), missed=False),
    Kind("new engine slow", (13, 13), missed=False),
)
SWITCHES = ("engine switch", "new engine dies", "new engine slow")
NAMES = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Fault:
    kind: Kind
    at: float
    seconds: float

    @property
    def silent_until(self) -> float:
        return self.at + self.seconds + self.kind.hole_seconds

    @property
    def hurts(self) -> bool:
        """Whether the player may notice."""
        return self.kind.fallback_seconds > 0

    @property
    def until(self) -> float:
        """Nothing later is its fault."""
        return self.at + self.seconds + max(self.kind.hole_seconds, self.kind.fallback_seconds, 2.5)


@dataclass(frozen=True)
class Move:
    """A foot or a hand: `what` is a switch (down is 1) or a knob (its position)."""

    at: float
    switch: bool
    what: int
    value: float


@dataclass(frozen=True)
class Score:
    seconds: float
    songs: tuple[Song, ...]
    moves: tuple[Move, ...]
    said: tuple[tuple[float, str], ...]  # lines of a script: what has no foot or knob of its own
    faults: tuple[Fault, ...] = field(default_factory=tuple)


def write_score(minutes: float, seed: int, kinds: tuple[Kind, ...] = KINDS) -> Score:
    rng = np.random.default_rng([seed, 1])
    seconds = 60 * minutes
    long, pause = (200.0, 20.0) if minutes > 30 else (70.0, 8.0)
    songs: list[Song] = []
    moves: list[Move] = []
    said: list[tuple[float, str]] = []
    at = FIRST_SECONDS
    while at < seconds - 15:
        end = min(seconds - 6, at + long * rng.uniform(0.7, 1.3))
        songs.append(Song(round(at * RATE), round(end * RATE), ROOTS_HZ[len(songs) % len(ROOTS_HZ)], float(rng.uniform(0.12, 0.18))))
        moves += _playing(rng, at + 2, end - 2)
        said += _said(rng, at, end)
        if end + pause < seconds:
            moves += _tuning(end + 1.5, end + pause - 2)
        at = end + pause
    faults = _faults(rng, songs, kinds)
    return Score(seconds, tuple(songs), tuple(sorted(moves, key=lambda move: move.at)), tuple(sorted(said)), faults)


def _press(at: float, switch: int, seconds: float = PRESS_SECONDS) -> list[Move]:
    return [Move(at, True, switch, 1.0), Move(at + seconds, True, switch, 0.0)]


def _playing(rng: np.random.Generator, begin: float, end: float) -> Iterator[Move]:
    """What is done in one song, one thing after the other."""
    at = begin
    while at < end - 12:
        what = rng.choice(["preset", "preset", "tap", "freeze", "bypass", "jam", "knob", "knob", "nothing"])
        if what == "preset":
            yield from _press(at, PRESET)
        elif what == "tap":
            beat = rng.uniform(0.35, 0.9)
            for number in range(4):
                yield from _press(at + number * beat, TAP)
        elif what == "freeze":
            yield from _press(at, TAP, rng.uniform(2, 5))
        elif what in ("bypass", "jam"):
            switch = BYPASS if what == "bypass" else JAM
            yield from _press(at, switch)
            yield from _press(at + rng.uniform(2, 7), switch)
        elif what == "knob":
            yield from _turn(rng, at)
        at += rng.uniform(8, 14)


def _turn(rng: np.random.Generator, at: float) -> Iterator[Move]:
    """A knob from end to end, so that it takes hold of its value, and on to where it shall stand. (Repeats stay below what piles up.)"""
    knob = int(rng.integers(0, 6))
    most = {0: 0.8, 2: 0.55}.get(knob, 1.0)
    ways = [*np.linspace(0, most, 40), *np.linspace(most, most * rng.uniform(0.25, 0.9), 30)]
    for number, position in enumerate(ways):
        yield Move(at + 0.025 * number, False, knob, float(position))


def _said(rng: np.random.Generator, begin: float, end: float) -> Iterator[tuple[float, str]]:
    for look in np.arange(begin - 1, end, LOOK_SECONDS):
        yield from ((float(look), f"{switch} off") for switch in ("bypass", "tuner", "jam"))
    yield begin + 4, f"prompt {rng.integers(0, 4)}"
    if end - begin > 60:
        middle = (begin + end) / 2
        yield middle, f"trails {rng.choice(['on', 'off'])}"
        yield middle + 1, f"second_prompt {rng.integers(0, 4)}"
        yield middle + 2, f"kill_dry {'on' if rng.random() < 0.2 else 'off'}"
        yield middle + 16, "kill_dry off"
        yield middle + 17, "save here"


def _tuning(begin: float, end: float) -> Iterator[Move]:
    """The first switch held: tuner; any press ends it."""
    if end - begin > 2.5:
        yield from _press(begin, BYPASS, HOLD_SECONDS)
        yield from _press(end, BYPASS)


def _faults(rng: np.random.Generator, songs: list[Song], kinds: tuple[Kind, ...]) -> tuple[Fault, ...]:
    """As many as fit, each kind as often as the others."""
    faults: list[Fault] = []
    free, bag = 0.0, list[Kind]()
    for song in songs:
        begin, end = song.begin / RATE, song.end / RATE
        free = max(free, begin + 14)
        while kinds:
            bag = bag or [kinds[at] for at in rng.permutation(len(kinds))]
            fault = Fault(bag[-1], free + rng.uniform(0, 3), round(float(rng.uniform(*bag[-1].seconds)), 3))
            if fault.until > end - 2 and not (end - begin < 60 and fault.at < end - 8):
                break
            bag.pop()
            faults.append(fault)
            free = fault.until + APART_SECONDS
    return tuple(faults)
