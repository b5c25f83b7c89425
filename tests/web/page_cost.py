"""What the open page costs the audio process: processor time per period with somebody who looks, against without, in turns.

    python -m tests.web.page_cost --pairs 20

Looked at as a phone would: what a browser on this very machine takes from the caches is no cost of the page, so the kernel takes the
events, and they are counted only when the turn is over. Both kinds of turn are a few seconds long and follow each other at once, so what
else the machine does falls on both alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

from appliance.status import fetch
from tests.web.pedal import Home, Web

TURN_SECONDS = 2.5


def audio_pid(pedal: int) -> int:
    """Of the pedal's children."""
    children = Path(f"/proc/{pedal}/task/{pedal}/children").read_text().split()
    return next(int(pid) for pid in children if "appliance.audio" in Path(f"/proc/{pid}/cmdline").read_text())


def cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


@contextmanager
def looking(web: Web) -> Iterator[list[int]]:
    """Somebody has the page open; afterwards, how many events have come."""
    connection, events = HTTPConnection(web.host, timeout=30), [0]
    connection.request("GET", "/api/live", headers={"Cookie": web.cookie})
    assert connection.getresponse().status == 200 and connection.sock
    yield events
    connection.sock.setblocking(False)
    with suppress(BlockingIOError):
        while data := connection.sock.recv(1 << 16):
            events[0] += data.count(b"data: ")
    connection.close()


class Meter:
    """Microseconds of processor time per period of one turn."""

    def __init__(self, home: Home) -> None:
        self.socket = home.folder / "ghostnote" / "status.sock"
        self.pid = audio_pid(int(fetch(self.socket)["pid"]))

    def turn(self, seconds: float) -> float:
        periods, spent = int(fetch(self.socket)["audio"]["periods"]), cpu_ns(self.pid)
        time.sleep(seconds)
        spent = cpu_ns(self.pid) - spent
        return spent / 1000 / (int(fetch(self.socket)["audio"]["periods"]) - periods)


def measure(pairs: int, turn_seconds: float = TURN_SECONDS) -> list[tuple[float, float]]:
    """Microseconds per period (looked at, not looked at), pair by pair; which comes first changes from pair to pair."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with home.pedal(), home.web() as web:
            web.enter()
            meter = Meter(home)
            for pair in range(pairs):
                alone = meter.turn(turn_seconds) if pair % 2 else 0.0
                with looking(web) as events:
                    seen = meter.turn(turn_seconds)
                assert events[0] > turn_seconds, "nobody has looked"
                found.append((seen, alone or meter.turn(turn_seconds)))
    return found


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--pairs", type=int, default=20)
    found = measure(options.parse_args().pairs)
    ratios = sorted(seen / alone for seen, alone in found)
    seen, alone = (statistics.median(column) for column in zip(*found, strict=True))
    print(f"{len(found)} pairs: {seen:.1f} µs per period with the page open, {alone:.1f} µs without (medians)")
    print(f"ratio: median {statistics.median(ratios):.4f}, quartiles {ratios[len(ratios) // 4]:.4f} to {ratios[-len(ratios) // 4]:.4f}")


if __name__ == "__main__":
    main()
