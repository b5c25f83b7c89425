"""What the amp heard while something was done to the pedal, and what the pedal says of itself before and after.

    with undisturbed(pedal):      whatever is done in here, nobody at the amp notices
        ...

The guitar is a low tone (cable.py), so that the largest step from one sample to the next is small, and a click stands out of it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.service.conftest import Pedal, Recording, wait_for

RATE = 44_100
CLICK = 0.01  # of full scale
BEFORE_SECONDS, AFTER_SECONDS = 4.0, 3.0  # of sound to compare with; more than the longest delay
QUIET_SECONDS, QUIET = 0.02, 0.05  # so long softer than that is a hole: dry alone is 0.22
NOTICED = ("late_blocks", "silent_frames", "fallback_frames", "reopens")
FILE = "amp.raw"


@dataclass(frozen=True)
class Standing:
    """Of the pedal."""

    engine: str
    delay_ms: float
    counts: dict[str, int]

    @classmethod
    def of(cls, pedal: Pedal) -> Standing:
        found = status(pedal)
        counts = {name: found["audio"][name] for name in NOTICED}
        return cls(found["engine"], found["delay_ms"], {**counts, **{name: found[name] for name in ("audio_restarts", "engine_restarts")}})


def status(pedal: Pedal) -> dict[str, Any]:
    said = pedal.container.run("ghostnote", "status", "--json")
    found: dict[str, Any] = json.loads(said[said.index("{") :])
    return found


@dataclass
class Heard:
    """Filled in at the end."""

    before: Standing
    after: Standing
    samples: NDArray[np.float64]
    lost: int = 0
    step: float = 0.0  # the largest while it was done
    allowed: float = 0.0

    def __str__(self) -> str:
        told = f"{len(self.samples) / RATE:.0f} s, largest step {self.step:.3f} of {self.allowed:.3f}"
        return f"{told}, {self.lost} periods of guitar lost, {self.after.delay_ms:.0f} ms of delay; {self.after.counts}"


@contextmanager
def recorded(pedal: Pedal) -> Iterator[list[Recording]]:
    """All that the amp hears meanwhile, in FILE."""
    before = len(pedal.cable.recordings)
    pedal.cable.say(f"record /host/{FILE}")
    yield pedal.cable.recordings
    pedal.cable.say("done")
    wait_for(lambda: len(pedal.cable.recordings) > before, 5.0, "the recording")


@contextmanager
def undisturbed(pedal: Pedal, same_engine: bool = True) -> Iterator[Heard]:
    """No block late, no hole, no click, nothing restarted; and, if it is to be so, the engine that played plays on."""
    heard = Heard(Standing.of(pedal), Standing("", 0.0, {}), np.zeros(0))
    with recorded(pedal) as recordings:
        time.sleep(BEFORE_SECONDS)
        began = time.monotonic()
        yield heard
        ended = time.monotonic() + AFTER_SECONDS
        time.sleep(2 * AFTER_SECONDS)
    heard.after, heard.lost = Standing.of(pedal), recordings[-1].lost
    heard.samples = np.frombuffer((pedal.container.share / FILE).read_bytes(), "<i2") / 32768
    first, last = (round((at - recordings[-1].began) * RATE) for at in (began, ended))
    heard.step = largest_step(heard.samples[first:last])
    own = largest_step(heard.samples[:first]), largest_step(heard.samples[last:])
    heard.allowed = (max(own) if same_engine else math.hypot(*own)) + CLICK  # at equal power, two sound together as one can't alone
    print(f"\n{heard}")
    assert heard.lost == 0, "the machine took the processor from the audio process: nothing can be said"
    assert heard.after.counts == heard.before.counts
    assert not same_engine or heard.after.engine == heard.before.engine
    assert quietest(heard.samples) > QUIET
    assert heard.step <= heard.allowed


def largest_step(samples: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(np.diff(samples))))


def quietest(samples: NDArray[np.float64]) -> float:
    """Peak of the softest window."""
    window = round(QUIET_SECONDS * RATE)
    whole = samples[: len(samples) // window * window].reshape(-1, window)
    return float(np.min(np.max(np.abs(whole), axis=1)))
