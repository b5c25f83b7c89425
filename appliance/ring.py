"""Samples in shared memory, addressed by absolute position: frames since start, as the audio process counts them.

The input ring holds what is sent to the engine, at the position where it was heard. The wet ring holds the engine's answer *at the
position of the music that it answers*: the same place in both rings is the same moment of music. So one number, the delay,
turns either into sound: at position p, `input[p - delay]` is the plain delay and `wet[p - delay]` the generative one.

Runs in: audio and worker. No logging and nothing raised; what the audio process calls allocates no array.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.shared import SharedMemory, SlotFact

Samples = NDArray[np.float32]

JOIN_FRAMES = 1024


class Ring:
    """A ring of `frames` samples, followed by a guard that repeats its first `guard` samples."""

    def __init__(self, buffer: Samples, guard: int) -> None:
        self.buffer, self.guard, self.frames = buffer, guard, len(buffer) - guard

    def write(self, position: int, samples: Samples) -> None:
        """Store `samples` at `position`; any length up to the ring's."""
        at = position % self.frames
        first = min(len(samples), self.frames - at)
        self.buffer[at : at + first] = samples[:first]
        if first < len(samples):
            self.buffer[: len(samples) - first] = samples[first:]
        if at < self.guard or first < len(samples):
            self.buffer[self.frames :] = self.buffer[: self.guard]

    def view(self, position: int, count: int) -> Samples:
        """A view of `count` <= guard samples from `position` on: no copy, no wrap."""
        at = position % self.frames
        return self.buffer[at : at + count]

    def copy(self, position: int, count: int) -> Samples:
        """A fresh array of `count` samples, of any length: for the worker, never for the audio loop."""
        at = position % self.frames
        if at + count <= self.frames:
            return self.buffer[at : at + count].copy()
        return np.concatenate([self.buffer[at : self.frames], self.buffer[: at + count - self.frames]])


class WetRing(Ring):
    """A slot's ring, which knows the blocks that have been written. Block s (its input began at s) covers [s - codec_delay, + block)."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__(memory.wet, memory.layout.guard_frames)
        self.block_frames, self.blocks, self._facts = memory.layout.block_frames, memory.wet_blocks, memory.facts
        self.codec_delay = 0
        self.meet_engine()

    def meet_engine(self) -> None:
        """The slot may have another engine than before."""
        self.codec_delay = int(self._facts[SlotFact.CODEC_DELAY_FRAMES])

    def write_block(self, start: int, wet: Samples, anew: bool = False) -> None:
        """Worker: store the answer to the block that began at `start`. `anew`: the engine has begun again since the block before,
        so that its sound does not go on from there; the step between them is smoothed away. (Audio looks at a block long before it
        plays it: by then all of these stores have become visible.)"""
        if anew and self.written(start // self.block_frames - 1):
            wet = self._joined(start, wet)
        self.blocks[start // self.block_frames % len(self.blocks)] = -1
        self.write(start - self.codec_delay, wet)
        self.blocks[start // self.block_frames % len(self.blocks)] = start

    def _joined(self, start: int, wet: Samples) -> Samples:
        """`wet`, drawn to where the block before ended, and from there to itself."""
        count = min(JOIN_FRAMES, len(wet))
        joined = wet.copy()
        joined[:count] += (self.view(start - self.codec_delay - 1, 1)[0] - wet[0]) * np.linspace(1, 0, count, dtype=np.float32)
        return joined

    def block_at(self, position: int) -> int:
        """Number of the block (its start is this times `block_frames`) whose answer holds `position`."""
        return (position + self.codec_delay) // self.block_frames

    def written(self, block: int) -> bool:
        """Whether that block's answer is in the ring, whole."""
        return bool(self.blocks[block % len(self.blocks)] == block * self.block_frames)

    def has(self, position: int, count: int) -> bool:
        """Whether [position, position + count) has been written; `count` is at most one block."""
        return self.written(self.block_at(position)) and self.written(self.block_at(position + count - 1))
