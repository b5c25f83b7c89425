"""The flight ring: what the last minutes gave one engine and what it answered, in a mapped file that outlives every process.

    header | who plays | lives of the worker | one record per block | checkpoints of the engine's whole state

Records and checkpoints are rings of fixed-size places. A place is taken back before it is written and given its number and checksum
last, so a record that a crash has torn is no record. What is read is checked as a copy: the worker may be writing over it.

Runs in: the worker process (`FlightRing.attach`, `append`, `checkpoint`); main writes who plays; whoever saves or replays reads (`open`).
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.shared import LEDGER
from engines.engine import EngineControls, EngineState

MAGIC = b"ghostnote flight ring 1\n"
TEXT_BYTES, LIVES = 32_768, 16
PEDAL_AT = 4096
LIVES_AT = PEDAL_AT + TEXT_BYTES
_PLACES_AT = LIVES_AT + LIVES * TEXT_BYTES
_KINDS = {"int": "i8", "float": "f8", "bool": "?"}

Samples = NDArray[np.float32]
Text = Mapping[str, Any]

CONTROLS = np.dtype([(one.name, _KINDS[str(one.type)]) for one in fields(EngineControls)])
HEAD = np.dtype(
    [
        ("commit", "i8"),  # number + 1; 0 while the record is written
        ("crc", "u4"),  # of the rest of the head, what was heard and what was answered
        ("life", "u4"),  # of the worker: under which facts it was computed
        ("number", "i8"),  # of the record, counted from the ring's first
        ("start", "i8"),  # position of the block
        ("utc_ns", "i8"),
        ("mode", "i8"),  # a BlockMode
        ("reset", "?"),  # the engine was reset just before, with `seed`
        ("seed", "i8"),
        ("controls", CONTROLS),  # as the engine was given them
        ("hash", "u8", (2,)),  # of the answer's bits
        ("ledger", LEDGER),
    ]
)
_CHECKPOINT = np.dtype([("commit", "i8"), ("crc", "u4"), ("life", "u4"), ("facts", "i8", (16,))])


class FlightError(Exception):
    """A flight that can't be read, saved or replayed: one line that says what is wrong and what to do."""


@dataclass(frozen=True)
class FlightSettings:
    """What the worker is told: an open file, and how much of the past it should hold."""

    fd: int
    minutes: float


@dataclass(frozen=True)
class Field:
    """One array of an engine's state."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Shape:
    """What fixes the size of everything in the file."""

    sample_rate: int
    block_frames: int
    records: int
    checkpoints: int
    arrays: tuple[Field, ...]
    facts: tuple[str, ...]
    head: str = str(HEAD.descr)  # of another Ghostnote's ring it may be another

    @classmethod
    def of(cls, state: EngineState, sample_rate: int, block_frames: int, records: int, checkpoints: int) -> Shape:
        arrays = tuple(Field(name, array.dtype.str, array.shape) for name, array in state.arrays.items())
        return cls(sample_rate, block_frames, records, checkpoints, arrays, tuple(state.facts))

    @classmethod
    def parse(cls, facts: Any) -> Shape:
        """Raises TypeError, KeyError, ValueError where `facts` are not those of a shape."""
        arrays = tuple(Field(one["name"], one["dtype"], tuple(one["shape"])) for one in facts["arrays"])
        return cls(**{**facts, "arrays": arrays, "facts": tuple(facts["facts"])})

    @property
    def state_bytes(self) -> int:
        return sum(one.bytes for one in self.arrays)

    def state(self, data: bytes, facts: Mapping[str, int]) -> EngineState:
        """The state whose arrays lie one behind the other in `data`."""
        arrays, at = {}, 0
        for one in self.arrays:
            arrays[one.name] = np.frombuffer(data[at : at + one.bytes], one.dtype).reshape(one.shape)
            at += one.bytes
        return EngineState(arrays, facts)

    def layout(self) -> tuple[int, int, int, int, int]:
        """Where heads, heard, answers, checkpoints and the file's end are."""
        heads, block = _PLACES_AT, self.records * self.block_frames
        heard = _up(heads + self.records * HEAD.itemsize)
        answers = _up(heard + 4 * block)
        checkpoints = _up(answers + 2 * block)
        return heads, heard, answers, checkpoints, checkpoints + self.checkpoints * self.stride

    @property
    def stride(self) -> int:
        return _up(_CHECKPOINT.itemsize + self.state_bytes)


