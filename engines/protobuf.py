"""Protocol Buffers on the level of their bytes: as much as it takes to walk an ONNX graph, with every length checked.

Runs in: any process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BYTES = 10


class ProtobufError(ValueError):
    """What is wrong with a message."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    kind: int
    value: int  # of a varint
    body: memoryview  # content of what has a length or a fixed one
    raw: memoryview  # the whole field as it stands

    def text(self) -> str:
        return bytes(self.body).decode()

    def signed(self) -> int:
        return self.value - (1 << 64) if self.value >= 1 << 63 else self.value


def fields_of(data: memoryview) -> Iterator[Field]:
    """Each field of a message, in the order in which they stand. Raises ProtobufError."""
    at, end = 0, len(data)
    while at < end:
        begin = at
        key, at = read_varint(data, at)
        kind, value, content = key & 7, 0, at
        if kind == VARINT:
            value, at = read_varint(data, at)
        elif kind == LENGTH:
            size, content = read_varint(data, at)
            at = content + size
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ProtobufError(f"wire type {kind} at byte {begin}")
        if at > end:
            raise ProtobufError(f"a field at byte {begin} reaches beyond the end")
        yield Field(key >> 3, kind, value, data[content:at], data[begin:at])


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _MOST_VARINT_BYTES, 7):
        if at >= len(data):
            raise ProtobufError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise ProtobufError(f"a number at byte {at} is too long")


def message(number: int, body: bytes) -> bytes:
    return varint(number << 3 | LENGTH) + varint(len(body)) + body


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
