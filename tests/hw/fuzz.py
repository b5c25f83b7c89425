"""Damage for a stream of frames: cuts, flips, repeats, floods, as a bad cable, a slow reader or a boot loader's chatter make it."""

from __future__ import annotations

import random
from collections import deque


class Damage:
    """`strike(frame)` is what arrives instead of it; `clean` says whether the last strike left its frame whole and alone."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._past: deque[bytes] = deque(maxlen=400)
        self.bytes = 0

    def strike(self, frame: bytes) -> bytes:
        data = self._random.choice((self._cut, self._flip, self._overwrite, self._repeat, self._flood, self._replay, self._glue))(frame)
        self._past.append(frame)
        self.bytes += len(data)
        return data

    def _cut(self, frame: bytes) -> bytes:
        a, b = sorted(self._random.sample(range(len(frame) + 1), 2))
        return frame[:a] + frame[b:]

    def _flip(self, frame: bytes) -> bytes:
        data = bytearray(frame)
        for _ in range(self._random.choice((1, 2, 3, 5, 9, 40))):
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return bytes(data)

    def _overwrite(self, frame: bytes) -> bytes:
        a, b = sorted(self._random.sample(range(len(frame) + 1), 2))
        return frame[:a] + self._random.randbytes(b - a) + frame[b:]

    def _repeat(self, frame: bytes) -> bytes:
        return frame * self._random.randint(2, 12)

    def _flood(self, frame: bytes) -> bytes:
        count = self._random.randint(1, 300)
        kind = self._random.randrange(4)
        flood = (self._random.randbytes(count), b"\x00" * count, b"\xff" * count, b"\x00\x01" * (count // 2))[kind]
        return flood + self._random.choice((frame, b""))

    def _replay(self, frame: bytes) -> bytes:
        past = self._random.sample(list(self._past), min(len(self._past), self._random.randint(1, 20)))
        return b"".join(past) + frame

    def _glue(self, frame: bytes) -> bytes:
        """Two frames that lost the zeros between them, and pieces of each other."""
        other = self._past[-1] if self._past else frame
        return other[: self._random.randrange(len(other))].rstrip(b"\x00") + frame.lstrip(b"\x00")