@dataclass(frozen=True)
class Record:
    """One block, whole."""

    head: Any  # of HEAD
    heard: Samples
    answer: NDArray[np.int16]  # to hear and to measure by; whether an answer is the same, its hash says

    @property
    def controls(self) -> EngineControls:
        """In Python's own numbers: numpy's would make other arithmetic of them."""
        return EngineControls(**{name: self.head["controls"][name].item() for name in CONTROLS.names or ()})


class FlightRing:
    """An open ring. `path` is how messages call it."""

    def __init__(self, memory: mmap.mmap, shape: Shape, path: str, fd: int = -1) -> None:
        self.shape, self.path, self._fd, self._memory = shape, path, fd, memory
        heads, heard, answers, self._checkpoints_at, _ = self._at = shape.layout()
        n, block = shape.records, shape.block_frames
        self._heads = np.frombuffer(memory, HEAD, n, heads)
        self._heard = np.frombuffer(memory, np.float32, n * block, heard).reshape(n, block)
        self._answers = np.frombuffer(memory, np.int16, n * block, answers).reshape(n, block)
        self._marks = [self._mark(place) for place in range(shape.checkpoints)]

    # Opening

    @classmethod
    def attach(cls, fd: int, shape: Shape) -> FlightRing:
        """The ring in the open file, gone on with if it is of this shape, else begun anew. Raises OSError."""
        size = shape.layout()[-1]
        header = MAGIC + json.dumps(asdict(shape)).encode()
        if os.fstat(fd).st_size != size or os.pread(fd, 4096, 0).rstrip(b"\0") != header:
            assert len(header) <= 4096, "the shape of a state must fit into the header"
            os.pwrite(fd, bytes(4096), 0)
            os.ftruncate(fd, min(os.fstat(fd).st_size, LIVES_AT))
            os.ftruncate(fd, size)
            os.posix_fallocate(fd, 0, shape.layout()[1])  # without room, a write to mapped memory would end the process
            os.pwrite(fd, header, 0)
        return cls(mmap.mmap(fd, size), shape, "the flight ring", fd)

    @classmethod
    def open(cls, path: Path) -> FlightRing:
        """For reading; the pedal may still be writing to it, or have died long ago. Raises FlightError."""
        try:
            with path.open("rb") as file:
                header, size = file.read(4096), os.fstat(file.fileno()).st_size
                if header and not header.strip(b"\0"):
                    raise FlightError(f"{path}: holds no blocks yet: its engine has not started")
                if not header.startswith(MAGIC):
                    raise FlightError(f"{path}: is not a flight; name a .flight file or a .ring file")
                shape = Shape.parse(json.loads(header[len(MAGIC) :].rstrip(b"\0")))
                if shape.head != str(HEAD.descr):
                    raise FlightError(f"{path}: was written by another version of Ghostnote; replay it with that one")
                if size != shape.layout()[-1]:
                    raise FlightError(f"{path}: is cut short; get it again")
                return cls(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), shape, str(path))
        except OSError as error:
            raise FlightError(f"{path}: no flight can be read there ({error.strerror})") from None
        except (ValueError, TypeError, KeyError):
            raise FlightError(f"{path}: is damaged; get it again") from None

    # Writing

    def append(self, head: NDArray[Any], heard: Samples, answer: NDArray[np.int16]) -> None:
        """Keep a block; `head` is one row of HEAD, complete but for commit and crc. Raises OSError where there is no room."""
        number, block = int(head["number"][0]), self.shape.block_frames
        place = number % self.shape.records
        if number < self.shape.records:
            self._reserve(self._at[1] + 4 * block * place, 4 * block)
            self._reserve(self._at[2] + 2 * block * place, 2 * block)
        row = self._heads[place : place + 1]
        row["commit"] = 0
        head["commit"] = head["crc"] = 0
        head["crc"] = _crc(head, heard, answer)
        self._heard[place], self._answers[place] = heard, answer
        row[:] = head
        row["commit"] = number + 1

    def checkpoint(self, after: int, life: int, state: EngineState) -> None:
        """Keep what the engine remembers after the record of that number. Raises OSError where there is no room."""
        if not self._marks:
            return
        place = int(np.argmin([int(mark["commit"][0]) for mark in self._marks]))
        at = self._checkpoints_at + place * self.shape.stride
        self._reserve(at, self.shape.stride)
        mark = self._marks[place]
        mark["commit"] = 0
        at, crc = at + _CHECKPOINT.itemsize, 0
        for array in state.arrays.values():
            data = np.ascontiguousarray(array)
            self._memory[at : at + data.nbytes] = data.data.cast("B")
            at, crc = at + data.nbytes, _crc(data, start=crc)
        facts = np.zeros(16, np.int64)
        facts[: len(state.facts)] = list(state.facts.values())
        mark["facts"], mark["life"], mark["crc"] = facts, life, _crc(facts, start=crc)
        mark["commit"] = after + 1

    def tell(self, life: int, facts: Text) -> None:
        """Keep what holds from here on: what computes, and which engine."""
        data, at = text_bytes({**facts, "life": life}), LIVES_AT + life % LIVES * TEXT_BYTES
        self._memory[at : at + len(data)] = data

    # Reading

    @property
    def pedal(self) -> Text:
        """Who plays, in main's words."""
        return read_text(self._memory, PEDAL_AT)

    @property
    def lives(self) -> dict[int, Text]:
        texts = (read_text(self._memory, LIVES_AT + place * TEXT_BYTES) for place in range(LIVES))
        return {text["life"]: text for text in texts if "life" in text}

    def heads(self) -> NDArray[Any]:
        """Of all records that are whole, oldest first."""
        numbers = self._heads["commit"] - 1
        there = (numbers >= 0) & (self._heads["number"] == numbers) & (numbers % self.shape.records == np.arange(len(numbers)))
        whole = [place for place in np.flatnonzero(there) if self._read(int(place)) is not None]
        heads = self._heads[whole]
        return heads[np.argsort(heads["number"], kind="stable")]

    def newest(self) -> int:
        """Number of the last record; -1 if there is none."""
        return int(self._heads["commit"].max()) - 1

    def record(self, number: int) -> Record | None:
        """None if it is not there any more, or not whole."""
        record = self._read(number % self.shape.records)
        return record if record is not None and record.head["number"] == number else None

    def checkpoints(self) -> list[int]:
        """After which records there is a whole one."""
        kept = [int(mark["commit"][0]) - 1 for mark in self._marks if mark["commit"][0] > 0]
        return sorted(after for after in kept if self.state(after) is not None)

    def state(self, after: int) -> tuple[bytes, dict[str, int]] | None:
        """The checkpoint after that record, for `Shape.state`; None if it is not there any more, or not whole."""
        for place, mark in enumerate(self._marks):
            kept = mark.copy()
            if kept["commit"][0] == after + 1:
                at = self._checkpoints_at + place * self.shape.stride + _CHECKPOINT.itemsize
                data = bytes(self._memory[at : at + self.shape.state_bytes])
                if _crc(kept["facts"], start=zlib.crc32(data)) != kept["crc"][0]:
                    return None
                return data, dict(zip(self.shape.facts, kept["facts"][0].tolist(), strict=False))
        return None

    def _read(self, place: int) -> Record | None:
        head, heard, answer = self._heads[place : place + 1].copy(), self._heard[place].copy(), self._answers[place].copy()
        commit, crc = int(head["commit"][0]), int(head["crc"][0])
        head["commit"] = head["crc"] = 0
        if commit == 0 or crc != _crc(head, heard, answer):
            return None
        head["commit"], head["crc"] = commit, crc
        return Record(head[0], heard, answer)

    def _mark(self, place: int) -> NDArray[Any]:
        return np.frombuffer(self._memory, _CHECKPOINT, 1, self._checkpoints_at + place * self.shape.stride)

    def _reserve(self, at: int, size: int) -> None:
        os.posix_fallocate(self._fd, at, size)


def text_bytes(facts: Text) -> bytes:
    """A JSON object as it is kept in TEXT_BYTES. What would make it too long is left out."""
    data = json.dumps(facts, ensure_ascii=False).encode()
    if len(data) > TEXT_BYTES - 8:
        data = json.dumps({name: value for name, value in facts.items() if len(json.dumps(value)) < 1024}).encode()
    return np.array([len(data), zlib.crc32(data)], np.uint32).tobytes() + data


def read_text(memory: mmap.mmap, at: int) -> Text:
    """Empty where there is none, or it is not whole."""
    size, crc = (int(number) for number in np.frombuffer(memory[at : at + 8], np.uint32))
    data = memory[at + 8 : at + 8 + min(size, TEXT_BYTES - 8)]
    found: Text = json.loads(data) if size and zlib.crc32(data) == crc else {}
    return found


def _crc(*parts: NDArray[Any], start: int = 0) -> int:
    """Of contiguous arrays, one behind the other."""
    for part in parts:
        start = zlib.crc32(part.data.cast("B") if part.dtype.names is None else part.tobytes(), start)
    return start


def _up(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
