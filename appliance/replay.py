"""Makes recorded blocks again, off-line, and compares every bit of the answers.

    flight = open_flight(path)                     a saved flight, or a ring: of a pedal that plays, or of one that has died
    player = Replayer(flight, 0, engine)
    for result in player.play(numbers): ...        from the nearest reset or checkpoint before each block

Between a reset or a checkpoint and a block, every block is played as it was recorded. Where the way passes a checkpoint, what the engine
remembers is compared with it, and the recorded state is gone on from: one difference does not hide the next.

Runs in: `ghostnote replay`, tests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.flight import conditions, hash_of, sixteen_bits
from appliance.flight_file import About, SavedFlight
from appliance.flight_ring import MAGIC, FlightError, FlightRing, Record, Shape, Text
from appliance.stats import BlockMode
from engines.bundle import ECHO, BundleError, digest_of, open_engine
from engines.engine import Audio, Engine, EngineState

SAME_BITS = ("backend", "runtime", "cpu", "gpu", "machine", "threads")  # where one of these differs, answers may


class Track(Protocol):
    """What one engine was given: a ring, or its part of a saved flight."""

    shape: Shape

    @property
    def pedal(self) -> Text: ...

    @property
    def lives(self) -> dict[int, Text]: ...

    def heads(self) -> NDArray[Any]: ...

    def record(self, number: int) -> Record | None: ...

    def checkpoints(self) -> list[int]: ...

    def state(self, after: int) -> tuple[bytes, dict[str, int]] | None: ...


@dataclass(frozen=True)
class Flight:
    """An opened flight."""

    path: Path
    tracks: Mapping[int, Track]
    about: About | None = None  # of a saved one
    saved: SavedFlight | None = None


def open_flight(path: Path) -> Flight:
    """Raises FlightError."""
    try:
        with path.open("rb") as file:
            ring = file.read(len(MAGIC)) in (MAGIC, bytes(len(MAGIC)))
    except OSError as error:
        raise FlightError(f"{path}: no flight can be read there ({error.strerror})") from None
    if ring:
        return Flight(path, {0: FlightRing.open(path)})
    saved = SavedFlight(path)
    return Flight(path, saved.tracks, saved.about, saved)


class Outcome(Enum):
    IDENTICAL = "identical"
    DIFFERS = "differs"
    HEARD = "only heard"  # nothing was answered, so there is nothing to compare


@dataclass(frozen=True)
class Result:
    """One block, made again."""

    record: Record
    outcome: Outcome
    answer: Audio
    difference: float = 0.0  # largest, of an answer that differs; known to the sixteen bits that are kept


def open_for(flight: Flight, life: Text, engine: str = "", backend: str = "") -> Engine:
    """The engine that a life of the worker played, or the one named. Raises FlightError, BundleError."""
    address = engine or str(life["engine"])
    try:
        digest = digest_of(address)
    except BundleError as error:
        raise FlightError(f"{error} (the flight's engine: {life['name']}, digest {life['digest'][:16]}); name it with --engine") from None
    if digest != life["digest"]:
        wanted = f"{life['name']} with digest {life['digest'][:16]}"
        raise FlightError(f"{address} has digest {digest[:16]}, but {wanted} was recorded; name the right bundle with --engine")
    return _open(flight, life, address, backend)


def _open(flight: Flight, life: Text, address: str, backend: str) -> Engine:
    """With the prompts of the player's own as they were."""
    with tempfile.TemporaryDirectory(prefix="ghostnote-replay-") as folder:
        prompts = str(life.get("own_prompts", ""))
        if flight.saved:
            flight.saved.unpack_prompts(Path(folder))
            prompts = folder
        name = backend or life["backend"] or "onnxruntime"
        engine = open_engine(address, int(life["threads"]), name, "" if address == ECHO else prompts)
    if list(engine.spec.prompts) != life.get("prompts", list(engine.spec.prompts)):
        raise FlightError(f"{flight.path}: the player's own prompts are others now; replay a saved flight, which holds them")
    return engine


def departures(life: Text, engine: Engine) -> list[str]:
    """In what this machine is not what computed then: nothing is claimed about bits where that is not empty."""
    here = conditions(engine, int(life["threads"]))
    return [f"{name}: {life.get(name) or 'none'} then, {here[name] or 'none'} now" for name in SAME_BITS if life.get(name) != here[name]]


