"""Started by MicroPython at power-up. Hold the left footswitch meanwhile, and the board stays at its console.

Runs in: the board.
"""

import os

import pins
from machine import Pin


def stays() -> bool:
    try:
        os.remove("stay")  # left by pedal.leave
        return True
    except OSError:
        return not Pin(pins.SWITCHES[0], Pin.IN, Pin.PULL_UP).value()


if not stays():
    import pedal

    pedal.run()
