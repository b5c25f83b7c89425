"""The keyboard board: what keys mean, and that a terminal is left as it was found, whatever ends the program."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw.board import EXPRESSION, BoardError, ControlEvent, KnobEvent, SwitchEvent, open_board
from hw.keys_board import Keyboard
from hw.merged_board import MergedBoard

REPO = Path(__file__).parents[2]
UP, DOWN, RIGHT, HOME, END, PAGE_UP = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[H", b"\x1b[F", b"\x1b[5~"


def test_a_digit_steps_on_a_switch() -> None:
    keys = Keyboard()
    assert keys.type(b"2", 1.0) == [SwitchEvent(1.0, 1, True)]
    assert keys.type(b"", 1.05) == []
    assert keys.type(b"", 1.2) == [SwitchEvent(pytest.approx(1.08), 1, False)]
    keys.type(b"1", 2.0)
    assert keys.type(b"1", 2.01) == [SwitchEvent(2.01, 0, False), SwitchEvent(2.01, 0, True)]
    assert keys.type(b"", 3.0) == [SwitchEvent(pytest.approx(2.09), 0, False)]


def test_a_letter_holds_a_switch_until_it_comes_again() -> None:
    keys = Keyboard()
    assert keys.type(b"w", 1.0) == [SwitchEvent(1.0, 1, True)]
    assert keys.type(b"", 9.0) == []
    assert keys.type(b"w", 9.5) == [SwitchEvent(9.5, 1, False)]


def test_brackets_step_on_two() -> None:
    assert Keyboard().type(b"[", 1.0) == [SwitchEvent(1.0, 0, True), SwitchEvent(1.0, 1, True)]
    assert Keyboard().type(b"]", 1.0) == [SwitchEvent(1.0, 2, True), SwitchEvent(1.0, 3, True)]


def test_arrows_turn_the_chosen_knob_within_its_ends() -> None:
    keys = Keyboard()
    assert keys.type(b"d" + UP, 1.0) == [KnobEvent(1.0, 2, 0.52)]
    assert keys.type(RIGHT + PAGE_UP, 1.0) == [KnobEvent(1.0, 3, 0.6)]
    assert keys.type(b"j" + HOME + HOME + END, 1.0) == [KnobEvent(1.0, EXPRESSION, 0.0), KnobEvent(1.0, EXPRESSION, 1.0)]
    by_bytes = [keys.type(bytes([byte]), 2.0) for byte in b"a" + DOWN]  # as a slow line brings it
    assert by_bytes[-1] == [KnobEvent(2.0, 0, 0.48)]


def test_a_command_is_a_line_of_a_script() -> None:
    keys = Keyboard()
    assert keys.type(b":prompt warm chx\x7foir\ra", 3.0) == [ControlEvent(3.0, "prompt", "warm choir")]
    assert keys.type(b":mixx 1\r", 4.0) == [] and "did you mean 'mix'" in keys.answer
    assert keys.type(b":mix 1\x1b", 5.0) == [] and keys.line is None
    assert keys.type(b":\r", 6.0) == []


@pytest.mark.parametrize("noise", [bytes(range(256)) * 4, b"\x1b[" * 200, b"\x1b\x1b[;;;" + b"9" * 99, b":" + b"\xff\x00" * 50 + b"\r"])
def test_noise_is_survived(noise: bytes) -> None:
    keys = Keyboard()
    for at in range(0, len(noise), 7):
        keys.type(noise[at : at + 7], at / 100)
    assert all(0 <= knob <= 1 for knob in keys.knobs)


def test_several_boards_are_one(tmp_path: Path) -> None:
    for name, text in (("a,b.txt", "1 mix 0.1\n3 mix 0.3"), ("c.txt", "2 mix 0.2")):
        (tmp_path / name).write_text(text)
    board = open_board(f"script:{tmp_path}/a,b.txt,script:{tmp_path}/c.txt,none")
    assert isinstance(board, MergedBoard) and board.wake_fds() == ()
    assert [event.value for event in board.poll(9) if isinstance(event, ControlEvent)] == [0.1, 0.2, 0.3]
    board.close()


def test_without_a_terminal_it_says_so() -> None:
    with pytest.raises(BoardError, match="'keys' needs a terminal"):
        open_board("keys")


class Terminal:
    """A pty with a program on it, and what it has printed."""

    def __init__(self, *command: str) -> None:
        self.fd, self.program_fd = pty.openpty()
        self.before = termios.tcgetattr(self.fd)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, b"\x18\x00\x64\x00\x00\x00\x00\x00")
        environment = {**os.environ, "PYTHONPATH": str(REPO), "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=self.program_fd, stdout=self.program_fd, stderr=self.program_fd, env=environment, cwd=REPO
        )
        self.text = ""

    def until(self, words: str, seconds: float = 20.0) -> bool:
        end = time.monotonic() + seconds
        while words not in self.text and time.monotonic() < end:
            self.read()
        return words in self.text

    def read(self, seconds: float = 0.1) -> None:
        if select.select([self.fd], [], [], seconds)[0]:
            self.text += os.read(self.fd, 65_536).decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def ends(self) -> int:
        end = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < end:
            self.read()
        self.read(0)
        return self.process.wait(1)

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.fd) == self.before


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for one in opened:
        one.process.kill()
        os.close(one.fd), os.close(one.program_fd)


INTERRUPT = "import os; os.kill(os.getpid(), 2)"


@pytest.mark.parametrize("end", ["board.close()", "raise SystemExit('stop')", "raise KeyError('a bug')", INTERRUPT])
def test_the_terminal_is_left_as_it_was(terminals: list[Terminal], end: str) -> None:
    program = f"""
import time
from hw.board import Lights, open_board
board = open_board("keys")
while not (events := board.poll(1.0)):
    board.show(Lights(text="choir"), True)
print(events)
{end}
"""
    one = Terminal("-c", program)
    terminals.append(one)
    assert one.until("choir") and not one.restored
    one.type(b"3")
    one.ends()
    assert one.restored and "SwitchEvent(seconds=1.0, switch=2, down=True)" in one.text


@pytest.mark.system
def test_the_whole_pedal_is_played_from_a_terminal(terminals: list[Terminal], tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes(bytes(2 * 44_100))
    config = tmp_path / "set.toml"
    config.write_text('[engine]\nbundle = "echo"\n[realtime]\npriority = 0\nlock_memory = false\n')
    audio = f"file:{tmp_path}/in.wav?loop=yes"
    one = Terminal("-m", "appliance", "run", "--config", str(config), "--audio", audio, "--board", "keys")
    terminals.append(one)
    assert one.until("knob 1") and one.until("engine echo is ready")
    one.type(b":mixx 1\r")
    assert one.until("did you mean 'mix'")
    one.process.send_signal(signal.SIGINT)
    assert one.ends() == 0, one.text
    assert one.restored and "Played" in one.text
