"""A port through real ALSA and back: every sample as it was, exactly as late as declared, and after trouble again."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hw.audio import AudioFormat
from tests.system.conftest import RATE_HZ, Loopback, Samples, start_loopback

pytestmark = pytest.mark.system

PORT_LOOP = Path(__file__).with_name("port_loop.py")
ATTEMPTS = 4  # a machine with other things to do may cause an xrun: then the run is no test of exactness
PRECISION = {"FLOAT": 0.0, "S32": 2.0**-31, "S24_3LE": 2.0**-23, "S16": 2.0**-15}
SEGMENT = 2_048
SETTLING_FRAMES = 32 * 128  # within so many the port has found out, and mended, a start with another lag


def noise(seconds: float) -> Samples:
    return np.random.default_rng(1).uniform(-1, 1, round(seconds * RATE_HZ)).astype(np.float32)


def loop_command(address: str, format: AudioFormat, periods: int, stall_at: int = -1) -> list[str]:
    return [sys.executable, str(PORT_LOOP), address, json.dumps(asdict(format)), str(periods), str(stall_at)]


def loop(loopback: Loopback, format: AudioFormat, periods: int, stall_at: int = -1) -> dict[str, Any]:
    done = loopback.run(*loop_command(loopback.address, format, periods, stall_at))
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["turns"] == periods
    return facts


def exact_lags(played: Samples, heard: Samples) -> list[tuple[int, int]]:
    """(position, lag) of every segment of `heard` that is bit-exact somewhere in the latest 4,096 frames of `played`."""
    found = []
    for at in range(4_096, min(len(heard), len(played)) - SEGMENT, SEGMENT):
        segment = heard[at : at + SEGMENT]
        lag = 4_096 - int(np.argmax(np.correlate(played[at - 4_096 : at + SEGMENT], segment)))
        if np.array_equal(played[at - lag : at - lag + SEGMENT], segment):
            found.append((at, lag))
    return found


def around_the_longest_hole(exact: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What `exact_lags` found before and after the longest stretch that was not exact."""
    hole = max(range(1, len(exact)), key=lambda i: exact[i][0] - exact[i - 1][0])
    assert exact[hole][0] - exact[hole - 1][0] > SEGMENT, "a stall is a hole"
    return exact[:hole], exact[hole:]


@pytest.mark.parametrize("sample_format", PRECISION)
def test_white_noise_comes_back_exactly_and_as_late_as_declared(loopback: Loopback, sample_format: str) -> None:
    played, format = noise(8.0), AudioFormat(sample_format=sample_format)
    for _ in range(ATTEMPTS):
        with loopback.guitarist(played) as guitarist:
            facts = loop(loopback, format, periods=400)
            heard = guitarist.stop()
        if not (facts["capture_xruns"] or facts["playback_xruns"]):
            break
    assert facts["lag_frames"] == 3 * 128
    sounding = np.flatnonzero(heard)
    first, last = sounding[0] + SETTLING_FRAMES, sounding[-1]
    assert last - first > 360 * 128
    expected = played[first - facts["lag_frames"] : last + 1 - facts["lag_frames"]]
    assert np.abs(heard[first : last + 1] - expected).max() <= PRECISION[sample_format]


@pytest.mark.parametrize("periods", [2, 4])
def test_a_forced_xrun_recovers_and_is_counted(loopback: Loopback, periods: int) -> None:
    played, format = noise(8.0), AudioFormat(sample_format="FLOAT", periods=periods)
    with loopback.guitarist(played) as guitarist:
        facts = loop(loopback, format, periods=400, stall_at=200)
        heard = guitarist.stop()
    assert facts["capture_xruns"] >= 1 and facts["playback_xruns"] >= 1 and facts["reopens"] == 0
    before, after = around_the_longest_hole(exact_lags(played, heard))
    assert len(before) >= 8 and len(after) >= 8
    assert after[-1][1] == facts["lag_frames"] == periods * 128, "exact again, and no later than before"


@pytest.mark.parametrize(
    ("device", "facts", "words"),
    [
        ("jk", {"sample_format": "S16"}, "sample_format S16 (it gives FLOAT)"),
        ("plug:jk", {"period_frames": 64}, "period_frames 64 (it gives 128)"),
        ("jk", {"sample_format": "FLOAT", "rate_hz": 48_000}, "rate_hz 48000 (it gives 44100)"),
        ("jk", {"sample_format": "FLOAT", "out_channels": 2}, "channels 2 (it gives 1)"),
    ],
)
def test_a_card_that_lacks_what_is_asked_is_refused_by_name(loopback: Loopback, device: str, facts: dict[str, Any], words: str) -> None:
    with loopback.guitarist(noise(4.0)):
        done = loopback.run(*loop_command(f"alsa:{device}", AudioFormat(**facts), 10))
    assert done.returncode == 2 and done.stdout == ""
    ours = [line for line in done.stderr.splitlines() if not line.startswith(("Cannot ", "Jack"))]  # the jack plugin has its say too
    assert len(ours) == 1 and ours[0].startswith(f"alsa:{device} (playback) can't do as asked: {words}")


def test_a_card_that_dies_and_comes_back_is_opened_again(tmp_path: Path) -> None:
    """The server is killed while it plays. Its successor finds the same program still running, and plays through it."""
    played, format = noise(8.0), AudioFormat(sample_format="FLOAT")
    with start_loopback(tmp_path) as loopback:
        with loopback.guitarist(played):
            program = loopback.start(*loop_command(loopback.address, format, 2_000))
            time.sleep(1.5)
            loopback.kill_server()
        loopback.start_server()
        with loopback.guitarist(played) as guitarist:
            time.sleep(1.5)
            heard = guitarist.stop()
        output, errors = program.communicate(timeout=20)
    assert program.returncode == 0, errors
    facts = json.loads(output)
    assert facts["turns"] == 2_000 and facts["reopens"] >= 1
    lags = [lag for _, lag in exact_lags(played, heard)]
    assert len(lags) >= 8 and set(lags) == {facts["lag_frames"]}


APPLIANCE = """
[audio]
port = "alsa:plug:jk"
sample_format = "FLOAT"
[engine]
bundle = "echo"
[controls]
mix = 0
"""


def test_the_whole_appliance_at_mix_0_is_a_wire(loopback: Loopback, tmp_path: Path) -> None:
    config = tmp_path / "ghostnote.toml"
    config.write_text(APPLIANCE)
    played = 0.5 * noise(20.0)  # below the limiter's knee
    with loopback.guitarist(played) as guitarist:
        appliance = loopback.start(sys.executable, "-m", "appliance", "run", "--config", str(config))
        time.sleep(4.0)
        appliance.send_signal(signal.SIGINT)
        output, errors = appliance.communicate(timeout=20)
        heard = guitarist.stop()
    assert appliance.returncode == 0, errors
    exact = exact_lags(played, heard)
    assert len(exact) >= 16 and exact[-1][1] == 3 * 128, errors
    xruns = re.search(r"^\s*xruns\s+(\d+)", output, re.MULTILINE)
    assert xruns, output
    if xruns[1] == "0":
        settled = [place for place in exact if place[0] > exact[0][0] + SETTLING_FRAMES]
        assert {lag for _, lag in settled} == {3 * 128}
        assert len(settled) - 1 == (settled[-1][0] - settled[0][0]) // SEGMENT, "without a hole"
