"""The real audio loop in virtual time: a guitar that is an array, and a worker that is a schedule.

The wet ring is full of loud noise before the first block is written, so that a single sample of a block that is not there shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.audio import AudioLoop
from appliance.controls import Control, Controls
from appliance.delay import WetSettings
from appliance.period_cost import ArrayPort
from appliance.ring import WetRing
from appliance.shared import Layout, SharedMemory
from appliance.stats import Counter
from hw.audio import AudioFormat

Array = NDArray[np.float32]

LOST = None  # latency of a block that is never answered
DEFAULTS = {"mix": 1.0, "level": 1.0, "trails": 1.0, "tone": 0.5, "running": 1.0}


@dataclass(frozen=True)
class Size:
    period_frames: int = 128
    block_frames: int = 2048
    codec_delay_frames: int = 0
    ring_blocks: int = 16
    fade_frames: int = 512

    def layout(self) -> Layout:
        ring = self.ring_blocks * self.block_frames
        return Layout(44_100, self.period_frames, self.block_frames, self.codec_delay_frames, ring, max(1024, self.period_frames))


class Rig:
    """`guitar` and `engine` are what is played and what a perfect engine answers, both by position."""

    def __init__(self, guitar: Array, engine: Array, size: Size | None = None, out_channels: int = 1, **controls: float) -> None:
        self.size, self.engine = size or Size(), engine
        self.echo = 0.0  # an engine that answers what it heard, so many times as loud
        self.memory = SharedMemory.create(self.size.layout())
        self.controls = Controls(self.memory.controls)
        self.set(**{**DEFAULTS, "delay_frames": self.shortest_delay_frames, **controls})
        self._poison(int(self.controls.get(Control.DELAY_FRAMES)))
        self.guitar = guitar if guitar.ndim == 2 else guitar[:, None]
        self.amp = np.zeros((len(guitar), out_channels), np.float32)
        form = AudioFormat(period_frames=self.size.period_frames, in_channels=self.guitar.shape[1], out_channels=out_channels)
        self.port = ArrayPort(form, self.guitar, self.amp)
        self.wet = WetRing(self.memory)
        self.loop = self.start_audio()
        self.bus = np.zeros(len(guitar), np.float32)
        self.latencies: dict[int, int | None] = {}
        self._unwritten: list[int] = []

    def _poison(self, delay_frames: int) -> None:
        """All but what is read before the first frame comes back: that must stay silent, as it is in fresh memory."""
        frames = self.size.layout().ring_frames - delay_frames
        self.memory.wet[:frames] = np.random.default_rng(0).choice([-0.95, 0.95], frames)

    def start_audio(self) -> AudioLoop:
        self.loop = AudioLoop(self.port, self.memory, wet=WetSettings(self.size.fade_frames), clock=self.now_ns)
        return self.loop

    def close(self) -> None:
        self.memory.close()

    @property
    def shortest_delay_frames(self) -> int:
        """Leaves the worker a whole block, and the fade."""
        return 2 * self.size.block_frames + self.size.codec_delay_frames + self.size.fade_frames

    def set(self, **values: float) -> None:
        for name, value in values.items():
            self.controls.set(Control[name.upper()], value)

    def count(self, counter: Counter) -> int:
        return int(self.memory.counters[counter])

    def now_ns(self) -> int:
        """Virtual time: the guitar has just been heard up to here."""
        return self.port.heard * 1_000_000_000 // 44_100

    def play(self, turns: int, latencies: Mapping[int, int | None] | None = None) -> Array:
        """So many periods; block b is answered `latencies[b]` frames after it was whole (0 where not said). Returns the output."""
        self.latencies.update(latencies or {})
        begin = self.port.played
        for _ in range(turns):
            self._answer()
            position = self.loop.position
            assert self.loop.turn()
            self.bus[position : self.loop.position] = self.loop.mixer.bus.out
            if self.loop.position // self.size.block_frames > position // self.size.block_frames:
                self._unwritten.append(position // self.size.block_frames)
        return self.amp[begin : self.port.played, 0]

    def _answer(self) -> None:
        """Write whatever a worker with these latencies would have written by now."""
        for block in list(self._unwritten):
            latency = self.latencies.get(block, 0)
            if latency is not LOST and self.loop.position >= (block + 1) * self.size.block_frames + latency:
                self._unwritten.remove(block)
                self.wet.write_block(block * self.size.block_frames, self.answer(block))

    def answer(self, block: int) -> Array:
        if self.echo:
            heard = self.loop.input.copy(block * self.size.block_frames, self.size.block_frames)
            return np.clip(np.float32(self.echo) * heard, -1, 1)
        first = block * self.size.block_frames - self.size.codec_delay_frames
        return np.take(self.engine, np.arange(first, first + self.size.block_frames), mode="clip")

    def expected_late(self) -> int:
        """By arithmetic alone: blocks that were not there in the first period whose look-ahead reached them."""
        size, late = self.size, 0
        delay_frames = int(self.controls.get(Control.DELAY_FRAMES))
        for block in range(self.loop.position // size.block_frames + 1):
            music = max(0, block * size.block_frames - size.codec_delay_frames)
            if music >= (block + 1) * size.block_frames - size.codec_delay_frames:
                continue  # it holds only what was before the first frame
            judged = max(0, _up(music + delay_frames - size.period_frames - size.fade_frames + 1, size.period_frames))
            latency = self.latencies.get(block, 0)
            there = latency is not LOST and _up((block + 1) * size.block_frames + latency, size.period_frames) <= judged
            late += judged < self.loop.position and not there
        return late


def _up(frames: int, period_frames: int) -> int:
    """The next period that begins at `frames` or later."""
    return -(-frames // period_frames) * period_frames


def noise(frames: int, seed: int, loudest: float = 0.8) -> Array:
    return np.random.default_rng(seed).uniform(-loudest, loudest, frames).astype(np.float32)


def sine(frames: int, hz: float, loudest: float = 0.5) -> Array:
    return (loudest * np.sin(2 * np.pi * hz / 44_100 * np.arange(frames))).astype(np.float32)


def largest_step(samples: Array) -> float:
    return float(np.max(np.abs(np.diff(samples)))) if len(samples) > 1 else 0.0
