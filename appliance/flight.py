"""The flight recorder: writes down what an engine is given and what it answers, after the answer is where it belongs.

    recorder = FlightRecorder.open(flight, engine, facts)      an engine itself: whatever is asked of it, the other one does
    recorder.keep(row)                                         once per block: its record, and now and then a checkpoint

What is kept is what a block depends on: its input, the controls as the engine was given them, and now and then the whole of the engine's
state. appliance/replay.py makes the answer of any block again from that.

Runs in: the worker process. Where the ring can't be kept the engine plays on without, and one line says so.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from appliance.flight_ring import HEAD, FlightRing, FlightSettings, Shape
from appliance.stats import BlockMode
from engines.bundle import ECHO, digest_of, locate
from engines.engine import Audio, Engine, EngineControls, EngineState, Stamp, no_stamp
from engines.here import gpu_for, versions
from engines.proofs import cpu

CHECKPOINT_BLOCKS = 64  # from one checkpoint to the next, at least: a block is made again from so many
AUDIO_BYTES = 6  # of a frame: what was heard, and what was answered


@dataclass(frozen=True)
class Played:
    """Which engine it is, and how it was opened."""

    engine: str  # address
    prompts: str = ""  # folder of the player's own prompts
    threads: int = 1


def conditions(engine: Engine, threads: int) -> dict[str, Any]:
    """What the bits of an answer depend on beside the engine and what it is given."""
    backend = engine.backend
    here = {"runtime": ", ".join(versions(backend)), "cpu": cpu(), "gpu": gpu_for(backend), "machine": platform.machine()}
    return {"backend": backend, **here, "threads": threads}


def hash_of(answer: Audio) -> tuple[int, int]:
    """Of its bits."""
    low, high = np.frombuffer(hashlib.sha256(np.ascontiguousarray(answer, np.float32).data).digest()[:16], np.uint64)
    return int(low), int(high)


def sixteen_bits(answer: Audio) -> Any:
    """As a converter would play it; what is no number becomes any."""
    steps = np.clip(answer, -1.0, 1.0) * np.float32(32_767)
    with np.errstate(invalid="ignore"):
        return np.rint(steps, out=steps).astype(np.int16)


class FlightRecorder:
    """See engines.engine.Engine; with `ring` None nothing is written down."""

    def __init__(self, engine: Engine, played: Played, ring: FlightRing | None) -> None:
        self.engine, self.spec, self.runs_on = engine, engine.spec, engine.runs_on
        self._played, self._ring = played, ring
        self._head = np.zeros(1, HEAD)
        self._seed: int | None = None  # of a reset that no block has followed yet
        self._heard = self._answer = np.zeros(engine.spec.block_frames, np.float32)
        self._every = self._due = checkpoint_blocks(0 if ring is None else ring.shape.state_bytes, engine.spec.block_frames)
        self._number = self._life = 0
        self._backend = ""
        if ring is not None:
            self._number, self._life = ring.newest() + 1, max(ring.lives, default=-1)
            self._begin_life()

    @classmethod
    def open(cls, flight: FlightSettings | None, engine: Engine, played: Played) -> FlightRecorder:
        if flight is None:
            return cls(engine, played, None)
        try:
            return cls(engine, played, FlightRing.attach(flight.fd, shape_for(engine, flight.minutes)))
        except OSError as error:
            print(f"worker: no flight is recorded ({error.strerror}): make room in the runtime folder, or set [flight] minutes", flush=True)
            return cls(engine, played, None)

    # The engine

    @property
    def backend(self) -> str:
        return self.engine.backend

    def reset(self, seed: int) -> None:
        self.engine.reset(seed)
        self._seed = seed

    def generate(self, block: Audio, controls: EngineControls, stamp: Stamp = no_stamp) -> Audio:
        self._note(block, BlockMode.GENERATED)
        for name, value in vars(controls).items():
            self._head["controls"][name] = value
        self._answer = self.engine.generate(block, controls, stamp)
        return self._answer

    def prefill(self, block: Audio) -> None:
        self._note(block, BlockMode.PREFILLED)
        self.engine.prefill(block)

    def save(self) -> EngineState:
        return self.engine.save()

    def restore(self, state: EngineState) -> None:
        """What comes now goes on from a checkpoint, not from the block before."""
        self.engine.restore(state)
        if self._ring is not None:
            self._ring.checkpoint(self._number - 1, self._life, state)

    # The recorder

    def keep(self, start: int, row: Any) -> None:
        """Write down the block that began at `start`, which has just been heard; `row` is its row of the ledger."""
        if self._ring is None:
            return
        try:
            self._keep(self._ring, start, row)
        except OSError as error:
            self._ring = None
            print(f"worker: the flight recorder ends ({error.strerror}): make room in the runtime folder", flush=True)

    def _keep(self, ring: FlightRing, start: int, row: Any) -> None:
        if self.engine.backend != self._backend:
            self._begin_life()
        head, answered = self._head, self._head["mode"][0] == BlockMode.GENERATED
        head["number"], head["start"], head["life"], head["utc_ns"] = self._number, start, self._life, time.time_ns()
        head["ledger"] = row
        head["hash"] = hash_of(self._answer) if answered else 0
        ring.append(head, self._heard, sixteen_bits(self._answer) if answered else np.zeros(len(self._heard), np.int16))
        self._number += 1
        self._due -= 1
        if self._due <= 0 and self._seed is None:
            ring.checkpoint(self._number - 1, self._life, self.engine.save())
            self._due = self._every

    def _note(self, block: Audio, mode: BlockMode) -> None:
        """A block begins. What was reset before it is its own; what is reset after it, because its answer was no audio, the next one's."""
        self._heard, self._head[:] = block, np.zeros(1, HEAD)
        self._head["mode"] = mode
        if self._seed is not None:
            self._head["reset"], self._head["seed"] = True, self._seed
            self._seed, self._due = None, self._every

    def _begin_life(self) -> None:
        """Whatever computes from here on is not what did before."""
        assert self._ring is not None
        self._life, self._backend = self._life + 1, self.engine.backend
        self._ring.tell(self._life, life_facts(self.engine, self._played))


def life_facts(engine: Engine, played: Played) -> Mapping[str, Any]:
    address = played.engine if played.engine == ECHO else str(locate(played.engine))
    spec = engine.spec
    identity = {"engine": address, "digest": digest_of(played.engine), "name": spec.name, "own_prompts": played.prompts}
    return {**identity, **conditions(engine, played.threads), "prompts": list(spec.prompts), "sample_rate": spec.sample_rate}


def shape_for(engine: Engine, minutes: float) -> Shape:
    """Room for so many minutes, all of which can be made again from a checkpoint that is still there."""
    spec, state = engine.spec, engine.save()
    every = checkpoint_blocks(sum(array.nbytes for array in state.arrays.values()), spec.block_frames)
    blocks = int(np.ceil(60 * minutes * spec.sample_rate / spec.block_frames)) + every
    return Shape.of(state, spec.sample_rate, spec.block_frames, blocks, blocks // every + 1)


def checkpoint_blocks(state_bytes: int, block_frames: int) -> int:
    """From one checkpoint to the next: so many that checkpoints never take more room than the audio between them."""
    return max(CHECKPOINT_BLOCKS, -(-state_bytes // (AUDIO_BYTES * block_frames)))
