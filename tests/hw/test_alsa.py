"""The ALSA port on ALSA's own PCMs that need no card, its refusals, and its gap detector."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.alsa import AlsaPort, GapDetector
from hw.alsa_library import by_card_id, open_exactly
from hw.audio import SAMPLE_FORMATS, AudioFormat, PortError
from tests.hw.scripted_alsa import ScriptedCards

REPO = Path(__file__).parents[2]
ALSA_CONF = Path("/usr/share/alsa/alsa.conf")


@pytest.fixture
def alsa_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ALSA with the PCM `tape`, which knows integer formats only. Its config is this test's own."""
    pytest.importorskip("alsaaudio", reason="pyalsaaudio is not installed")
    if not ALSA_CONF.exists():
        pytest.skip("libasound2-data is not installed")
    path = tmp_path / "asound.conf"
    path.write_text(f"<{ALSA_CONF}>\npcm.tape {{ type linear slave {{ pcm null format S16_LE }} }}\n")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(path))
    return path


@pytest.mark.parametrize("sample_format", SAMPLE_FORMATS)
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (1, 2), (2, 2)])
def test_every_format_opens_exactly(alsa_config: Path, sample_format: str, in_channels: int, out_channels: int) -> None:
    format = AudioFormat(sample_format=sample_format, in_channels=in_channels, out_channels=out_channels)
    port = AlsaPort("null", format)
    into = np.zeros((format.period_frames, in_channels), np.float32)
    for _ in range(10):
        assert port.read(into)  # what `null` gives is undefined
        port.write(np.ones((format.period_frames, out_channels), np.float32))
    port.close()
    assert port.health.capture_xruns == port.health.playback_xruns == port.health.reopens == 0


def test_a_card_that_lacks_the_format_is_refused_by_name(alsa_config: Path) -> None:
    with pytest.raises(PortError) as refusal:
        AlsaPort("tape", AudioFormat(sample_format="FLOAT"))
    line = str(refusal.value)
    assert "alsa:tape" in line and "sample_format FLOAT (it gives S8)" in line and "alsa:plug:tape" in line and "\n" not in line
    AlsaPort("tape", AudioFormat(sample_format="S16")).close()
    AlsaPort("plug:tape", AudioFormat(sample_format="FLOAT")).close()


@pytest.mark.parametrize("device", ["hw:9", "hw:NoSuchCard,0", "no_such_pcm"])
def test_a_missing_card_is_one_line_and_libasound_keeps_quiet(alsa_config: Path, device: str) -> None:
    program = f"""
from hw.audio import AudioFormat, PortError, open_audio
try:
    open_audio("alsa:{device}", AudioFormat())
except PortError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert f"alsa:{device}" in done.stdout and "no such card answers" in done.stdout and "file:PATH" in done.stdout


def test_without_pyalsaaudio_one_line_says_what_to_install() -> None:
    program = """
import sys
sys.modules["alsaaudio"] = None  # as if it were not installed
from hw.audio import AudioFormat, PortError, open_audio
try:
    open_audio("alsa:hw:USB", AudioFormat())
except PortError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ghostnote[device]" in done.stdout and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("alters", "words"),
    [
        ({"format_name": "U8"}, "sample_format S16 (it gives U8)"),
        ({"format_name": "S32_LE"}, "sample_format S16 (it gives S32)"),
        ({"rate": 48_000}, "rate_hz 44100 (it gives 48000)"),
        ({"channels": 2}, "channels 1 (it gives 2)"),
        ({"period_size": 64}, "period_frames 128 (it gives 64)"),
        ({"buffer_size": 512}, "buffer of 384 (it gives 512)"),
        ({"access_type": "MMAP_INTERLEAVED"}, "access RW_INTERLEAVED"),
        ({"rate": 48_000, "period_size": 64}, "rate_hz 44100 (it gives 48000), period_frames 128 (it gives 64)"),
    ],
)
@pytest.mark.parametrize("capture", [False, True])
def test_whatever_is_altered_is_named(alters: dict[str, object], words: str, capture: bool) -> None:
    cards = ScriptedCards()
    cards.alters = alters
    with pytest.raises(PortError) as refusal:
        open_exactly(cards, "hw:USB", capture, AudioFormat())
    line = str(refusal.value)
    assert words in line and ("capture" if capture else "playback") in line and "alsa:plughw:USB" in line
    assert cards.opened[0].closed


