"""What the board shows, as a pure function of how the pedal stands.

    status      white: only dry sound    blue: the plain delay    green: the engine    red: no sound at all
                amber: the engine, which plays without a deadline certificate because its owner wanted it so
                slow blink: the next stage is on its way; fast blink: the engine died and is started again
    deadline    green: on time           amber: close, or steps are shed     red: the plain delay stood in    off: no engine yet
    switches    what each switch's press does, and blue while frozen; a tuner takes them over; the last one blinks amber while a question
                waits for somebody to hold it (appliance/consent.py)

Runs in: the main process.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from appliance.deadline import Health
from appliance.shared import SharedMemory
from appliance.slot import SlotState
from appliance.stats import Counter, Counters
from appliance.tuner import Reading
from hw.board import Colour, Light, Lights, Pattern

IN_TUNE_CENTS = 2.0
FAR_CENTS = 20.0
CLIP_SECONDS = 0.3


class Stage(Enum):
    """How far the pedal is: it plays from the first on, and never waits for the next."""

    SILENT = "silent"
    DRY = "dry"
    DELAY = "delay"
    ENGINE = "engine"


def stage(alive: bool, position: int, delay_frames: int, slot: SlotState) -> Stage:
    if not alive:
        return Stage.SILENT
    if slot is SlotState.ACTIVE:
        return Stage.ENGINE
    return Stage.DELAY if position >= delay_frames else Stage.DRY


class ClipLight:
    """Lit for a moment after anything was at full scale, at the input or before the limiter at the output."""

    def __init__(self, memory: SharedMemory) -> None:
        self._counters = Counters(memory.counters)
        self._seen = 0
        self._until = -1.0

    def judge(self, seconds: float) -> bool:
        clipped = self._counters.get(Counter.CLIPPED_FRAMES) + self._counters.get(Counter.CLIPPED_INPUTS)
        if clipped != self._seen:
            self._seen, self._until = clipped, seconds + CLIP_SECONDS
        return seconds < self._until


@dataclass(frozen=True)
class Standing:
    """All that the lights are about."""

    stage: Stage
    slot: SlotState
    deadline: Health | None  # None: there is no engine to be judged
    clip: bool
    beat_seconds: float
    press: tuple[str, ...]  # what each switch's press does
    hold: tuple[str, ...]
    on: frozenset[str]  # of the toggles
    saved: bool  # the sound is that of the preset that was chosen last
    trails: bool
    preset: str
    certified: bool = True  # False: the engine was forced to play without a deadline certificate
    question: str = ""  # that waits for somebody to agree
    tuning: bool = False
    reading: Reading | None = None


def lights(now: Standing) -> Lights:
    switches = tuple(_switch(now, index) for index in range(len(now.press)))
    switches = _tuner(now.reading, len(switches)) if now.tuning else switches
    if now.question:
        switches = (*switches[:-1], Light(Colour.AMBER, Pattern.FAST_BLINK))
    return Lights(
        status=_status(now),
        deadline=Light(_DEADLINE[now.deadline]) if now.deadline else Light(),
        switches=switches,
        clip=now.clip,
        beat_seconds=0.0 if now.tuning else round(now.beat_seconds, 4),
        relay_bypass="bypass" in now.on and not now.trails and "kill_dry" not in now.on and not now.tuning,
        text=now.question or ((str(now.reading) if now.reading else "–") if now.tuning else now.preset),  # noqa: RUF001
    )


_DEADLINE = {Health.ON_TIME: Colour.GREEN, Health.CLOSE: Colour.AMBER, Health.FALLBACK: Colour.RED}
_STATUS = {Stage.SILENT: Colour.RED, Stage.DRY: Colour.WHITE, Stage.DELAY: Colour.BLUE, Stage.ENGINE: Colour.GREEN}


def _status(now: Standing) -> Light:
    waits = now.stage in (Stage.DRY, Stage.DELAY)
    pattern = Pattern.FAST_BLINK if waits and now.slot is SlotState.DEAD else Pattern.SLOW_BLINK if waits else Pattern.STEADY
    forced = now.stage is Stage.ENGINE and not now.certified
    return Light(Colour.AMBER if forced else _STATUS[now.stage], pattern)


_LIT = {"freeze": Colour.BLUE, "jam": Colour.VIOLET, "tuner": Colour.WHITE, "kill_dry": Colour.WHITE, "trails": Colour.WHITE}


def _switch(now: Standing, index: int) -> Light:
    press, hold = now.press[index], now.hold[index] if index < len(now.hold) else "none"
    if "freeze" in now.on and "freeze" in (press, hold):
        return Light(Colour.BLUE)
    if press == "bypass":
        return Light(Colour.OFF if "bypass" in now.on else Colour.GREEN)
    if press.endswith(("_preset", "_bank")):
        return Light(Colour.WHITE, Pattern.STEADY if now.saved else Pattern.SLOW_BLINK)
    return Light(_LIT[press]) if press in _LIT and press in now.on else Light()


def _tuner(reading: Reading | None, switches: int) -> tuple[Light, ...]:
    """Left: flat. Right: sharp. All green: in tune. Far off blinks."""
    if reading is None:
        return (Light(),) * switches
    if abs(reading.cents) <= IN_TUNE_CENTS:
        return (Light(Colour.GREEN),) * switches
    far = Pattern.FAST_BLINK if abs(reading.cents) > FAR_CENTS else Pattern.STEADY
    lit = 0 if reading.cents < 0 else switches - 1
    return tuple(Light(Colour.AMBER, far) if index == lit else Light() for index in range(switches))
