"""The worker process: one engine, which hears every block and answers those that it can still answer in time.

    python -m appliance.worker SETTINGS     SETTINGS: WorkerSettings as JSON, with the inherited file descriptors in it

Which blocks are whole is read from the audio process's position; the doorbell only says when to look. So a worker that was stalled,
or has just been started again, finds by itself what it missed: it hears those blocks with `prefill` and answers the next one. An engine
that is to take over from another does the same, and answers in the dark until it is its turn (appliance/takeover.py).

Runs in: the worker process, which has one thread of Python. A runtime is imported only here, through engines.bundle.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from appliance.confine import confine_worker
from appliance.controls import PROMPTS_OF_SLOT, Control, Controls, Turn
from appliance.deadline import already_lost
from appliance.flight import FlightRecorder, Played
from appliance.flight_ring import FlightSettings
from appliance.governor import Cost, Governor, GovernorSettings
from appliance.histogram import Measure, histogram
from appliance.realtime import end_with_parent
from appliance.ring import Ring, Samples, WetRing
from appliance.shared import SharedMemory, SlotFact
from appliance.stats import BlockMode, Counter, Counters, Ledger, WorkerCounter
from engines.bundle import BundleError, locate, open_engine, verify
from engines.engine import Engine, EngineControls

PRIME_BLOCKS = 12  # so much of what was played just before it started does an engine hear first
WARM_UP_BLOCKS = 2  # the first blocks of a runtime are slow, and the second takes another path than the first
MEEK_NICE = 10  # how much further back than it will play an engine loads and answers while another one sounds
WAKE_MS = 250  # how often a waiting worker looks for itself: a doorbell may have been lost with the process that rang it


@dataclass(frozen=True)
class WorkerSettings:
    """All that the worker process is told when it starts."""

    memory_fd: int
    doorbell_fd: int  # rung by audio whenever a block is whole
    answer_fd: int  # rung by the worker when it is ready, and after each block
    engine: str
    prompts: str = ""  # folder of the player's own prompts
    verify: bool = False  # the bundle, byte by byte: where main has not, because dry sound comes first
    backend: str = "onnxruntime"
    threads: int = 1
    seed: int = 0
    core: int | None = None
    nice: int = 0
    governor: GovernorSettings = field(default_factory=GovernorSettings)
    slot: int = 0
    flight: FlightSettings | None = None  # None: what is played is not recorded

    def command(self) -> list[str]:
        """For subprocess.Popen, together with `pass_fds`."""
        return [sys.executable, "-m", "appliance.worker", json.dumps(asdict(self))]

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self.memory_fd, self.doorbell_fd, self.answer_fd, *((self.flight.fd,) if self.flight else ()))

    @classmethod
    def from_json(cls, text: str) -> WorkerSettings:
        facts = json.loads(text)
        flight = FlightSettings(**facts["flight"]) if facts["flight"] else None
        return cls(**{**facts, "governor": GovernorSettings(**facts["governor"]), "flight": flight})


class Worker:
    """The pass that a newcomer follows: `turn` is one block from guitar to answer."""

    def __init__(
        self,
        engine: Engine,
        memory: SharedMemory,
        seed: int = 0,
        clock: Callable[[], int] = time.monotonic_ns,
        governor: GovernorSettings | None = None,
        keep: Callable[[int, Any], None] = lambda start, row: None,
    ) -> None:
        layout, spec = memory.layout, engine.spec
        ours = (spec.sample_rate, spec.block_frames, spec.codec_delay_frames)
        assert ours == (layout.sample_rate, layout.block_frames, memory.facts[SlotFact.CODEC_DELAY_FRAMES]), "engine and rings must agree"
        self.slot, self._facts = memory.slot, memory.facts
        self.engine, self.seed, self.clock, self.keep = engine, seed, clock, keep
        self.inputs, self.wets = Ring(memory.input, layout.guard_frames), WetRing(memory)
        self.ledger, self.controls = Ledger(memory.ledger, layout.block_frames), Controls(memory.controls)
        self.audio, self.counters = Counters(memory.counters), Counters(memory.worker_counters)
        self.times = BlockTimes(memory)
        self.governor = Governor(governor or GovernorSettings(), self.counters.get(WorkerCounter.STEP_LIMIT))
        self.period_frames, self.block_frames = layout.period_frames, layout.block_frames
        self.reach_frames = layout.ring_frames - layout.block_frames  # further back, audio may be writing over it
        heard = self.audio.get(Counter.POSITION) // self.block_frames
        prime = min(PRIME_BLOCKS, self.reach_frames // self.block_frames - 1)
        self.next_start = max(0, heard - prime) * self.block_frames
        self.anew = True  # the next answer does not go on from the one that is in the ring before it
        engine.reset(seed)

    @property
    def needed(self) -> bool:
        """The pedal plays, and this engine is to play in it."""
        return self.controls.running and bool(self._facts[SlotFact.TAKEN])

    @property
    def sounds(self) -> bool:
        """It is this engine's turn, and not that of one in the other slot."""
        return Turn.of(self.controls.get(Control.TURN)).slot == self.slot

    def pending(self) -> int | None:
        """Start of the oldest whole block that has not been heard, or None."""
        position = self.audio.get(Counter.POSITION)
        if position - self.next_start > self.reach_frames:
            self._lose_the_thread(position)
        past_end = position - self.next_start - self.block_frames
        if past_end < 0 or (past_end < self.period_frames and not self._captured(self.next_start)):
            return None  # in the second case audio is just about to open the block's row and to ring
        return self.next_start

    def turn(self, start: int) -> None:
        """Hear the block that began at `start`, and answer it unless that would be in vain."""
        block = self.inputs.copy(start, self.block_frames)
        now_ns = self.clock()
        answered = self.wets.written(start // self.block_frames)  # by the life before this one
        due_ns = int(self.ledger.row(start)["due"])
        if answered or not self._captured(start) or already_lost(due_ns, now_ns):
            self.engine.prefill(block)
            self._close(start, BlockMode.PREFILLED, WorkerCounter.PREFILLED)
        else:
            self.ledger.row(start)["started"] = now_ns
            wishes = self._governed(self._wishes(), due_ns - now_ns)
            self._answer(start, self.engine.generate(block, wishes, self.ledger.stamper(start, self.clock)))
        self.next_start = start + self.block_frames
        self.keep(start, self.ledger.row(start))

    def _answer(self, start: int, wet: Samples) -> None:
        if wet.shape != (self.block_frames,) or not np.isfinite(wet).all():
            self.counters.add(WorkerCounter.INVALID, 1)
            self._reset()  # no audio: what the engine remembers is as broken as what it said
            return
        self.wets.write_block(start, np.clip(wet, -1.0, 1.0), self.anew)  # repeats would make more of what is too loud
        self.anew = False
        row = self.ledger.row(start)
        row["written"] = self.clock()
        if self.sounds:
            self.times.count(row)
        self.governor.observe(Cost.of(row))
        self._close(start, BlockMode.GENERATED, WorkerCounter.GENERATED)

    def _close(self, start: int, mode: BlockMode, counter: WorkerCounter) -> None:
        row = self.ledger.row(start)
        if self._captured(start) and row["mode"] == BlockMode.CAPTURED:  # a restarted worker hears answered blocks again
            row["mode"] = mode
        self.counters.add(counter, 1)

    def _captured(self, start: int) -> bool:
        return bool(self.ledger.row(start)["start"] == start)

    def _wishes(self) -> EngineControls:
        spec = self.engine.spec
        last, (prompt, second_prompt) = len(spec.prompts) - 1, PROMPTS_OF_SLOT[self.slot]
        return EngineControls(
            prompt=int(self._within(prompt, last)),
            steps=int(self._within(Control.STEPS, spec.max_steps)),
            second_prompt=int(self._within(second_prompt, last)),
            morph=self._within(Control.MORPH, 1),
            stray=self._within(Control.STRAY, 1),
            freeze=self._within(Control.FREEZE, 1) >= 0.5,
            jam=self._within(Control.JAM, 1) >= 0.5,
        )

    def _governed(self, wishes: EngineControls, left_ns: int) -> EngineControls:
        """Fewer steps than the player wishes where more would come too late."""
        wish = wishes.steps or self.engine.spec.steps
        steps = self.governor.allow(wish, left_ns)
        self.counters.set(WorkerCounter.STEP_LIMIT, self.governor.limit)
        if steps == wish:
            return wishes
        self.counters.add(WorkerCounter.SHED, 1)
        return replace(wishes, steps=steps)

    def _within(self, control: Control, most: float) -> float:
        return min(max(self.controls.get(control), 0.0), most)

    def _lose_the_thread(self, position: int) -> None:
        """What was missed is no longer there to be heard: forget everything, and go on with the newest whole block."""
        self.next_start = (position // self.block_frames - 1) * self.block_frames
        self._reset()

    def _reset(self) -> None:
        self.engine.reset(self.seed)
        self.anew = True
        self.counters.add(WorkerCounter.RESETS, 1)


class BlockTimes:
    """The histograms of blocks; and of each block what the governor wants to know."""

    def __init__(self, memory: SharedMemory) -> None:
        measures = (Measure.BLOCK_LATE, Measure.BLOCK_WORK, Measure.BLOCK_SLACK)
        self._late, self._work, self._slack = (histogram(memory.histograms, measure) for measure in measures)

    def count(self, row: Any) -> None:
        """A block has been answered: its row of the ledger is complete."""
        captured, started, written, due = (int(row[stage]) for stage in ("captured", "started", "written", "due"))
        self._late.add((started - captured) // 1000)
        self._work.add((written - started) // 1000)
        self._slack.add((due - written) // 1000)


class Doorbell:
    """Waits until there is a block to hear; gives up when main says so. An engine that kept back comes forward when it is its turn."""

    def __init__(self, fd: int, worker: Worker, nice: int = 0) -> None:
        self.fd, self.worker = fd, worker
        self._nice, self._keeps_back = nice, not worker.sounds
        os.set_blocking(fd, False)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def wait_block(self) -> int | None:
        """Start of the next block, or None when there will be no more."""
        while self.worker.needed:
            if self._keeps_back and self.worker.sounds:
                self._keeps_back = False
                come_forward(self._nice)
            start = self.worker.pending()
            if start is not None:
                return start
            if self._poll.poll(WAKE_MS):
                os.eventfd_read(self.fd)
        return None


def warm_up(engine: Engine) -> None:
    """Make a runtime allocate and compile what it does on first use. What the engine heard is forgotten by the reset that follows."""
    silence = np.zeros(engine.spec.block_frames, np.float32)
    for _ in range(WARM_UP_BLOCKS):
        engine.generate(silence, EngineControls())
    engine.prefill(silence)


def settle(core: int | None, nice: int) -> list[str]:
    """Take the configured core and niceness. Returns what was not permitted."""
    refused = []
    try:
        if core is not None:
            os.sched_setaffinity(0, {core})
    except OSError as error:
        refused.append(f"core {core} ({error.strerror})")
    try:
        if nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        refused.append(f"niceness {nice} ({error.strerror})")
    return refused


def keep_back(nice: int) -> None:
    """Be nicer than `nice`, with which this process will play: another engine comes before it. Only if it may come forward again."""
    here = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, min(19, here + 1))
        os.setpriority(os.PRIO_PROCESS, 0, here)
        os.setpriority(os.PRIO_PROCESS, 0, min(19, nice + MEEK_NICE))
    except OSError:
        pass


def come_forward(nice: int) -> None:
    """With every thread that a runtime has started meanwhile."""
    for thread in os.listdir("/proc/self/task"):
        try:
            os.setpriority(os.PRIO_PROCESS, int(thread), nice)
        except OSError as error:
            print(f"worker: not permitted: niceness {nice} ({error.strerror})", flush=True)
            return


def backend_for(settings: WorkerSettings, counters: Counters) -> str:
    """A worker whose process ended before does not trust what may have ended it: a driver or a runtime on a GPU."""
    return settings.backend if counters.get(WorkerCounter.STARTS) == 1 else "onnxruntime"


def main(argv: Sequence[str]) -> int:
    """0 when main said so, 2 when the engine can't be opened."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal: main decides what it means
    end_with_parent()
    settings = WorkerSettings.from_json(argv[0])
    memory = SharedMemory.attach(settings.memory_fd, settings.slot)
    counters = Counters(memory.worker_counters)
    counters.add(WorkerCounter.STARTS, 1)
    sounds = Turn.of(Controls(memory.controls).get(Control.TURN)).slot == settings.slot
    refused = settle(settings.core, settings.nice if sounds else 0)
    if not sounds:
        keep_back(settings.nice)
    backend = backend_for(settings, counters)
    try:
        refused += confine_worker(settings.engine, backend)
        if settings.verify and settings.engine != "echo":
            verify(locate(settings.engine))
        engine = open_engine(settings.engine, settings.threads, backend, settings.prompts)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 2
    warm_up(engine)
    recorder = FlightRecorder.open(settings.flight, engine, Played(settings.engine, settings.prompts, settings.threads))
    worker = Worker(recorder, memory, settings.seed, governor=settings.governor, keep=recorder.keep)
    gc.collect()
    gc.freeze()
    if refused:
        print(f"worker: not permitted: {', '.join(refused)}", flush=True)
    if engine.runs_on:
        print(f"worker: computes with {engine.runs_on}", flush=True)
    serve(worker, settings)
    return 0


def serve(worker: Worker, settings: WorkerSettings) -> None:
    """Say that it is ready, then take blocks until main says so."""
    worker.counters.add(WorkerCounter.READY, 1)
    os.eventfd_write(settings.answer_fd, 1)
    doorbell = Doorbell(settings.doorbell_fd, worker, settings.nice)
    while (start := doorbell.wait_block()) is not None:
        worker.turn(start)
        os.eventfd_write(settings.answer_fd, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
