"""Records how long things take on this machine, for the simulated gig: `python -m tests.gig.record --minutes 5`.

The real pedal plays a recording in real time, with the shipped engine: real processes, real clocks, no sound card (a file is one). First
it is left alone, and its histograms and ledger are read off; then its processes are killed one after the other, and timed until they
are back. What comes out is data: counts per duration, in bins of the pedal's own histograms, nothing smoothed and nothing left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import Counter as Tally
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.config import Config
from appliance.histogram import LEAST_US, Measure, bin_of, histogram
from appliance.main import RunOptions, Supervisor
from appliance.stats import Counter, Rows, WorkerCounter
from hw.file_audio import FileOptions, file_address

GUITAR = Path(__file__).parents[2] / "appliance" / "samples" / "guit_em9.flac"
RECORDED = Path(__file__).parents[1] / "data" / "gig_durations.json"
Bins = dict[str, int]  # microseconds, as JSON's keys are texts: how often
KILL_EVERY_SECONDS = 7.0  # longer than a start takes, and than the supervisor remembers the last death


def bins_of(pedal: Supervisor, measure: Measure) -> Bins:
    counts = histogram(pedal.memory.histograms, measure).bins
    return {str(int(us)): int(count) for us, count in zip(LEAST_US, counts, strict=True) if count}


def binned(durations_ns: list[int]) -> Bins:
    middle = len(LEAST_US) // 2
    return {
        str(us): count for us, count in sorted(Tally(int(LEAST_US[middle + bin_of(max(0, ns) // 1000)]) for ns in durations_ns).items())
    }


def stages(rows: Rows) -> dict[str, Bins]:
    """What the parts of a block took; a step is each of its steps."""
    whole = [row for row in rows if row["written"] and row["steps"]]
    steps: list[int] = []
    for row in whole:
        ends = [int(row["encoded"]), *(int(ns) for ns in row["step_ns"][: int(row["steps"])])]
        steps += [end - begin for begin, end in pairwise(ends)]
    return {
        "block_wake_us": binned([int(row["started"] - row["captured"]) for row in whole]),
        "block_encode_us": binned([int(row["encoded"] - row["started"]) for row in whole]),
        "block_step_us": binned(steps),
        "block_decode_us": binned([int(row["written"] - row["last_step"]) for row in whole]),
    }


@dataclass
class Restarts:
    """Kills audio and engine in turn, and times each until it plays again."""

    times: int
    audio_ns: list[int] = field(default_factory=list)
    engine_ns: list[int] = field(default_factory=list)
    _next_at: float = 0.0
    _killed_ns: int = 0
    _before: int = 0

    def tick(self, pedal: Supervisor) -> None:
        if self._killed_ns:
            self._look(pedal)
        elif time.monotonic() > self._next_at:
            self._next_at = time.monotonic() + KILL_EVERY_SECONDS
            if len(self.engine_ns) >= self.times:
                pedal.stop()
            else:
                self._kill(pedal)

    @property
    def _audio_is_next(self) -> bool:
        return len(self.audio_ns) <= len(self.engine_ns)

    def _count(self, pedal: Supervisor) -> int:
        if self._audio_is_next:
            return pedal.counters.get(Counter.PERIODS)
        return int(pedal.slot.counters.get(WorkerCounter.READY))

    def _kill(self, pedal: Supervisor) -> None:
        child = pedal.audio if self._audio_is_next else pedal.slot.child
        if child.process is None:
            return
        os.kill(child.process.pid, 9)
        child.process.wait()
        self._before, self._killed_ns = self._count(pedal), time.monotonic_ns()

    def _look(self, pedal: Supervisor) -> None:
        if self._count(pedal) > self._before:
            durations = self.audio_ns if self._audio_is_next else self.engine_ns
            durations.append(time.monotonic_ns() - self._killed_ns)
            self._killed_ns = 0


def config_of(folder: Path) -> Config:
    config = Config()
    return replace(
        config,
        audio=replace(config.audio, port=file_address(GUITAR, FileOptions(loop=True)), sample_format="FLOAT"),
        storage=replace(config.storage, folder=str(folder)),
        monitor=replace(config.monitor, status=False, governor=False),
    )


def record(minutes: float, restarts: int) -> dict[str, object]:
    with TemporaryDirectory() as folder:
        until = time.monotonic() + 60 * minutes

        def end(pedal: Supervisor) -> None:
            if time.monotonic() > until:
                pedal.stop()

        undisturbed = Supervisor(config_of(Path(folder)), RunOptions(wait_for_engine=True, on_tick=end))
        undisturbed.run()
        timed = Restarts(restarts)
        Supervisor(config_of(Path(folder)), RunOptions(on_tick=timed.tick)).run()
        return {
            "period_late_us": bins_of(undisturbed, Measure.PERIOD_LATE),
            "period_work_us": bins_of(undisturbed, Measure.PERIOD_WORK),
            **stages(undisturbed.memory.ledger),
            "audio_restart_us": binned(timed.audio_ns),
            "engine_restart_us": binned(timed.engine_ns),
            "main_start_us": binned([start_ns(Path(folder)) for _ in range(restarts)]),
        }


def start_ns(folder: Path) -> int:
    """Of the whole pedal, until its first period; loading Python itself comes on top where the process is new."""
    began_ns = time.monotonic_ns()
    took_ns = [0]

    def look(pedal: Supervisor) -> None:
        if pedal.counters.get(Counter.PERIODS):
            took_ns[0] = time.monotonic_ns() - began_ns
            pedal.stop()

    Supervisor(config_of(folder), RunOptions(on_tick=look)).run()
    return took_ns[0]


def machine() -> dict[str, object]:
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load_when_begun": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--restarts", type=int, default=8, help="of audio and engine each")
    parser.add_argument("--out", type=Path, default=RECORDED)
    wanted = parser.parse_args()
    how = {"how": "python -m tests.gig.record: the real pedal on a file in real time, no sound card, no Jetson", "machine": machine()}
    facts = {**how, "minutes": wanted.minutes, "durations": record(wanted.minutes, wanted.restarts)}
    text = json.dumps(facts)
    for name in facts["durations"]:  # type: ignore[attr-defined]
        text = text.replace(f'"{name}"', f'\n  "{name}"')
    wanted.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
