"""A pot's position, 0 to 1023, that stands still when nobody turns it, and reaches both its ends.

Runs in: the board.
"""

import wire

LOW_END, HIGH_END = 900, 64_600  # of 65,535: a worn pot does not get closer to its ends
SLACK = 3  # so many of 1,023 the pot must move before anything is told; at the ends it always is


class Knob:
    """Fed with readings of 0 to 65,535."""

    def __init__(self) -> None:
        self.value = wire.KNOB_ABSENT
        self._smooth = -1

    def look(self, reading: int) -> bool:
        """True when this reading moves the value."""
        self._smooth = reading if self._smooth < 0 else (3 * self._smooth + reading + 2) >> 2
        position = (self._smooth - LOW_END) * wire.KNOB_FULL // (HIGH_END - LOW_END)
        position = min(max(position, 0), wire.KNOB_FULL)
        at_end = position in (0, wire.KNOB_FULL)
        if position == self.value or (not at_end and self.value != wire.KNOB_ABSENT and abs(position - self.value) < SLACK):
            return False
        self.value = position
        return True

    def remove(self) -> bool:
        """Nothing is connected. True when something was."""
        was = self.value != wire.KNOB_ABSENT
        self.value, self._smooth = wire.KNOB_ABSENT, -1
        return was
