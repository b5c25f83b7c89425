"""Defects to plant in the pedal's own code, each of a kind that has been made before: a set that passes with one of them proves nothing.

Each replaces one method of the code under test before the set begins. Which rules must object: tests/gig/test_gig.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import appliance.audio
import appliance.delay
import appliance.gain
import appliance.governor
import appliance.mixer
import appliance.ring
import appliance.slot
import appliance.state
from appliance.stats import Counter


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


def _without_trails(gains: Any) -> Any:
    """Bypass mutes what still sounds."""

    def muted(controls: Any) -> Any:
        dry, wet, feed, repeats = gains(controls)
        return (dry, wet, feed, repeats) if feed else (dry, 0.0, feed, 0.0)

    return muted


def _one_frame_late(begin: Any) -> Any:
    """The new delay is a frame too long."""

    def longer(self: Any, position: int, delay_frames: int) -> None:
        begin(self, position, delay_frames + 1)

    return longer


DEFECTS: dict[str, Callable[[], None]] = {
    # blocks that were never written are played
    "unwritten": _replace(appliance.delay.EngineWatch, "usable", _trusting),
    # gains jump instead of ramping
    "jumps": _replace(appliance.gain.Gain, "aim", _jumping),
    # bypass cuts off what rings out
    "no trails": _replace(appliance.mixer, "gains", _without_trails),
    # the delay is one frame too long
    "longer": _replace(appliance.delay.Tap, "begin", _one_frame_late),
    # a restarted engine does not join its predecessor's sound, but has it upside down
    "no seam": _replace(appliance.ring.WetRing, "_joined", lambda joined: lambda self, start, wet: -wet),
    # reopenings of the card are not counted
    "uncounted": _replace(appliance.audio._HealthCount, "carry_over", _forgetful),
    # an engine that died is not started again
    "dead stays dead": _replace(appliance.slot.Slot, "watch", lambda watch: lambda self: watch(self) if self.child.process else self.state),
    # steps are never shed
    "no governor": _replace(appliance.governor.Governor, "allow", lambda allow: lambda self, wish, left_ns: wish),
    # the last state is not written
    "no state": _replace(appliance.state.StateKeeper, "note", lambda note: lambda self, now, state, last=False: None),
    # an engine that starts is trusted before it has answered
    "silent start": _replace(appliance.ring.WetRing, "written", lambda written: lambda self, block: True),
}
