"""The line to the host: USB (MicroPython's console, made a clean channel) or a UART.

Runs in: the board.
"""

import select
import sys

import micropython
import pins
from machine import UART, Pin

MOST_AT_ONCE = 64


class UsbPort:
    """While it is in use, a byte 3 is a byte and does not interrupt the program."""

    def __init__(self) -> None:
        micropython.kbd_intr(-1)
        self._in, self._out = sys.stdin.buffer, sys.stdout.buffer
        self._poll = select.poll()
        self._poll.register(sys.stdin, select.POLLIN)

    def read(self, wait_ms: int) -> bytes:
        """What has come, at most MOST_AT_ONCE bytes; waits for the first no longer than `wait_ms`."""
        data = b""
        while len(data) < MOST_AT_ONCE and self._poll.poll(0 if data else wait_ms):
            byte = self._in.read(1)
            if not byte:
                break
            data += byte
        return data

    def write(self, data: bytes) -> None:
        self._out.write(data)


class UartPort:
    """For hosts whose USB is taken."""

    def __init__(self, number: int, tx: int, rx: int) -> None:
        self._uart = UART(number, 115_200, tx=Pin(tx), rx=Pin(rx), rxbuf=512, txbuf=512)
        self._poll = select.poll()
        self._poll.register(self._uart, select.POLLIN)  # type: ignore[arg-type]  # MicroPython polls any stream

    def read(self, wait_ms: int) -> bytes:
        return (self._uart.read(MOST_AT_ONCE) or b"") if self._poll.poll(wait_ms) else b""

    def write(self, data: bytes) -> None:
        self._uart.write(data)


def open_port() -> "UsbPort | UartPort":
    return UartPort(*pins.UART) if pins.UART else UsbPort()
