"""The current values of knobs and switches, in shared memory: one aligned float64 each, written by main, read by all.

Needs no lock: no rule spans two values. Momentary actions are counters that a reader compares with the last one it saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Control(IntEnum):
    """Index of each control in the shared array; the names are those of the config, presets and board events."""

    MIX = 0  # 0 dry .. 1 wet, equal power
    DELAY_FRAMES = 1  # from playing to answer; main turns ms, taps and subdivisions into frames >= the engine's minimum
    REPEATS = 2  # share of the wet signal that is sent to the engine again, 0 .. 0.95
    LEVEL = 3  # gain of the whole output
    BYPASS = 4  # 1: nothing new is sent to the engine; what sounds rings out (trails)
    KILL_DRY = 5  # 1: no dry in the output, for amps with their own dry path
    TRAILS = 6  # 0: bypass also mutes the wet
    PROMPT = 7  # index into the prompts of the engine in slot 0
    STEPS = 8  # denoising steps; 0: the engine's own choice
    SECOND_PROMPT = 9  # what MORPH leads to, of the same
    MORPH = 10  # weight of the second prompt, 0 .. 1
    STRAY = 11  # how far the answer may leave what was played, 0 .. 1
    FREEZE = 12  # 1: the engine goes on from what it answered and hears nothing new
    JAM = 13  # 1: accompany instead of transform
    TONE = 14  # 0 dark .. 0.5 as it is .. 1 thin: a filter on the wet signal and on what is repeated
    RUNNING = 15  # 0 asks audio and worker to end
    TUNER = 16  # a Tuning: what is heard while a player tunes
    TURN = 17  # a Turn: which slot's engine sounds
    PROMPT_1 = 18  # as PROMPT and SECOND_PROMPT, of the engine in slot 1: each engine has words of its own
    SECOND_PROMPT_1 = 19


PROMPTS_OF_SLOT = ((Control.PROMPT, Control.SECOND_PROMPT), (Control.PROMPT_1, Control.SECOND_PROMPT_1))


@dataclass(frozen=True)
class Turn:
    """Whose turn it is to sound: that of the engine in `slot` from a moment of the music on, and of the other one before it."""

    slot: int = 0
    from_frames: int = 0

    @property
    def value(self) -> float:
        """Both as one number, so that no reader finds one without the other."""
        return float(2 * self.from_frames + self.slot)

    @classmethod
    def of(cls, value: float) -> Turn:
        return cls(int(value) % 2, int(value) // 2)


class Tuning(IntEnum):
    """What is heard while a player tunes; nothing is sent to the engine meanwhile."""

    OFF = 0
    DRY = 1  # only the dry signal
    MUTE = 2  # nothing


class Controls:
    """A typed face of the shared array."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values
        self._fast = memoryview(values.data)  # reads plain floats, ten times quicker than numpy's scalars

    def get(self, control: Control) -> float:
        value: float = self._fast[control]
        return value

    def set(self, control: Control, value: float) -> None:
        self.values[control] = value

    @property
    def running(self) -> bool:
        return bool(self._fast[Control.RUNNING])
