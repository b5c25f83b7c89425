"""The file port: what it accepts, what it refuses and in which words, and that it turns like a card."""

from __future__ import annotations

import resource
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hw.audio import AudioFormat, PortError, open_audio
from hw.file_audio import FileOptions, FilePort, PeriodClock, file_address, load_audio, sleep_until_ns

RATE = 44_100


def write_wav(path: Path, samples: np.ndarray, rate_hz: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def sine(seconds: float, rate_hz: int, channels: int = 1, hz: float = 440.0) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def turn_through(port: FilePort) -> np.ndarray:
    """Everything that the port plays."""
    into, heard = np.zeros((port.format.period_frames, port.format.in_channels), np.float32), []
    while port.read(into):
        heard.append(into.copy())
        port.write(np.repeat(into[:, :1], port.format.out_channels, axis=1))
    port.close()
    return np.concatenate(heard)


def make_odd(kind: str, path: Path) -> Path:
    """One of the files that no one should have to think about."""
    broken = sine(0.1, RATE)
    broken[100] = np.nan if kind == "nan" else np.inf
    match kind:
        case "missing":
            pass
        case "folder":
            path.mkdir()
        case "zero bytes":
            path.write_bytes(b"")
        case "empty":
            write_wav(path, np.zeros((0, 1), np.float32))
        case "text":
            path.write_text("this is no recording\n" * 100)
        case "header cut":
            path.write_bytes(write_wav(path, sine(0.1, RATE)).read_bytes()[:30])
        case "raw":
            (path := path.with_suffix(".raw")).write_bytes(bytes(4000))
        case "unsigned 8-bit":
            write_wav(path, sine(0.1, RATE), subtype="PCM_U8")
        case "signed 8-bit":
            write_wav(path := path.with_suffix(".flac"), sine(0.1, RATE), subtype="PCM_S8")
        case "192 kHz":
            write_wav(path, sine(0.1, 192_000), 192_000)
        case "4 kHz":
            write_wav(path, sine(0.1, 4_000), 4_000)
        case "6 channels":
            write_wav(path, sine(0.1, RATE, 6))
        case "nan" | "infinite":
            write_wav(path, broken, subtype="FLOAT")
    return path


ODD = {
    "missing": "does not exist",
    "folder": "is not a file",
    "zero bytes": "is not audio",
    "empty": "has no samples",
    "text": "is not audio",
    "header cut": "is not audio",
    "raw": "is not audio",
    "unsigned 8-bit": "8-bit",
    "signed 8-bit": "8-bit",
    "192 kHz": "192000 Hz",
    "4 kHz": "4000 Hz",
    "6 channels": "6 channels",
    "nan": "not numbers",
    "infinite": "not numbers",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_recordings_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = make_odd(kind, tmp_path / "odd.wav")
    with pytest.raises(PortError) as refusal:
        open_audio(file_address(path), AudioFormat())
    line = str(refusal.value)
    assert ODD[kind] in line and str(path) in line and "\n" not in line
    assert ": use" in line or ": name" in line or ": export" in line, "it says what to do"


def test_a_recording_that_is_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "cut.wav", sine(1.0, RATE))
    path.write_bytes(path.read_bytes()[:44_144])
    assert len(load_audio(path, RATE, 1)) == 22_050


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_becomes_the_ports(rate_hz: int, channels: int, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "tone.wav", sine(1.0, rate_hz, channels), rate_hz, "FLOAT")
    heard = load_audio(path, RATE, channels)
    assert heard.shape == (RATE, channels) and heard.dtype == np.float32 and heard.flags.c_contiguous
    middle = slice(4_000, -4_000)
    assert np.abs(heard - sine(1.0, RATE, channels))[middle].max() < 1e-4


@pytest.mark.parametrize(("suffix", "subtype", "error"), [("wav", "PCM_24", 1e-6), ("flac", "PCM_16", 5e-5), ("ogg", "VORBIS", 0.02)])
def test_formats(suffix: str, subtype: str, error: float, tmp_path: Path) -> None:
    path = write_wav(tmp_path / f"tone.{suffix}", sine(0.5, RATE), subtype=subtype)
    heard = load_audio(path, RATE, 1)
    assert np.abs(heard[:20_000] - sine(0.5, RATE)[:20_000]).max() < error


def test_channels_are_mixed_and_doubled(tmp_path: Path) -> None:
    left_right = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    stereo = write_wav(tmp_path / "stereo.wav", left_right, subtype="FLOAT")
    assert np.all(load_audio(stereo, RATE, 1) == 0.125)
    mono = write_wav(tmp_path / "mono.wav", left_right[:, :1], subtype="FLOAT")
    assert np.all(load_audio(mono, RATE, 2) == 0.5)


def test_overs_are_clipped_as_by_a_converter(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "hot.wav", 4 * sine(0.1, RATE), subtype="FLOAT")
    assert np.abs(load_audio(path, RATE, 1)).max() == 1.0


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("speed=2", "'speed' is unknown"),
        ("paced=maybe", "paced=yes or paced=no"),
        ("loop", "loop=yes or loop=no"),
        ("tail=-1", "tail=SECONDS"),
        ("tail=long", "tail=SECONDS"),
        ("tail=nan", "tail=SECONDS"),
        ("bits=8", "bits=24"),
        ("out=", "out=PATH"),
        ("out=/nowhere/at/all.wav", "can't be written"),
        ("out=in.wav", "is the file that is played"),
    ],
)
def test_options_that_make_no_sense(query: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_wav(Path("in.wav"), sine(0.1, RATE))
    with pytest.raises(PortError, match=word):
        open_audio(f"file:in.wav?{query}", AudioFormat())


@pytest.mark.parametrize("address", ["oss:/dev/dsp", "in.wav", ""])
def test_unknown_kinds_of_port(address: str) -> None:
    with pytest.raises(PortError, match="use alsa:DEVICE or file:PATH"):
        open_audio(address, AudioFormat())


@pytest.mark.parametrize(
    "facts", [{"sample_format": "S8"}, {"in_channels": 6}, {"out_channels": 0}, {"rate_hz": 0}, {"period_frames": 1}, {"periods": 1}]
)
def test_formats_that_no_port_has(facts: dict[str, int]) -> None:
    with pytest.raises(PortError, match=next(iter(facts))):
        AudioFormat(**facts)


def names() -> st.SearchStrategy[str]:
    return st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1, max_size=20)


