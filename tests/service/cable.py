"""A guitarist and an amp inside the container, at the two ends of a sound card made of FIFOs.

    python3 cable.py FOLDER        stdin: `stall`, `play`      stdout: `ready`, then one JSON line per silence that has ended

ALSA's file plugin reads FOLDER/guitar and writes FOLDER/amp, and nothing else: so the guitar's FIFO is the card's clock, and a read
from it while the guitarist stalls hangs inside libasound for ever, as from a card that is gone. The guitar is never silent; what is
not heard for SILENCE_SECONDS at the amp is a silence, told with the times at which it began and ended (CLOCK_MONOTONIC).

Needs nothing but Python.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import struct
import sys
import time
from pathlib import Path

RATE_HZ, PERIOD_FRAMES = 44_100, 128
SILENCE_SECONDS = 0.06
QUEUE_BYTES = 4_096  # what the card holds of a guitar that nobody hears: 46 ms
GUITAR = [
    struct.pack(f"<{PERIOD_FRAMES}h", *(8_000 if (frame + turn) % 50 < 25 else -8_000 for frame in range(PERIOD_FRAMES)))
    for turn in range(50)
]


def fifo(path: Path, size: int) -> int:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    path.chmod(0o666)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    return fd


class Amp:
    """Listens; says when a silence is over."""

    def __init__(self, fd: int) -> None:
        self._fd, self._sound_at = fd, time.monotonic()

    def listen(self, now: float) -> None:
        try:
            heard = os.read(self._fd, 1 << 20)
        except BlockingIOError:
            return
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
    began, turn, plays = time.monotonic(), 0, True
    while True:
        due = began + turn * PERIOD_FRAMES / RATE_HZ
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            word = sys.stdin.readline().strip()
            if not word:
                return
            plays = word == "play"
        now = time.monotonic()
        if now >= due:
            turn += 1
            if plays:
                play(guitar, turn)
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


def play(guitar: int, turn: int) -> None:
    try:
        os.write(guitar, GUITAR[turn % len(GUITAR)])
    except BlockingIOError:  # nobody hears it
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]))
