"""The supervisor with its real processes, on recordings that are played in real time: kills, stalls, events and the end.

The engine is `echo`, whose answer is what it heard. So whatever happens to it, the wet bus must be the input one delay later, to
the last bit: any gap, click or repetition shows as a difference.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.config import AudioConfig, Config, ConfigError, RealtimeConfig, parse_config
from appliance.controls import Control
from appliance.main import RunOptions, StartError, Supervisor
from appliance.recorder import recorded
from appliance.report import Report
from appliance.ring import JOIN_FRAMES
from appliance.slot import SlotState
from appliance.stats import Counter, WorkerCounter
from hw.board import BoardError
from hw.file_audio import FileOptions, file_address

REPO = Path(__file__).parents[2]
RATE, DELAY = 44_100, 24_576
BACK_SECONDS = 3.0
pytestmark = pytest.mark.system


def guitar(path: Path, seconds: float) -> Path:
    """Never silent and never the same twice."""
    t = np.arange(round(seconds * RATE)) / RATE
    chirp = 0.4 * np.sin(2 * np.pi * (110 * t + 20 * t * t)) + 0.05 * np.random.default_rng(0).standard_normal(len(t))
    soundfile.write(path, chirp.astype(np.float32), RATE, "FLOAT")
    return path


def configuration(address: str, text: str = "") -> Config:
    config = parse_config(text + '\n[engine]\nbundle = "echo"', "test")
    # A deep queue: this machine may well do something else for 46 ms, and then the input itself would have a hole.
    return replace(config, audio=AudioConfig(port=address, periods=16, sample_format="FLOAT"), realtime=RealtimeConfig(priority=0))


@dataclass
class Troubles:
    """What befalls the pedal: at a position of the audio clock, once each. Runs at every tick of the supervisor."""

    at: list[tuple[float, Callable[[Supervisor], None]]]
    back_after: list[float] = field(default_factory=list)
    _since: float | None = None

    def __call__(self, pedal: Supervisor) -> None:
        if self._since is not None and self.recovered(pedal):
            self.back_after.append(time.monotonic() - self._since)
            self._since = None
        if self.at and self._since is None and pedal.seconds >= self.at[0][0]:
            self._before = pedal.slot.counters.get(WorkerCounter.STARTS), pedal.counters.get(Counter.PERIODS)
            self.at.pop(0)[1](pedal)
            self._since = time.monotonic()

    def recovered(self, pedal: Supervisor) -> bool:
        """The engine that was killed answers again."""
        return pedal.slot.counters.get(WorkerCounter.STARTS) > self._before[0] and pedal.slot.state is SlotState.ACTIVE


class AudioTroubles(Troubles):
    def recovered(self, pedal: Supervisor) -> bool:
        return pedal.counters.get(Counter.PERIODS) > self._before[1] and pedal.counters.get(Counter.STARTS) > 1


def kill_engine(pedal: Supervisor) -> None:
    assert pedal.slot.child.process
    os.kill(pedal.slot.child.process.pid, signal.SIGKILL)


def kill_audio(pedal: Supervisor) -> None:
    assert pedal.audio.process
    os.kill(pedal.audio.process.pid, signal.SIGKILL)


def play(folder: Path, seconds: float, on_tick: Callable[[Supervisor], None] | None = None, text: str = "") -> tuple[Report, Supervisor]:
    address = file_address(guitar(folder / "guitar.wav", seconds))
    options = RunOptions(wait_for_engine=True, record=folder, record_frames=round(2 * seconds * RATE), on_tick=on_tick)
    pedal = Supervisor(configuration(address, text), options)
    return pedal.run(), pedal


def assert_wet_is_the_input_one_delay_later(folder: Path, pedal: Supervisor, joins: int = 0) -> None:
    """Bit for bit, but for the first frames of each engine that began again, which are drawn to the end of the last one's."""
    frames = pedal.counters.get(Counter.POSITION)
    dry, wet = recorded(folder, "dry", frames)[:, 0], recorded(folder, "wet", frames)
    assert np.count_nonzero(wet[DELAY:] != dry[: frames - DELAY]) <= joins * JOIN_FRAMES
    assert not wet[:DELAY].any()


def test_a_session_without_trouble(tmp_path: Path) -> None:
    report, pedal = play(tmp_path, 2.0)
    assert report.seconds == pytest.approx(2.0, abs=0.01)
    assert (report.blocks, report.answered_blocks) == (5, 5)
    assert (report.late_blocks, report.silent_frames, report.fallback_frames, report.engine_restarts) == (0, 0, 0, 0)
    assert report.startup_s is not None and report.delay_ms == pytest.approx(557.28, abs=0.01)
    assert set(report.peak_rss_mb) == {"main", "audio", "engine"} and all(mb > 10 for mb in report.peak_rss_mb.values())
    assert_wet_is_the_input_one_delay_later(tmp_path, pedal)


def test_an_engine_killed_at_random_moments_is_back_in_three_seconds(tmp_path: Path) -> None:
    moments = random.Random(1)
    troubles = Troubles([(second + moments.random(), kill_engine) for second in (1.0, 3.5, 6.0)])
    report, pedal = play(tmp_path, 9.5, troubles)
    assert len(troubles.back_after) == 3 and max(troubles.back_after) < BACK_SECONDS, troubles.back_after
    assert report.engine_restarts == 3
    assert report.silent_frames == 0
    assert_wet_is_the_input_one_delay_later(tmp_path, pedal, joins=3)


