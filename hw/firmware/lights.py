"""Colours and patterns on a chain of WS2812 LEDs: status, deadline, four switches, tempo, clip.

Runs in: the board.
"""

import pins
import wire
from machine import Pin
from neopixel import NeoPixel

COUNT = wire.LIGHTS + 2
TEMPO, CLIP = wire.LIGHTS, wire.LIGHTS + 1
RED, AMBER, WHITE, VIOLET = 1, 2, 6, 5  # of COLOURS; the numbers are those on the wire
SLOW, FAST = 1 << 4, 2 << 4  # patterns stand above the colour
COLOURS = ((0, 0, 0), (255, 0, 0), (255, 110, 0), (0, 255, 0), (0, 0, 255), (150, 0, 255), (200, 200, 200))
PERIODS_US = {SLOW: 1_000_000, FAST: 250_000}
FLASH_US = 60_000

ALONE = (AMBER | SLOW, 0, 0, 0, 0, 0)  # no host yet
DEAD = (RED, 0, 0, 0, 0, 0)  # the host's heartbeat has stopped
STRANGE = (VIOLET | FAST, 0, 0, 0, 0, 0)  # the host speaks another version


class Lights:
    """`show` says what; `turn`, called often, blinks."""

    def __init__(self) -> None:
        self._chain = NeoPixel(Pin(pins.LEDS, Pin.OUT), COUNT)
        self._wanted = ALONE  # type: tuple[int, ...]
        self._clip = False
        self._beat_us = 0
        self._drawn = None  # type: list[int] | None

    def show(self, lights: "tuple[int, ...]", clip: bool = False, beat_ms: int = 0) -> None:
        self._wanted, self._clip, self._beat_us = lights, clip, beat_ms * 1_000

    def turn(self, now_us: int) -> None:
        drawn = [_now(light, now_us) for light in self._wanted]
        drawn.append(WHITE if self._beat_us and now_us % self._beat_us < FLASH_US else 0)
        drawn.append(RED if self._clip else 0)
        if drawn != self._drawn:
            self._drawn = drawn
            for at, colour in enumerate(drawn):
                red, green, blue = COLOURS[colour]
                self._chain[at] = (_dim(red), _dim(green), _dim(blue))
            self._chain.write()


def _now(light: int, now_us: int) -> int:
    """The colour that `light` has at this moment; what is unknown is dark."""
    period_us = PERIODS_US.get(light & 0xF0, 0)
    colour = light & 0x0F
    if colour >= len(COLOURS) or (period_us and now_us % period_us >= period_us // 2):
        return 0
    return colour


def _dim(part: int) -> int:
    return part * pins.LED_BRIGHTNESS // 255
