"""One line a minute: how much time the engine had left, what was late, what the card lost, how hot it is.

Runs in: the main process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters, Ledger, slack_ms

MINUTE_SECONDS = 60.0
XRUNS = (Counter.CAPTURE_XRUNS, Counter.PLAYBACK_XRUNS, Counter.GAPS)
THERMAL_ZONES = Path("/sys/class/thermal")


@dataclass(frozen=True)
class Line:
    """A minute as text, and as values that can be searched for."""

    text: str
    fields: dict[str, object]


class MinuteLine:
    """`due` returns a line when a minute is over."""

    def __init__(self, memory: SharedMemory, now: float) -> None:
        self._counters = Counters(memory.counters)
        self._ledger = Ledger(memory.ledger, memory.layout.block_frames)
        self._ends_at = now + MINUTE_SECONDS
        self._position, self._late, self._xruns = self._read()

    def due(self, now: float) -> Line | None:
        if now < self._ends_at:
            return None
        self._ends_at = now + MINUTE_SECONDS
        position, late, xruns = self._read()
        slack = slack_ms(self._ledger.blocks(self._position))
        line = _line(slack.tolist(), late - self._late, xruns - self._xruns, hottest_celsius())
        self._position, self._late, self._xruns = position, late, xruns
        return line

    def _read(self) -> tuple[int, int, int]:
        get = self._counters.get
        return get(Counter.POSITION), get(Counter.LATE_BLOCKS), sum(map(get, XRUNS))


def _line(slack: list[float], late: int, xruns: int, celsius: float | None) -> Line:
    least, median = (min(slack), float(np.median(slack))) if slack else (None, None)
    words = [f"slack at least {least:.0f} ms, median {median:.0f} ms" if slack else "no block answered", f"{late} late", f"{xruns} xruns"]
    words += [f"{celsius:.0f} °C"] if celsius is not None else []
    facts = {"slack_min_ms": least, "slack_median_ms": median, "late": late, "xruns": xruns, "celsius": celsius}
    return Line(", ".join(words), {name: round(value, 2) for name, value in facts.items() if value is not None})


def hottest_celsius(zones: Path = THERMAL_ZONES) -> float | None:
    """The highest temperature that the kernel reports; None where it reports none."""
    readings = []
    for path in zones.glob("thermal_zone*/temp"):
        try:
            readings.append(int(path.read_text()) / 1000)
        except (OSError, ValueError):  # a sensor that is asleep
            continue
    return max(readings, default=None)