def groups(track: Track) -> list[tuple[Text, set[int]]]:
    """Lives of the worker that one engine can play again: what holds for them, and their numbers."""
    found: dict[str, tuple[Text, set[int]]] = {}
    for life in sorted({int(life) for life in track.heads()["life"]}):
        facts = track.lives.get(life)
        if facts is None:
            continue  # there have been more lives than the ring keeps
        key = str([facts.get(name) for name in ("digest", *SAME_BITS, "prompts")])
        found.setdefault(key, (facts, set()))[1].add(life)
    return list(found.values())


class Replayer:
    """Plays blocks of one track again. `checkpoints` counts, by whether they were met, the checkpoints that were passed."""

    def __init__(self, track: Track, engine: Engine, lives: set[int] | None = None) -> None:
        self.track, self.engine = track, engine
        heads = track.heads()
        self.heads = heads if lives is None else heads[np.isin(heads["life"], list(lives))]
        self.checkpoints = {True: 0, False: 0}
        self._kept = set(track.checkpoints())
        self._starts = self._find_starts()
        self._played: int | None = None  # the record whose state the engine has

    def numbers(self, mode: BlockMode | None = None) -> list[int]:
        """Of the blocks that can be made again, or of those of one kind."""
        wanted = self.heads if mode is None else self.heads[self.heads["mode"] == mode]
        return [int(number) for number in wanted["number"] if self.reaches(int(number))]

    def reaches(self, number: int) -> bool:
        """Whether the way to that block is recorded without a gap."""
        return number in self._starts

    def play(self, numbers: Iterable[int]) -> Iterator[Result]:
        """Each of these blocks, in order of time; all of them can be reached. Raises FlightError."""
        for number in sorted(set(numbers)):
            first = self._starts[number]
            if self._played is not None and first - 1 <= self._played < number:
                first = self._played + 1
            *_, result = (self._again(one) for one in range(first, number + 1))
            yield result

    def cost(self, numbers: Iterable[int]) -> int:
        """How many blocks have to be played for that."""
        reached, blocks = -1, 0
        for number in sorted(numbers):
            blocks += number - max(self._starts[number] - 1, reached)
            reached = number
        return blocks

    def _find_starts(self) -> dict[int, int]:
        """Of every block that can be made again, the one to begin with."""
        starts: dict[int, int] = {}
        for head in self.heads:
            number = int(head["number"])
            if head["reset"] or number - 1 in self._kept:
                starts[number] = number
            elif number - 1 in starts:
                starts[number] = starts[number - 1]
        return starts

    def _again(self, number: int) -> Result:
        record = self.track.record(number)
        if record is None:
            raise FlightError("the pedal has written over what was to be replayed; save the flight first, and replay that")
        self._begin(record, number)
        self._played = number
        if record.head["mode"] == BlockMode.PREFILLED:
            self.engine.prefill(record.heard)
            return Result(record, Outcome.HEARD, np.zeros_like(record.heard))
        return self._compare(record, self.engine.generate(record.heard, record.controls))

    def _begin(self, record: Record, number: int) -> None:
        """Bring the engine to where it was before that block."""
        if record.head["reset"]:
            self.engine.reset(int(record.head["seed"]))
        elif number - 1 in self._kept:
            kept = self.track.state(number - 1)
            if kept is None:
                raise FlightError("the pedal has written over what was to be replayed; save the flight first, and replay that")
            state = self.track.shape.state(*kept)
            if self._played == number - 1:
                self._check(state)
            self.engine.restore(state)

    def _check(self, state: EngineState) -> None:
        saved = self.engine.save()
        same = saved.facts == state.facts and all(saved.arrays[name].tobytes() == array.tobytes() for name, array in state.arrays.items())
        self.checkpoints[same] += 1

    def _compare(self, record: Record, answer: Audio) -> Result:
        if hash_of(answer) == tuple(int(part) for part in record.head["hash"]):
            return Result(record, Outcome.IDENTICAL, answer)
        steps = np.abs(sixteen_bits(answer).astype(np.int32) - record.answer)
        return Result(record, Outcome.DIFFERS, answer, max(float(steps.max()), 1.0) / 32_767)
