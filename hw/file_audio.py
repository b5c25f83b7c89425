"""A sound card made of files: a recording plays the guitarist, a WAV is the amp.

    file:in.wav?out=out.wav&paced=no

Options: `out=PATH` writes a WAV of what an amp would get, with `bits=float` (default) or `bits=24`; `paced=yes` (default) turns in real
time on CLOCK_MONOTONIC, `paced=no` as fast as the caller does; `tail=SECONDS` of silence after the end, so that trails ring out;
`loop=yes` starts again (tail included) for ever. `%`, `?` and `&` in a path are written %25, %3F, %26: `file_address` does it.

Runs in: the audio process; `load_audio` also in `render`. After opening it raises nothing and allocates no array per period.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import soundfile
import soxr

from hw.audio import AudioFormat, Frames, PortError, PortHealth

LOWEST_HZ, HIGHEST_HZ, MOST_CHANNELS, LONGEST_SECONDS = 8_000, 96_000, 2, 3_600
_EIGHT_BIT = ("PCM_U8", "PCM_S8")
_BITS = {"float": "FLOAT", "24": "PCM_24"}
_YES_NO = {"yes": True, "no": False}
_OUT_BUFFER_FRAMES = 8_192


def load_audio(path: str | Path, rate_hz: int, channels: int) -> Frames:
    """A recording at `rate_hz` with 1 or 2 channels, clipped to [-1, 1] as a converter would. Raises PortError."""
    try:
        with _open_recording(Path(path)) as file:
            _refuse_unusable(Path(path), file)
            samples = file.read(dtype="float32", always_2d=True)
            rate_in_hz = file.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise PortError(f"{path} can't be read to its end ({error}): use an undamaged WAV, FLAC or OGG file") from error
    if not len(samples):
        raise PortError(f"{path} has no samples: use a recording that is not empty")
    if not np.isfinite(samples).all():
        raise PortError(f"{path} has samples that are not numbers (NaN or infinite): export it again")
    samples = _with_channels(samples, channels)
    if rate_in_hz != rate_hz:
        samples = soxr.resample(samples, rate_in_hz, rate_hz, quality="VHQ")
    return np.ascontiguousarray(np.clip(samples, -1.0, 1.0, out=samples), np.float32)


def _open_recording(path: Path) -> soundfile.SoundFile:
    if not path.exists():
        raise PortError(f"{path} does not exist: name a WAV, FLAC or OGG file")
    if not path.is_file():
        raise PortError(f"{path} is not a file: name a WAV, FLAC or OGG file")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, TypeError, ValueError, OSError) as error:  # TypeError: a headerless .raw
        raise PortError(f"{path} is not audio that can be read: use a WAV, FLAC or OGG file") from error


def _refuse_unusable(path: Path, file: soundfile.SoundFile) -> None:
    """The header's facts, each refused in one line."""
    rate_hz, channels = file.samplerate, file.channels
    if file.subtype in _EIGHT_BIT:
        raise PortError(f"{path} has 8-bit samples, too coarse for an engine: use 16 bits or more")
    if not LOWEST_HZ <= rate_hz <= HIGHEST_HZ:
        raise PortError(f"{path} has a sample rate of {rate_hz} Hz: use {LOWEST_HZ} to {HIGHEST_HZ} Hz")
    if channels > MOST_CHANNELS:
        raise PortError(f"{path} has {channels} channels: use a mono or stereo file")
    if file.frames <= 0:
        raise PortError(f"{path} has no samples: use a recording that is not empty")
    if file.frames > LONGEST_SECONDS * rate_hz:
        raise PortError(f"{path} is longer than {LONGEST_SECONDS // 60} minutes: cut it into pieces")


def _with_channels(samples: Frames, channels: int) -> Frames:
    """Stereo to mono is the mean of both; mono to stereo is the same twice."""
    if samples.shape[1] == channels:
        return samples
    if channels == 1:
        mono: Frames = samples.mean(axis=1, keepdims=True, dtype=np.float32)
        return mono
    return np.repeat(samples, channels, axis=1)


@dataclass(frozen=True)
class FileOptions:
    """What may follow the `?` of an address."""

    out: Path | None = None
    bits: str = "float"
    paced: bool = True
    loop: bool = False
    tail_seconds: float = 0.0

    @classmethod
    def parse(cls, query: str) -> FileOptions:
        options = cls()
        for item in filter(None, query.split("&")):
            name, _, value = item.partition("=")
            options = options._with(name, unquote(value))
        return options

    def _with(self, name: str, value: str) -> FileOptions:
        facts = dict(self.__dict__)
        if name == "out" and value:
            facts["out"] = Path(value)
        elif name == "bits" and value in _BITS:
            facts["bits"] = value
        elif name in ("paced", "loop") and value in _YES_NO:
            facts[name] = _YES_NO[value]
        elif name == "tail":
            facts["tail_seconds"] = _tail_seconds(value)
        elif name in ("out", "bits", "paced", "loop"):
            use = {"out": "out=PATH", "bits": "bits=float or bits=24"}.get(name, f"{name}=yes or {name}=no")
            raise PortError(f"file option {name}={value} makes no sense: use {use}")
        else:
            raise PortError(f"file option {name!r} is unknown: use out, bits, paced, loop or tail")
        return FileOptions(**facts)


def _tail_seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise PortError(f"file option tail={value} makes no sense: use tail=SECONDS, 0 to {LONGEST_SECONDS}")
    return seconds