def test_a_stalled_engine_hears_what_it_missed_and_goes_on(tmp_path: Path) -> None:
    def freeze(pedal: Supervisor) -> None:
        assert pedal.slot.child.process
        os.kill(pedal.slot.child.process.pid, signal.SIGSTOP)

    def thaw(pedal: Supervisor) -> None:
        assert pedal.slot.child.process
        os.kill(pedal.slot.child.process.pid, signal.SIGCONT)

    troubles = Troubles([(1.0, freeze), (3.0, thaw)])
    troubles.recovered = lambda pedal: True  # type: ignore[method-assign]
    report, pedal = play(tmp_path, 5.5, troubles)
    assert report.prefilled_blocks >= 3 and report.late_blocks >= 3
    assert report.answered_blocks + report.prefilled_blocks == report.blocks  # none was skipped
    assert report.engine_restarts == report.engine_resets == 0
    assert report.silent_frames == 0 and report.fallback_frames > 0
    assert_wet_is_the_input_one_delay_later(tmp_path, pedal)


def test_an_audio_process_that_is_killed_is_back_in_two_seconds(tmp_path: Path) -> None:
    troubles = AudioTroubles([(1.3, kill_audio)])
    report, _ = play(tmp_path, 2.5, troubles)
    assert report.audio_restarts == 1
    assert troubles.back_after[0] < 2.0
    assert report.seconds > 1.3 + 2.4  # the recording began again, the clock did not
    assert report.answered_blocks + report.prefilled_blocks == report.blocks
    assert report.silent_frames == 0


def test_a_hanging_audio_process_is_replaced(tmp_path: Path) -> None:
    def hang(pedal: Supervisor) -> None:
        assert pedal.audio.process
        os.kill(pedal.audio.process.pid, signal.SIGSTOP)

    troubles = AudioTroubles([(0.5, hang)])
    report, _ = play(tmp_path, 1.0, troubles)
    assert report.audio_restarts == 1
    assert troubles.back_after[0] < 4.0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_within_a_second(tmp_path: Path, how: signal.Signals) -> None:
    told_at: list[float] = []

    def tell(pedal: Supervisor) -> None:
        if pedal.seconds > 0.3 and not told_at:
            told_at.append(time.monotonic())
            os.kill(os.getpid(), how)

    report, pedal = play(tmp_path, 60.0, tell)
    assert time.monotonic() - told_at[0] < 1.0
    assert report.seconds < 5
    assert not pedal.audio.running and not pedal.slot.child.running


def test_nothing_is_left_when_main_is_killed(tmp_path: Path) -> None:
    address = file_address(guitar(tmp_path / "guitar.wav", 30))
    (tmp_path / "x.toml").write_text(f'[engine]\nbundle = "echo"\n[audio]\nport = "{address}"\n')
    main = subprocess.Popen([sys.executable, "-m", "appliance", "run", "--config", str(tmp_path / "x.toml")], cwd=REPO)
    children = Path(f"/proc/{main.pid}/task/{main.pid}/children")
    give_up_at = time.monotonic() + 10
    while len(pids := children.read_text().split()) < 2 and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert len(pids) == 2
    time.sleep(0.5)  # until both have got as far as to ask for this
    main.kill()
    main.wait()
    time.sleep(0.5)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()]


def test_dry_sound_comes_first(tmp_path: Path) -> None:
    """Without waiting for the engine, the guitar is heard while it loads; then the engine takes over."""
    address = file_address(guitar(tmp_path / "guitar.wav", 2.5))
    first_ready: list[float] = []

    def watch(pedal: Supervisor) -> None:
        if pedal.startup_seconds is not None and not first_ready:
            first_ready.append(pedal.seconds)

    report = Supervisor(configuration(address), RunOptions(on_tick=watch)).run()
    assert report.answered_blocks > 0 and report.silent_frames == 0
    assert first_ready and report.startup_s is not None


def test_the_board_is_followed_on_the_audio_clock(tmp_path: Path) -> None:
    script = tmp_path / "set.txt"
    script.write_text("0.3 mix 0.25\n0.5 tap\n1.2 tap\n1.9 tap\n2.1 prompt kazoo\n2.2 bypass on\n")
    seen: dict[str, float] = {}

    def watch(pedal: Supervisor) -> None:
        get = pedal.controls.get
        states = {"mix": get(Control.MIX) == 0.25, "delay": get(Control.DELAY_FRAMES) != DELAY, "bypass": get(Control.BYPASS) == 1}
        for name, reached in states.items():
            if reached:
                seen.setdefault(name, pedal.seconds)

    _, pedal = play(tmp_path, 2.5, watch, f'[board]\nport = "script:{script}"')
    for name, due in {"mix": 0.3, "delay": 1.2, "bypass": 2.2}.items():
        assert due <= seen[name] < due + 0.15, name
    assert pedal.controls.get(Control.DELAY_FRAMES) == pytest.approx(0.7 * RATE, abs=2)


def test_what_is_wrong_is_said_before_anything_plays(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rate_hz"):
        Supervisor(replace(configuration("file:x"), audio=AudioConfig(port="file:x", rate_hz=48_000)))
    with pytest.raises(BoardError, match=r"absent\.txt"):
        Supervisor(configuration("file:x", f'[board]\nport = "script:{tmp_path / "absent.txt"}"'))


def test_a_port_that_cannot_be_opened_ends_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pedal = Supervisor(configuration(file_address(tmp_path / "absent.wav", FileOptions())))
    with pytest.raises(StartError):
        pedal.run()
    assert "absent.wav does not exist" in capfd.readouterr().err
