"""What the audio process needs of a sound card, and how one is opened.

    "alsa:hw:USB,0"                     one ALSA device for both ways
    "alsa:plug:jk"                      any ALSA PCM name
    "file:in.wav"                       plays a WAV in real time, as a guitar would
    "file:in.wav?out=out.wav"           ... and writes what an amp would get
    "file:in.wav?paced=no"              ... as fast as the caller turns (hw/file_audio.py has the other options)

Runs in: the audio process. Opening may raise PortError, with one line that a player can act on; afterwards nothing is raised:
trouble is returned as a count. Only `close` may raise PortError once more, when a recording could not be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]  # (frames, channels) in [-1, 1]

SAMPLE_FORMATS = ("S16", "S24_3LE", "S32", "FLOAT")


class PortError(Exception):
    """A port that can't be opened as asked: one line that names what is wrong and what to do."""


@dataclass(frozen=True)
class AudioFormat:
    """What is asked of a card; a port that can't give exactly this refuses."""

    rate_hz: int = 44_100
    period_frames: int = 128
    periods: int = 3  # how many of them a card queues; the dry signal's lag is all of them
    in_channels: int = 1
    out_channels: int = 1
    sample_format: str = "S16"  # one of SAMPLE_FORMATS

    def __post_init__(self) -> None:
        if self.sample_format not in SAMPLE_FORMATS:
            raise PortError(f"sample_format {self.sample_format!r} is unknown: use {', '.join(SAMPLE_FORMATS)}")
        for name, least, most in (("rate_hz", 8_000, 192_000), ("period_frames", 16, 8_192), ("periods", 2, 64)):
            if not least <= getattr(self, name) <= most:
                raise PortError(f"{name} = {getattr(self, name)} is out of range: use {least} to {most}")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) not in (1, 2):
                raise PortError(f"{name} = {getattr(self, name)} is not possible: use 1 (mono) or 2 (stereo)")

    @property
    def period_ns(self) -> int:
        return self.period_frames * 1_000_000_000 // self.rate_hz


@dataclass
class PortHealth:
    """Counters since the port was opened."""

    capture_xruns: int = 0
    playback_xruns: int = 0
    gaps: int = 0  # frames that the card lost without saying so, found by counting against the clock
    gap_frames: int = 0
    reopens: int = 0


class AudioPort(Protocol):
    format: AudioFormat
    health: PortHealth

    @property
    def lag_frames(self) -> int:
        """From a frame's arrival to the departure of what is written in answer to it, converters apart."""

    def read(self, into: Frames) -> bool:
        """Wait for one period and write it into `into` (period_frames, in_channels). False when there will be no more
        (end of file, card gone for good). After an xrun the period is silence; it is counted in `health`."""

    def write(self, frames: Frames) -> None:
        """Queue one period (period_frames, out_channels)."""

    def close(self) -> None: ...


def open_audio(address: str, format: AudioFormat) -> AudioPort:
    """Open the port that `address` names (see the module's docstring). Raises PortError."""
    kind, _, rest = address.partition(":")
    if kind == "alsa":
        from hw.alsa import AlsaPort

        return AlsaPort(rest, format)
    if kind == "file":
        from hw.file_audio import FilePort

        return FilePort.from_address(rest, format)
    raise PortError(f"audio port {address!r} is unknown: use alsa:DEVICE or file:PATH")
