"""The host's end of the wire to a board, without the line itself: bytes and moments in, switch and knob events out.

Every STATE that is accepted is compared with what was reported before; the difference is the events. A switch that is found down when
a session begins was not pressed: it counts from its next press.

Runs in: the main process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from hw import wire
from hw.board import KnobEvent, Light, Lights, SwitchEvent
from hw.clock import LeastLate

BOARD_WINDOW_SECONDS = 5.0
MOST_EDGES = 32  # between two frames no foot does more: the counts are not to be trusted, and counting begins anew
_EDGES = slice(0, wire.SWITCHES)
_AGES = slice(wire.SWITCHES, 2 * wire.SWITCHES)
_KNOBS = slice(2 * wire.SWITCHES, 2 * wire.SWITCHES + wire.KNOBS)


@dataclass(frozen=True)
class BoardFacts:
    """What a board's HELLO says of it."""

    revision: int
    switches: int
    lights: int


class Link:
    """One line's protocol. Events bear the host's monotonic seconds. `last_heard_seconds` moves with every frame accepted."""

    def __init__(self) -> None:
        self.facts: BoardFacts | None = None
        self.last_heard_seconds = float("-inf")
        self.decoder, self.peer = wire.Decoder(), wire.Peer(wire.HELLO)
        self._sender = wire.Sender(os.urandom(1)[0] or 1)
        self._offset = LeastLate(BOARD_WINDOW_SECONDS)
        self._down = [False] * wire.SWITCHES
        self._knobs: list[int] = [wire.KNOB_ABSENT] * wire.KNOBS
        self._edges: tuple[int, ...] | None = None  # None: the next STATE is where counting begins
        self._last_us = self._unwrapped_us = 0

    def restart(self) -> None:
        """The line was closed. What was reported stays so."""
        self.peer.forget()
        self.decoder = wire.Decoder()
        self._edges = self.facts = None

    def receive(self, data: bytes, now_seconds: float) -> list[SwitchEvent | KnobEvent]:
        events: list[SwitchEvent | KnobEvent] = []
        for frame in self.decoder.feed(data):
            session = self.peer.session
            if not self.peer.accepts(frame, _micros(now_seconds)):
                continue
            if frame.kind == wire.HELLO:
                self._greet(frame, frame.session != session)
            self.last_heard_seconds = now_seconds
            board_seconds = self._board_seconds(frame.time_us)
            offset = self._offset.add(now_seconds, now_seconds - board_seconds)
            if frame.kind == wire.STATE:
                events += self._state(frame.fields, board_seconds + offset)
        return sorted(events, key=lambda event: event.seconds)

    def beat(self, lights: Lights, alive: bool, now_seconds: float) -> bytes:
        flags = alive * wire.ALIVE | lights.clip * wire.CLIP | lights.relay_bypass * wire.RELAY_BYPASS
        switches = (*lights.switches[: wire.SWITCHES], *[Light()] * wire.SWITCHES)[: wire.SWITCHES]
        shown = [light.colour | light.pattern << 4 for light in (lights.status, lights.deadline, *switches)]
        beat_ms = min(round(lights.beat_seconds * 1_000), 0xFFFF)
        return self._sender.pack(wire.BEAT, _micros(now_seconds), flags, self.peer.session, *shown, beat_ms)

    def _greet(self, hello: wire.Frame, new_session: bool) -> None:
        self.facts = BoardFacts(*hello.fields)
        if new_session:
            self._edges = None
            self._offset.clear()
            self._last_us = hello.time_us

    def _board_seconds(self, time_us: int) -> float:
        self._unwrapped_us += wire.later_us(time_us, self._last_us)
        self._last_us = time_us
        return self._unwrapped_us / 1e6

    def _state(self, fields: tuple[int, ...], sent_seconds: float) -> list[SwitchEvent | KnobEvent]:
        events: list[SwitchEvent | KnobEvent] = []
        edges, counted = fields[_EDGES], self._edges
        for switch, (count, age) in enumerate(zip(edges, fields[_AGES], strict=True)):
            changes = MOST_EDGES + 1 if counted is None else (count - counted[switch]) & 0xFF
            events += self._switch(switch, count, changes, sent_seconds - age * wire.AGE_US / 1e6)
        self._edges = edges
        for knob, value in enumerate(fields[_KNOBS]):
            if value != self._knobs[knob] and value <= wire.KNOB_FULL:
                self._knobs[knob] = value
                events.append(KnobEvent(sent_seconds, knob, value / wire.KNOB_FULL))
        return events

    def _switch(self, switch: int, count: int, changes: int, seconds: float) -> list[SwitchEvent]:
        """The edges since the last frame, the last of them at `seconds`; or, if they can't be counted, only that it is up."""
        if changes > MOST_EDGES:
            levels = [False] if not count & 1 else []
        else:
            levels = [bool((count - back) & 1) for back in range(changes - 1, -1, -1)]
        events = []
        for down in levels:
            if down != self._down[switch]:
                self._down[switch] = down
                events.append(SwitchEvent(seconds, switch, down))
        return events


def _micros(seconds: float) -> int:
    return int(seconds * 1e6) & 0xFFFFFFFF
