"""The board on a serial line, in virtual time: feet and knobs become frames on the wire, as the firmware sends them.

The line is a socket pair instead of a pseudo terminal: what is written into it is there at once, so that a run is the same each time.
The host's end is opened and read by the real hw/serial_board.py. The line can be unplugged, go silent, carry garbage and be flooded.
"""

from __future__ import annotations

import errno
import socket

import numpy as np

from hw import wire
from tests.gig.machine import Machine

BEAT_NS = wire.HEARTBEAT_US * 1_000
FAST_PPM = 41  # this board's crystal
LISTEN_EVERY = 4  # heartbeats: what the host says is only looked at now and then
FLOOD_BYTES = 65_536


class Line:
    """The host's end, with the face of serial.Serial."""

    def __init__(self, end: socket.socket, closed: object) -> None:
        self._end = end
        end.setblocking(False)

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()


class Board:
    """`switch` and `turn` move something; `open_line` is what hw.serial_board calls."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine, self._rng = machine, np.random.default_rng([seed, 77])
        self.plugged, self.silent = True, False
        self.beats = 0  # of the host's heartbeats that were looked at
        self._edges, self._edge_ns = [0] * wire.SWITCHES, [0] * wire.SWITCHES
        self._knobs = [wire.KNOB_ABSENT] * wire.KNOBS
        self._mine: socket.socket | None = None
        self._fd = -1
        self._power_on()
        machine.at(machine.now_ns + BEAT_NS, self._beat)

    # The host's side

    def open_line(self, device: str) -> Line:
        if not self.plugged:
            raise OSError(errno.ENOENT, "No such file or directory")
        if self._mine:
            self._mine.close()
        self._mine, end = socket.socketpair()
        self._mine.setblocking(False)
        self._fd = end.fileno()
        return Line(end, self)

    # Feet and hands

    def switch(self, number: int, down: bool) -> None:
        if bool(self._edges[number] & 1) != down:
            self._edges[number] = (self._edges[number] + 1) & 0xFF
            self._edge_ns[number] = self.machine.now_ns
        self._state()

    def turn(self, knob: int, value: float) -> None:
        self._knobs[knob] = round(value * wire.KNOB_FULL)
        self._state()

    # Faults

    def unplug(self) -> None:
        self.plugged = False
        if self._mine:
            self._mine.close()
            self._mine = None
            self.machine.ring(self._fd)

    def plug_in(self) -> None:
        self.plugged = True
        self._power_on()

    def garbage(self, count: int) -> None:
        self._write(self._rng.integers(0, 256, count, np.uint8).tobytes())

    def flood(self) -> None:
        """The same frame over and over, as fast as the line takes it."""
        frame = self._sender.pack(wire.STATE, self._now_us(), *self._fields())
        self._write(frame * (FLOOD_BYTES // len(frame)))

    # The wire

    def _power_on(self) -> None:
        self._began_ns = self.machine.now_ns
        self._sender = wire.Sender(int(self._rng.integers(1, 256)))
        self._known, self._drains = False, 0
        self._edges = [0] * wire.SWITCHES

    def _now_us(self) -> int:
        return (self.machine.now_ns - self._began_ns) * (1_000_000 + FAST_PPM) // 1_000_000_000

    def _beat(self) -> None:
        self.machine.at(self.machine.now_ns + BEAT_NS, self._beat)
        if not self._known and not self.silent:
            self._write(self._sender.pack(wire.HELLO, self._now_us(), 1, wire.SWITCHES, wire.LIGHTS))
        self._state()
        self._drain()

    def _state(self) -> None:
        if not self.silent:
            self._write(self._sender.pack(wire.STATE, self._now_us(), *self._fields()))

    def _fields(self) -> tuple[int, ...]:
        now_ns = self.machine.now_ns
        ages = [min((now_ns - at) // (wire.AGE_US * 1_000), wire.AGE_MOST) for at in self._edge_ns]
        return (*self._edges, *ages, *self._knobs)

    def _write(self, data: bytes) -> None:
        if self._mine is None:
            return
        try:
            self._mine.send(data)
        except OSError:  # full, as a line is that nobody reads; or closed by the host
            return
        self.machine.ring(self._fd)

    def _drain(self) -> None:
        """What the host says: whether it knows this board's session."""
        heard = b""
        try:
            while self._mine and (data := self._mine.recv(65_536)):
                heard = data
        except OSError:
            pass
        self._drains += 1
        if self._drains % LISTEN_EVERY:
            return
        frames = wire.Decoder().feed(heard[-2 * wire.MOST_BYTES :])
        if frames and frames[-1].kind == wire.BEAT:
            self.beats += 1
            self._known = frames[-1].fields[1] == self._sender.session
