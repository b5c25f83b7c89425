"""The real worker, engine and flight recorder, block by block: audio is reduced to a position, a ledger and what was played."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from appliance.controls import Control, Controls
from appliance.flight import FlightRecorder, Played
from appliance.flight_ring import FlightSettings
from appliance.ring import Ring
from appliance.shared import Layout, SharedMemory
from appliance.stats import Counter, Counters, Ledger
from appliance.worker import Worker
from engines.bundle import open_engine
from engines.engine import Audio, Engine

RING_BLOCKS = 16
ALLOWANCE_NS = 10**15


class Pedal:
    """`hear` gives the worker blocks, and lets it do what it can."""

    def __init__(self, path: Path, engine: str, minutes: float = 1.0, prompts: str = "") -> None:
        self.path, self.played, self.minutes = path, Played(engine, prompts), minutes
        self.engine: Engine = open_engine(engine, prompts=prompts)
        spec = self.engine.spec
        self.block_frames, self.now_ns, self.blocks, self.keep_seconds = spec.block_frames, 0, 0, 0.0
        ring = RING_BLOCKS * spec.block_frames
        self.memory = SharedMemory.create(Layout(spec.sample_rate, 128, spec.block_frames, spec.codec_delay_frames, ring, 1024))
        self.input, self.ledger = Ring(self.memory.input, 1024), Ledger(self.memory.ledger, spec.block_frames)
        self.position, self.controls = Counters(self.memory.counters), Controls(self.memory.controls)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.start_worker()

    def start_worker(self) -> None:
        """As a new process would: nothing is left of the last one but the ring file."""
        self.recorder = FlightRecorder.open(FlightSettings(self.fd, self.minutes), self.engine, self.played)
        self.worker = Worker(self.recorder, self.memory, 7, lambda: self.now_ns, keep=self._keep)

    def hear(self, block: Audio, late: bool = False) -> None:
        """`late`: no answer would come in time."""
        start = self.blocks * self.block_frames
        self.input.write(start, block)
        self.position.set(Counter.POSITION, start + self.block_frames)
        self.ledger.capture(start, self.now_ns, self.now_ns - 1 if late else self.now_ns + ALLOWANCE_NS)
        self.blocks += 1

    def work(self) -> None:
        while (start := self.worker.pending()) is not None:
            self.worker.turn(start)

    def play(self, blocks: int, seed: int = 0) -> None:
        """A guitar of noise and a note; hands that are never still; now and then a block that comes too late."""
        rng = np.random.default_rng(seed)
        time_ = np.arange(self.block_frames) / 44_100
        for number in range(blocks):
            if number % 5 == 0:
                self._turn_knobs(rng)
            note = np.sin(2 * np.pi * rng.choice([110.0, 146.8, 196.0]) * time_) * np.exp(-4 * time_)
            self.hear((0.3 * note + 0.01 * rng.standard_normal(len(note))).astype(np.float32), late=number % 17 == 11)
            self.work()

    def lose_the_thread(self) -> None:
        """A stall longer than the rings: the worker resets its engine."""
        for _ in range(RING_BLOCKS + 1):
            self.hear(np.full(self.block_frames, 0.1, np.float32))
        self.work()

    def close(self) -> None:
        os.close(self.fd)
        self.memory.close()

    def _turn_knobs(self, rng: np.random.Generator) -> None:
        wishes = {Control.PROMPT: rng.integers(12), Control.SECOND_PROMPT: rng.integers(12), Control.STEPS: rng.integers(5)}
        wishes |= {Control.MORPH: rng.choice([0.0, rng.random(), 1.0]), Control.STRAY: rng.choice([0.0, rng.random(), 1.0])}
        wishes |= {Control.FREEZE: rng.random() < 0.2, Control.JAM: rng.random() < 0.2}
        for control, value in wishes.items():
            self.controls.set(control, float(value))

    def _keep(self, start: int, row: object) -> None:
        began = time.thread_time()
        self.recorder.keep(start, row)
        self.keep_seconds += time.thread_time() - began
