"""The board's program: look at everything once a millisecond, tell the host, and open the relay when the host is not alive.

Runs in: the board.
"""

import os
import time

import lights
import pins
import wire
from knobs import Knob
from lights import Lights
from machine import ADC, WDT, Pin, reset
from port import open_port
from switches import Switch

WATCHDOG_MS = 1_000  # a program that hangs is started again, and the relay falls while it does
LOOK_US = 1_000
KNOB_EVERY_US = 10_000  # a turning knob is told this often
STAY_FILE = "stay"  # while it exists, main.py leaves the board to its console


class Pedal:
    """Everything on the board. `turn` is called for ever."""

    def __init__(self) -> None:
        self._port, self._clock = open_port(), Clock()
        self._contacts = [Pin(number, Pin.IN, Pin.PULL_UP) for number in pins.SWITCHES]
        self._switches = [Switch() for _ in range(wire.SWITCHES)]
        self._pots = Pots()
        self._lights = Lights()
        self._host = Host(Pin(pins.RELAY, Pin.OUT, value=0), self._lights)
        self._sender = wire.Sender(os.urandom(1)[0] or 1)
        self._watchdog = WDT(timeout=WATCHDOG_MS)
        self._looked_us = self._told_us = self._clock.now_us()
        self._knob_moved = False

    def turn(self) -> None:
        self._hear(self._port.read(1))
        now_us = self._clock.now_us()
        if wire.later_us(now_us, self._looked_us) >= LOOK_US:
            self._looked_us = now_us
            self._look(now_us)
        self._host.watch(now_us)
        self._lights.turn(now_us)
        self._watchdog.feed()

    def _look(self, now_us: int) -> None:
        edge = False
        for contact, switch in zip(self._contacts, self._switches):  # noqa: B905  MicroPython's zip has no `strict`
            edge = switch.look(not contact.value(), now_us) or edge
        self._knob_moved = self._pots.look() or self._knob_moved
        since_us = wire.later_us(now_us, self._told_us)
        if edge or since_us >= wire.HEARTBEAT_US or (self._knob_moved and since_us >= KNOB_EVERY_US):
            self._tell(now_us)

    def _tell(self, now_us: int) -> None:
        self._told_us, self._knob_moved = now_us, False
        edges = [switch.edges for switch in self._switches]
        ages = [switch.age(now_us) for switch in self._switches]
        self._port.write(self._sender.pack(wire.STATE, now_us, *edges, *ages, *self._pots.values()))

    def _hear(self, data: bytes) -> None:
        if not data:
            return
        now_us = self._clock.now_us()
        for frame in self._host.frames(data):
            if frame.kind == wire.RELEASE and frame.fields[0] == wire.RELEASE_WORD:
                leave()
            elif frame.kind == wire.BEAT and self._host.beat(frame, now_us) != self._sender.session:
                hello = (pins.REVISION, len(pins.SWITCHES), wire.LIGHTS)
                self._port.write(self._sender.pack(wire.HELLO, now_us, *hello))
                self._tell(now_us)  # where counting begins


class Host:
    """What the host says, and what follows from its silence. The relay is closed only while it lives and wants it."""

    def __init__(self, relay: Pin, shown: Lights) -> None:
        self._relay, self._lights = relay, shown
        self._decoder, self._peer = wire.Decoder(), wire.Peer(wire.BEAT)
        self._alive_us = 0
        self._alive = False

    def frames(self, data: bytes) -> "list[wire.Frame]":
        frames = self._decoder.feed(data)
        if self._decoder.other_version >= 0 and not self._alive:
            self._lights.show(lights.STRANGE)
        return frames

    def beat(self, frame: wire.Frame, now_us: int) -> int:
        """Do what the frame says; the session that the host knows of this board."""
        flags, hears, *shown, beat_ms = frame.fields
        if self._peer.accepts(frame, now_us) and flags & wire.ALIVE:
            self._alive, self._alive_us = True, now_us
            self._relay.value(0 if flags & wire.RELAY_BYPASS else 1)
            self._lights.show(tuple(shown), bool(flags & wire.CLIP), beat_ms)
        return hears

    def watch(self, now_us: int) -> None:
        if self._alive and wire.later_us(now_us, self._alive_us) >= wire.DEADMAN_US:
            self._alive = False
            self._relay.value(0)
            self._lights.show(lights.DEAD)


class Pots:
    """All knobs behind one multiplexer; one of them is read per look."""

    def __init__(self) -> None:
        self._knobs = [Knob() for _ in range(wire.KNOBS)]
        self._select = [Pin(number, Pin.OUT, value=0) for number in pins.MUX_SELECT]
        self._adc = ADC(Pin(pins.MUX_ADC))
        self._empty = Pin(pins.EXPRESSION_EMPTY, Pin.IN, Pin.PULL_UP)
        self._at = 0
        for _ in range(wire.KNOBS):
            self.look()

    def values(self) -> "list[int]":
        return [knob.value for knob in self._knobs]

    def look(self) -> bool:
        at, knob = self._at, self._knobs[self._at]
        self._at = (at + 1) % wire.KNOBS
        wired = at < pins.POTS or (at == wire.KNOBS - 1 and pins.EXPRESSION and self._empty.value())
        if not wired:
            return knob.remove()
        for bit, pin in enumerate(self._select):
            pin.value(at >> bit & 1)
        self._adc.read_u16()  # the first reading still has the charge of the pot before
        return knob.look((self._adc.read_u16() + self._adc.read_u16()) >> 1)


class Clock:
    """Microseconds modulo 2**32; MicroPython's own wrap earlier."""

    def __init__(self) -> None:
        self._ticks = time.ticks_us()
        self._now_us = 0

    def now_us(self) -> int:
        ticks = time.ticks_us()
        self._now_us = (self._now_us + time.ticks_diff(ticks, self._ticks)) & 0xFFFFFFFF
        self._ticks = ticks
        return self._now_us


def leave() -> None:
    """To the console, for new firmware. A reset is the only way past the watchdog."""
    with open(STAY_FILE, "w"):
        pass
    reset()


def run() -> None:
    pedal = Pedal()
    while True:
        pedal.turn()
