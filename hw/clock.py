"""Times on one clock told in another's, when all that is known is that news takes a while to arrive, and never less than nothing.

Each reading of both clocks is a little late by an unknown amount; the least late of the last seconds is as good as true. Crystals are
50 parts in a million apart, so a few seconds cost a quarter of a millisecond.

Runs in: the main process.
"""

from __future__ import annotations

from collections import deque


class LeastLate:
    """The smallest of the values of the last `window_seconds`."""

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._kept: deque[tuple[float, float]] = deque()  # (when, value), rising in both

    def add(self, now_seconds: float, value: float) -> float:
        """Returns the smallest, this one included."""
        kept = self._kept
        while kept and kept[-1][1] >= value:
            kept.pop()
        kept.append((now_seconds, value))
        while kept[0][0] < now_seconds - self._window_seconds:
            kept.popleft()
        return kept[0][1]

    def clear(self) -> None:
        self._kept.clear()


class AudioClock:
    """From the host's monotonic clock to the audio clock, which is only seen to move in steps of a period."""

    WINDOW_SECONDS = 1.0

    def __init__(self) -> None:
        self._behind = LeastLate(self.WINDOW_SECONDS)
        self._behind_seconds = self._until_seconds = 0.0

    def tick(self, now_seconds: float, audio_seconds: float) -> None:
        """Both clocks, read at the same moment."""
        self._behind_seconds, self._until_seconds = self._behind.add(now_seconds, now_seconds - audio_seconds), audio_seconds

    def seconds(self, host_seconds: float) -> float:
        """When it was on the audio clock; never later than the last tick, never before the first period."""
        return max(0.0, min(host_seconds - self._behind_seconds, self._until_seconds))
