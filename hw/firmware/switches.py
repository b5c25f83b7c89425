"""A footswitch's contact, freed of its bouncing.

An edge counts at the second look in a row that sees it (a millisecond later: a press acts on the way down), and bears the time of the
first. Then the contact may bounce as it likes for LOCKED_US.

Runs in: the board.
"""

import wire

LOCKED_US = 8_000


class Switch:
    """Fed with the contact's level about every millisecond. `edges` is odd while it is down."""

    def __init__(self) -> None:
        self.edges = 0
        self.edge_us = 0
        self._seen_us = -1  # when the level first differed; -1: it does not
        self._locked = False

    def look(self, closed: bool, now_us: int) -> bool:
        """True when this look completes an edge."""
        if self._locked:
            if wire.later_us(now_us, self.edge_us) < LOCKED_US:
                return False
            self._locked = False
        if closed == bool(self.edges & 1):
            self._seen_us = -1
        elif self._seen_us < 0:
            self._seen_us = now_us
        else:
            self.edges = (self.edges + 1) & 0xFF
            self.edge_us, self._seen_us, self._locked = self._seen_us, -1, True
            return True
        return False

    def age(self, now_us: int) -> int:
        """Of the last edge, in the wire's units. Asked for often enough, it never wraps."""
        if self.edges == 0:
            return wire.AGE_MOST
        age = wire.later_us(now_us, self.edge_us) // wire.AGE_US
        if not 0 <= age < wire.AGE_MOST:
            self.edge_us = (now_us - wire.AGE_MOST * wire.AGE_US) & 0xFFFFFFFF
            return wire.AGE_MOST
        return age