def file_address(path: str | Path, options: FileOptions | None = None) -> str:
    """The address that opens `path` with `options`, whatever characters its name has."""
    options = options or FileOptions()
    items = [f"out={quote(str(options.out))}"] if options.out else []
    items += [f"bits={options.bits}"] if options.bits != "float" else []
    items += ["paced=no"] if not options.paced else []
    items += ["loop=yes"] if options.loop else []
    items += [f"tail={options.tail_seconds:g}"] if options.tail_seconds else []
    return f"file:{quote(str(path))}" + ("?" + "&".join(items) if items else "")


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_CLOCK_MONOTONIC, _TIMER_ABSTIME = 1, 1
_clock_nanosleep = ctypes.CDLL(None).clock_nanosleep  # Python has none, and its own sleep is relative up to 3.10
_deadline = _Timespec()
_deadline_ref = ctypes.byref(_deadline)


def sleep_until_ns(due_ns: int) -> None:
    """Sleep to an absolute time of CLOCK_MONOTONIC. For one thread of a process: the deadline is kept in one place."""
    _deadline.seconds, _deadline.nanoseconds = divmod(due_ns, 1_000_000_000)
    while _clock_nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, _deadline_ref, None):
        pass  # a signal arrived: its handler has run, the deadline stands


class PeriodClock:
    """Real time in periods: absolute deadlines, so that no delay adds up."""

    def __init__(
        self, format: AudioFormat, now_ns: Callable[[], int] = time.monotonic_ns, sleep: Callable[[int], None] = sleep_until_ns
    ) -> None:
        self._frames, self._rate_hz, self._now_ns, self._sleep = format.period_frames, format.rate_hz, now_ns, sleep
        self._most_late_ns = (format.periods - 1) * format.period_ns
        self._anchor_ns = self._turns = 0

    def wait(self) -> bool:
        """Wait for the end of the next period. False if it came so late that a card would have an xrun both ways: by then its
        capture queue is full and its playback queue empty. The clock then starts anew."""
        now_ns = self._now_ns()
        if not self._anchor_ns:
            self._anchor_ns = now_ns
        self._turns += 1
        due_ns = self._anchor_ns + self._turns * self._frames * 1_000_000_000 // self._rate_hz
        if now_ns < due_ns:
            self._sleep(due_ns)
            now_ns = self._now_ns()
        if now_ns - due_ns < self._most_late_ns:
            return True
        self._anchor_ns, self._turns = now_ns, 0
        return False


class FilePort:
    """An AudioPort that plays an array and records to a file."""

    def __init__(self, source: Frames, format: AudioFormat, options: FileOptions | None = None, clock: PeriodClock | None = None) -> None:
        assert source.ndim == 2 and source.shape[1] == format.in_channels
        options = options or FileOptions()
        tail = np.zeros((round(options.tail_seconds * format.rate_hz), source.shape[1]), np.float32)
        self._source = np.concatenate([source, tail]) if len(tail) else source
        self._at, self._loop = 0, options.loop
        self._clock = (clock or PeriodClock(format)) if options.paced else None
        self._recorder = _Recorder(options.out, options.bits, format) if options.out else None
        self.format, self.health, self.lag_frames = format, PortHealth(), 0

    @classmethod
    def from_address(cls, address: str, format: AudioFormat) -> FilePort:
        """Open `PATH?OPTIONS`. Raises PortError."""
        name, _, query = address.partition("?")
        path, options = Path(unquote(name)), FileOptions.parse(query)
        if options.out and options.out.exists() and path.exists() and options.out.samefile(path):
            raise PortError(f"out={options.out} is the file that is played: name another file to write")
        return cls(load_audio(path, format.rate_hz, format.in_channels), format, options)

    def read(self, into: Frames) -> bool:
        if self._at >= len(self._source):
            return False
        if self._clock is None or self._clock.wait():
            self._fill(into)
        else:  # the recording waits for its player: no part of it is skipped
            self.health.capture_xruns += 1
            self.health.playback_xruns += 1
            into.fill(0.0)
        return True

    def write(self, frames: Frames) -> None:
        if self._recorder is not None:
            self._recorder.write(frames)

    def close(self) -> None:
        """Raises PortError if the recording could not be written."""
        if self._recorder is not None:
            self._recorder.close()

    def _fill(self, into: Frames) -> None:
        done = 0
        while done < len(into) and self._at < len(self._source):
            count = min(len(into) - done, len(self._source) - self._at)
            into[done : done + count] = self._source[self._at : self._at + count]
            done, self._at = done + count, self._at + count
            if self._loop and self._at == len(self._source):
                self._at = 0
        into[done:] = 0.0


class _Recorder:
    """Writes a WAV through a buffer that is allocated once."""

    def __init__(self, path: Path, bits: str, format: AudioFormat) -> None:
        self._path, self._used, self._failed = path, 0, ""
        self._buffer = np.zeros((max(_OUT_BUFFER_FRAMES, format.period_frames), format.out_channels), np.float32)
        try:
            self._file = soundfile.SoundFile(path, "w", format.rate_hz, format.out_channels, _BITS[bits], format="WAV")
        except (soundfile.SoundFileError, OSError) as error:
            raise PortError(f"{path} can't be written: name a file in a folder that exists and is yours") from error

    def write(self, frames: Frames) -> None:
        if self._used + len(frames) > len(self._buffer):
            self._flush()
        self._buffer[self._used : self._used + len(frames)] = frames
        self._used += len(frames)

    def _flush(self) -> None:
        try:
            self._file.write(self._buffer[: self._used])
        except (soundfile.SoundFileError, OSError, AssertionError) as error:  # AssertionError: written in part
            self._failed = str(error) or "not all was written"
        self._used = 0

    def close(self) -> None:
        if self._file.closed:
            return
        self._flush()
        self._file.close()
        if self._failed:
            raise PortError(f"{self._path} is incomplete ({self._failed}): make room on the disk")
