"""One line a minute: how much time the engine had left, what was late, what the card lost, how hot it is.

Runs in: the main process.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters, Ledger, slack_ms
from appliance.vitals import Vitals

MINUTE_SECONDS = 60.0
XRUNS = (Counter.CAPTURE_XRUNS, Counter.PLAYBACK_XRUNS, Counter.GAPS)


@dataclass(frozen=True)
class Line:
    """A minute as text, and as values that can be searched for."""

    text: str
    fields: dict[str, object]


class MinuteLine:
    """`due` returns a line when a minute is over."""

    def __init__(self, memory: SharedMemory, now: float) -> None:
        self._counters, self._memory = Counters(memory.counters), memory
        self._vitals = Vitals()
        self._began_at = now
        self._late, self._xruns = self._read()

    def due(self, now: float) -> Line | None:
        """`now` on CLOCK_MONOTONIC, as the ledger's stamps."""
        if now - self._began_at < MINUTE_SECONDS:
            return None
        rows = Ledger(self._memory.ledger, self._memory.layout.block_frames).blocks()
        rows = rows[(rows["written"] > self._began_at * 1e9) & (rows["written"] <= now * 1e9)]
        late, xruns = self._read()
        line = _line(slack_ms(rows).tolist(), late - self._late, xruns - self._xruns, self._vitals.machine().celsius)
        self._began_at, self._late, self._xruns = now, late, xruns
        return line

    def _read(self) -> tuple[int, int]:
        get = self._counters.get
        return get(Counter.LATE_BLOCKS), sum(map(get, XRUNS))


def _line(slack: list[float], late: int, xruns: int, celsius: float | None) -> Line:
    least, median = (min(slack), float(np.median(slack))) if slack else (None, None)
    words = [f"slack at least {least:.0f} ms, median {median:.0f} ms" if slack else "no block answered", f"{late} late", f"{xruns} xruns"]
    words += [f"{celsius:.0f} °C"] if celsius is not None else []
    facts = {"slack_min_ms": least, "slack_median_ms": median, "late": late, "xruns": xruns, "celsius": celsius}
    return Line(", ".join(words), {name: round(value, 2) for name, value in facts.items() if value is not None})