def test_a_missing_card_names_those_that_exist() -> None:
    cards = ScriptedCards()
    cards.present = False
    with pytest.raises(PortError, match=r"alsa:hw:5 .*\(No such file or directory\).*use alsa:hw:USB"):
        open_exactly(cards, "hw:5", True, AudioFormat())
    cards.refusal = "Device or resource busy"
    with pytest.raises(PortError, match="in use by another program"):
        open_exactly(cards, "hw:USB", True, AudioFormat())


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("hw:1", "hw:USB"),
        ("plughw:1,0", "plughw:USB,0"),
        ("hw:0", "hw:0"),
        ("hw:USB,0", "hw:USB,0"),
        ("plug:jk", "plug:jk"),
        ("default", "default"),
    ],
)
def test_cards_are_remembered_by_id(device: str, named: str) -> None:
    assert by_card_id(device, {1: "USB"}) == named


def test_a_turn_allocates_no_array(alsa_config: Path) -> None:
    format = AudioFormat(sample_format="S24_3LE", period_frames=2_048, out_channels=2)
    port = AlsaPort("null", format)
    into, out = np.zeros((2_048, 1), np.float32), np.zeros((2_048, 2), np.float32)
    for _ in range(10):
        port.read(into)
        port.write(out)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(200):
            port.read(into)
            port.write(out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    port.close()
    one_read = 2_048 * 3
    assert peak - before < one_read + 2_048, "only the bytes that PCM.read() returns, one period of them at a time"


PERIOD_NS = 128 * 1_000_000_000 // 44_100


def lost_in(lateness_ns: list[int], gap_at: int = -1, gap_frames: int = 0, drift_ppm: float = 0.0) -> list[int]:
    """What the detector finds at each period, if reads are late by so much and a gap comes at one of them."""
    detector, found = GapDetector(44_100), []
    for turn, late_ns in enumerate(lateness_ns):
        card_ns = (turn + 1) * PERIOD_NS * (1 + drift_ppm * 1e-6) + (gap_frames * 1e9 / 44_100 if turn >= gap_at >= 0 else 0)
        found.append(detector.count(128, 10**9 + round(card_ns) + late_ns))
    return found


@given(st.integers(64, 5_000), st.integers(350, 900), st.integers(0, 2**32 - 1))
def test_gaps_are_found_and_measured(gap_frames: int, gap_at: int, seed: int) -> None:
    late_ns = np.random.default_rng(seed).exponential(100_000, 1_400).astype(int).tolist()
    found = [lost for lost in lost_in(late_ns, gap_at, gap_frames) if lost]
    assert len(found) == 1 and abs(found[0] - gap_frames) <= 24


@given(st.floats(-500, 500), st.integers(0, 2**32 - 1))
def test_drift_and_lateness_are_no_gaps(drift_ppm: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    late_ns = random.exponential(400_000, 2_000).astype(int)
    late_ns[random.integers(0, 2_000, 40)] += 8_000_000  # stalls that the card's queue outlived
    assert not any(lost_in(late_ns.tolist(), drift_ppm=drift_ppm))


def test_a_restart_forgets() -> None:
    detector = GapDetector(44_100)
    now_ns = 10**9
    for _ in range(1_000):
        now_ns += PERIOD_NS
        assert not detector.count(128, now_ns)
    now_ns += 10**9  # a recovery, told to the detector
    detector.restart()
    for _ in range(1_000):
        now_ns += PERIOD_NS
        assert not detector.count(128, now_ns)
