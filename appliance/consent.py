"""Somebody who stands before the pedal agrees: the last footswitch, whose light blinks, is held for two seconds.

A pedal without footswitches asks at the terminal of whoever gives the order: there is nobody else to ask.

Runs in: the main process. Times are those of the board's events, and of the main loop's clock for how long a question stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable

HOLD_SECONDS = 2.0


class ConsentError(Exception):
    """Nobody has agreed: one line."""


class Consent:
    """One question at a time."""

    def __init__(self, patience_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_seconds, self._clock = patience_seconds, clock
        self.what = ""  # is asked; "" is no question
        self.given = False
        self._until = 0.0
        self._held_since: float | None = None

    @property
    def asked(self) -> bool:
        """Whether a question stands: nobody has agreed to it yet, and there is still time."""
        return bool(self.what) and not self.given and self._clock() < self._until

    @property
    def held(self) -> bool:
        """Whether a foot is on the switch because of the question."""
        return self._held_since is not None

    def ask(self, what: str) -> None:
        self.what, self.given, self._held_since = what, False, None
        self._until = self._clock() + self.patience_seconds

    def close(self) -> None:
        """The question no longer stands."""
        self.what, self.given, self._held_since = "", False, None

    def agree(self) -> None:
        self.given = self.given or self.asked

    # The gesture: `seconds` is the audio clock

    def press(self, seconds: float) -> None:
        self._held_since = seconds

    def release(self) -> None:
        self._held_since = None

    def advance(self, seconds: float) -> None:
        if self._held_since is not None and seconds - self._held_since >= HOLD_SECONDS:
            self.agree()
            self._held_since = None
