"""The audio process: the clock of the pedal, and the only one that touches the sound card.

    python -m appliance.audio SETTINGS      SETTINGS: AudioSettings as JSON, with the inherited file descriptors in it

Position counts the frames that were heard, not the time that went by, and lives in shared memory. So a restarted audio process
goes on exactly where the last one stopped: no block is skipped or heard twice, and what was played before still comes back. What
it must mend is the seam in the music (fade out, fade in), and a doorbell that may not have been rung (ring it once more).

Runs in: the audio process, which has one thread. Per period: no logging, no array allocation, nothing raised; trouble is counted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from appliance.controls import Controls
from appliance.deadline import Deadline
from appliance.delay import WetBus, WetSettings
from appliance.mixer import RAMP_FRAMES, Mixer
from appliance.period_times import PeriodTimes
from appliance.realtime import end_with_parent, enter_realtime
from appliance.recorder import Recorder
from appliance.ring import Ring
from appliance.shared import SLOTS, SharedMemory, SlotFact
from appliance.stats import Counter, Counters, Ledger
from hw.audio import AudioFormat, AudioPort, PortError, open_audio


@dataclass(frozen=True)
class AudioSettings:
    """All that the audio process is told when it starts."""

    memory_fd: int
    doorbell_fds: tuple[int, ...]  # one eventfd per listener, rung whenever a block is whole
    port: str
    format: AudioFormat = field(default_factory=AudioFormat)
    wet: WetSettings = field(default_factory=WetSettings)
    priority: int = 70
    core: int | None = None
    record: str | None = None  # an existing folder for dry, wet and out
    record_frames: int = 0
    lock_memory: bool = True

    def command(self) -> list[str]:
        """For subprocess.Popen, together with `pass_fds`."""
        return [sys.executable, "-m", "appliance.audio", json.dumps(asdict(self))]

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self.memory_fd, *self.doorbell_fds)

    @classmethod
    def from_json(cls, text: str) -> AudioSettings:
        facts = json.loads(text)
        facts["doorbell_fds"] = tuple(facts["doorbell_fds"])
        facts["format"], facts["wet"] = AudioFormat(**facts["format"]), WetSettings(**facts["wet"])
        return cls(**facts)


class AudioLoop:
    """The pass that a newcomer follows: `turn` is one period from guitar to amp."""

    def __init__(
        self,
        port: AudioPort,
        memory: SharedMemory,
        doorbells: Sequence[int] = (),
        wet: WetSettings | None = None,
        recorder: Recorder | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        wet = wet or WetSettings()
        layout, form = memory.layout, port.format
        assert (form.period_frames, form.rate_hz) == (layout.period_frames, layout.sample_rate), "card and rings must agree"
        self.port, self.doorbells, self.recorder, self.clock = port, doorbells, recorder, clock
        self.controls, self.counters = Controls(memory.controls), Counters(memory.counters)
        self.times, self.rows = PeriodTimes(memory, form), [_Rows(memory.of(slot), wet.fade_frames) for slot in range(SLOTS)]
        self.input = Ring(memory.input, layout.guard_frames)
        self.period_frames, self.block_frames = layout.period_frames, layout.block_frames
        self.dry = np.zeros((self.period_frames, form.in_channels), np.float32)
        self.out = np.zeros((self.period_frames, form.out_channels), np.float32)
        self.send = np.zeros(self.period_frames, np.float32)
        self.position = self.counters.get(Counter.POSITION)
        restarted = self.counters.get(Counter.STARTS) > 0
        self.mixer = Mixer(memory, form.in_channels, form.out_channels, wet, fade_in=restarted)
        self._health = _HealthCount(self.counters)
        if restarted:
            self._mend()
        self.counters.add(Counter.STARTS, 1)

    def turn(self) -> bool:
        """One period. False when there will be no more."""
        if not self.controls.running or not self.port.read(self.dry):
            return False
        began_ns = self.clock()
        self.mixer.process(self.position, self.dry, self.out, self.send)
        self.input.write(self.position, self.send)
        if self.recorder:
            self.recorder.store(self.position, self.dry, self.mixer.bus.out, self.out)
        self._advance(began_ns)
        self._count(began_ns, self.clock())
        self.port.write(self.out)
        return True

    def _advance(self, heard_ns: int) -> None:
        """Move on by one period; where that completes a block, open its row in the slots' ledgers and ring."""
        blocks_before = self.position // self.block_frames
        self.position += self.period_frames
        blocks = self.position // self.block_frames
        if blocks > blocks_before:
            for rows in self.rows:
                rows.open((blocks - 1) * self.block_frames, heard_ns, self.mixer.bus)
        self.counters.set(Counter.POSITION, self.position)  # whoever sees it finds samples and row in place
        if blocks > blocks_before:
            self.ring()

    def ring(self) -> None:
        """Tell every listener to look at the position. The system call also puts the stores before it in order."""
        for doorbell in self.doorbells:
            os.eventfd_write(doorbell, 1)

    def _count(self, heard_ns: int, ready_ns: int) -> None:
        work_us = (ready_ns - heard_ns) // 1000
        self.counters.add(Counter.PERIODS, 1)
        self.times.count(heard_ns, ready_ns)
        if work_us > self.counters.get(Counter.MAX_WORK_US):
            self.counters.set(Counter.MAX_WORK_US, work_us)
        self._health.carry_over(self.port)

    def _mend(self) -> None:
        """After a restart: let what was heard before end softly, as the mixer lets what comes now begin softly."""
        first = self.position - RAMP_FRAMES
        tail = self.input.copy(first, RAMP_FRAMES)
        self.input.write(first, tail * np.linspace(1, 0, RAMP_FRAMES, dtype=np.float32))
        self.ring()


