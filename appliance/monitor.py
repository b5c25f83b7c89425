"""Watches every deadline: judges each block when it is due, each period that the card lost, and the board; finds out why, and says so.

    follow(scene)      every tick of the main process; costs some microseconds, and a millisecond when something was missed
    health             on time, close or fallback: what the three-colour light shows
    snapshot()         everything as plain values: `ghostnote status`, the Prometheus file and the exit report are made of it

Runs in: the main process.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from appliance.budgets import Budgets, Watch
from appliance.causes import Cause, Evidence, Use, Verdict, block_verdict, period_verdict, use_between, usual_use
from appliance.deadline import Health, judge
from appliance.journal import about
from appliance.misses import Miss, MissLog, ledger_lines
from appliance.shared import SharedMemory
from appliance.stats import Counter, Counters, Ledger, WorkerCounter, WorkerTotals
from appliance.vitals import Sample, Vitals

log = logging.getLogger("ghostnote")

USUAL_BLOCKS = 32  # that were on time: what is usual is read off them
WATCH_SECONDS = 1.0  # between two looks at the budgets
HELD_BACK = 1.5  # times what is usual: a worker that takes longer is looked at
STALLED_PERIODS = 4
CARD_COUNTERS = (Counter.CAPTURE_XRUNS, Counter.PLAYBACK_XRUNS, Counter.GAPS, Counter.REOPENS)
CARD_WORDS = ("xruns of capture", "xruns of playback", "gaps", "reopenings")


@dataclass(frozen=True)
class Scene:
    """What main knows and shared memory does not."""

    audio_pid: int | None
    worker_pid: int | None
    engine_ready: bool
    board_answers: bool = True


class Monitor:
    """One run of the pedal."""

    def __init__(
        self,
        memory: SharedMemory,
        budgets: Budgets,
        misses: MissLog,
        vitals: Vitals | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.memory, self.budgets, self.misses, self.vitals, self.clock = memory, budgets, misses, vitals or Vitals(), clock
        self.layout, self.ledger = memory.layout, Ledger(memory.ledger, memory.layout.block_frames)
        self.audio, self.worker = Counters(memory.counters), WorkerTotals(memory)
        self.watch = Watch(memory, budgets)
        self.causes: Tally[str] = Tally()
        self.sample = Sample(clock())
        self._watched_ns = self.sample.at_ns
        self._samples: dict[int, Sample] = {}  # by the start of the block that was whole then
        self._worker_uses: deque[Use] = deque(maxlen=USUAL_BLOCKS)
        self._audio_uses: deque[Use] = deque(maxlen=USUAL_BLOCKS)
        self._works_ms: deque[float] = deque(maxlen=USUAL_BLOCKS)
        self._next = -1  # start of the block that is judged next; -1 until the engine is ready
        self._captured = -1  # start of the newest block that was whole
        self._card = self._card_counts()
        self._unready_ns = 0  # when the engine was seen not to be ready for the last time
        self._fastest_mhz = 0.0
        self._worker_states, self._audio_states = "", ""
        self._periods, self._progress_ns, self._stalled_ns = 0, clock(), 0
        self._board_answers = True

    def engine_changed(self) -> None:
        """`memory` shows another slot: what is usual is found out anew."""
        self.ledger = Ledger(self.memory.ledger, self.layout.block_frames)
        self._samples.clear()
        for usual in (self._worker_uses, self._audio_uses, self._works_ms):
            usual.clear()
        self._worker_states = ""

    def follow(self, scene: Scene) -> None:
        now_ns = self.clock()
        if not scene.engine_ready:
            self._unready_ns = now_ns
        self._follow_blocks(scene, now_ns)
        self._follow_periods(scene, now_ns)
        self._follow_board(scene, now_ns)
        if now_ns - self._watched_ns > WATCH_SECONDS * 1e9:
            self._watched_ns = now_ns
            for line in self.watch.follow(self._look(scene).machine.celsius):
                log.warning("%s", line, extra=about("over-budget"))

    @property
    def health(self) -> Health:
        limit = self.worker.get(WorkerCounter.STEP_LIMIT)
        return judge(self.watch.fallback, limit > 0, self.watch.breached)

    # Blocks

    def _follow_blocks(self, scene: Scene, now_ns: int) -> None:
        block = self.layout.block_frames
        newest = (self.audio.get(Counter.POSITION) // block - 1) * block
        if newest > self._captured:
            self._captured = newest
            self._samples[newest] = self._look(scene)
            if self._next < 0 and scene.engine_ready:
                self._next = newest + block  # what was heard before could not be answered
        while 0 <= self._next <= newest and self._judge(self._next, scene, now_ns):
            self._next += block
        if 0 <= self._next <= newest:
            self._look_at_worker(scene, now_ns)

    def _judge(self, start: int, scene: Scene, now_ns: int) -> bool:
        """Whether it is certain by now how this block ended."""
        row = self.ledger.row(start)
        if row["start"] != start:
            return True  # the ledger has gone on without us
        written, due = int(row["written"]), int(row["due"])
        if written and written <= due:
            self._learn(start, row)
        elif now_ns > due:
            self._miss_block(start, row, scene)
        else:
            return False
        self._samples = {at: sample for at, sample in self._samples.items() if at > start - 2 * self.layout.block_frames}
        self._worker_states = ""
        return True

    def _learn(self, start: int, row: Any) -> None:
        """A block that was on time says what is usual."""
        work_ms = (int(row["written"]) - int(row["started"])) / 1e6
        before, after = self._samples.get(start - self.layout.block_frames), self._samples.get(start)
        self._works_ms.append(work_ms)
        self.watch.slack((int(row["due"]) - int(row["written"])) / 1e6)
        if before and after:
            self._worker_uses.append(use_between(before, after, "engine"))
            self._audio_uses.append(use_between(before, after, "audio"))
            self._fastest_mhz = max(self._fastest_mhz, after.machine.clock_mhz or 0.0)

    def _miss_block(self, start: int, row: Any, scene: Scene) -> None:
        after = self._look(scene)
        if scene.worker_pid:
            self._worker_states += self.vitals.state(scene.worker_pid)
        before = self._before(start)
        use = use_between(before, after, "engine")
        per_block_ms = 1e3 * self.layout.block_frames / self.layout.sample_rate
        usual_ms = float(np.median(self._works_ms)) if self._works_ms else 0.0
        blocks = max(1.0, use.window_ms / per_block_ms)
        behind = start > 0 and self.ledger.row(start - self.layout.block_frames)["written"] > row["captured"]
        evidence = Evidence(
            use,
            usual_use(self._worker_uses),
            usual_ms * blocks,
            blocks,
            self._worker_states,
            alive=scene.worker_pid is not None and int(row["captured"]) > self._unready_ns,
            taken_up=bool(row["started"] or row["mode"] or behind or use.cpu_ms > usual_ms / 2 or self._worker_states.strip("S")),
            **self._machine(before, after),
        )
        self.watch.slack(-1.0)
        self._record("block", block_verdict(evidence), evidence, after)

    def _before(self, start: int) -> Sample:
        """What was sampled when the block was whole, or the last before that."""
        known = [at for at in self._samples if at <= start]
        return self._samples[max(known)] if known else self.sample

    def _look_at_worker(self, scene: Scene, now_ns: int) -> None:
        """Behind, and not yet late: whoever stops a process and lets it go on again leaves no other trace."""
        waited_ms = (now_ns - int(self.ledger.row(self._next)["captured"])) / 1e6
        if scene.worker_pid and self._works_ms and waited_ms > HELD_BACK * float(np.median(self._works_ms)):
            self._worker_states = (self._worker_states + self.vitals.state(scene.worker_pid))[-64:]

    # Periods

    def _follow_periods(self, scene: Scene, now_ns: int) -> None:
        periods, card = self.audio.get(Counter.PERIODS), self._card_counts()
        period_ns = self.layout.period_frames * 1_000_000_000 // self.layout.sample_rate
        if periods != self._periods:
            self._stalled_ns = max(self._stalled_ns, now_ns - self._progress_ns)
            self._periods, self._progress_ns = periods, now_ns
        elif scene.audio_pid and periods and now_ns - self._progress_ns > STALLED_PERIODS * period_ns:
            self._audio_states = (self._audio_states + self.vitals.state(scene.audio_pid))[-64:]
        if card != self._card:
            self._miss_period(card, scene)
            self._card = card
        elif periods == self._periods and now_ns - self._progress_ns < period_ns:
            self._audio_states, self._stalled_ns = self._audio_states[-1:], self._stalled_ns // 2  # long over

    def _miss_period(self, card: tuple[int, ...], scene: Scene) -> None:
        counted = [f"{now - before} {word}" for word, now, before in zip(CARD_WORDS, card, self._card, strict=True) if now > before]
        after = self._look(scene)
        before = self._before(self._captured - self.layout.block_frames)
        use = use_between(before, after, "audio")
        evidence = Evidence(
            use,
            usual_use(self._audio_uses),
            use.window_ms - self._stalled_ns / 1e6,
            states=self._audio_states,
            **self._machine(before, after),
        )
        self._record("period", period_verdict(evidence, self.budgets.queue_ms, ", ".join(counted)), evidence, after)
        self._audio_states, self._stalled_ns = "", 0

    def _card_counts(self) -> tuple[int, ...]:
        return tuple(self.audio.get(counter) for counter in CARD_COUNTERS)

    # The board

    def _follow_board(self, scene: Scene, now_ns: int) -> None:
        if self._board_answers and not scene.board_answers:
            evidence = Evidence(Use(0.0), Use(0.0), 0.0)
            self._record("board", Verdict(Cause.BOARD, "the board does not answer"), evidence, self.sample)
        self._board_answers = scene.board_answers

    # What was found

    def _look(self, scene: Scene) -> Sample:
        pids = {"audio": scene.audio_pid, "engine": scene.worker_pid}
        self.sample = self.vitals.sample({name: pid for name, pid in pids.items() if pid is not None})
        return self.sample

    def _machine(self, before: Sample, after: Sample) -> dict[str, Any]:
        machine = max(before.machine, after.machine, key=lambda machine: machine.celsius or 0.0)
        hot = machine.celsius is not None and machine.celsius >= self.budgets.celsius
        clock_mhz = machine.clock_mhz
        if clock_mhz and hot:  # it may have been slow until now; a cool core that was idle is slow for another reason
            clock_mhz = min(clock_mhz, before.machine.clock_mhz or clock_mhz)
        share = clock_mhz / self._fastest_mhz if clock_mhz and self._fastest_mhz else None
        return {"clock_share": share, "celsius": machine.celsius, "hot": hot}

    def _record(self, kind: str, verdict: Verdict, evidence: Evidence, sample: Sample) -> None:
        self.causes[verdict.cause.value] += 1
        facts = {"use": asdict(evidence.use), "usual": asdict(evidence.usual), "states": evidence.states, "machine": asdict(sample.machine)}
        seconds = self.audio.get(Counter.POSITION) / self.layout.sample_rate
        rows = ledger_lines(self.ledger.blocks(), self.layout.sample_rate)
        miss = Miss(datetime.now(timezone.utc).isoformat(timespec="milliseconds"), seconds, kind, verdict, facts, rows)
        if self.misses.write(miss, sample.at_ns / 1e9):
            fields: Mapping[str, object] = {"kind": kind, "cause": verdict.cause.value}
            log.warning("missed (%s) at %.2f s: %s: %s", kind, seconds, verdict.cause.value, verdict.why, extra=about("miss", **fields))
