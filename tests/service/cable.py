"""A guitarist and an amp inside the container, at the two ends of a sound card made of FIFOs.

    python3 cable.py FOLDER        stdin: `stall`, `play`, `soft`, `loud`, `record FILE`, `done`
                                   stdout: `ready`, then JSON lines: one per silence that has ended, one per recording

ALSA's file plugin reads FOLDER/guitar and writes FOLDER/amp, and nothing else: so the guitar's FIFO is the card's clock, and a read
from it while the guitarist stalls hangs inside libasound for ever, as from a card that is gone. The guitar is never silent; what is
not heard for SILENCE_SECONDS at the amp is a silence, told with the times at which it began and ended (CLOCK_MONOTONIC). A recording
is all that the amp hears from then on, told with the time at which it began and the periods of guitar that the card had no room for: who
looks for clicks looks where there are none.

Needs nothing but Python.
"""

from __future__ import annotations

import fcntl
import gc
import json
import math
import os
import select
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

RATE_HZ, PERIOD_FRAMES = 44_100, 128
SILENCE_SECONDS = 0.06
QUEUE_BYTES = 4_096  # what the card holds of a guitar that nobody hears: 46 ms
WAVE_FRAMES, SOFT, LOUD = 100, 8_000, 31_000  # a low tone: from one sample to the next it never goes far
TURNS = 25  # periods after which the wave begins as it did


def tone(loud: int) -> list[bytes]:
    """Periods, one after the other."""
    wave = [round(loud * math.sin(2 * math.pi * at / WAVE_FRAMES)) for at in range(WAVE_FRAMES)]
    frames = [wave[at % WAVE_FRAMES] for at in range(TURNS * PERIOD_FRAMES)]
    return [struct.pack(f"<{PERIOD_FRAMES}h", *frames[at : at + PERIOD_FRAMES]) for at in range(0, len(frames), PERIOD_FRAMES)]


GUITARS = {"soft": tone(SOFT), "loud": tone(LOUD)}


def fifo(path: Path, size: int) -> int:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    path.chmod(0o666)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    return fd


class Amp:
    """Listens, says when a silence is over, and records."""

    def __init__(self, fd: int) -> None:
        self._fd, self._sound_at = fd, time.monotonic()
        self._file: BinaryIO | None = None
        self._began, self.lost = 0.0, 0

    def record(self, name: str) -> None:
        self._file, self._began, self.lost = open(name, "wb", buffering=0), time.monotonic(), 0  # noqa: SIM115

    def done(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
            print(json.dumps({"recorded": self._began, "lost": self.lost}), flush=True)

    def listen(self, now: float) -> None:
        try:
            heard = os.read(self._fd, 1 << 20)
        except BlockingIOError:
            return
        if self._file:
            self._file.write(heard)
        if not any(heard):
            return
        if now - self._sound_at > SILENCE_SECONDS:
            print(json.dumps({"began": self._sound_at, "ended": now}), flush=True)
        self._sound_at = now


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    guitar, amp = fifo(folder / "guitar", QUEUE_BYTES), Amp(fifo(folder / "amp", 1 << 20))
    be_hardware()
    print("ready", flush=True)
    began, turn, plays, periods = time.monotonic(), 0, True, GUITARS["soft"]
    while True:
        due = began + turn * PERIOD_FRAMES / RATE_HZ
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            word, *rest = sys.stdin.readline().split() or [""]
            if not word:
                return
            plays, periods = word == "play" or (plays and word != "stall"), GUITARS.get(word, periods)
            if word == "record":
                amp.record(*rest)
            elif word == "done":
                amp.done()
        now = time.monotonic()
        if now >= due:
            turn += 1
            if plays and not play(guitar, periods[turn % TURNS]):
                amp.lost += 1
        amp.listen(now)


def be_hardware() -> None:
    """A sound card does not wait for a core, so what stands in for one should not; a silence is then the pedal's, not the card's."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(80))
    except PermissionError:
        print("cable: no real time", file=sys.stderr)


def play(guitar: int, period: bytes) -> bool:
    """Whether there was room for it."""
    try:
        return os.write(guitar, period) > 0
    except BlockingIOError:  # nobody hears it
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