@given(name=names(), out=names(), tail=st.integers(0, 100), paced=st.booleans(), loop=st.booleans())
def test_an_address_says_the_same_back(name: str, out: str, tail: int, paced: bool, loop: bool) -> None:
    options = FileOptions(Path(f"to/{out}"), "24", paced, loop, float(tail))
    kind, _, rest = file_address(f"from/{name}", options).partition(":")
    path, _, query = rest.partition("?")
    assert kind == "file" and FileOptions.parse(query) == options
    assert file_address(f"from/{name}") == f"file:{path}"


@pytest.mark.parametrize("name", ["50% wet?.wav", "rock & roll=1.wav", "a b+c.wav", "Fünf.wav"])
def test_names_with_every_character(name: str, tmp_path: Path) -> None:
    path = write_wav(tmp_path / name, sine(0.1, RATE))
    out = tmp_path / f"out {name}"
    port = open_audio(file_address(path, FileOptions(out=out, paced=False)), AudioFormat())
    port.close()
    assert out.is_file()


@given(length=st.integers(1, 1_000), period=st.integers(16, 300), tail_frames=st.integers(0, 500))
def test_plays_all_of_it_then_the_tail(length: int, period: int, tail_frames: int) -> None:
    source = np.random.default_rng(length).uniform(-1, 1, (length, 1)).astype(np.float32)
    options = FileOptions(paced=False, tail_seconds=tail_frames / RATE)
    heard = turn_through(FilePort(source, AudioFormat(period_frames=period), options))
    assert len(heard) == -(-(length + tail_frames) // period) * period
    assert np.array_equal(heard[:length], source) and not heard[length:].any()


@given(length=st.integers(1, 1_000), period=st.integers(16, 300))
def test_loop_never_ends(length: int, period: int) -> None:
    source = np.random.default_rng(length).uniform(-1, 1, (length, 1)).astype(np.float32)
    port = FilePort(source, AudioFormat(period_frames=period), FileOptions(paced=False, loop=True))
    into, heard = np.zeros((period, 1), np.float32), []
    for _ in range(20):
        assert port.read(into)
        heard.append(into.copy())
    expected = np.resize(source[:, 0], 20 * period)
    assert np.array_equal(np.concatenate(heard)[:, 0], expected)


@pytest.mark.parametrize(("bits", "error", "subtype"), [("float", 0.0, "FLOAT"), ("24", 2.0**-23, "PCM_24")])
@pytest.mark.parametrize("channels", [1, 2])
def test_out_is_what_an_amp_would_get(bits: str, error: float, subtype: str, channels: int, tmp_path: Path) -> None:
    source = np.random.default_rng(0).uniform(-1, 1, (30_000, 1)).astype(np.float32)
    path = tmp_path / "out.wav"
    port = FilePort(source, AudioFormat(out_channels=channels), FileOptions(path, bits, paced=False))
    heard = turn_through(port)
    written, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate_hz == RATE and soundfile.info(path).subtype == subtype and written.shape == (len(heard), channels)
    assert np.abs(written - heard).max() <= error


def test_a_full_disk_is_told_at_the_end(tmp_path: Path) -> None:
    port = FilePort(sine(5.0, RATE), AudioFormat(), FileOptions(tmp_path / "out.wav", paced=False))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(PortError, match=r"incomplete.*disk"):
            turn_through(port)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out.wav").stat().st_size <= 200_000


class VirtualTime:
    """Time that passes only in sleep, unless someone makes it."""

    def __init__(self) -> None:
        self.ns = 1_000
        self.oversleep_ns = 0

    def now(self) -> int:
        return self.ns

    def sleep_until(self, due_ns: int) -> None:
        self.ns = due_ns + self.oversleep_ns
        self.oversleep_ns = 0


def paced_port(seconds: float, **facts: int) -> tuple[FilePort, VirtualTime]:
    virtual, format = VirtualTime(), AudioFormat(**facts)
    return FilePort(sine(seconds, RATE), format, clock=PeriodClock(format, virtual.now, virtual.sleep_until)), virtual


def test_paced_turns_in_real_time_without_drift() -> None:
    port, virtual = paced_port(2.0)
    into = np.zeros((128, 1), np.float32)
    for turn in range(1, 600):
        virtual.ns += 1_000_000  # what a caller takes for its work
        assert port.read(into)
        assert virtual.ns - 1_001_000 == turn * 128 * 1_000_000_000 // RATE
    assert port.health.capture_xruns == port.health.playback_xruns == 0


@pytest.mark.parametrize(("late_periods", "xruns"), [(1, 0), (1.9, 0), (2, 1), (40, 1)])
def test_a_stall_is_an_xrun_once_a_cards_queue_would_be_empty(late_periods: float, xruns: int) -> None:
    port, virtual = paced_port(2.0)
    into, source = np.zeros((128, 1), np.float32), sine(2.0, RATE)
    heard = []
    for turn in range(100):
        if turn == 50:
            virtual.oversleep_ns = round(late_periods * port.format.period_ns)
        assert port.read(into)
        heard.append(into.copy())
    assert (port.health.capture_xruns, port.health.playback_xruns) == (xruns, xruns)
    assert not xruns or not heard.pop(50).any(), "after an xrun the period is silence"
    played = np.concatenate(heard)
    assert np.array_equal(played, source[: len(played)]), "and nothing of the recording is lost"


def test_the_real_clock_sleeps_to_absolute_time() -> None:
    clock = PeriodClock(AudioFormat(period_frames=441))
    begun = time.monotonic_ns()
    for _ in range(10):
        clock.wait()
    assert time.monotonic_ns() - begun >= 99_000_000, "ten periods of 10 ms"
    sleep_until_ns(begun)  # the past: returns at once


def test_a_turn_allocates_no_array(tmp_path: Path) -> None:
    format = AudioFormat(period_frames=2_048)
    port = FilePort(sine(20.0, RATE), format, FileOptions(tmp_path / "out.wav", paced=False))
    into = np.zeros((2_048, 1), np.float32)
    for _ in range(10):
        port.read(into)
        port.write(into)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(200):
            port.read(into)
            port.write(into)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    port.close()
    assert peak - before < into.nbytes, "less than one period in 200 of them"
