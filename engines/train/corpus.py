"""The rendered corpus on disk, and how it is read.

A score is three files: `NAME.npy`, the features of all its parts, float16 (parts, T, 644), memory-mapped when read;
`NAME.audio.npy`, excerpts of some parts, int16 (kept, N); and `NAME.json`, which says who plays each. A row of features is one
latent: stacked normalised log-mel (512), linear constant-Q magnitudes (2 x 64), loudness (4).

Shapes: T latent, N sample. Runs in: training, evaluation.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.lmdm import codec, sketch

MEL = slice(0, codec.STACK * codec.MELS)
CQT = slice(MEL.stop, MEL.stop + sketch.PER_LATENT * sketch.BINS)
LOUDNESS = slice(CQT.stop, CQT.stop + codec.LATENT_FRAMES // sketch.LOUDNESS_FRAMES)
ROW = LOUDNESS.stop

Rows = NDArray[np.float16]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Who plays: a General MIDI program of a bank, as the player's guitar, as what it should become, or beside it."""

    role: str  # "guitar", "target" or "companion"
    program: int
    bank: str


@dataclass(frozen=True)
class Score:
    """One score as its parts; all are aligned to the sample."""

    name: str
    parts: tuple[Part, ...]
    rows: Rows  # (parts, T, ROW)
    kept: tuple[int, ...]  # the parts whose audio is kept
    tuning_cents: float  # against concert pitch; that of all parts, guitars a little off it
    folder: Path

    @classmethod
    def open(cls, path: Path) -> Score:
        """`path` is that of the .json file."""
        facts = json.loads(path.read_text())
        rows = np.load(path.with_suffix(".npy"), mmap_mode="r")
        parts = tuple(Part(**part) for part in facts["parts"])
        return cls(path.stem, parts, rows, tuple(facts["kept"]), facts["tuning_cents"], path.parent)

    @property
    def latents(self) -> int:
        return int(self.rows.shape[1])

    def indices(self, role: str, program: int | None = None) -> list[int]:
        """Rows of `rows` whose part has this role (and program)."""
        return [i for i, part in enumerate(self.parts) if part.role == role and program in (None, part.program)]

    def mel(self, index: int) -> Rows:
        """(T, 512)"""
        return self.rows[index, :, MEL]

    def stored(self) -> NDArray[np.int16]:
        """Kept excerpts (kept, N)."""
        excerpts: NDArray[np.int16] = np.load(self.folder / f"{self.name}.audio.npy", mmap_mode="r")
        return excerpts

    def audio(self) -> dict[int, Samples]:
        """Kept excerpts by part index, (N,) in [-1, 1]."""
        return {index: row.astype(np.float32) / 32767 for index, row in zip(self.kept, self.stored(), strict=True)}


def open_scores(folder: Path, split: str) -> list[Score]:
    """Every score of a split, in order."""
    return [Score.open(path) for path in sorted(folder.glob(f"{split}[0-9]*.json"))]


def write_score(folder: Path, name: str, parts: list[Part], tuning_cents: float, rows: Rows, audio: dict[int, Samples]) -> None:
    """The .json file comes last: a score without it was never finished."""
    np.save(folder / f"{name}.npy", rows)
    np.save(folder / f"{name}.audio.npy", (np.stack(list(audio.values())) * 32767).astype(np.int16))
    scratch = folder / f"{name}.part"
    facts = {"parts": [asdict(part) for part in parts], "tuning_cents": tuning_cents, "kept": list(audio)}
    scratch.write_text(json.dumps(facts))
    os.replace(scratch, folder / f"{name}.json")
