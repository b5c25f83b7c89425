"""Why a deadline was missed: how much time each thing took that can take time from an engine. What took most is the label.

From the moment when a block was whole until its answer was due, compared with what is usual of blocks that are on time:

    starved    longer ready to run without a core, held by a virtual machine's host, stopped, waiting for a disk, handling page faults
    thermal    at a lower clock than before: that share of its processor time
    engine     more processor time than usual beyond these, or asleep for longer, as one is who waits for a graphics processor

A period is missed by the card, unless the audio process was starved: seen waiting for a core, or for longer than the card's queue bears.
Pure functions, in milliseconds; no clock, no files.

Runs in: the main process.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from appliance.vitals import ASLEEP, RUNNABLE, STOPPED, WAITING_FOR_DISK, Sample

FAULTS_THAT_MATTER = 500  # more than usual in one window; a fault takes about a microsecond
SLOW_CLOCK = 0.9  # of the fastest that was seen: below it, time is lost to the clock
LEAST_SHARE = 0.05  # of the time that there was: whatever took less explains nothing


class Cause(Enum):
    ENGINE = "engine slow"
    STARVED = "starved"
    CARD = "card"
    BOARD = "board"
    THERMAL = "thermal"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Use:
    """What a process did between two samples."""

    window_ms: float
    cpu_ms: float = 0.0
    wait_ms: float = 0.0
    system_ms: float = 0.0
    minor_faults: int = 0
    major_faults: int = 0
    steal_ms: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """All that a label is read off, for one process."""

    use: Use
    usual: Use  # of a block that was on time
    usual_work_ms: float  # what the blocks that fit into the window take
    blocks: float = 1.0  # how many those are
    states: str = ""  # letters in which the process was seen while it was behind
    alive: bool = True
    taken_up: bool = True  # the worker has begun with the block, or was still busy with an earlier one
    clock_share: float | None = None  # of the fastest clock that was seen
    celsius: float | None = None
    hot: bool = False


@dataclass(frozen=True)
class Verdict:
    cause: Cause
    why: str
    lost_ms: Mapping[str, float] = field(default_factory=dict)


def use_between(before: Sample, after: Sample, name: str) -> Use:
    """What the process `name` did from one sample to the other; only the window where it is not in both, or was started in between."""
    window_ms = (after.at_ns - before.at_ns) / 1e6
    a, b = before.processes.get(name), after.processes.get(name)
    if not a or not b or b.cpu_ns < a.cpu_ns:
        return Use(window_ms)
    return Use(
        window_ms,
        (b.cpu_ns - a.cpu_ns) / 1e6,
        (b.wait_ns - a.wait_ns) / 1e6,
        (b.system_ns - a.system_ns) / 1e6,
        b.minor_faults - a.minor_faults,
        b.major_faults - a.major_faults,
        (after.machine.steal_ns - before.machine.steal_ns) / 1e6,
    )


def usual_use(uses: Sequence[Use]) -> Use:
    """The median of each figure; all 0 where nothing is known."""
    if not uses:
        return Use(0.0)
    middle = {name: statistics.median(getattr(use, name) for use in uses) for name in Use.__dataclass_fields__}
    return Use(**middle)


def block_verdict(evidence: Evidence) -> Verdict:
    """Why a block was not answered when it was due."""
    if not evidence.alive:
        return Verdict(Cause.ENGINE, "the engine's process had ended or was starting again")
    if not evidence.taken_up:
        return Verdict(Cause.UNKNOWN, "the worker was idle and did not take the block up")
    shares = {
        "queue": _queue_ms(evidence),
        "held": _held_ms(evidence),
        "faults": _faults_ms(evidence),
        "clock": _clock_ms(evidence),
    }
    shares["engine"] = _engine_ms(evidence, known_ms=shares["faults"] + shares["clock"])
    what = max(shares, key=lambda name: shares[name])
    if shares[what] < LEAST_SHARE * evidence.use.window_ms:
        return Verdict(Cause.UNKNOWN, f"nothing took much of the {evidence.use.window_ms:.0f} ms that there were", _rounded(shares))
    cause = {"clock": Cause.THERMAL, "engine": Cause.ENGINE}.get(what, Cause.STARVED)
    return Verdict(cause, _say(what, shares[what], evidence), _rounded(shares))


def period_verdict(evidence: Evidence, queue_ms: float, why: str) -> Verdict:
    """Why the card ran dry or over: `queue_ms` is what it queues, `why` what was counted."""
    shares = {"queue": _queue_ms(evidence), "held": _held_ms(evidence), "faults": _faults_ms(evidence)}
    what = max(shares, key=lambda name: shares[name])
    asleep = evidence.states.count(ASLEEP) > len(evidence.states) / 2  # while nothing came: it was the card that it waited for
    if shares[what] >= queue_ms / 2 and not asleep:
        return Verdict(Cause.STARVED, f"{why}: {_say(what, shares[what], evidence)}", _rounded(shares))
    return Verdict(Cause.CARD, f"{why}: the audio process was not held up", _rounded(shares))


def _queue_ms(evidence: Evidence) -> float:
    use, usual = evidence.use, evidence.usual
    waited_ms = min(use.wait_ms, use.window_ms)  # the kernel counts a wait when it ends, so it may have begun long before
    return waited_ms + max(0.0, use.steal_ms - usual.steal_ms)  # a wait is lost time even where it is usual


def _held_ms(evidence: Evidence) -> float:
    """Neither on a core nor counted as waiting for one. Who sleeps of its own accord is not held; the queue is counted at its end."""
    use = evidence.use
    held = any(state in evidence.states for state in (STOPPED, WAITING_FOR_DISK, RUNNABLE))
    return max(0.0, use.window_ms - max(evidence.usual_work_ms, use.cpu_ms) - use.wait_ms) if held else 0.0


def _faults_ms(evidence: Evidence) -> float:
    use, usual = evidence.use, evidence.usual
    if use.major_faults + use.minor_faults - usual.major_faults - usual.minor_faults < FAULTS_THAT_MATTER:
        return 0.0
    return max(0.0, use.system_ms - usual.system_ms)


def _engine_ms(evidence: Evidence, known_ms: float) -> float:
    """Processor time beyond what is usual and `known_ms`; and sleep beyond what is usual, unless it was held."""
    use, usual = evidence.use, evidence.usual
    blocks = max(1.0, evidence.blocks)
    computed_ms = max(0.0, use.cpu_ms - blocks * usual.cpu_ms - known_ms)
    usual_sleep_ms = max(0.0, evidence.usual_work_ms - blocks * (usual.cpu_ms + usual.wait_ms))
    slept_ms = use.window_ms - use.cpu_ms - use.wait_ms - usual_sleep_ms
    asleep = bool(evidence.states) and set(evidence.states) == {ASLEEP}
    return computed_ms + (max(0.0, slept_ms) if asleep else 0.0)


def _clock_ms(evidence: Evidence) -> float:
    share = evidence.clock_share
    return 0.0 if share is None or share >= SLOW_CLOCK else evidence.use.cpu_ms * (1 - share)


def _say(what: str, ms: float, evidence: Evidence) -> str:
    use, heat = evidence.use, "" if evidence.celsius is None else f" at {evidence.celsius:.0f} degrees"
    heat += "" if evidence.hot else " (a power limit?)"
    lines = {
        "queue": f"{ms:.0f} of {use.window_ms:.0f} ms ready to run without a core",
        "held": f"{ms:.0f} of {use.window_ms:.0f} ms held up (seen as {''.join(sorted(set(evidence.states)))})",
        "faults": f"{use.minor_faults + use.major_faults} page faults, {ms:.0f} ms in the kernel",
        "clock": f"the clock is at {evidence.clock_share or 0:.0%} of what it was{heat}",
        "engine": f"{use.window_ms:.0f} ms were not enough, {evidence.usual_work_ms:.0f} ms are usual",
    }
    return lines[what]


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: round(ms, 1) for name, ms in shares.items()}
