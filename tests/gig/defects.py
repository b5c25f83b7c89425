"""Defects to plant in the pedal's own code, each of a kind that has been made before: a set that passes with one of them proves nothing.

Each replaces one method of the code under test before the set begins. `finds` are the rules of the verdict of which one must object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import appliance.delay
import appliance.gain
import appliance.governor
import appliance.mixer
import appliance.ring
import appliance.slot
import appliance.state
import appliance.worker
import hw.alsa
from appliance.stats import Counter

SAMPLES = "every sample that is due is heard, without a click"
HOLES = "the amp is without sound only while card or audio process are away"
COUNTERS = "counters are true, and stand still without a fault"
ENGINE = "the engine is heard unless a fault keeps it"
STATE = "a pedal that died sounds as before"
CAME_BACK = "what died came back, and nothing else"
HEAT = "heat sheds steps, not blocks"


@dataclass(frozen=True)
class Defect:
    """`faults`: what must be inflicted for it to show."""

    what: str
    plant: Callable[[], None]
    finds: tuple[str, ...]
    faults: str = ""
    minutes: float = 1.0


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    return lambda: setattr(owner, name, make(getattr(owner, name)))


def _trusting(usable: Any) -> Any:
    """Plays what is in the wet ring, whether it has been written or not."""

    def always(self: Any, place: int, frames: int) -> bool:
        usable(self, place, frames)
        return True

    return always


def _jumping(aim: Any) -> Any:
    def at_once(self: Any, target: float) -> None:
        self.start = self.value
        if target != self.value:
            self.value = target
            self._curve[:] = target

    return at_once


def _forgetful(written: Any) -> Any:
    """Never admits a reopening."""

    def carry_over(self: Any, port: Any) -> None:
        written(self, port)
        self._counters.set(Counter.REOPENS, 0)

    return carry_over


def _without_trails(targets: Any) -> Any:
    """Bypass mutes what still sounds."""

    def muted(self: Any) -> Any:
        dry, wet, feed, repeats = targets(self)
        return (dry, wet, feed, repeats) if feed else (dry, 0.0, feed, 0.0)

    return muted


def _one_frame_late(begin: Any) -> Any:
    """The new delay is a frame too long."""

    def longer(self: Any, position: int, delay_frames: int) -> None:
        begin(self, position, delay_frames + 1)

    return longer


def _deaf(ready: Any) -> Any:
    """An xrun of playback is not mended."""

    def ignored(self: Any, card: Any, data: Any) -> None:
        self.health.playback_xruns += 1

    return ignored


DEFECTS = {
    "unwritten": Defect(
        "blocks that were never written are played",
        _replace(appliance.delay.EngineWatch, "usable", _trusting),
        (SAMPLES,),
        "engine killed",
    ),
    "jumps": Defect("gains jump instead of ramping", _replace(appliance.gain.Gain, "aim", _jumping), (SAMPLES,)),
    "no trails": Defect(
        "bypass cuts off what rings out", _replace(appliance.mixer.Mixer, "_targets", _without_trails), (SAMPLES,), minutes=2
    ),
    "longer": Defect("the delay is one frame too long", _replace(appliance.delay.Tap, "begin", _one_frame_late), (SAMPLES,)),
    "no seam": Defect(
        "a restarted engine does not join its predecessor's sound",
        _replace(appliance.ring.WetRing, "_joined", lambda joined: lambda self, start, wet: -wet),
        (SAMPLES,),
        "engine stopped, engine killed",
    ),
    "uncounted": Defect(
        "reopenings of the card are not counted",
        lambda: _replace(__import__("appliance.audio").audio._HealthCount, "carry_over", _forgetful)(),
        (COUNTERS,),
        "card fails once",
    ),
    "deaf": Defect(
        "playback is not filled again after it ran dry",
        _replace(hw.alsa.AlsaPort, "_playback_xrun", _deaf),
        (HOLES, COUNTERS),
        "audio starved",
    ),
    "dead stays dead": Defect(
        "an engine that died is not started again",
        _replace(appliance.slot.Slot, "watch", lambda watch: lambda self: watch(self) if self.child.process else self.state),
        (CAME_BACK, ENGINE),
        "engine killed",
    ),
    "no governor": Defect(
        "steps are never shed",
        _replace(appliance.governor.Governor, "allow", lambda allow: lambda self, wish, left_ns: wish),
        (HEAT,),
        "heat",
        minutes=1.5,
    ),
    "no state": Defect(
        "the last state is not written",
        _replace(appliance.state.StateKeeper, "note", lambda note: lambda self, now, state, last=False: None),
        (STATE,),
        "main killed",
        minutes=2,
    ),
    "silent start": Defect(
        "an engine that starts is trusted before it has answered",
        _replace(appliance.ring.WetRing, "written", lambda written: lambda self, block: True),
        (SAMPLES, ENGINE),
    ),
}
