"""MicroPython's `neopixel` on a PC: colours go where tests/firmware/device/machine.py says.

Runs in: the unix MicroPython, in tests.
"""

import machine


class NeoPixel:
    def __init__(self, pin, count):
        self._colours = [(0, 0, 0)] * count

    def __setitem__(self, at, colour):
        self._colours[at] = colour

    def write(self):
        machine.poke(machine.COLOURS_AT, bytes([part for colour in self._colours for part in colour]))
