"""Keeps what a session sounded like: dry, wet bus and output, from the first frame on, as arrays on disk.

The files are as long as they will ever be before the first period, so that storing one is a copy into mapped memory. A restarted
audio process goes on in the same files.

Runs in: the audio process (`Recorder`), and whoever reads the files afterwards (`recorded`). Storing a period allocates no array.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]

TRACKS = ("dry", "wet", "out")


class Recorder:
    """Three mapped arrays in `folder`: dry.npy (frames, in), wet.npy (frames,), out.npy (frames, out)."""

    def __init__(self, folder: Path, frames: int, in_channels: int, out_channels: int) -> None:
        self.frames = frames
        self._dry = _open(folder / "dry.npy", (frames, in_channels))
        self._wet = _open(folder / "wet.npy", (frames,))
        self._out = _open(folder / "out.npy", (frames, out_channels))

    def store(self, position: int, dry: Frames, wet: Frames, out: Frames) -> None:
        """Keep one period; past the end of the recording nothing is kept."""
        end = position + len(dry)
        if end <= self.frames:
            self._dry[position:end] = dry
            self._wet[position:end] = wet
            self._out[position:end] = out


def recorded(folder: Path, track: str, frames: int) -> Frames:
    """The first `frames` of one of the TRACKS."""
    samples: Frames = np.load(folder / f"{track}.npy", mmap_mode="r")[:frames]
    return samples


def _open(path: Path, shape: tuple[int, ...]) -> Frames:
    if path.exists():
        kept: Frames = np.lib.format.open_memmap(path, mode="r+")
        if kept.shape == shape and kept.dtype == np.float32:
            return kept
    fresh: Frames = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    fresh[:] = 0.0  # now, so that no page has to be found while playing
    return fresh
