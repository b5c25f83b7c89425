"""Card bytes to floats and back."""

from __future__ import annotations

import numpy as np
import pytest

from hw.audio import SAMPLE_FORMATS
from hw.sample_format import Decoder, Encoder

BITS = {"S16": 16, "S24_3LE": 24, "S32": 32}
DTYPES = {"S16": "<i2", "S32": "<i4", "FLOAT": "<f4"}


def to_bytes(sample_format: str, values: np.ndarray) -> bytes:
    """Reference: integers (or floats) as a card lays them out."""
    if sample_format == "S24_3LE":
        return b"".join(int(value).to_bytes(3, "little", signed=True) for value in values.ravel())
    return bytes(values.astype(DTYPES[sample_format]).tobytes())


def decode(sample_format: str, data: bytes, frames: int, channels: int = 1) -> np.ndarray:
    into = np.full((frames, channels), np.nan, np.float32)
    Decoder(sample_format, frames, channels).decode(data, into)
    return into


def encode(sample_format: str, values: np.ndarray) -> bytes:
    return bytes(memoryview(Encoder(sample_format, *values.shape).encode(values)).cast("B"))


def integers(sample_format: str, count: int) -> np.ndarray:
    half = 2 ** (BITS[sample_format] - 1)
    if sample_format == "S16":
        return np.arange(-half, half)
    step = 1 if sample_format == "S24_3LE" else 256  # a float32 holds 24 bits
    some = np.random.default_rng(0).integers(-half // step, half // step, count - 4) * step
    return np.concatenate([some, [-half, -step, 0, half - step]])


@pytest.mark.parametrize("sample_format", BITS)
def test_integers_come_back_bit_exact(sample_format: str) -> None:
    values = integers(sample_format, 4_096)
    data = to_bytes(sample_format, values)
    floats = decode(sample_format, data, len(values))
    assert np.array_equal(floats[:, 0], values / 2.0 ** (BITS[sample_format] - 1))
    assert encode(sample_format, floats) == data


@pytest.mark.parametrize("sample_format", SAMPLE_FORMATS)
def test_floats_come_back_within_the_formats_precision(sample_format: str) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (4_096, 2)).astype(np.float32)
    back = decode(sample_format, encode(sample_format, values), 4_096, 2)
    precision = {"S16": 2.0**-16, "S24_3LE": 2.0**-24, "S32": 2.0**-25, "FLOAT": 0.0}[sample_format]
    clipped = {"S16": 2.0**-15}.get(sample_format, 0.0)
    assert np.abs(back - values).max() <= max(precision, clipped * (values.max() > 1 - 2.0**-16))


@pytest.mark.parametrize("sample_format", SAMPLE_FORMATS)
def test_overs_are_clipped_not_wrapped(sample_format: str) -> None:
    values = np.array([[1.0], [1.5], [1e9], [-1.0], [-1.5], [-1e9]], np.float32)
    back = decode(sample_format, encode(sample_format, values), 6)[:, 0]
    highest = 1.0 if sample_format == "FLOAT" else 1 - 2.0 ** (1 - min(BITS[sample_format], 25))
    assert np.all(back[:3] == np.float32(highest)) and np.all(back[3:] == -1.0)


@pytest.mark.parametrize("sample_format", SAMPLE_FORMATS)
def test_channels_stay_apart(sample_format: str) -> None:
    values = np.stack([np.full(64, 0.5), np.full(64, -0.25)], axis=1).astype(np.float32)
    back = decode(sample_format, encode(sample_format, values), 64, 2)
    assert np.array_equal(back, values)


@pytest.mark.parametrize("sample_format", SAMPLE_FORMATS)
def test_silence_is_zeros_of_the_right_length(sample_format: str) -> None:
    encoder = Encoder(sample_format, 64, 2)
    assert encoder.silence == encode(sample_format, np.zeros((64, 2), np.float32))
