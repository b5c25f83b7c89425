"""New firmware for a board, over the line that it plays on: MicroPython's raw console, file by file, every file read back.

    1  a board that runs our firmware, of any version, is asked to make room: it starts again without it, and its device comes back
    2  the raw console: a program sent to it is run, and what it prints comes back
    3  each file goes to a name of its own and is renamed when its SHA-256 is right, main.py last: a cable that is pulled out meanwhile
       leaves a board that can be flashed again
    4  a reset, and the new firmware runs

A board that has never had our firmware needs MicroPython first (docs/build-a-pedal.md), and starts at step 2.

Runs in: `ghostnote board flash`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import serial

from hw import wire
from hw.board import BoardError
from hw.serial_board import LINE_ERRORS, open_line, reason

FIRMWARE = Path(__file__).parent / "firmware"
WIRE = Path(__file__).parent / "wire.py"
LAST = "main.py"  # what MicroPython starts
ANSWER_SECONDS = 5.0
RETURN_SECONDS = 10.0  # for a device to come back after a reset
PIECE_BYTES = 256  # of a file, per program: a board has no flow control of its own
INTERRUPT, RAW, NORMAL, RUN = b"\x03", b"\x01", b"\x02", b"\x04"
Say = Callable[[str], None]


def firmware_files() -> list[Path]:
    """What goes onto a board, in this order."""
    files = sorted([*FIRMWARE.glob("*.py"), WIRE], key=lambda path: (path.name == LAST, path.name))
    if not any(path.name == LAST for path in files):
        raise BoardError(f"{FIRMWARE} has no firmware: install Ghostnote again")
    return files


def flash(device: str, say: Say) -> None:
    """Put the firmware onto the board at `device`. Raises BoardError."""
    console = _console(device, say)
    try:
        for path in firmware_files():
            say(f"{path.name}: {len(path.read_bytes()):,} bytes")
            console.put(path.name, path.read_bytes())
        console.reset()
    except LINE_ERRORS as error:
        raise BoardError(f"board {device} was lost ({reason(error)}): plug it in and flash it again") from error
    finally:
        console.close()
    say("done: the board starts with its new firmware")


def _console(device: str, say: Say) -> Console:
    console = Console(device)
    if console.enter():
        return console
    say("asking the firmware on it to make room")
    console.release()
    console.close()
    give_up_at = time.monotonic() + RETURN_SECONDS
    while time.monotonic() < give_up_at:
        time.sleep(0.3)
        try:
            console = Console(device)
        except BoardError:
            continue
        if console.enter():
            return console
        console.close()
    raise BoardError(
        f"board {device} has no MicroPython console: hold its left footswitch while you plug it in and try again, "
        "or put MicroPython on it first (docs/build-a-pedal.md)"
    )


class Console:
    """MicroPython's raw console on an open line. Raises BoardError for what the board refuses, LINE_ERRORS when the line is lost."""

    def __init__(self, device: str) -> None:
        self.device = device
        try:
            self._line: serial.Serial = open_line(device)
        except LINE_ERRORS as error:
            raise BoardError(f"board {device} can't be opened ({reason(error)}): plug it in, and stop what else uses it") from error
        self._line.timeout, self._line.write_timeout = 0.05, 2.0

    def close(self) -> None:
        try:
            self._line.close()
        except LINE_ERRORS:
            pass

    def enter(self) -> bool:
        """Whether a raw console answers. Any program but our firmware is interrupted by this."""
        try:
            self._line.write(b"\r" + INTERRUPT + INTERRUPT)
            time.sleep(0.1)
            self._line.reset_input_buffer()
            self._line.write(b"\r" + RAW)
            return self._until(b"raw REPL; CTRL-B to exit\r\n>", 0.7) is not None
        except LINE_ERRORS:
            return False

    def release(self) -> None:
        """Ask our firmware, whatever its version, to end."""
        sender = wire.Sender(1)
        try:
            for _ in range(3):
                self._line.write(sender.pack(wire.RELEASE, 0, wire.RELEASE_WORD))
                time.sleep(0.05)
        except LINE_ERRORS:  # gone to restart
            pass

    def run(self, program: str) -> str:
        """What `program` prints."""
        self._line.write(program.encode() + RUN)
        answer = self._until(RUN + b">", ANSWER_SECONDS)
        if answer is None or not answer.startswith(b"OK"):
            raise BoardError(f"board {self.device} does not answer: unplug it, plug it in and flash it again")
        output, _, error = answer[2:].partition(RUN)
        if error:
            last = error.decode(errors="replace").strip().splitlines()[-1]
            raise BoardError(f"board {self.device} refuses ({last}): if its memory is full, remove files that are not Ghostnote's")
        return output.decode(errors="replace").strip()

    def put(self, name: str, data: bytes) -> None:
        self.run("f = open('incoming', 'wb')\nf.close()")
        for at in range(0, len(data), PIECE_BYTES):
            piece = data[at : at + PIECE_BYTES]
            self.run(f"f = open('incoming', 'ab')\nf.write({piece!r})\nf.close()")
        there = self.run(
            "import binascii, hashlib\nh = hashlib.sha256()\nf = open('incoming', 'rb')\n"
            "p = f.read(256)\nwhile p:\n    h.update(p)\n    p = f.read(256)\nf.close()\nprint(binascii.hexlify(h.digest()).decode())"
        )
        if there != hashlib.sha256(data).hexdigest():
            raise BoardError(f"board {self.device}: {name} arrived damaged; use another cable or port and flash it again")
        self.run(f"import os\ntry:\n    os.remove({name!r})\nexcept OSError:\n    pass\nos.rename('incoming', {name!r})")

    def reset(self) -> None:
        try:
            self._line.write(b"import machine\nmachine.reset()" + RUN)
            time.sleep(0.3)
        except LINE_ERRORS:  # so quickly gone
            pass

    def _until(self, end: bytes, seconds: float) -> bytes | None:
        """What comes before `end`, which must come in time."""
        data, give_up_at = bytearray(), time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            data += self._line.read(max(1, self._line.in_waiting))
            if data.endswith(end):
                return bytes(data[: -len(end)])
        return None
