"""Pure policy of deadlines: when a wet block is due, whether one is lost already, and how well deadlines are met.

A block's wet is due `fade_frames` before the first output frame that needs it, so that there is always enough of the engine left
to fade away from. No clock is read here: every moment is passed in, in CLOCK_MONOTONIC nanoseconds.

Runs in: every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from appliance.shared import Layout

_NS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Deadline:
    """The facts from which a block's due time follows."""

    sample_rate: int
    block_frames: int
    codec_delay_frames: int
    fade_frames: int

    @classmethod
    def of(cls, layout: Layout, fade_frames: int, codec_delay_frames: int | None = None) -> Deadline:
        """For the engine that plays first, or one with another `codec_delay_frames`."""
        codec_delay = layout.codec_delay_frames if codec_delay_frames is None else codec_delay_frames
        return cls(layout.sample_rate, layout.block_frames, codec_delay, fade_frames)

    def minimum_delay_frames(self, budget_frames: int) -> int:
        """The shortest delay that leaves an engine `budget_frames` (the fade is part of them) from doorbell to sound."""
        return self.block_frames + self.codec_delay_frames + budget_frames

    def allowance_ns(self, delay_frames: int) -> int:
        """What an engine has from the doorbell until its answer is due; negative where the delay is shorter than the block."""
        return (delay_frames - self.minimum_delay_frames(self.fade_frames)) * _NS_PER_SECOND // self.sample_rate

    def due_ns(self, captured_ns: int, delay_frames: int) -> int:
        return captured_ns + self.allowance_ns(delay_frames)


def already_lost(due_ns: int, now_ns: int, needed_ns: int = 0) -> bool:
    """Whether an answer begun now, and taking `needed_ns`, would be written after it is due."""
    return now_ns + needed_ns > due_ns


class Health(Enum):
    """How the deadlines are met: what the three-colour light shows."""

    ON_TIME = "on time"
    CLOSE = "close"  # on time, but the margin is thin, denoising steps are shed, or another budget is breached
    FALLBACK = "fallback"  # the plain delay stands in for the engine


def judge(fallback: bool, shed: bool, breached: bool) -> Health:
    """`fallback`: the plain delay was heard in the engine's place; `shed`: fewer steps than the player wants; `breached`: a budget is."""
    if fallback:
        return Health.FALLBACK
    return Health.CLOSE if shed or breached else Health.ON_TIME
