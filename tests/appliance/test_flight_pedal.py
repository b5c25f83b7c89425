"""Flights of the real pedal: everything killed at once and replayed, saved by a foot and after a miss, taken away at the end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.cli import main
from appliance.config import AudioConfig, Config, FlightConfig, RealtimeConfig, StorageConfig, parse_config
from appliance.flight_file import SavedFlight
from appliance.flight_ring import LIVES_AT, FlightRing
from appliance.main import RunOptions, Supervisor
from appliance.orders import OrderError
from appliance.stats import BlockMode, Counter
from hw.board import ControlEvent
from hw.file_audio import file_address

REPO = Path(__file__).parents[2]
RATE = 44_100
SCRIPT = """
0.5 prompt 3
2.0 morph 0.4
3.0 stray 0.5
4.0 jam 1
5.5 jam 0
6.0 prompt 7
7.0 freeze 1
8.0 freeze 0
9.0 steps 2
"""
pytestmark = pytest.mark.system


def guitar(path: Path, seconds: float) -> Path:
    t = np.arange(round(seconds * RATE)) / RATE
    notes = 0.3 * np.sin(2 * np.pi * (110 + 55 * np.floor(t % 4)) * t) * np.exp(-3 * (t % 0.5))
    soundfile.write(path, (notes + 0.003 * np.random.default_rng(0).standard_normal(len(t))).astype(np.float32), RATE, "FLOAT")
    return path


@dataclass
class Run:
    """`ghostnote run` with folders of its own."""

    folder: Path
    seconds: float

    def __post_init__(self) -> None:
        (self.folder / "run").mkdir(mode=0o700)
        (self.folder / "set.txt").write_text(SCRIPT)
        address = file_address(guitar(self.folder / "guitar.wav", self.seconds))
        text = f'[audio]\nport = "{address}"\nperiods = 16\n[board]\nport = "script:{self.folder / "set.txt"}"\n'
        text += f'[storage]\nfolder = "{self.folder / "state"}"\n[realtime]\npriority = 0\nworker_nice = 0\n[flight]\nmisses = false\n'
        (self.folder / "x.toml").write_text(text)

    @property
    def ring(self) -> Path:
        return self.folder / "run" / "flight-0.ring"

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPO), "RUNTIME_DIRECTORY": str(self.folder / "run")}
        command = [sys.executable, "-m", "appliance", "run", "--wait-for-engine", "--config", str(self.folder / "x.toml")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def await_(condition: Callable[[], bool], seconds: float, what: str) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.05)


def answered(ring: Path) -> int:
    if not ring.exists() or ring.stat().st_size <= LIVES_AT:
        return 0
    return int((FlightRing.open(ring).heads()["mode"] == BlockMode.GENERATED).sum())


@pytest.mark.parametrize("blocks", [16, pytest.param(130, marks=pytest.mark.slow)])
def test_all_processes_killed_at_once_and_every_block_is_made_again(tmp_path: Path, blocks: int, capfd: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, 4.0 * blocks)
    with run.start() as pedal:
        try:
            await_(lambda: answered(run.ring) >= blocks, 60 + 2 * blocks, "the pedal answers")
            everyone = [pedal.pid, *children(pedal.pid)]
            assert len(everyone) == 3  # main, audio, worker
        finally:
            for pid in [pedal.pid, *children(pedal.pid)]:
                os.kill(pid, signal.SIGKILL)
    assert answered(run.ring) >= blocks
    assert main(["replay", str(run.ring), "--random", "100"]) == 0
    assert f"identical: {min(100, answered(run.ring))} blocks" in capfd.readouterr().out
    with run.start() as again:
        try:
            await_(lambda: bool(list((tmp_path / "state" / "flights").glob("*.flight"))), 90, "the next start saves the flight")
        finally:
            again.terminate()
    (flight,) = (tmp_path / "state" / "flights").glob("*.flight")
    assert SavedFlight(flight).about.reason == "the pedal before this one ended without a word"
    assert main(["replay", str(flight)]) == 0
    assert not list((tmp_path / "run").glob("flight-*"))  # it ended as it should


def play(folder: Path, seconds: float, on_tick: Callable[[Supervisor], None], **flight: object) -> Supervisor:
    config = replace(
        parse_config('[engine]\nbundle = "echo"', "test"),
        audio=AudioConfig(port=file_address(guitar(folder / "guitar.wav", seconds)), periods=16, sample_format="FLOAT"),
        realtime=RealtimeConfig(priority=0),
        storage=StorageConfig(folder=str(folder / "state")),
        flight=FlightConfig(**flight),  # type: ignore[arg-type]
    )
    pedal = Supervisor(config, RunOptions(wait_for_engine=True, remember=True, on_tick=on_tick))
    pedal.run()
    return pedal


@pytest.fixture(autouse=True)
def _own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))


def test_a_foot_and_an_order_save_a_flight_that_is_a_whole_bug_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ghostnote")
    lines: list[str] = []

    def foot(pedal: Supervisor) -> None:
        if pedal.seconds > 2 and not lines:
            lines.extend(pedal.playing.take([ControlEvent(pedal.seconds, "save", "flight")], pedal.seconds))
            with pytest.raises(OrderError, match="a flight is being saved already"):
                pedal.flights.orders()["save-flight"]({"order": "save-flight"})
        if list((tmp_path / "state" / "flights").glob("*.flight")):
            pedal.stop()

    play(tmp_path, 60.0, foot, misses=False)
    (path,) = (tmp_path / "state" / "flights").glob("*.flight")
    assert lines == [f"the flight is being saved as {path.name}"]
    flight = SavedFlight(path)
    assert flight.about.reason == "a footswitch" and flight.about.status["engine"] == "echo"
    assert any("engine echo is ready" in line for line in flight.about.notes)
    pedal = flight.tracks[0].pedal
    assert pedal["config"]["engine"]["bundle"] == "echo" and pedal["ghostnote"] and pedal["pid"] == os.getpid()
    assert path.stat().st_mode & 0o777 == 0o640
    assert main(["replay", str(path)]) == 0
    assert "identical" in capfd.readouterr().out and not list(tmp_path.glob("flight-*"))


def test_a_missed_deadline_saves_one_flight(tmp_path: Path) -> None:
    def trouble(pedal: Supervisor) -> None:
        worker = pedal.slot.child.process
        if worker and 1.0 < pedal.seconds < 3.0:
            os.kill(worker.pid, signal.SIGSTOP)
        elif worker and pedal.seconds >= 3.0:
            os.kill(worker.pid, signal.SIGCONT)
        if list((tmp_path / "state" / "flights").glob("*.flight")):
            pedal.stop()

    play(tmp_path, 60.0, trouble)
    (path,) = (tmp_path / "state" / "flights").glob("*.flight")
    flight = SavedFlight(path)
    assert flight.about.reason == "a missed deadline" and flight.about.misses
    assert BlockMode.PREFILLED in flight.tracks[0].heads()["mode"]


def test_two_pedals_do_not_share_a_ring(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def second(pedal: Supervisor) -> None:
        if pedal.counters.get(Counter.PERIODS) > 0:
            config = replace(Config(), engine=pedal.config.engine, storage=StorageConfig(str(tmp_path / "b")))
            other = Supervisor(config, RunOptions(remember=True))
            assert other.flights.settings(0) is None and "another pedal is running" in caplog.text
            other.playing.end()
            other.flights.close()
            pedal.stop()

    play(tmp_path, 10.0, second)


def test_nothing_is_recorded_where_none_is_wanted(tmp_path: Path) -> None:
    def look(pedal: Supervisor) -> None:
        if pedal.seconds > 0.5:
            assert pedal.flights.asked() == "no flight is recorded: set [flight] minutes" and not list(tmp_path.glob("flight-*"))
            pedal.stop()

    play(tmp_path, 10.0, look, minutes=0.0)
