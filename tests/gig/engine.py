"""Two engines that are cheap and can be recognised sample by sample: each answers with what it heard, times a number of its own.

Engine and prompt choose the number, morph goes from one prompt's to the other's, and it changes as softly as an engine goes on from its
last block. So whoever knows what was sent to the engine can tell from the wet bus who is heard: 1 is the plain delay. What a block
costs is drawn from recordings of the shipped engine, step by step, so that there is something to shed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from appliance.governor import GovernorSettings
from engines.engine import Audio, EngineControls, EngineSpec, Stamp, no_stamp
from tests.gig.durations import Durations
from tests.gig.machine import Machine

RATE, BLOCK, CODEC_DELAY, STEPS = 44_100, 16_384, 1_536, 4  # as the shipped engine has them
JOIN_FRAMES = 1_024
HOPELESS_NS = 130_000_000  # of the 162 ms that the shortest delay leaves
STUCK_NS = 10_000_000
PROMPTS = ("choir", "strings", "brass", "glass")
NUMBERS = {"ash": (0.60, 0.64, 0.68, 0.72), "elm": (0.80, 0.84, 0.88, 0.92)}  # by engine, then by prompt
LEAST = 0.60


def spec_of(name: str) -> EngineSpec:
    return EngineSpec(name, RATE, BLOCK, CODEC_DELAY, PROMPTS, STEPS, 8)


def number_of(name: str, prompt: int, second: int, morph: float) -> float:
    numbers = NUMBERS[name]
    return numbers[prompt] * (1 - morph) + numbers[second] * morph


@dataclass
class Load:
    """How hard the machine makes it to compute: 1 is as recorded."""

    times: float = 1.0
    stuck: bool = False  # the engine never comes back from its next block
    outliers: list[int] = field(default_factory=list)  # when a block took so long that no governor could have helped


class GigEngine:
    """An Engine."""

    runs_on = ""

    def __init__(self, name: str, machine: Machine, durations: Durations, load: Load) -> None:
        self.spec, self.machine, self.durations, self.load = spec_of(name), machine, durations, load
        self._number: float | None = None
        self._tail = np.zeros(CODEC_DELAY, np.float32)  # heard, and not answered: what a decoder lags behind
        self.generated = self.prefilled = 0
        self.on_first: Callable[[], None] = lambda: None  # called before an answer that does not go on from another

    def reset(self, seed: int) -> None:
        self._number = None
        self._tail[:] = 0.0

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        began_ns, steps = self.machine.now_ns, [self.durations.block_step() for _ in range(controls.steps or STEPS)]
        encode, decode = self.durations.block_encode(), self.durations.block_decode()
        self._take(encode)
        stamp("encoded")
        for step in steps:
            self._take(step)
            stamp("step")
        self._take(decode)
        stamp("decoded")
        self.generated += 1
        if self._unlucky(encode + decode, steps):
            self.load.outliers.append(began_ns)
        heard = self._heard(block)
        wanted = number_of(self.spec.name, controls.prompt, controls.second_prompt, controls.morph)
        if self._number is None:
            self.on_first()
        before = wanted if self._number is None else self._number
        self._number = before if controls.freeze else wanted
        numbers = np.full(BLOCK, self._number, np.float32)
        numbers[:JOIN_FRAMES] = np.linspace(before, self._number, JOIN_FRAMES, dtype=np.float32)
        return np.asarray(heard * numbers, np.float32)

    def _unlucky(self, rest: int, steps: list[int]) -> bool:
        """It was drawn so long that no step less helps, or so much longer than usual that no governor's reserve covers it."""
        if (rest + min(steps)) * self.load.times > HOPELESS_NS:
            return True
        drawn, usual = rest + sum(steps), self.durations.usual_block_ns(len(steps))
        return drawn * self.load.times > HOPELESS_NS and (self.load.times == 1.0 or drawn * (1 - GovernorSettings.reserve) > usual)

    def prefill(self, block: Audio) -> None:
        self._take(self.durations.block_encode())
        self.prefilled += 1
        self._heard(block)

    def _heard(self, block: Audio) -> Audio:
        """What a block's answer is about: all of it as late as a codec is."""
        heard = np.concatenate([self._tail, block[:-CODEC_DELAY]])
        self._tail = block[-CODEC_DELAY:].copy()
        return heard

    def _take(self, ns: int) -> None:
        while self.load.stuck:
            self.machine.work(STUCK_NS)
        self.machine.work(int(ns * self.load.times))
