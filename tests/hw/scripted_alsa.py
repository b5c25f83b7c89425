"""An ALSA library without a sound card: both directions in memory, with faults on demand.

What is written is kept; what is read counts upwards, so that a test sees which periods were lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hw.alsa_library import XRUN
from hw.audio import AudioFormat


class CardError(Exception):
    """What a broken card raises."""


class ScriptedPcm:
    def __init__(self, cards: ScriptedCards, device: str, capture: bool, format: AudioFormat) -> None:
        self.cards, self.device, self.capture, self.format = cards, device, capture, format
        self.closed = self.dropped = False
        self.faults: list[str] = []  # one per call of read() or write(): "", "xrun", "error", "short"
        self.written: list[bytes] = []
        self.avail_frames = 0 if capture else format.period_frames  # nothing is waiting, and there is room for one period
        self.fd = os.eventfd(1, os.EFD_NONBLOCK)  # ready at once, as time does not pass here

    def _fault(self) -> str:
        if self.closed or not self.cards.present:
            raise CardError("No such device")
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "error":
            raise CardError("File descriptor in bad state")
        return fault

    def read(self) -> tuple[int, bytes]:
        fault, frames = self._fault(), self.format.period_frames
        if fault == "xrun":
            return XRUN, b""
        self.cards.periods_read += 1
        value = np.full(frames * self.format.in_channels, self.cards.periods_read, "<f4") / 1024
        return (frames, value.tobytes()) if fault != "short" else (frames // 2, value.tobytes()[: frames * 2])

    def write(self, data: Any) -> int:
        if self._fault() == "xrun":
            return XRUN
        self.written.append(bytes(data))
        return self.format.period_frames

    def avail(self) -> int:
        return self.avail_frames

    def hang(self) -> None:
        """Never ready again."""
        os.eventfd_read(self.fd)
        self.avail_frames = 0

    def drop(self) -> None:
        self.dropped = True

    def close(self) -> None:
        assert self.dropped, "closing what has not been dropped waits for the card"
        self.closed = True
        os.close(self.fd)

    def info(self) -> Mapping[str, Any]:
        names = {"S16": "S16_LE", "S24_3LE": "S24_3LE", "S32": "S32_LE", "FLOAT": "FLOAT_LE"}
        given = {
            "format_name": names[self.format.sample_format],
            "rate": self.format.rate_hz,
            "channels": self.format.in_channels if self.capture else self.format.out_channels,
            "period_size": self.format.period_frames,
            "buffer_size": self.format.period_frames * self.format.periods,
            "access_type": "RW_INTERLEAVED",
        }
        return {**given, **self.cards.alters}

    def polldescriptors(self) -> list[tuple[int, int]]:
        return [(self.fd, 1)]

    def polldescriptors_revents(self, descriptors: list[tuple[int, int]]) -> int:
        return descriptors[0][1]


class ScriptedCards:
    """An AlsaLibrary."""

    error: type[Exception] = CardError

    def __init__(self) -> None:
        self.present, self.refusal = True, "No such file or directory"
        self.alters: dict[str, Any] = {}  # what the card does otherwise than asked
        self.opened: list[ScriptedPcm] = []
        self.attempts: list[str] = []
        self.periods_read = 0

    def open(self, device: str, capture: bool, format: AudioFormat) -> ScriptedPcm:
        self.attempts.append(device)
        if not self.present:
            raise CardError(f"{self.refusal} [{device}]")
        self.opened.append(ScriptedPcm(self, device, capture, format))
        return self.opened[-1]

    def cards(self) -> dict[int, str]:
        return {1: "USB"}

    @property
    def playback(self) -> ScriptedPcm:
        return next(pcm for pcm in reversed(self.opened) if not pcm.capture)

    @property
    def capture(self) -> ScriptedPcm:
        return next(pcm for pcm in reversed(self.opened) if pcm.capture)
