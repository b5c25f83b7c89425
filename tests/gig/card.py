"""A USB sound card in virtual time, behind the face that hw/alsa.py knows: its queues fill and run dry as time goes by.

What it captures is the guitar at the moment of capture, on the card's own clock; what it plays goes to a tape, and so do the holes in it:
frames at which the amp got nothing. It can stall, lose frames without a word, fail once, and be unplugged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hw.alsa_library import XRUN
from hw.audio import AudioFormat
from tests.gig.machine import FOREVER, Machine

Samples = NDArray[np.float32]
SLOW_PPM = 37  # this card's crystal
NAMES = {"FLOAT": "FLOAT_LE", "S16": "S16_LE", "S24_3LE": "S24_3LE", "S32": "S32_LE"}


class CardError(Exception):
    """What a broken card raises."""


class Amp(Protocol):
    """What hears the card's output."""

    def hear(self, samples: Samples) -> None:
        """One period of the pedal's output has been queued."""

    def hole(self, begin_ns: int, frames: int) -> None:
        """Nothing of the pedal's output was there to be played."""


class UsbCard:
    """An AlsaLibrary with one card."""

    error: type[Exception] = CardError

    def __init__(self, machine: Machine, guitar: Callable[[int, int], Samples], amp: Amp, rate_hz: int = 44_100) -> None:
        self.machine, self.guitar, self.amp = machine, guitar, amp
        self._per_second = rate_hz * (1_000_000 - SLOW_PPM)
        self.present, self.fails_once = True, False
        self.lost_frames = 0  # by gaps
        self.pauses: list[tuple[int, int]] = []  # when it gave and took nothing, in frames of its clock
        self.pcms: list[UsbPcm] = []
        self.xruns = {True: 0, False: 0}  # by whether it was capture: as they were told
        self.opened = 0
        self.covered = -1  # the amp has something to play up to here; -1: before the first
        self.hot = 0

    def frame(self, ns: int | None = None) -> int:
        """Of the card's clock, which runs whatever happens."""
        return (self.machine.now_ns if ns is None else ns) * self._per_second // 1_000_000_000_000_000

    def ns(self, frame: int) -> int:
        return -(-frame * 1_000_000_000_000_000 // self._per_second)

    # The library

    def open(self, device: str, capture: bool, format: AudioFormat) -> UsbPcm:
        if not self.present:
            raise CardError(f"No such file or directory [{device}]")
        pcm = UsbPcm(self, capture, format)
        self.pcms.append(pcm)
        self.opened += capture
        return pcm

    def cards(self) -> dict[int, str]:
        return {1: "USB"} if self.present else {}

    # What befalls it

    def stall(self, frames: int) -> None:
        self.pauses = [*self.pauses, (self.frame(), self.frame() + frames)][-4:]
        self.wake()

    def lose(self, frames: int) -> None:
        for pcm in self.pcms:
            pcm.lose(frames)

    def unplug(self) -> None:
        self.present = False
        self.wake()

    def wake(self) -> None:
        for pcm in self.pcms:
            self.machine.ring(pcm.fd)

    # What the amp gets

    def queue(self, frame: int, samples: Samples | None, frames: int) -> None:
        """From `frame` on so many frames will be played; None: silence that fills a queue, which is no output of the pedal."""
        if samples is None:
            return
        if self.covered >= 0 and frame > self.covered:
            self.amp.hole(self.ns(self.covered), frame - self.covered)
        self.covered = max(self.covered, frame + frames)
        self.amp.hear(samples)

    def stop(self) -> None:
        """What is queued is thrown away."""
        self.covered = min(self.covered, self.frame())


class UsbPcm:
    """One direction."""

    def __init__(self, card: UsbCard, capture: bool, format: AudioFormat) -> None:
        self.card, self.capture, self.format = card, capture, format
        self.period, self.buffer = format.period_frames, format.period_frames * format.periods
        self.fd = card.machine.device(self)
        self.closed = False
        self._begin = -1  # frame of the card at which it started; -1: it has not
        self._done = 0  # frames read, or written
        self._lost = 0
        self._broken = False

    # Time

    def _passed(self, frame: int) -> int:
        """Frames of its own since the start: those in which the card stood still, or which it lost, are none."""
        passed = frame - self._begin - self._lost
        for begin, end in self.card.pauses:
            if end > self._begin and begin < frame:
                passed -= min(end, frame) - max(begin, self._begin)
        return passed

    def _paused(self) -> bool:
        frame = self.card.frame()
        return any(begin <= frame < end for begin, end in self.card.pauses)

    def lose(self, frames: int) -> None:
        if self.capture and self._begin >= 0:
            self._lost += frames

    def _look(self) -> int:
        """Frames that can be read or written now, or XRUN."""
        if self.closed or not self.card.present:
            raise CardError("No such device")
        if self._begin < 0:
            return 0 if self.capture else self.buffer
        passed = self._passed(self.card.frame())
        if self.capture:
            waiting = passed - self._done
            self._broken = self._broken or waiting > self.buffer
            return XRUN if self._broken else max(0, waiting)
        queued = self._done - passed
        self._broken = self._broken or queued < 0
        return XRUN if self._broken else self.buffer - queued

    def ready_ns(self) -> int:
        """When a period can be read or written, as far as is known now."""
        try:
            frames = self._look()
        except CardError:
            return 0
        if frames < 0 or frames >= self.period:
            return 0
        if self._begin < 0:
            return FOREVER
        frame, ahead = self.card.frame(), self.period - frames
        for begin, end in self.card.pauses:
            if begin <= frame < end:
                ahead += end - frame
            elif frame < begin < frame + ahead:
                ahead += end - begin
        return self.card.ns(frame + ahead)

    # What pyalsaaudio has

    def avail(self) -> int:
        return self._look()

    def read(self) -> tuple[int, bytes]:
        if self._begin < 0:
            self._look()
            self._begin, self._done, self._lost, self._broken = self.card.frame(), 0, 0, False
        while 0 <= (waiting := self._look()) < self.period:
            self.card.machine.park(
                max(self.ready_ns(), self.card.machine.now_ns) + self.card.machine.current.lateness(), frozenset({self.fd})
            )
        if self.card.fails_once:
            self.card.fails_once = False
            raise CardError("Input/output error")
        if waiting < 0:
            self.card.xruns[True] += 1
            return XRUN, b""
        at = self.card.frame() - waiting
        self._done += self.period
        return self.period, self.card.guitar(at, self.period).tobytes()

    def write(self, data: Any) -> int:
        silence = isinstance(data, bytes)
        frames = len(data) // (4 * self.format.out_channels) if silence else len(data)
        if self._look() < 0:
            self.card.xruns[False] += 1
            self._begin, self._done, self._broken = -1, 0, False
            return XRUN
        if self._begin < 0:
            self._begin, self._done, self._lost = self.card.frame(), 0, 0
        self.card.queue(self._plays_at(self._done), None if silence else np.array(data[:, 0]), frames)
        self._done += frames
        return frames

    def _plays_at(self, number: int) -> int:
        """Frame of the card's clock at which the own frame `number` is played."""
        return self.card.frame() + number - self._passed(self.card.frame())

    def drop(self) -> None:
        if not self.capture and self._begin >= 0:
            self.card.stop()
        self._begin, self._done, self._broken = -1, 0, False

    def close(self) -> None:
        self.closed = True
        self.card.pcms.remove(self)
        del self.card.machine.devices[self.fd]

    def info(self) -> Mapping[str, Any]:
        return {
            "format_name": NAMES[self.format.sample_format],
            "rate": self.format.rate_hz,
            "channels": self.format.in_channels if self.capture else self.format.out_channels,
            "period_size": self.period,
            "buffer_size": self.buffer,
            "access_type": "RW_INTERLEAVED",
        }

    def polldescriptors(self) -> list[tuple[int, int]]:
        return [(self.fd, 1)]

    def polldescriptors_revents(self, descriptors: list[tuple[int, int]]) -> int:
        return descriptors[0][1]
