"""The audio loop: position, doorbells, ledger, restarts; and the audio process itself."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.audio import AudioLoop, AudioSettings
from appliance.controls import Control, Controls
from appliance.delay import WetSettings
from appliance.histogram import Measure, histogram
from appliance.period_cost import ArrayPort, measure_multiplication, measure_period_cost
from appliance.recorder import TRACKS, Recorder, recorded
from appliance.shared import Layout, SharedMemory
from appliance.stats import Counter, Ledger
from hw.audio import AudioFormat
from tests.appliance.rig import LOST, Rig, largest_step, noise, sine

BLOCK, PERIOD = 2048, 128
FRAMES = 20 * BLOCK


# One turn after another


def test_what_is_played_is_in_the_input_ring() -> None:
    rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2))
    rig.play(10 * BLOCK // PERIOD)
    assert np.array_equal(rig.loop.input.copy(0, 10 * BLOCK), rig.guitar[: 10 * BLOCK, 0])
    assert rig.count(Counter.POSITION) == 10 * BLOCK and rig.count(Counter.PERIODS) == 10 * BLOCK // PERIOD


def test_the_doorbell_rings_at_each_block_edge() -> None:
    rig, doorbell = Rig(noise(FRAMES, 1), noise(FRAMES, 2)), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
    rig.loop.doorbells = (doorbell,)
    for _ in range(3):
        rig.play(BLOCK // PERIOD - 1)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(doorbell)
        rig.play(1)
        assert os.eventfd_read(doorbell) == 1
    os.close(doorbell)


def test_the_ledger_has_each_block_when_it_is_whole_and_when_it_is_due() -> None:
    rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2))
    rig.play(3 * BLOCK // PERIOD)
    rows = Ledger(rig.memory.ledger, BLOCK).blocks()
    assert list(rows["start"]) == [0, BLOCK, 2 * BLOCK]
    assert list(rows["captured"]) == [block * BLOCK * 1_000_000_000 // 44_100 for block in (1, 2, 3)]
    spare_frames = rig.shortest_delay_frames - BLOCK - rig.size.fade_frames
    assert (rows["due"] - rows["captured"] == spare_frames * 1_000_000_000 // 44_100).all()


def test_due_in_the_ledger_is_on_time_for_the_mixer() -> None:
    """An answer at its due time is on time, and one period and a frame later it is late: ledger and mixer agree."""
    for extra, late in ((0, 0), (PERIOD + 1, 1)):
        rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2))
        spare_frames = rig.shortest_delay_frames - BLOCK - rig.size.fade_frames
        rig.play(FRAMES // PERIOD, {2: spare_frames - PERIOD + extra})
        assert rig.count(Counter.LATE_BLOCKS) == late


def test_it_ends_with_the_port_or_when_told() -> None:
    rig = Rig(noise(4 * PERIOD, 1), noise(4 * PERIOD, 2))
    rig.play(3)
    rig.set(running=0)
    assert not rig.loop.turn()
    rig.set(running=1)
    assert rig.loop.turn() and not rig.loop.turn()


def test_a_card_that_does_not_fit_the_rings_is_refused() -> None:
    rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2))
    with pytest.raises(AssertionError, match="agree"):
        AudioLoop(ArrayPort(AudioFormat(period_frames=64), rig.guitar), rig.memory)


def test_work_of_each_period_is_in_the_histogram() -> None:
    rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2))
    ticks = iter(range(0, 10**9, 7_000))
    rig.loop.clock = lambda: next(ticks)
    rig.play(50)
    assert histogram(rig.memory.histograms, Measure.PERIOD_WORK).percentile_us(1) == 7 and rig.count(Counter.MAX_WORK_US) == 7


# Restarts


def test_a_restart_goes_on_where_the_last_process_stopped() -> None:
    rig = Rig(sine(FRAMES, 110), sine(FRAMES, 165))
    doorbell = os.eventfd(0)
    rig.play(150)
    rig.loop.doorbells = (doorbell,)
    settings = WetSettings(rig.size.fade_frames)
    rig.loop = AudioLoop(rig.port, rig.memory, (doorbell,), settings, clock=rig.now_ns)
    assert rig.loop.position == 150 * PERIOD and os.eventfd_read(doorbell) == 1  # one that may have been lost
    rig.play(150)
    assert rig.count(Counter.PERIODS) == 300 and rig.count(Counter.STARTS) == 2
    assert rig.count(Counter.LATE_BLOCKS) == rig.count(Counter.SILENT_FRAMES) == 0
    assert np.array_equal(rig.bus[rig.shortest_delay_frames : 300 * PERIOD], rig.engine[: 300 * PERIOD - rig.shortest_delay_frames])


def test_a_restart_leaves_no_click_to_be_repeated() -> None:
    """The guitar has moved on while nobody listened: the seam is mended before the delay plays it."""
    rig = Rig(sine(FRAMES, 110), sine(FRAMES, 165))
    rig.play(150)
    rig.port.heard += 211  # a quarter of a period of the tone, and more
    rig.start_audio()
    heard = rig.play(100, dict.fromkeys(range(20), LOST))
    seam = rig.loop.input.copy(148 * PERIOD, 1024)
    assert largest_step(seam) <= largest_step(rig.guitar[:, 0]) + 0.01
    assert largest_step(heard) <= largest_step(rig.guitar[:, 0]) + 0.01


def test_xruns_of_every_port_are_added_up() -> None:
    rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2))
    rig.play(10)
    rig.port.health.capture_xruns, rig.port.health.gap_frames = 2, 300
    rig.play(10)
    rig.port = ArrayPort(rig.port.format, rig.guitar, rig.amp)
    rig.start_audio()
    rig.play(5)
    rig.port.health.capture_xruns += 1
    rig.play(5)
    assert (rig.count(Counter.CAPTURE_XRUNS), rig.count(Counter.GAP_FRAMES), rig.count(Counter.PLAYBACK_XRUNS)) == (3, 300, 0)


# Recording


def test_a_recording_is_what_was_heard_and_survives_a_restart(tmp_path: Path) -> None:
    rig = Rig(noise(FRAMES, 1), noise(FRAMES, 2), mix=0.5)
    for _ in range(2):
        rig.start_audio()
        rig.loop.recorder = Recorder(tmp_path, FRAMES // 2 + 50, 1, 1)
        rig.play(100)
    dry, wet, out = (recorded(tmp_path, track, 150 * PERIOD) for track in TRACKS)
    assert np.array_equal(dry, rig.guitar[: 150 * PERIOD]) and np.array_equal(out, rig.amp[: 150 * PERIOD])
    assert np.array_equal(wet, rig.bus[: 150 * PERIOD])
    assert len(recorded(tmp_path, "dry", FRAMES)) == FRAMES // 2 + 50  # and no more, however long it plays


# Cost


def test_a_period_costs_at_most_125_multiplications() -> None:
    """A ratio of two CPU times in one run, so that it says the same on a slow or busy machine; where 40 us were asked for, it is 40 us."""
    ratios = [measure_period_cost(periods=1500) / measure_multiplication() for _ in range(6)]
    assert min(ratios) <= 125


# The process


def test_settings_survive_the_command_line() -> None:
    settings = AudioSettings(3, (4, 5), "file:a b.wav", AudioFormat(out_channels=2), WetSettings(512), 0, 1, "here", 7, False)
    assert AudioSettings.from_json(settings.command()[-1]) == settings and settings.pass_fds == (3, 4, 5)


class Process:
    """The real audio process on a file port, with fresh shared memory."""

    def __init__(self, port: str) -> None:
        self.memory = SharedMemory.create(Layout(44_100, PERIOD, BLOCK, 0, 8 * BLOCK, 1024))
        self.doorbell = os.eventfd(0, os.EFD_NONBLOCK)
        self.controls = Controls(self.memory.controls)
        for control, value in ((Control.RUNNING, 1), (Control.LEVEL, 1), (Control.DELAY_FRAMES, 3 * BLOCK)):
            self.controls.set(control, value)
        self.settings = AudioSettings(self.memory.fd, (self.doorbell,), port, priority=0)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self.settings.command(), pass_fds=self.settings.pass_fds, stderr=subprocess.PIPE, text=True)

    def count(self, counter: Counter) -> int:
        return int(self.memory.counters[counter])


def await_that(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def write_wav(path: Path) -> Path:
    soundfile.write(path, noise(FRAMES, 1)[:, None], 44_100, subtype="FLOAT")
    return path


def test_the_process_plays_a_file_to_its_end(tmp_path: Path) -> None:
    guitar, amp = write_wav(tmp_path / "guitar.wav"), tmp_path / "amp.wav"
    process = Process(f"file:{guitar}?out={amp}&paced=no")
    assert process.start().wait(20) == 0
    assert process.count(Counter.POSITION) == FRAMES and os.eventfd_read(process.doorbell) == FRAMES // BLOCK
    assert np.array_equal(soundfile.read(amp, dtype="float32")[0], noise(FRAMES, 1))


def test_a_port_that_cannot_be_opened_is_one_line() -> None:
    child = Process("file:nowhere.wav").start()
    said = child.communicate(timeout=20)[1]
    assert child.returncode == 2 and said.startswith("nowhere.wav") and said.count("\n") == 1


def test_the_process_is_killed_and_goes_on(tmp_path: Path) -> None:
    process = Process(f"file:{write_wav(tmp_path / 'guitar.wav')}?loop=yes&paced=no")
    first = process.start()
    await_that(lambda: process.count(Counter.POSITION) > 50 * BLOCK)
    first.kill()
    first.wait(20)
    reached = process.count(Counter.POSITION)
    second = process.start()
    await_that(lambda: process.count(Counter.POSITION) > reached + 50 * BLOCK)
    process.controls.set(Control.RUNNING, 0)
    assert second.wait(20) == 0
    assert process.count(Counter.STARTS) == 2
    assert process.count(Counter.POSITION) // PERIOD - process.count(Counter.PERIODS) in (0, 1)  # killed between the two, once at most
