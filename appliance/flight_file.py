"""A saved flight: everything that a ring held, and what a person would ask about it, in one compressed file.

A .flight file is a zip file:

    flight.json                what was saved when and why, the pedal's facts, configuration, status, notes and misses
    prompts/NAME.npz           the player's own prompts: answers depend on them
    SLOT/records.npy           one row of appliance.flight_ring.HEAD per block, oldest first
    SLOT/heard/N, answers/N    their audio, PIECE blocks from the Nth on; every bit of it, bytes of one weight side by side
    SLOT/checkpoints/AFTER     an engine's whole state after that record

It holds what was played. Nothing in it is executed or pickled. Runs in: the process that saves a flight, `ghostnote replay`.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.flight_ring import FlightError, FlightRing, Record, Samples, Shape, Text

FORMAT = 1
SUFFIX = ".flight"
ABOUT = "flight.json"
PIECE = 32  # blocks that are compressed together
LEVEL = 1  # what audio gains from more is little, and the time is long
MOST_JSON_BYTES = 32 << 20
_CUT = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class About:
    """What a person would ask."""

    saved: str  # UTC, ISO 8601
    reason: str
    status: Text = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # the pedal's last lines in the journal
    misses: tuple[Text, ...] = ()


def spread(samples: NDArray[Any]) -> bytes:
    """Bytes of one weight side by side: those of high weight repeat themselves, which zlib can see now."""
    return samples.reshape(-1).view(np.uint8).reshape(-1, samples.itemsize).T.tobytes()


def gathered(data: bytes, kind: Any, columns: int) -> NDArray[Any]:
    """The inverse of `spread`: rows of so many columns. Raises ValueError."""
    size = np.dtype(kind).itemsize
    rows: NDArray[Any] = np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(size, -1).T).view(kind).reshape(-1, columns)
    return rows


class FlightWriter:
    """Writes one flight to an open file: rings one after the other, then what is to be said about them."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL)  # type: ignore[arg-type]
        self._tracks: list[dict[str, Any]] = []

    def add(self, slot: int, ring: FlightRing) -> int:
        """All that is whole in a ring. Returns how many blocks that is; what the pedal writes over meanwhile is left out."""
        heads = ring.heads()
        kept: list[Any] = []
        for at in range(0, len(heads), PIECE):
            records = [record for head in heads[at : at + PIECE] if (record := ring.record(int(head["number"]))) is not None]
            if not records:
                continue
            self._put(f"{slot}/heard/{len(kept)}", spread(np.stack([record.heard for record in records])))
            self._put(f"{slot}/answers/{len(kept)}", spread(np.diff(np.stack([record.answer for record in records]), prepend=np.int16(0))))
            kept += [record.head for record in records]
        if not kept:
            return 0
        rows = io.BytesIO()
        np.save(rows, np.array(kept, heads.dtype))
        self._put(f"{slot}/records.npy", rows.getvalue())
        checkpoints = {str(after): state[1] for after in ring.checkpoints() if (state := self._state(slot, ring, after))}
        lives = [dict(life) for life in ring.lives.values()]
        shape = asdict(ring.shape)
        self._tracks.append({"slot": slot, "pedal": ring.pedal, "lives": lives, "shape": shape, "checkpoints": checkpoints})
        return len(kept)

    def add_prompts(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.npz")):
            self._put(f"prompts/{path.name}", path.read_bytes())

    def close(self, about: About) -> None:
        facts = {"format": FORMAT, **asdict(about), "tracks": self._tracks}
        self._put(ABOUT, json.dumps(facts, ensure_ascii=False, indent=1).encode())
        self._zip.close()

    def _state(self, slot: int, ring: FlightRing, after: int) -> tuple[bytes, dict[str, int]] | None:
        state = ring.state(after)
        if state is not None:
            self._put(f"{slot}/checkpoints/{after}", state[0])
        return state

    def _put(self, name: str, data: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, LEVEL)


class SavedTrack:
    """One ring of a saved flight; read as a FlightRing is."""

    def __init__(self, archive: SavedFlight, facts: Mapping[str, Any]) -> None:
        self._archive, self._slot = archive, int(facts["slot"])
        self.pedal: Text = facts["pedal"]
        self.lives = {int(life["life"]): life for life in facts["lives"]}
        self.shape = Shape.parse(facts["shape"])
        self._facts = {int(after): dict(state) for after, state in facts["checkpoints"].items()}
        most = 1024 + self.shape.records * 4096
        self._heads: NDArray[Any] = np.load(io.BytesIO(archive.read(f"{self._slot}/records.npy", most)), allow_pickle=False)
        self._places = {int(number): place for place, number in enumerate(self._heads["number"])}
        self._pieces = archive.numbers(f"{self._slot}/heard/")
        self._piece: tuple[int, Samples, NDArray[np.int16]] | None = None

    def heads(self) -> NDArray[Any]:
        return self._heads

    def record(self, number: int) -> Record | None:
        """Raises FlightError where the file is damaged."""
        place = self._places.get(number)
        if place is None:
            return None
        first, heard, answers = self._load(max(piece for piece in self._pieces if piece <= place))
        return Record(self._heads[place], heard[place - first], answers[place - first])

    def checkpoints(self) -> list[int]:
        return sorted(self._facts)

    def state(self, after: int) -> tuple[bytes, dict[str, int]] | None:
        if after not in self._facts:
            return None
        return self._archive.read(f"{self._slot}/checkpoints/{after}", self.shape.state_bytes), self._facts[after]

    def _load(self, piece: int) -> tuple[int, Samples, NDArray[np.int16]]:
        if self._piece is None or self._piece[0] != piece:
            block, name = self.shape.block_frames, f"{self._slot}/{{}}/{piece}"
            heard = gathered(self._archive.read(name.format("heard"), 4 * PIECE * block), np.float32, block)
            steps = gathered(self._archive.read(name.format("answers"), 2 * PIECE * block), np.int16, block)
            self._piece = piece, heard, np.cumsum(steps, axis=1, dtype=np.int16)
        return self._piece


class SavedFlight:
    """An opened .flight file. Raises FlightError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            facts = json.loads(self.read(ABOUT, MOST_JSON_BYTES))
            if facts["format"] != FORMAT:
                raise FlightError(f"{path}: was saved by another version of Ghostnote; replay it with that one")
            self.about = About(facts["saved"], facts["reason"], facts["status"], tuple(facts["notes"]), tuple(facts["misses"]))
            self.tracks = {int(one["slot"]): SavedTrack(self, one) for one in facts["tracks"]}
        except OSError as error:
            raise FlightError(f"{path}: no flight can be read there ({error.strerror or error})") from None
        except _CUT:
            raise self.damaged() from None

    def read(self, name: str, most_bytes: int) -> bytes:
        """Raises FlightError."""
        try:
            if self._zip.getinfo(name).file_size > most_bytes:
                raise self.damaged()
            return self._zip.read(name)
        except (*_CUT, OSError):
            raise self.damaged() from None

    def numbers(self, folder: str) -> list[int]:
        """Of the members in a folder that are called by numbers."""
        return sorted(int(name.removeprefix(folder)) for name in self._zip.namelist() if name.startswith(folder))

    def unpack_prompts(self, folder: Path) -> None:
        """Write the player's own prompts there, by their names alone."""
        for name in self._zip.namelist():
            if name.startswith("prompts/") and name.endswith(".npz"):
                (folder / os.path.basename(name)).write_bytes(self.read(name, 1 << 20))

    def damaged(self) -> FlightError:
        return FlightError(f"{self.path}: is cut short or damaged, or is not a flight; get it again")
