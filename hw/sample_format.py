"""Card bytes to float32 and back, through buffers that are allocated once.

Full scale is 2^(bits - 1) both ways, so a sample that comes in goes out as the same bits (S32: as its upper 24 bits, which are all
that a float32 holds). Runs in: the audio process; allocates nothing per period and raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.audio import Frames

_FULL_SCALE = {"S16": 2.0**15, "S24_3LE": 2.0**23, "S32": 2.0**31}
_HIGHEST = {"S16": 2.0**15 - 1, "S24_3LE": 2.0**23 - 1, "S32": 2.0**31 - 128}  # the last float32 below 2^31
_DTYPES: dict[str, Any] = {"S16": np.dtype("<i2"), "S32": np.dtype("<i4"), "FLOAT": np.dtype("<f4")}


def _raw(sample_format: str, frames: int, channels: int) -> NDArray[Any]:
    """(frames, channels) in the card's own type; S24_3LE, which numpy lacks, as (frames, channels, 3) bytes."""
    if sample_format == "S24_3LE":
        return np.zeros((frames, channels, 3), np.uint8)
    return np.zeros((frames, channels), _DTYPES[sample_format])


class Decoder:
    """`decode(data, into)`: one period of card bytes into floats."""

    def __init__(self, sample_format: str, frames: int, channels: int) -> None:
        self._samples = _raw(sample_format, frames, channels)
        self._bytes = memoryview(self._samples.reshape(-1).view(np.uint8).data)
        self._wide = np.zeros((frames, channels), _DTYPES["S32"])  # S24_3LE in the upper three bytes of four
        self._upper = self._wide.view(np.uint8).reshape(frames, channels, 4)[:, :, 1:]
        full_scale = 2.0**31 if sample_format == "S24_3LE" else _FULL_SCALE.get(sample_format, 1.0)
        self._scale = np.asarray(1.0 / full_scale, np.float32)
        ways: dict[str, Callable[[Frames], None]] = {"FLOAT": self._float, "S24_3LE": self._s24}
        self._convert = ways.get(sample_format, self._integer)

    def decode(self, data: bytes, into: Frames) -> None:
        self._bytes[:] = data
        self._convert(into)

    def _float(self, into: Frames) -> None:
        into[:] = self._samples

    def _integer(self, into: Frames) -> None:
        into[:] = self._samples
        np.multiply(into, self._scale, out=into)

    def _s24(self, into: Frames) -> None:
        self._upper[:] = self._samples
        into[:] = self._wide
        np.multiply(into, self._scale, out=into)


class Encoder:
    """`encode(frames)`: one period of floats, clipped, as a buffer for the card. It is valid until the next call."""

    def __init__(self, sample_format: str, frames: int, channels: int) -> None:
        self._samples = _raw(sample_format, frames, channels)
        self._scaled = np.zeros((frames, channels), np.float32)
        self._wide = np.zeros((frames, channels), _DTYPES["S32"])
        self._lower = self._wide.view(np.uint8).reshape(frames, channels, 4)[:, :, :3]
        scale = _FULL_SCALE.get(sample_format, 1.0)
        limits = (scale, -scale, _HIGHEST.get(sample_format, 1.0))
        self._scale, self._lowest, self._highest = (np.asarray(value, np.float32) for value in limits)
        ways: dict[str, Callable[[Frames], None]] = {"FLOAT": self._float, "S24_3LE": self._s24}
        self._convert = ways.get(sample_format, self._integer)
        self.silence = bytes(self._samples.nbytes)

    def encode(self, frames: Frames) -> NDArray[Any]:
        self._convert(frames)
        return self._samples

    def _float(self, frames: Frames) -> None:
        np.minimum(frames, self._highest, out=self._samples)
        np.maximum(self._samples, self._lowest, out=self._samples)

    def _integer(self, frames: Frames) -> None:
        self._samples[:] = self._rounded(frames)

    def _s24(self, frames: Frames) -> None:
        self._wide[:] = self._rounded(frames)
        self._samples[:] = self._lower

    def _rounded(self, frames: Frames) -> Frames:
        scaled = self._scaled
        np.multiply(frames, self._scale, out=scaled)
        np.rint(scaled, out=scaled)
        np.minimum(scaled, self._highest, out=scaled)  # not np.clip: several times slower on so few samples
        return np.maximum(scaled, self._lowest, out=scaled)
