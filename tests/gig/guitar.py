"""A guitarist who plays songs, with pauses in between: what the card captures, as a function of its clock.

Each song is a bar of plucked low notes that repeats without a seam: low, so that the largest step from sample to sample is small by
itself and a click stands out of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
RATE = 44_100
BAR_FRAMES = 4 * RATE
FADE_FRAMES = 2_205
ROOTS_HZ = (82.5, 110.0, 98.0, 73.5, 123.5, 92.5)  # a whole number of turns in a bar
LOUD = 0.16


@dataclass(frozen=True)
class Song:
    """From `begin` to `end`, in frames of the card's clock."""

    begin: int
    end: int
    root_hz: float
    loud: float = LOUD


class Guitar:
    """`play(frame, count)` is what it sounds like then."""

    def __init__(self, songs: tuple[Song, ...]) -> None:
        self.songs = songs
        self._bars = {root: _bar(root) for root in {song.root_hz for song in songs}}
        self._at = 0
        self._silence = np.zeros(4_096, np.float32)

    def play(self, frame: int, count: int) -> Samples:
        while self._at < len(self.songs) and self.songs[self._at].end <= frame:
            self._at += 1
        song = self.songs[self._at] if self._at < len(self.songs) else None
        if song is None or frame + count <= song.begin:
            return self._silence[:count]
        return self._sound(song, frame, count)

    def _sound(self, song: Song, frame: int, count: int) -> Samples:
        at = (frame - song.begin) % BAR_FRAMES
        sound = song.loud * self._bars[song.root_hz][at : at + count]
        if song.begin + FADE_FRAMES <= frame and frame + count <= song.end - FADE_FRAMES:
            return sound
        frames = np.arange(frame, frame + count)
        way = np.minimum(frames - song.begin, song.end - frames) / FADE_FRAMES
        return np.asarray(sound * np.clip(way, 0, 1), np.float32)


def _bar(root_hz: float) -> Samples:
    """With a beginning that repeats behind its end, so that a slice never wraps."""
    frames = np.arange(BAR_FRAMES + 8_192)
    t = frames % BAR_FRAMES / RATE
    sound = np.zeros(len(frames))
    for part, weight in ((1, 1.0), (1.5, 0.5), (2, 0.35), (3, 0.15)):
        sound += weight * np.sin(2 * np.pi * round(root_hz * part * 4) / 4 * t)
    pluck = np.minimum(t % 0.5 / 0.02, 1) * np.exp(-3 * (t % 0.5)) + np.exp(-1.5) * np.clip(1 - t % 0.5 / 0.02, 0, 1)
    return (sound / 2 * (0.35 + 0.65 * pluck)).astype(np.float32)
