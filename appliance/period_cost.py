"""What one period costs the processor, without the sound card: the audio loop on a port that is an array.

Runs in: `ghostnote bench`, and tests.
"""

from __future__ import annotations

import time

import numpy as np

from appliance.audio import AudioLoop
from appliance.controls import Control, Controls
from appliance.ring import WetRing
from appliance.shared import Layout, SharedMemory
from hw.audio import AudioFormat, Frames, PortHealth

_BLOCK_FRAMES = 16_384  # of the reference engine


class ArrayPort:
    """Plays an array (frames, channels), over and over if asked to, and keeps what it gets if given room for it."""

    def __init__(self, format: AudioFormat, guitar: Frames, amp: Frames | None = None, repeat: bool = False) -> None:
        self.format, self.health, self.lag_frames = format, PortHealth(), 0
        self.guitar, self.amp, self.repeat = guitar, amp, repeat
        self.heard = self.played = 0  # frames

    def read(self, into: Frames) -> bool:
        end = self.heard + len(into)
        if end > len(self.guitar):
            if not self.repeat:
                return False
            self.heard, end = 0, len(into)
        into[:] = self.guitar[self.heard : end]
        self.heard = end
        return True

    def write(self, frames: Frames) -> None:
        if self.amp is not None:
            self.amp[self.played : self.played + len(frames)] = frames
        self.played += len(frames)

    def close(self) -> None:
        pass


def measure_period_cost(frames: int = 128, periods: int = 20_000, channels: int = 2) -> float:
    """CPU microseconds per `AudioLoop.turn`, less those of the port: half wet, with repeats and tone, the engine on time."""
    memory = _memory(frames)
    port = _port(frames, channels)
    loop, wet = AudioLoop(port, memory), WetRing(memory)
    answer = port.guitar[: _BLOCK_FRAMES, 0].copy()
    spent_ns = counted = 0
    while counted < periods:
        block, turns = loop.position // _BLOCK_FRAMES, 0
        began_ns = time.process_time_ns()
        while loop.position // _BLOCK_FRAMES == block:
            loop.turn()
            turns += 1
        spent_ns += time.process_time_ns() - began_ns
        counted += turns
        wet.write_block(block * _BLOCK_FRAMES, answer)
    return spent_ns / counted / 1000 - _port_cost(port, loop, periods)


def measure_multiplication(frames: int = 128, times: int = 20_000) -> float:
    """CPU microseconds of the smallest thing that a period is made of, one product: what a period costs is told against it."""
    one, other, product = (np.full(frames, value, np.float32) for value in (0.5, 2.0, 0.0))
    began_ns = time.process_time_ns()
    for _ in range(times):
        np.multiply(one, other, out=product)
    return (time.process_time_ns() - began_ns) / times / 1000


def _port_cost(port: ArrayPort, loop: AudioLoop, periods: int) -> float:
    began_ns = time.process_time_ns()
    for _ in range(periods):
        port.read(loop.dry)
        port.write(loop.out)
    return (time.process_time_ns() - began_ns) / periods / 1000


def _memory(frames: int) -> SharedMemory:
    memory = SharedMemory.create(Layout(44_100, frames, _BLOCK_FRAMES, 0, 8 * _BLOCK_FRAMES, max(frames, 1024)))
    controls = Controls(memory.controls)
    values = {Control.MIX: 0.5, Control.DELAY_FRAMES: 2 * _BLOCK_FRAMES, Control.LEVEL: 1, Control.REPEATS: 0.4, Control.TONE: 0.3}
    values[Control.RUNNING] = 1
    for control, value in values.items():
        controls.set(control, value)
    return memory


def _port(frames: int, channels: int) -> ArrayPort:
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, (_BLOCK_FRAMES, 1)).astype(np.float32)
    form = AudioFormat(period_frames=frames, in_channels=channels, out_channels=channels)
    return ArrayPort(form, np.repeat(noise, channels, axis=1), repeat=True)
