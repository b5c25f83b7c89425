"""What an engine is evaluated on: unseen scores with their true targets, and real guitars.

Runs in: evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from engines.lmdm.codec import SAMPLE_RATE
from engines.train.corpus import open_scores
from engines.train.data import level

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """One unseen score: the same music by several guitars and by every target instrument, aligned to the sample."""

    name: str
    tuning_cents: float  # against concert pitch
    inputs: dict[int, Samples]  # by guitar program
    targets: dict[int, Samples]  # by target program

    def guitar(self, turn: int) -> int:
        """Guitars take turns, so that all are heard."""
        return sorted(self.inputs)[turn % len(self.inputs)]


@dataclass(frozen=True)
class RealGuitar:
    """A recording of a real guitar. What it should become is not known: only notes, timbre and level can be judged."""

    name: str
    kind: str  # "clean" or "distorted"
    audio: Samples


@dataclass(frozen=True)
class _Take:
    path: str
    name: str
    kind: str
    start_seconds: float


# Debian fretsonfire-songs-sectoid. The last quarter of each stem is unseen by every training; the first take is not: the decoder
# (not the model) has heard it, but it is the only long clean passage.
_SONGS = "/usr/share/games/fretsonfire/data/songs/sectoid"
_TAKES = (
    _Take("Feelings/guitar.ogg", "Feelings, picked clean", "clean", 20.0),
    _Take("War of freedom/guitar.ogg", "War of freedom, low and clean", "clean", 143.0),
    _Take("Feelings/guitar.ogg", "Feelings, lead", "distorted", 226.0),
    _Take("Escape from chaosland/guitar.ogg", "Escape from chaosland", "distorted", 164.0),
    _Take("Metal madness/guitar.ogg", "Metal madness, drop-tuned", "distorted", 108.0),
)
# CC0 recordings: in the package's samples, or where Debian's sonic-pi-samples puts them.
_SAMPLE_FOLDERS = (Path(__file__).parents[2] / "appliance" / "samples", Path("/usr/share/sonic-pi/samples"))


def scores(folder: Path, split: str, count: int, seconds: float) -> list[Score]:
    """Up to `count` scores of a split, cut to `seconds`."""
    found = []
    for score in open_scores(folder, split)[:count]:
        by_role: dict[str, dict[int, Samples]] = {"guitar": {}, "target": {}, "companion": {}}
        for index, audio in score.audio().items():
            part = score.parts[index]
            by_role[part.role][part.program] = audio[: int(seconds * SAMPLE_RATE)]
        found.append(Score(score.name, score.tuning_cents, by_role["guitar"], by_role["target"] or by_role["companion"]))
    return found


def read(path: Path, start_seconds: float, seconds: float) -> Samples:
    """A piece of a recording: mono, 44.1 kHz, at the level of the corpus."""
    with soundfile.SoundFile(path) as file:
        file.seek(int(start_seconds * file.samplerate))
        audio = file.read(int(seconds * file.samplerate), dtype="float32", always_2d=True).mean(1)
        rate_hz = file.samplerate
    return level(audio if rate_hz == SAMPLE_RATE else soxr.resample(audio, rate_hz, SAMPLE_RATE))


def real_guitars(seconds: float) -> list[RealGuitar]:
    """The recordings that this machine has."""
    folder = next((f for f in _SAMPLE_FOLDERS if any(f.glob("guit_*"))), None)
    samples = sorted(folder.glob("guit_*.*")) if folder else []
    clips = [RealGuitar(path.stem, "clean", read(path, 0.0, seconds)) for path in samples]
    takes = [take for take in _TAKES if Path(_SONGS, take.path).exists()]
    return clips + [RealGuitar(t.name, t.kind, read(Path(_SONGS, t.path), t.start_seconds, seconds)) for t in takes]