class _Rows:
    """Opens a slot's row for each block while it is taken: due when the slot's own engine must have answered."""

    def __init__(self, memory: SharedMemory, fade_frames: int) -> None:
        self._layout, self._fade_frames, self._slot = memory.layout, fade_frames, memory.slot
        self._ledger, self._facts = Ledger(memory.ledger, memory.layout.block_frames), memory.facts

    def open(self, start: int, heard_ns: int, bus: WetBus) -> None:
        if not self._facts[SlotFact.TAKEN]:
            return
        deadline = Deadline.of(self._layout, self._fade_frames, int(self._facts[SlotFact.CODEC_DELAY_FRAMES]))
        delay_frames = bus.delay_frames
        if self._slot != bus.slots.sounding:  # when its turn comes, the delay will be one that it can keep
            delay_frames = max(delay_frames, int(self._facts[SlotFact.SHORTEST_DELAY_FRAMES]))
        self._ledger.capture(start, heard_ns, deadline.due_ns(heard_ns, delay_frames))


class _HealthCount:
    """Adds a port's own counts, which begin at 0 with each port, to the shared ones, which never go back."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        names = (Counter.CAPTURE_XRUNS, Counter.PLAYBACK_XRUNS, Counter.GAPS, Counter.GAP_FRAMES, Counter.REOPENS)
        self._bases = [(counter, counters.get(counter)) for counter in names]
        self._seen = 0

    def carry_over(self, port: AudioPort) -> None:
        h = port.health
        total = h.capture_xruns + h.playback_xruns + h.gaps + h.gap_frames + h.reopens
        if total == self._seen:
            return
        self._seen = total
        counts = (h.capture_xruns, h.playback_xruns, h.gaps, h.gap_frames, h.reopens)
        for (counter, base), count in zip(self._bases, counts, strict=True):
            self._counters.set(counter, base + count)


def open_recorder(settings: AudioSettings) -> Recorder | None:
    if settings.record is None:
        return None
    form = settings.format
    return Recorder(Path(settings.record), settings.record_frames, form.in_channels, form.out_channels)


def main(argv: Sequence[str]) -> int:
    """0 when the port ended, or main said so or is gone; 2 when the card can't be opened as asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal: main decides what it means
    end_with_parent()
    settings = AudioSettings.from_json(argv[0])
    memory = SharedMemory.attach(settings.memory_fd)
    try:
        port = open_audio(settings.port, settings.format)
    except PortError as error:
        print(error, file=sys.stderr)
        return 2
    loop = AudioLoop(port, memory, settings.doorbell_fds, settings.wet, open_recorder(settings))
    print(enter_realtime(settings.priority, settings.core, settings.lock_memory), flush=True)
    main_process = os.getppid()
    while os.getppid() == main_process and loop.turn():
        pass
    port.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
