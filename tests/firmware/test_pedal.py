"""The whole pedal on a board: real processes, the real firmware, a recording as the guitar."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.firmware.rig import REPO, Rig, wait_until
from tests.hw.test_keys_board import Terminal

CONFIG = '[engine]\nbundle = "echo"\n[realtime]\npriority = 0\nlock_memory = false\n[storage]\nfolder = "{folder}"\n'
pytestmark = pytest.mark.system


@pytest.fixture
def pedal(rig: Rig, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes(bytes(2 * 44_100))
    config = tmp_path / "pedal.toml"
    config.write_text(CONFIG.format(folder=tmp_path / "state"))
    command = [sys.executable, "-m", "appliance", "run", "--config", str(config)]
    command += ["--audio", f"file:{tmp_path}/in.wav?loop=yes", "--board", f"serial:{rig.device}"]
    one = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield one
    one.kill()
    one.communicate()


def children(parent: int) -> dict[str, int]:
    """Name of each child process's module -> its id."""
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        found[next((word for word in words if word.startswith("appliance.")), "?")] = int(child)
    return found


def test_the_relay_follows_the_sound(rig: Rig, pedal: subprocess.Popen[str]) -> None:
    """In the path while audio makes progress; out of it when audio hangs, when main is killed, and when all is stopped."""
    assert wait_until(lambda: rig.relay, 20), rig.errors()
    audio = next(number for name, number in children(pedal.pid).items() if name == "appliance.audio")
    os.kill(audio, signal.SIGSTOP)
    assert wait_until(lambda: not rig.relay, 5)
    assert wait_until(lambda: rig.relay, 20)  # main has started audio again
    pedal.kill()
    began = time.monotonic()
    assert wait_until(lambda: not rig.relay, 5)
    assert time.monotonic() - began < 1.5
    assert rig.colours[0] == (48, 0, 0)


def test_a_pedal_outlives_its_board(rig: Rig, pedal: subprocess.Popen[str]) -> None:
    assert wait_until(lambda: rig.relay, 20), rig.errors()
    rig.unplug()
    time.sleep(0.7)
    rig.plug()
    assert wait_until(lambda: rig.relay, 20)
    time.sleep(0.5)
    before = rig.colours
    rig.press(0), time.sleep(0.1), rig.release(0)  # bypass, by the config's defaults: its light changes
    assert wait_until(lambda: rig.colours[2] != before[2])
    pedal.send_signal(signal.SIGTERM)
    _, log = pedal.communicate(timeout=20)
    assert pedal.returncode == 0
    assert log.count("is here") == 2 and log.count("is gone") == 1


def test_the_monitor_shows_what_is_moved(rig: Rig) -> None:
    terminal = Terminal("-m", "appliance", "board", "monitor", f"serial:{rig.device}")
    try:
        assert terminal.until("knob 1") and wait_until(lambda: rig.relay)
        time.sleep(0.3)
        rig.press(2), rig.turn(4, 1.0)
        assert terminal.until("switch 3 down") and terminal.until("100")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ends() == 130
        assert wait_until(lambda: not rig.relay)
    finally:
        terminal.process.kill()
