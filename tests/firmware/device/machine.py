"""MicroPython's `machine` on a PC: pins and voltages are bytes of a file that a test reads and writes while the firmware runs.

Runs in: the unix MicroPython, in tests.
"""

import os
import sys

# The file: levels that come in (32), levels that go out (32), voltages of the multiplexer's channels (8 x u16), colours (8 x RGB).
OUT_AT, VOLTAGES_AT, COLOURS_AT = 32, 64, 80
RESET_EXIT_CODE = 7
_MUX_SELECT = (10, 11, 12)

_bank = open(os.getenv("GHOSTNOTE_PINS"), "r+b")  # noqa: SIM115


def peek(at, count):
    _bank.seek(at)
    return _bank.read(count)


def poke(at, data):
    _bank.seek(at)
    _bank.write(data)


class Pin:
    IN, OUT, PULL_UP = 0, 1, 1

    def __init__(self, number, mode=IN, pull=None, value=None):
        self._at = number + (OUT_AT if mode == Pin.OUT else 0)
        if value is not None:
            self.value(value)

    def value(self, level=None):
        if level is None:
            return peek(self._at, 1)[0]
        poke(self._at, bytes([level]))
        return None


class ADC:
    def __init__(self, pin):
        pass

    def read_u16(self):
        channel = sum(peek(OUT_AT + number, 1)[0] << bit for bit, number in enumerate(_MUX_SELECT))
        low, high = peek(VOLTAGES_AT + 2 * channel, 2)
        return low | high << 8


class WDT:
    def __init__(self, timeout):
        pass

    def feed(self):
        pass


class UART:
    def __init__(self, *where, **how):
        raise OSError("no UART here")


def reset():
    sys.exit(RESET_EXIT_CODE)
